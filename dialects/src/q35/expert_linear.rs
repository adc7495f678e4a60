//! Linear layers of experts.

use super::linear::{products, row_count};
use crate::attr::ParamName;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, shape, vector};
use crate::ty::{Rows, Ty};

op! {
    /// `y[r] = x[r] W_e^T + bias_e`, where `e` is the expert that routed row `r` goes to. Rows of `x` are routed, or those that were
    /// routed: then each is the input of all of its experts. Arithmetic is that of `linear`.
    ExpertLinear = "expert_linear"(x: Act | Quant, routing: Routing) -> Act {
        /// The experts' weights, one below the other: `[experts * outputs, inputs]`.
        weight: ParamName,
        /// One number per row of the weight. Absent: 0.
        bias: Option<ParamName>,
    }
}

/// Rows, experts and choices of a routing.
///
/// # Panics
/// If the type is of another kind: the declaration excludes that.
pub(super) fn routing(ty: &Ty) -> (Rows, u64, u32) {
    match *ty {
        Ty::Routing { rows, experts, choices } => (rows, experts, choices),
        _ => unreachable!("the declaration allows a routing only, not {ty}"),
    }
}

impl Semantics for ExpertLinear {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, width) = matrix(&operands[0]);
        let (of, experts, choices) = routing(&operands[1]);
        let (stacked, inputs) = shape(params, &self.weight)?;
        ensure(inputs == width, || format!("@{} takes {inputs} inputs, and 'x' has {width} columns", self.weight))?;
        let even = stacked > 0 && stacked.is_multiple_of(experts);
        ensure(even, || format!("@{} has {stacked} rows for {experts} experts", self.weight))?;
        if let Some(bias) = &self.bias {
            vector(params, bias, &format!("{stacked} (experts and outputs)"), |len| len == stacked)?;
        }
        let routed = of.routed(choices).filter(|routed| rows == of || rows == *routed);
        let rows = routed.ok_or_else(|| format!("rows of 'x' are {rows}, those of 'routing' {of}"))?;
        Ok(Ty::Act { rows, width: stacked / experts })
    }

    /// Each routed row reads its expert's weights: exact for one row, a bound for many.
    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let (_, inputs) = matrix(&operands[0]);
        let (rows, _) = matrix(result);
        let (_, experts, _) = routing(&operands[1]);
        let mut cost = Cost::elementwise(operands, result, 2 * inputs);
        let stacks = [&self.weight].into_iter().chain(&self.bias).filter_map(|name| params.packed(name));
        cost.read.0.extend(stacks.flat_map(|packed| rows.size(packed.bytes() / experts).0));
        cost
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let weight = env.params.value(&self.weight)?;
        let bias = self.bias.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let routing = operands[1].routing();
        let (rows, outputs) = (routing.chosen.len(), weight.shape().0 / routing.experts);
        let share = if row_count(operands[0]) == rows { 1 } else { routing.choices };
        let of = |row: usize| (row / share, routing.chosen[row] as usize * outputs);
        Ok(Data::Act(products(operands[0], &weight, bias.as_deref(), [rows, outputs], of)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Routing;
    use crate::q35::testing::{Bench, act, infer, numbers, tokens};

    fn op(bias: Option<&str>) -> ExpertLinear {
        ExpertLinear { weight: "w".into(), bias: bias.map(Into::into) }
    }

    #[test]
    fn each_row_meets_its_expert() {
        // Three experts of two outputs and one input; two rows with two choices.
        let mut bench =
            Bench::with_params(&[("w", 1, &[1.0, 2.0, 10.0, 20.0, 100.0, 200.0]), ("b", 6, &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])]);
        let routing = Data::Routing(Routing { experts: 3, choices: 2, chosen: vec![2, 0, 1, 2], weights: vec![0.0; 4] });
        let shared = bench.eval(op(None), &[&act(1, &[1.0, 3.0]), &routing]);
        assert_eq!(numbers(&shared), [100.0, 200.0, 1.0, 2.0, 30.0, 60.0, 300.0, 600.0]);
        let own = bench.eval(op(Some("b")), &[&act(1, &[1.0, 2.0, 3.0, 4.0]), &routing]);
        assert_eq!(numbers(&own), [100.5, 200.6, 2.1, 4.2, 30.3, 60.4, 400.5, 800.6]);
    }

    #[test]
    fn shapes_must_fit() {
        let routing = Ty::Routing { rows: Rows::Tokens, experts: 4, choices: 2 };
        let routed = |width| Ty::Act { rows: Rows::TokenChoices(2), width };
        assert_eq!(infer(op(None), &[tokens(3), routing], &[("w", 20, 3)]), Ok(routed(5)));
        assert_eq!(infer(op(None), &[routed(3), routing], &[("w", 20, 3)]), Ok(routed(5)));
        let other = Ty::Act { rows: Rows::TokenChoices(3), width: 3 };
        let text = "rows of 'x' are tokens*3, those of 'routing' tokens";
        assert_eq!(infer(op(None), &[other, routing], &[("w", 20, 3)]), Err(text.into()));
        let text = "@w has 21 rows for 4 experts";
        assert_eq!(infer(op(None), &[tokens(3), routing], &[("w", 21, 3)]), Err(text.into()));
        assert!(infer(op(Some("b")), &[tokens(3), routing], &[("w", 20, 3), ("b", 1, 5)]).is_err());
    }
}
