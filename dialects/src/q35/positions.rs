//! The step's positions.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics};
use crate::ty::{Rows, Ty};

op! {
    /// The positions of the step's tokens, as RoPE counts them, one per row.
    Positions = "positions"() -> Ids {}
}

impl Semantics for Positions {
    fn infer(&self, _: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        Ok(Ty::Ids { rows: Rows::Tokens })
    }

    fn cost(&self, _: &[Ty], _: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::default()
    }

    fn eval(&self, _: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        Ok(Data::Ids(env.input.positions.clone()))
    }
}
