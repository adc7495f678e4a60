//! Rotation of rows by a random-sign block Hadamard transform, to the bit as the format crate's `rotate` defines it.
//!
//! Butterflies between neighbours are done inside vectors. The others go through the result row, which fits the nearest cache, three distances
//! at a time: eight vectors are loaded, combined and stored.

use q35_format::rotate::signs;
use q35_launch::spec::{Hadamard, butterfly};
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I1, I8, I32};

use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

/// Butterfly distances per pass through memory.
const STAGES: u32 = 3;

impl Kernel for Hadamard {
    fn build<'k>(&self, level: Level, call: &Call<'k>) {
        let b = call.b;
        let count = u64::from(lanes(level)).min(self.block) as u32;
        let step = i64::from(count);
        let (x, y) = (call.arg(0), call.arg(1));
        let flips: Vec<u8> = signs(self.seed, self.block as usize).map(|s| if s < 0.0 { 0x80 } else { 0 }).collect();
        let flips = b.table(&flips, 64);
        let flip = |value: Val<'k>, column: Val<'k>| {
            let signs = flips.at(column & (self.block as i64 - 1)).load(I8.x(count), 1).to_u(I32) << 24;
            (value.bitcast(I32.x(count)) ^ signs).bitcast(F32.x(count))
        };
        let norm = f64::from(1.0 / (self.block as f32).sqrt());
        let finish = |value: Val<'k>, column: Val<'k>| {
            let scaled = value * norm;
            if self.inverse { flip(scaled, column) } else { scaled }
        };
        call.for_tiles(|row| {
            let (from, to) = (row_at(x, row, self.width), row_at(y, row, self.width));
            let in_vectors = u64::from(count) == self.block;
            b.for_(0, self.width as i64, step, |column| {
                let mut value = from.at(column * 4).load(F32.x(count), 4);
                if !self.inverse {
                    value = flip(value, column);
                }
                for stage in 0..count.ilog2() {
                    value = butterfly_lanes(value, 1 << stage);
                }
                to.at(column * 4).store(if in_vectors { finish(value, column) } else { value }, 4);
            });
            let mut distance = u64::from(count);
            while distance < self.block {
                let stages = STAGES.min((self.block / distance).ilog2());
                let group = distance << stages;
                let last = group == self.block;
                b.for_(0, self.width as i64, group as i64, |start| {
                    b.for_(start, start + distance as i64, step, |first| {
                        let columns: Vec<Val<'k>> = (0..1 << stages).map(|i: i64| first + i * distance as i64).collect();
                        let mut values: Vec<Val<'k>> =
                            columns.iter().map(|&column| to.at(column * 4).load(F32.x(count), 4)).collect();
                        for stage in 0..stages {
                            butterfly(&mut values, 1 << stage);
                        }
                        for (value, column) in values.into_iter().zip(columns) {
                            to.at(column * 4).store(if last { finish(value, column) } else { value }, 4);
                        }
                    });
                });
                distance = group;
            }
        });
    }
}

/// `(a, b) -> (a + b, a - b)` for lanes `distance` apart.
fn butterfly_lanes(value: Val<'_>, distance: u32) -> Val<'_> {
    let (b, lanes) = (value.builder(), value.lanes());
    let partner = value.shuffle(value, &(0..lanes).map(|lane| lane ^ distance).collect::<Vec<_>>());
    let upper: Vec<bool> = (0..lanes).map(|lane| lane & distance != 0).collect();
    partner + b.lanes(I1.elem, &upper).select(-value, value)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, rows, run};
    use super::*;
    use q35_format::rotate;

    #[test]
    fn bits_are_those_of_the_format() {
        for (width, block) in
            [(1, 1), (3, 1), (6, 2), (24, 8), (48, 16), (64, 64), (96, 32), (768, 256), (512, 512), (2048, 2048)]
        {
            for inverse in [false, true] {
                let seed = 0x5EED + width as u64;
                let x = numbers(3 * width, 2.0);
                let mut expected = x.clone();
                for row in expected.chunks_mut(width) {
                    if inverse { rotate::inverse(row, block, seed) } else { rotate::forward(row, block, seed) }
                }
                let spec = Hadamard { width: width as u64, block: block as u64, seed, inverse };
                run(&spec, [Arg::rows(&x, width), Arg::zeros(3, width)], [3, 0, 0, 0], 3, |level, args| {
                    assert_eq!(rows(&args[1], width), expected, "{spec:?} {level:?}");
                });
            }
        }
    }
}
