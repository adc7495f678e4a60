//! The sum of what experts gave.

use super::expert_linear::routing;
use crate::data::{Data, Matrix};
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::Ty;

op! {
    /// `y[m] = sum over the choices j of row m, in order, of weight[m, j] * x[m * choices + j]`. The reference sums in f64 and rounds
    /// once.
    Combine = "combine"(x: Act, routing: Routing) -> Act {}
}

impl Semantics for Combine {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let ((rows, width), (of, _, choices)) = (matrix(&operands[0]), routing(&operands[1]));
        ensure(of.routed(choices) == Some(rows), || format!("rows of 'x' are {rows}, those of 'routing' {of}"))?;
        Ok(Ty::Act { rows: of, width })
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 2 * u64::from(routing(&operands[1]).2))
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (x, routing) = (operands[0].act(), operands[1].routing());
        let mut y = Vec::with_capacity(x.data.len() / routing.choices);
        for (choices, weights) in x.data.chunks(x.width * routing.choices).zip(routing.weights.chunks(routing.choices)) {
            for column in 0..x.width {
                let terms = weights.iter().zip(choices.iter().skip(column).step_by(x.width));
                y.push(terms.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>() as f32);
            }
        }
        Ok(Data::Act(Matrix::new(x.width, y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Routing;
    use crate::q35::testing::{Bench, act, infer, numbers, tokens};
    use crate::ty::Rows;

    #[test]
    fn choices_are_weighed() {
        let routing = Routing { experts: 9, choices: 2, chosen: vec![0; 4], weights: vec![0.5, 2.0, 1.0, -1.0] };
        let x = act(2, &[2.0, 4.0, 10.0, 20.0, 7.0, 8.0, 3.0, 5.0]);
        let y = Bench::default().eval(Combine {}, &[&x, &Data::Routing(routing)]);
        assert_eq!(numbers(&y), [21.0, 42.0, 4.0, 3.0]);
    }

    #[test]
    fn rows_are_routed_by_this_routing() {
        let routing = Ty::Routing { rows: Rows::Logits, experts: 4, choices: 2 };
        let x = |rows| Ty::Act { rows, width: 5 };
        assert_eq!(infer(Combine {}, &[x(Rows::LogitChoices(2)), routing], &[]), Ok(x(Rows::Logits)));
        for x in [x(Rows::TokenChoices(2)), x(Rows::LogitChoices(3)), tokens(5)] {
            assert!(infer(Combine {}, &[x, routing], &[]).is_err());
        }
    }
}
