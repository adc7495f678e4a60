//! Multiplication by a number.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::{map, same_rows};
use crate::semantics::{Cost, ParamTable, Semantics, matrix};
use crate::ty::Ty;

op! {
    /// `y = x * factor`, in f32.
    Scale = "scale"(x: Act) -> Act {
        /// The number.
        factor: f32,
    }
}

impl Semantics for Scale {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        Ok(same_rows(&operands[0], matrix(&operands[0]).1))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 1)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        Ok(map(operands[0], |x| x * self.factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, numbers};

    #[test]
    fn every_element_is_multiplied() {
        assert_eq!(numbers(&Bench::default().eval(Scale { factor: -2.0 }, &[&act(2, &[1.5, 0.25])])), [-3.0, -0.5]);
    }
}
