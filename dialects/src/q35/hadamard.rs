//! Rotation by a random-sign block Hadamard transform.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::Ty;
use q35_format::rotate;

op! {
    /// The orthonormal rotation `R` of each row, block by block, as module `rotate` of the format crate defines it to the bit.
    Hadamard = "hadamard"(x: Act) -> Act {
        /// Columns of a block: a power of two that divides the width.
        block: u64,
        /// Seed of the signs.
        seed: u64,
        /// `R^T` instead of `R`.
        inverse: bool,
    }
}

impl Semantics for Hadamard {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = matrix(&operands[0]);
        ensure(self.block.is_power_of_two() && width.is_multiple_of(self.block), || {
            format!("blocks of {} columns are no power of two that divides the {width} columns of 'x'", self.block)
        })?;
        Ok(same_rows(&operands[0], width))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, u64::from(self.block.ilog2()) + 2)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let apply = if self.inverse { rotate::inverse } else { rotate::forward };
        let y = x.map_rows(x.width, |_, x, y| {
            y.copy_from_slice(x);
            apply(y, self.block as usize, self.seed);
        });
        Ok(Data::Act(y))
    }
}
