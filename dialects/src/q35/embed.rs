//! Token embeddings.

use crate::attr::ParamName;
use crate::data::{Data, Matrix};
use crate::decl::op;
use crate::interp::{Env, bad_input};
use crate::semantics::{Cost, ParamTable, Semantics, row_bytes, shape};
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
        debug_assert_eq!(cost.written, row_bytes(result));
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
