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
