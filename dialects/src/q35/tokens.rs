//! The step's token ids.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics};
use crate::ty::{Rows, Ty};

op! {
    /// The token ids of the step, one per row.
    Tokens = "tokens"() -> Ids {}
}

impl Semantics for Tokens {
    fn infer(&self, _: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        Ok(Ty::Ids { rows: Rows::Tokens })
    }

    fn cost(&self, _: &[Ty], _: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::default()
    }

    fn eval(&self, _: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        Ok(Data::Ids(env.input.tokens.clone()))
    }
}
