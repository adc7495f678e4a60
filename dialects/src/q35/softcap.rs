//! A soft bound.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::{map, same_rows};
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::Ty;

op! {
    /// `y = cap * tanh(x / cap)`. The reference computes in f64 and rounds once.
    Softcap = "softcap"(x: Act) -> Act {
        /// The bound, positive.
        cap: f32,
    }
}

impl Semantics for Softcap {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        ensure(self.cap > 0.0, || "'cap' is not positive".to_owned())?;
        Ok(same_rows(&operands[0], matrix(&operands[0]).1))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 3)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let cap = f64::from(self.cap);
        Ok(map(operands[0], |x| (cap * (f64::from(x) / cap).tanh()) as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};

    #[test]
    fn small_passes_and_large_is_bounded() {
        let y = Bench::default().eval(Softcap { cap: 30.0 }, &[&act(3, &[0.001, 30.0, -1e9])]);
        near(numbers(&y), &[0.001, 30.0 * 0.761594155955765, -30.0], 1e-7);
        assert_eq!(infer(Softcap { cap: 0.0 }, &[tokens(1)], &[]), Err("'cap' is not positive".into()));
    }
}
