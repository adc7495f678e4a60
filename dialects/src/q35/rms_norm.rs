//! Root-mean-square normalization.

use crate::attr::ParamName;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, vector};
use crate::ty::Ty;

op! {
    /// Per row, and per group of `group` columns: `y = x / sqrt(mean(x^2) + eps) * weight`. The reference computes in f64 and
    /// rounds once.
    RmsNorm = "rms_norm"(x: Act) -> Act {
        /// Factors: `group` of them, shared by the groups, or one per column. Absent: 1.
        weight: Option<ParamName>,
        /// Added to the mean square.
        eps: f32,
        /// Columns that are normalized together: the width, or the columns of a head.
        group: u64,
    }
}

impl Semantics for RmsNorm {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = matrix(&operands[0]);
        ensure(self.group > 0 && width.is_multiple_of(self.group), || {
            format!("groups of {} columns do not divide the {width} columns of 'x'", self.group)
        })?;
        if let Some(weight) = &self.weight {
            let wanted = format!("{} (group) or {width} (width)", self.group);
            vector(params, weight, &wanted, |len| len == self.group || len == width)?;
        }
        Ok(same_rows(&operands[0], width))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 4).reading(&self.weight, params)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let weight = self.weight.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let group = self.group as usize;
        let y = x.map_rows(x.width, |_, x, y| {
            for (at, (x, y)) in x.chunks_exact(group).zip(y.chunks_exact_mut(group)).enumerate() {
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / group as f64;
                let norm = (mean + f64::from(self.eps)).sqrt();
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    let factor = weight.as_ref().map_or(1.0, |w| w[(at * group + i) % w.len()]);
                    *y = (f64::from(*x) / norm * f64::from(factor)) as f32;
                }
            }
        });
        Ok(Data::Act(y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};

    fn op(weight: Option<&str>, group: u64) -> RmsNorm {
        RmsNorm { weight: weight.map(Into::into), eps: 0.5, group }
    }

    /// By hand: (3, 4) has mean square 12.5, with eps 13; (1, -1) has 1, with eps 1.5.
    #[test]
    fn groups_are_normalized_apart() {
        let mut bench = Bench::with_params(&[("g", 2, &[2.0, 10.0]), ("w", 4, &[1.0, 2.0, 3.0, 4.0])]);
        let x = act(4, &[3.0, 4.0, 1.0, -1.0]);
        let (a, b) = (1.0 / 13f64.sqrt(), 1.0 / 1.5f64.sqrt());
        near(numbers(&bench.eval(op(None, 2), &[&x])), &[3.0 * a, 4.0 * a, b, -b], 1e-7);
        near(numbers(&bench.eval(op(Some("g"), 2), &[&x])), &[6.0 * a, 40.0 * a, 2.0 * b, -10.0 * b], 1e-7);
        near(numbers(&bench.eval(op(Some("w"), 2), &[&x])), &[3.0 * a, 8.0 * a, 3.0 * b, -4.0 * b], 1e-7);
        let c = 1.0 / 7.25f64.sqrt();
        near(numbers(&bench.eval(op(None, 4), &[&x])), &[3.0 * c, 4.0 * c, c, -c], 1e-7);
    }

    #[test]
    fn weights_and_groups_must_fit() {
        assert_eq!(infer(op(Some("w"), 4), &[tokens(8)], &[("w", 1, 4)]), Ok(tokens(8)));
        assert_eq!(infer(op(None, 3), &[tokens(8)], &[]), Err("groups of 3 columns do not divide the 8 columns of 'x'".into()));
        let error = infer(op(Some("w"), 4), &[tokens(8)], &[("w", 1, 2)]);
        assert_eq!(error, Err("@w has 2 elements, not 4 (group) or 8 (width)".into()));
        let error = infer(op(Some("w"), 4), &[tokens(8)], &[("w", 2, 4)]);
        assert_eq!(error, Err("@w is a 2x4 matrix, not a vector of 4 (group) or 8 (width)".into()));
    }
}
