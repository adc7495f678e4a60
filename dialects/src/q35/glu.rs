//! Gated linear units.

use super::Activation;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::{same_shape, zip};
use crate::semantics::{Cost, ParamTable, Semantics, ensure};
use crate::ty::Ty;

op! {
    /// `y = f(g) * (u + offset)` with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)`. `f` is the activation; for
    /// `silu`, `f(g) = g * sigmoid(alpha * g)`. SwiGLU is `silu` without limit, `alpha` 1, `offset` 0. The reference computes
    /// in f64 and rounds once.
    Glu = "glu"(gate: Act, up: Act) -> Act {
        /// `f`.
        activation: Activation,
        /// Bound of the operands. Absent: none.
        limit: Option<f32>,
        /// Steepness of `silu`; 1 for every other activation.
        alpha: f32,
        /// Added to `up`.
        offset: f32,
    }
}

impl Glu {
    /// `f(gate) * up`.
    pub fn plain(activation: Activation) -> Self {
        Self { activation, limit: None, alpha: 1.0, offset: 0.0 }
    }
}

impl Semantics for Glu {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        ensure(self.alpha == 1.0 || self.activation == Activation::Silu, || "only 'silu' has an 'alpha'".to_owned())?;
        ensure(self.alpha > 0.0, || "'alpha' is not positive".to_owned())?;
        ensure(self.limit.is_none_or(|limit| limit > 0.0), || "'limit' is not positive".to_owned())?;
        same_shape(operands)
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 3)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let limit = self.limit.map_or(f64::INFINITY, f64::from);
        let (alpha, offset) = (f64::from(self.alpha), f64::from(self.offset));
        Ok(zip(operands, |gate, up| {
            let (gate, up) = (f64::from(gate).min(limit), f64::from(up).clamp(-limit, limit));
            // g * sigmoid(alpha * g) = silu(alpha * g) / alpha
            (self.activation.eval(alpha * gate) / alpha * (up + offset)) as f32
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};

    #[test]
    fn plain_and_clamped_forms() {
        let (gate, up) = (act(3, &[1.0, -2.0, 9.0]), act(3, &[3.0, -9.0, 0.5]));
        let y = Bench::default().eval(Glu::plain(Activation::Silu), &[&gate, &up]);
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        near(numbers(&y), &[3.0 * sigmoid(1.0), 18.0 * sigmoid(-2.0), 4.5 * sigmoid(9.0)], 1e-7);
        let clamped = Glu { activation: Activation::Silu, limit: Some(7.0), alpha: 1.702, offset: 1.0 };
        let y = Bench::default().eval(clamped, &[&gate, &up]);
        let expected = [4.0 * sigmoid(1.702), -2.0 * sigmoid(-3.404) * -6.0, 7.0 * sigmoid(7.0 * 1.702) * 1.5];
        near(numbers(&y), &expected, 1e-7);
    }

    #[test]
    fn alpha_belongs_to_silu() {
        let op = Glu { alpha: 2.0, ..Glu::plain(Activation::Gelu) };
        assert_eq!(infer(op, &[tokens(2), tokens(2)], &[]), Err("only 'silu' has an 'alpha'".into()));
        assert!(infer(Glu::plain(Activation::Gelu), &[tokens(2), tokens(3)], &[]).is_err());
    }
}
