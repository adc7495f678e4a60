//! Rotation of rows by a random-sign block Hadamard transform, to the bit as the format crate's `rotate` defines it.

use super::Spec;
use q35_mlir::builder::Val;

/// `R` or its inverse on each row. Arguments: x, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hadamard {
    /// Columns.
    pub width: u64,
    /// Columns of a block: a power of two that divides the width.
    pub block: u64,
    /// Seed of the signs.
    pub seed: u64,
    /// Whether it is the inverse.
    pub inverse: bool,
}

impl Spec for Hadamard {
    fn name(&self) -> String {
        let inverse = if self.inverse { "_inverse" } else { "" };
        format!("hadamard{inverse}_{}_by_{}_{:016x}", self.width, self.block, self.seed)
    }

    fn args(&self) -> usize {
        2
    }
}

/// `(a, b) -> (a + b, a - b)` for values `distance` apart.
pub fn butterfly(values: &mut [Val<'_>], distance: usize) {
    for pairs in values.chunks_mut(2 * distance) {
        let (low, high) = pairs.split_at_mut(distance);
        for (a, b) in low.iter_mut().zip(high) {
            (*a, *b) = (*a + *b, *a - *b);
        }
    }
}
