//! Elementwise functions.

use super::Activation;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::{map, same_rows};
use crate::semantics::{Cost, ParamTable, Semantics, matrix};
use crate::ty::Ty;

op! {
    /// A scalar function of each element. The reference computes in f64 and rounds once.
    Activate = "activate"(x: Act) -> Act {
        /// The function.
        kind: Activation,
    }
}

impl Semantics for Activate {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        Ok(same_rows(&operands[0], matrix(&operands[0]).1))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 1)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        Ok(map(operands[0], |x| self.kind.eval(x.into()) as f32))
    }
}
