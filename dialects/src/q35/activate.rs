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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, near, numbers};

    /// Values from tables: the normal distribution gives gelu, logistic and tanh to nine digits.
    #[test]
    fn functions_have_their_tabulated_values() {
        let cases = [
            (Activation::Sigmoid, [0.119202922, 0.5, 0.731058579]),
            (Activation::Tanh, [-0.964027580, 0.0, 0.761594156]),
            (Activation::Silu, [-0.238405844, 0.0, 0.731058579]),
            (Activation::Gelu, [-0.045500264, 0.0, 0.841344746]),
            (Activation::GeluTanh, [-0.045402306, 0.0, 0.841191991]),
            (Activation::Relu, [0.0, 0.0, 1.0]),
        ];
        for (kind, expected) in cases {
            let y = Bench::default().eval(Activate { kind }, &[&act(3, &[-2.0, 0.0, 1.0])]);
            near(numbers(&y), &expected, 1e-7);
        }
    }
}
