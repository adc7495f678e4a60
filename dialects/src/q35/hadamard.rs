//! Rotation by a random-sign block Hadamard transform.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::Ty;
use q35_format::rotate;

op! {
    /// The orthonormal rotation `R` of each row, every block alike, as module `rotate` of the format crate defines it to the
    /// bit.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};

    /// By hand for blocks of 2: with signs s, `(s0 x0 + s1 x1, s0 x0 - s1 x1) / sqrt(2)`, alike in every block.
    #[test]
    fn blocks_are_rotated_and_rotated_back() {
        let (block, seed) = (2, 11);
        let x = act(4, &[1.0, 5.0, -2.0, 0.5]);
        let y = Bench::default().eval(Hadamard { block, seed, inverse: false }, &[&x]);
        let s: Vec<f64> = (0..2).map(|k| f64::from(rotate::sign(seed, k)) / 2f64.sqrt()).collect();
        let expected = [s[0] + 5.0 * s[1], s[0] - 5.0 * s[1], -2.0 * s[0] + 0.5 * s[1], -2.0 * s[0] - 0.5 * s[1]];
        near(numbers(&y), &expected, 1e-6);
        let back = Bench::default().eval(Hadamard { block, seed, inverse: true }, &[&y]);
        near(numbers(&back), &[1.0, 5.0, -2.0, 0.5], 1e-6);
    }

    #[test]
    fn blocks_must_divide() {
        let op = |block| Hadamard { block, seed: 0, inverse: false };
        assert_eq!(infer(op(4), &[tokens(12)], &[]), Ok(tokens(12)));
        for block in [0, 3, 8] {
            let text = format!("blocks of {block} columns are no power of two that divides the 12 columns of 'x'");
            assert_eq!(infer(op(block), &[tokens(12)], &[]), Err(text));
        }
    }
}
