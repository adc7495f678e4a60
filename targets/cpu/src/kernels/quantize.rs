//! Rounding of activations to int8, in the layout that the integer matrix products read.

use q35_launch::Spec;
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I1, I8, I32};

use super::columns::fold;
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use crate::linear::geometry::{BLOCK, HEADER, quant_stride, quant_sums};

/// Adding it rounds an f32 below 2^22 to an integer, ties to even, which is then what its bits exceed these bits by.
const ROUND: f64 = 12_582_912.0;

/// Each row to int8 with one scale, to the bit as the format crate's `activation` defines it. Arguments: x, y.
///
/// The layout of y is the one of [`geometry`](crate::linear::geometry): header, blocks of 128 columns, sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantize {
    /// Columns.
    pub width: u64,
}

impl Spec for Quantize {
    fn name(&self) -> String {
        format!("quantize_{}", self.width)
    }

    fn args(&self) -> usize {
        2
    }
}

impl Kernel for Quantize {
    fn build<'k>(&self, level: Level, call: &Call<'k>) {
        let (b, count) = (call.b, lanes(level));
        let (x, y) = (call.arg(0), call.arg(1));
        call.for_tiles(|row| {
            let from = row_at(x, row, self.width);
            let to = y.at(row * quant_stride(self.width as usize) as i64);
            // The running maximum passes NaN over.
            let largest =
                fold(b, count, self.width, b.constant(F32.x(count), 0.0), |at, largest| largest.max(at.load(from).abs()));
            let amax = largest.max_lane();
            to.store(b.constant(F32.x(16), 0.0).with_lane(0, amax / 127.0), 4);
            let inverse = amax.eq(0.0).select(b.f32(0.0), b.f32(127.0) / amax);

            let (whole, rest) = (self.width as usize / BLOCK, self.width as usize % BLOCK);
            let sums = to.at(quant_sums(self.width as usize) as i64);
            let block = |at: Val<'k>, width: usize, total: Val<'k>| {
                let (from, to) = (from.at(at * (4 * BLOCK as i64)), to.at(at * BLOCK as i64 + HEADER as i64));
                let halves = round_block(from, to, inverse, count, width);
                for (half, sum) in halves.into_iter().enumerate() {
                    sums.at(at * 8 + 4 * half as i64).store(sum, 4);
                }
                total + halves[0] + halves[1]
            };
            let mut total = b.for_iter(0, whole as i64, 1, b.i32(0), |at, total| block(at, BLOCK, total));
            if rest > 0 {
                total = block(b.i64(whole as i64), rest, total);
            }
            to.at(4).store(total, 4);
        });
    }
}

/// One block, of which the first `width` columns exist. Gives the sums of its two halves.
fn round_block<'k>(from: Val<'k>, to: Val<'k>, inverse: Val<'k>, count: u32, width: usize) -> [Val<'k>; 2] {
    let b = from.builder();
    let (ty, lanes) = (F32.x(count), count as usize);
    let part = |first: usize| {
        let from = from.at(4 * first as i64);
        let present: Vec<bool> = (first..first + lanes).map(|column| column < width).collect();
        match present.iter().filter(|&&present| present).count() {
            0 => b.constant(ty, 0.0),
            all if all == lanes => from.load(ty, 4),
            _ => from.load_masked(ty, 4, b.lanes(I1.elem, &present), 0.0),
        }
    };
    let mut sums = [b.constant(I32.x(count), 0i64); 2];
    for first in (0..BLOCK).step_by(2 * lanes) {
        let sum = &mut sums[first / (BLOCK / 2)];
        let (low, high) = (part(first), part(first + lanes));
        for odd in [0, 1] {
            let picked = low.shuffle(high, &(odd..2 * count).step_by(2).collect::<Vec<_>>());
            let place = to.at((odd as usize * BLOCK / 2 + first / 2) as i64);
            let rounded = round(picked, inverse);
            place.store(rounded.to(I8), 4);
            *sum = *sum + rounded;
        }
    }
    sums.map(Val::sum)
}

/// `clamp(round_ties_even(x * inverse), -127, 127)`; 0 for NaN.
fn round<'k>(x: Val<'k>, inverse: Val<'k>) -> Val<'k> {
    let scaled = (x * inverse).max(-127.0).min(127.0);
    let number = scaled.eq(scaled).select(scaled, 0.0);
    // 127 is an integer, so clamping first changes nothing.
    (number + ROUND).bitcast(I32.x(x.lanes())) - i64::from((ROUND as f32).to_bits())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, run};
    use super::*;
    use q35_format::activation::quantize;

    fn check(x: &[f32], width: usize) {
        let tokens = x.len() / width;
        let stride = quant_stride(width);
        let mut expected = Vec::new();
        for row in x.chunks(width) {
            let mut q = vec![0i8; width];
            let scale = quantize(row, &mut q);
            expected.extend(scale.to_ne_bytes());
            let total: i32 = q.iter().map(|&v| i32::from(v)).sum();
            expected.extend(total.to_ne_bytes());
            expected.extend([0; 56]);
            q.resize(width.next_multiple_of(128), 0);
            for block in q.chunks(128) {
                expected.extend(block.iter().step_by(2).map(|&v| v as u8));
                expected.extend(block.iter().skip(1).step_by(2).map(|&v| v as u8));
            }
            for half in q.chunks(64) {
                expected.extend(half.iter().map(|&v| i32::from(v)).sum::<i32>().to_ne_bytes());
            }
            expected.resize(expected.len().next_multiple_of(64), 0xEE);
        }
        let args = [Arg::rows(x, width), Arg::bytes(&vec![0xEE; tokens * stride])];
        run(&Quantize { width: width as u64 }, args, [tokens as i64, 0, 0, 0], tokens as i64, |level, args| {
            assert!(args[1].content() == expected, "{level:?} {width}");
        });
    }

    #[test]
    fn bits_and_places_are_those_of_the_format() {
        for width in [1, 2, 31, 33, 127, 128, 129, 300, 768] {
            check(&numbers(4 * width, 5.0), width);
        }
    }

    #[test]
    fn ties_zeros_and_what_is_not_finite() {
        let ties: Vec<f32> = (0..255).map(|i| i as f32 / 2.0 - 63.5).chain([127.0]).collect();
        check(&ties, 256);
        let width = 40;
        let mut x = vec![0.0; 6 * width];
        x[width + 3] = f32::from_bits(0x7fc0_0055);
        x[width + 4] = 2.5;
        x[2 * width + 39] = f32::NEG_INFINITY;
        x[3 * width] = 1e-40;
        x[3 * width + 1] = -1e-40;
        x[4 * width..5 * width].fill(f32::NAN);
        x[5 * width..].copy_from_slice(&numbers(width, 1e38));
        check(&x, width);
    }
}
