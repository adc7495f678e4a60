//! The rows whose logits are wanted.

use crate::data::{Data, Matrix};
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::{Rows, Ty};

op! {
    /// `y[r] = x[logit_rows[r]]`: from one row per token to one row per wanted logit row.
    Select = "select"(x: Act) -> Act {}
}

impl Semantics for Select {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, width) = matrix(&operands[0]);
        ensure(rows == Rows::Tokens, || "operand 'x' has one row per logit row already".to_owned())?;
        Ok(Ty::Act { rows: Rows::Logits, width })
    }

    fn cost(&self, _: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(&[*result], result, 0)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let data = env.input.logit_rows.iter().flat_map(|row| x.row(*row as usize)).copied().collect();
        Ok(Data::Act(Matrix::new(x.width, data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, numbers, tokens};

    #[test]
    fn rows_are_chosen() {
        let mut bench = Bench::default();
        bench.input.logit_rows = vec![2, 0];
        assert_eq!(numbers(&bench.eval(Select {}, &[&act(2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])])), [5.0, 6.0, 1.0, 2.0]);
        let logits = Ty::Act { rows: Rows::Logits, width: 2 };
        assert_eq!(infer(Select {}, &[tokens(2)], &[]), Ok(logits));
        assert_eq!(infer(Select {}, &[logits], &[]), Err("operand 'x' has one row per logit row already".into()));
    }
}
