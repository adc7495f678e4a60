//! Elementwise sum.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::{same_shape_or_column, zip};
use crate::semantics::{Cost, ParamTable, Semantics};
use crate::ty::Ty;

op! {
    /// `y = a + b`, in f32; `b` may have one column, which then meets every column of `a`.
    Add = "add"(a: Act, b: Act) -> Act {}
}

impl Semantics for Add {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        same_shape_or_column(operands)
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 1)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        Ok(zip(operands, |a, b| a + b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::Mul;
    use crate::q35::testing::{Bench, act, infer, numbers, tokens};

    #[test]
    fn a_column_meets_every_column() {
        let (a, b, column) = (act(2, &[1.0, 2.0, 3.0, 4.0]), act(2, &[5.0, 6.0, 7.0, 8.0]), act(1, &[10.0, 20.0]));
        let mut bench = Bench::default();
        assert_eq!(numbers(&bench.eval(Add {}, &[&a, &b])), [6.0, 8.0, 10.0, 12.0]);
        assert_eq!(numbers(&bench.eval(Add {}, &[&a, &column])), [11.0, 12.0, 23.0, 24.0]);
        assert_eq!(numbers(&bench.eval(Mul {}, &[&a, &b])), [5.0, 12.0, 21.0, 32.0]);
        assert_eq!(numbers(&bench.eval(Mul {}, &[&a, &column])), [10.0, 20.0, 60.0, 80.0]);
    }

    #[test]
    fn shapes_must_agree() {
        assert_eq!(infer(Add {}, &[tokens(2), tokens(1)], &[]), Ok(tokens(2)));
        let error = Err("operands act<tokens, 1> and act<tokens, 2> differ in shape".into());
        assert_eq!(infer(Add {}, &[tokens(1), tokens(2)], &[]), error);
        assert!(infer(Mul {}, &[tokens(2)], &[]).unwrap_err().contains("1 operands given, 2 declared"));
    }
}
