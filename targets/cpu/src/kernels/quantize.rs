//! Rounding of activations to int8, in the layout that the integer matrix products read.

use q35_launch::Spec;
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I1, I8, I32};

use super::columns::fold;
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use crate::linear::geometry::{BLOCK, HEADER, quant_place, quant_stride, quant_sums};

/// Adding it rounds an f32 below 2^22 to an integer, ties to even, which is then what its bits exceed these bits by.
const ROUND: f64 = 12_582_912.0;

/// Each row to int8 with one scale, to the bit as the format crate's `activation` defines it. Arguments: x, y.
///
/// The layout of y is the one of [`geometry`](crate::linear::geometry): header, blocks of 64 columns, sums.
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
            let block = |at: Val<'k>, width: usize, total: [Val<'k>; 2]| {
                let (from, to) = (from.at(at * (4 * BLOCK as i64)), to.at(at * BLOCK as i64 + HEADER as i64));
                let of_block = round_block(from, to, inverse, count, width);
                sums.at(at * 8).store(of_block[0], 4);
                sums.at(at * 8 + 4).store(of_block[1], 4);
                [total[0] + of_block[0], total[1] + of_block[1]]
            };
            let mut total = b.for_iter(0, whole as i64, 1, [b.i32(0); 2], |at, total| block(at, BLOCK, total));
            if rest > 0 {
                total = block(b.i64(whole as i64), rest, total);
            }
            to.at(4).store(total[0], 4);
            to.at(8).store(total[1], 4);
        });
    }
}

/// One block, of which the first `width` columns exist. Gives the sums of its even and of its odd columns.
fn round_block<'k>(from: Val<'k>, to: Val<'k>, inverse: Val<'k>, count: u32, width: usize) -> [Val<'k>; 2] {
    let b = from.builder();
    let (ty, lanes) = (F32.x(count), count as usize);
    let part = |first: usize| {
        let from = from.at(4 * first as i64);
        let present: Vec<bool> = (first..first + lanes).map(|column| column < width).collect();
        let values = match present.iter().filter(|&&present| present).count() {
            0 => b.constant(ty, 0.0),
            all if all == lanes => from.load(ty, 4),
            _ => from.load_masked(ty, 4, b.lanes(I1.elem, &present), 0.0),
        };
        round(values, inverse)
    };
    let mut rounded: Vec<Val<'k>> = (0..BLOCK).step_by(lanes).map(part).collect();
    let pairs = |of: usize| {
        let odds: Vec<bool> = (0..lanes).map(|lane| lane % 2 == of).collect();
        let zero = b.constant(I32.x(count), 0i64);
        let sum = rounded.iter().map(|part| b.lanes(I1.elem, &odds).select(*part, zero)).reduce(|a, b| a + b);
        sum.map_or(b.i32(0), Val::sum)
    };
    let sums = [0, 1].map(pairs);
    while rounded.len() > 1 {
        rounded = rounded.chunks(2).map(|pair| pair[0].concat(pair[1])).collect();
    }
    let mut columns: Vec<u32> = (0..BLOCK as u32).collect();
    columns.sort_by_key(|column| quant_place(*column as usize));
    let bytes = rounded[0].to(I8);
    to.store(bytes.shuffle(bytes, &columns), 4);
    sums
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
            let sums = |q: &[i8]| -> Vec<u8> {
                let sum = |odd: usize| q.iter().skip(odd).step_by(2).map(|&v| i32::from(v)).sum::<i32>();
                [sum(0), sum(1)].iter().flat_map(|sum| sum.to_ne_bytes()).collect()
            };
            expected.extend(scale.to_ne_bytes());
            expected.extend(sums(&q));
            expected.extend([0; 52]);
            q.resize(width.next_multiple_of(64), 0);
            for block in q.chunks(64) {
                for (odd, quad) in [0, 1].iter().flat_map(|odd| (0..8).map(move |quad| (odd, quad))) {
                    expected.extend((0..4).map(|byte| block[2 * (8 * byte + quad) + odd] as u8));
                }
            }
            q.chunks(64).for_each(|block| expected.extend(sums(block)));
            expected.resize(expected.len().next_multiple_of(64), 0xEE);
        }
        let args = [Arg::rows(x, width), Arg::bytes(&vec![0xEE; tokens * stride])];
        run(&Quantize { width: width as u64 }, args, [tokens as i64, 0, 0, 0], tokens as i64, |level, args| {
            assert!(args[1].content() == expected, "{level:?} {width}");
        });
    }

    #[test]
    fn bits_and_places_are_those_of_the_format() {
        for width in [1, 2, 31, 33, 63, 64, 65, 127, 128, 129, 300, 768] {
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
