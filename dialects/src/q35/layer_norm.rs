//! Layer normalization.

use crate::attr::ParamName;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, vector};
use crate::ty::Ty;

op! {
    /// Per row, and per group of `group` columns: `y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias`. The
    /// reference computes in f64 and rounds once.
    LayerNorm = "layer_norm"(x: Act) -> Act {
        /// Factors: `group` of them, shared by the groups, or one per column. Absent: 1.
        weight: Option<ParamName>,
        /// Added at the end, as many numbers. Absent: 0.
        bias: Option<ParamName>,
        /// Added to the variance.
        eps: f32,
        /// Columns that are normalized together: the width, or the columns of a head.
        group: u64,
    }
}

impl Semantics for LayerNorm {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = matrix(&operands[0]);
        ensure(self.group > 0 && width.is_multiple_of(self.group), || {
            format!("groups of {} columns do not divide the {width} columns of 'x'", self.group)
        })?;
        for name in [&self.weight, &self.bias].into_iter().flatten() {
            let wanted = format!("{} (group) or {width} (width)", self.group);
            vector(params, name, &wanted, |len| len == self.group || len == width)?;
        }
        Ok(same_rows(&operands[0], width))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 7).reading(&self.weight, params).reading(&self.bias, params)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let vector = |name: &Option<ParamName>| -> q35_diag::Result<Option<Vec<f32>>> {
            Ok(name.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0).to_vec()))
        };
        let (weight, bias) = (vector(&self.weight)?, vector(&self.bias)?);
        let group = self.group as usize;
        let y = x.map_rows(x.width, |_, x, y| {
            for (at, (x, y)) in x.chunks_exact(group).zip(y.chunks_exact_mut(group)).enumerate() {
                let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / group as f64;
                let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / group as f64;
                let norm = (variance + f64::from(self.eps)).sqrt();
                let of = |list: &Option<Vec<f32>>, i, absent| {
                    list.as_ref().map_or(absent, |w| f64::from(w[(at * group + i) % w.len()]))
                };
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    *y = ((f64::from(*x) - mean) / norm * of(&weight, i, 1.0) + of(&bias, i, 0.0)) as f32;
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

    fn op(weight: Option<&str>, bias: Option<&str>, group: u64) -> LayerNorm {
        LayerNorm { weight: weight.map(Into::into), bias: bias.map(Into::into), eps: 0.5, group }
    }

    /// By hand: (3, 5) lies 1 around 4, with eps 1.5; (1, -3) lies 2 around -1, with eps 4.5.
    #[test]
    fn groups_are_centered_and_normalized_apart() {
        let mut bench = Bench::with_params(&[("g", 2, &[2.0, 10.0]), ("w", 4, &[1.0, 2.0, 3.0, 4.0])]);
        let x = act(4, &[3.0, 5.0, 1.0, -3.0]);
        let (a, b) = (1.0 / 1.5f64.sqrt(), 2.0 / 4.5f64.sqrt());
        near(numbers(&bench.eval(op(None, None, 2), &[&x])), &[-a, a, b, -b], 1e-7);
        near(numbers(&bench.eval(op(Some("g"), None, 2), &[&x])), &[-2.0 * a, 10.0 * a, 2.0 * b, -10.0 * b], 1e-7);
        let y = bench.eval(op(Some("w"), Some("g"), 2), &[&x]);
        near(numbers(&y), &[2.0 - a, 10.0 + 2.0 * a, 2.0 + 3.0 * b, 10.0 - 4.0 * b], 1e-6);
        // (3, 5, 1, -3) has mean 1.5 and variance 8.75.
        let c = 1.0 / 9.25f64.sqrt();
        let y = bench.eval(op(None, Some("w"), 4), &[&x]);
        near(numbers(&y), &[1.0 + 1.5 * c, 2.0 + 3.5 * c, 3.0 - 0.5 * c, 4.0 - 4.5 * c], 1e-6);
    }

    #[test]
    fn weights_and_groups_must_fit() {
        assert_eq!(infer(op(Some("w"), Some("w"), 4), &[tokens(8)], &[("w", 1, 4)]), Ok(tokens(8)));
        let error = infer(op(None, None, 3), &[tokens(8)], &[]);
        assert_eq!(error, Err("groups of 3 columns do not divide the 8 columns of 'x'".into()));
        let error = infer(op(None, Some("w"), 4), &[tokens(8)], &[("w", 1, 2)]);
        assert_eq!(error, Err("@w has 2 elements, not 4 (group) or 8 (width)".into()));
    }
}
