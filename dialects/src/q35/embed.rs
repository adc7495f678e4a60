//! Token embeddings.

use crate::attr::ParamName;
use crate::data::{Data, Matrix};
use crate::decl::op;
use crate::interp::{Env, bad_input};
use crate::semantics::{Cost, ParamTable, Semantics, shape};
use crate::ty::Ty;
use q35_bundle::Size;

op! {
    /// Row `ids[r]` of a table, as numbers.
    Embed = "embed"(ids: Ids) -> Act {
        /// The table, `[vocab, width]`.
        table: ParamName,
    }
}

impl Semantics for Embed {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = shape(params, &self.table)?;
        match operands[0] {
            Ty::Ids { rows } => Ok(Ty::Act { rows, width }),
            ref other => unreachable!("the declaration excludes {other}"),
        }
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let mut cost = Cost::elementwise(operands, result, 0);
        if let (Some(table), Some((rows, _))) = (params.packed(&self.table), result.matrix()) {
            cost.read.0.extend(Size::per(table.bytes().div_ceil(table.rows), rows.dim()).0);
        }
        cost
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let table = env.params.value(&self.table)?;
        let (vocab, width) = table.shape();
        let mut data = Vec::with_capacity(operands[0].ids().len() * width);
        for &id in operands[0].ids() {
            if id as usize >= vocab {
                return Err(bad_input(format!("token {id} is outside the vocabulary of {vocab}")).into());
            }
            data.extend(table.row(id as usize));
        }
        Ok(Data::Act(Matrix::new(width, data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Integers, ParamValue};
    use crate::q35::testing::{Bench, infer, numbers, tokens};
    use crate::ty::Rows;
    use q35_format::Group;

    #[test]
    fn rows_are_gathered() {
        let mut bench = Bench::with_params(&[("t", 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
        let op = Embed { table: "t".into() };
        let y = bench.eval(op.clone(), &[&Data::Ids(vec![2, 0, 2])]);
        assert_eq!(numbers(&y), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let error = bench.try_eval(op, &[&Data::Ids(vec![3])]).unwrap_err().to_string();
        assert_eq!(error, "error[Q35-0604]: token 3 is outside the vocabulary of 3");
    }

    #[test]
    fn quantized_rows_are_the_numbers_they_stand_for() {
        let mut bench = Bench::default();
        let table = Integers { cols: 2, group: Group::Row, q: vec![1, 2, -3, 4], scales: vec![1.0, 0.5], offsets: None };
        bench.param("t", ParamValue::Integers(table));
        assert_eq!(numbers(&bench.eval(Embed { table: "t".into() }, &[&Data::Ids(vec![1])])), [-1.5, 2.0]);
    }

    #[test]
    fn the_table_gives_the_width() {
        let ids = Ty::Ids { rows: Rows::Tokens };
        assert_eq!(infer(Embed { table: "t".into() }, &[ids], &[("t", 9, 4)]), Ok(tokens(4)));
        assert_eq!(infer(Embed { table: "t".into() }, &[ids], &[]), Err("there is no parameter @t".into()));
        assert_eq!(
            infer(Embed { table: "t".into() }, &[tokens(4)], &[("t", 9, 4)]),
            Err("operand 'ids' is act<tokens, 4>, not ids".into())
        );
    }
}
