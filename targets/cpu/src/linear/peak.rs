//! What the multiplier of a level can do: the figure that kernels are measured against.

use super::decode::Meaning;
use super::dot::{Sums, sums_ty};
use crate::abi::Call;
use crate::kernels::Kernel;
use crate::level::Level;
use q35_launch::Spec;
use q35_mlir::types::{I8, I32};

/// Rows of activations, and vectors of weights that meet each: sums that fit the registers of every level.
const ROWS: usize = 4;
const VECTORS: usize = 3;
/// Bytes of the activations that it goes round in.
const RING: usize = 1024;

/// Multiplies what is in registers with activations that are near, and nothing else. Arguments: activations ([`Peak::BYTES`] bytes), weights
/// below 128 (as many), sums (as many).
#[derive(Clone, Copy, Debug)]
pub struct Peak;

impl Peak {
    /// Bytes of each argument.
    pub const BYTES: usize = RING;

    /// Products of a tile.
    pub fn products(level: Level) -> usize {
        ROWS * VECTORS * level.bytes() as usize
    }
}

impl Spec for Peak {
    fn name(&self) -> String {
        "peak".to_owned()
    }

    fn args(&self) -> usize {
        3
    }
}

impl Kernel for Peak {
    fn build<'k>(&self, level: Level, call: &Call<'k>) {
        let (b, x, weights, y) = (call.b, call.arg(0), call.arg(1), call.arg(2));
        let bytes = level.bytes();
        let meaning = [Meaning { signed: false, most: i64::from(i8::MAX), factor: 1, bias: 0 }; 2];
        let weights: Vec<_> = (0..VECTORS).map(|at| weights.at(at as i64 * i64::from(bytes)).load(I8.x(bytes), 1)).collect();
        let zero = vec![vec![vec![b.constant(sums_ty(level), 0i64)]; ROWS]; VECTORS];
        let sums = b.for_iter(call.begin, call.end, 1, zero, |round, sums| {
            let at = (round * (4 * ROWS as i64)) & (RING as i64 - 1);
            let x: Vec<_> = (0..ROWS).map(|row| x.at(at).at(4 * row as i64).load(I32, 4)).collect();
            let add = |(sums, weights)| {
                let mut sums = Sums::new(level, meaning, sums);
                sums.add(0, weights, &x);
                sums.wide()
            };
            sums.into_iter().zip(weights.iter().copied()).map(add).collect()
        });
        for (at, sum) in sums.into_iter().flatten().flatten().enumerate() {
            y.at(at as i64 * i64::from(bytes)).store(sum, 1);
        }
    }
}
