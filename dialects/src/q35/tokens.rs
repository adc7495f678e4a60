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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::Positions;
    use crate::q35::testing::Bench;

    #[test]
    fn inputs_are_handed_on() {
        let mut bench = Bench::default();
        bench.input.tokens = vec![3, 1];
        bench.input.positions = vec![7, 0];
        assert_eq!(bench.eval(Tokens {}, &[]).ids(), [3, 1]);
        assert_eq!(bench.eval(Positions {}, &[]).ids(), [7, 0]);
    }
}
