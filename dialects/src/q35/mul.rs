//! Elementwise product.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::{same_shape_or_column, zip};
use crate::semantics::{Cost, ParamTable, Semantics};
use crate::ty::Ty;

op! {
    /// `y = a * b`, in f32; `b` may have one column, which then meets every column of `a`.
    Mul = "mul"(a: Act, b: Act) -> Act {}
}

impl Semantics for Mul {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        same_shape_or_column(operands)
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 1)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        Ok(zip(operands, |a, b| a * b))
    }
}
