//! Linear layers.
//!
//! **Codec `split`.** A container holds a pair of weights `a` (odd, up to 15) and `b = 2 l` (`l` odd, up to 7). Its byte in memory is
//! `r = 8 a + l`, which fits -127 to 127 and goes into plane A of the MXM as it is. Its low four bits are `m = l + 8`; one `and` per
//! four bytes, on the way into plane B, leaves them. With `x_e` and `x_o` the activations of even and odd columns,
//!
//! ```text
//! 8 sum (a x_e + b x_o) = sum r x_e + sum l (16 x_o - x_e)
//!                       = A + 16 B_o - B_e + C        A = sum r x_e,  B_o = sum m x_o,  B_e = sum m x_e
//!                                                     C = 8 sum x_e - 128 sum x_o
//! ```
//!
//! so nothing is unpacked: each byte is used twice, and the division by 8 is exact. `C` does not depend on the layer: it is computed once
//! per row, with an array of ones. Every sum stays below 2^31 for up to [`SPLIT_COLUMNS`] columns.
//!
//! **Codec `q8`.** Bytes are weights; even and odd columns are two tiles of one accumulator.
//!
//! Then, each operation rounded to f32, as the op `linear` says: `y = f32(sum) * scale_w * scale_x + bias`.

use super::layout::Layout;
use super::rows::Quant;
use crate::schedule::tile::{Bytes, Multiply, Tile, planes};
use crate::schedule::vector::Expr;
use crate::schedule::{Byte, Schedule, Word};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{LANES as ALL_LANES, SUPERLANE, Side};
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Image, Place, TileBytes};

/// Columns whose sums cannot exceed 32 bits: per pair, 127 * (127 + 16 * 15 + 15 + 8 + 128) at most.
pub(crate) const SPLIT_COLUMNS: u64 = 2 * ((i32::MAX as u64) / (127 * (127 + 16 * 15 + 15 + 8 + 128)));
/// The same of codec `q8`.
pub(crate) const Q8_COLUMNS: u64 = i32::MAX as u64 / (127 * 127);

/// Output vectors whose sums may wait in accumulators: of 64, each takes three.
const IN_FLIGHT: usize = 16;

/// A sum in an accumulator, complete from some cycle on.
struct Sum {
    plane: u8,
    accumulator: u8,
    done: i64,
}

/// A linear layer to lower.
pub(crate) struct Layer<'a> {
    pub(crate) param: &'a str,
    pub(crate) bias: Option<&'a str>,
    pub(crate) bytes: TileBytes,
    pub(crate) inputs: &'a Layout,
    pub(crate) outputs: &'a Layout,
}

impl Schedule {
    /// Makes a tile: its rows in memory and its image.
    pub(crate) fn tile(
        &mut self,
        side: Side,
        param: &str,
        bytes: TileBytes,
        outputs: Lanes,
        columns: usize,
        inputs: Lanes,
    ) -> Tile {
        let loads = columns.div_ceil(16) as u16;
        let (slices, address) = self.memory.weights(side, loads.div_ceil(2));
        self.data.images.push(Image::Tile {
            slices: slices.concat(),
            address,
            param: param.to_owned(),
            bytes,
            outputs,
            inputs,
        });
        Tile { slices, address, loads, step: 1 }
    }

    /// `C` of the module's formula, in every lane.
    pub(crate) fn correction(&mut self, x: &[[Byte; 2]]) -> Word {
        let (side, plane) = (Side::East, planes(Side::East)[0]);
        let tile = self.ones(side);
        let sums = [0, 1].map(|odd| {
            let accumulator = self.accumulators.next();
            let inputs = x.iter().skip(odd).step_by(2).enumerate();
            let multiplies: Vec<Multiply> =
                inputs.map(|(at, input)| Multiply { input: input[side as usize], accumulator, add: at > 0 }).collect();
            let (_, done) = self.install(plane, tile, Bytes::Raw, &multiplies, 0);
            self.emit(plane, accumulator, done)
        });
        let mut expr = Expr::default();
        let [even, odd] = sums.map(|sum| expr.word(sum));
        use crate::schedule::vector::Arg::Constant;
        let (even, odd) = (expr.op(AluOp::Shl, even, Constant(3)), expr.op(AluOp::Shl, odd, Constant(7)));
        let y = expr.op(AluOp::SubI, even, odd);
        expr.keep(y);
        let correction = self.word(&expr);
        sums.into_iter().for_each(|sum| self.memory.release(sum));
        correction
    }

    /// A tile of ones: sixteen columns, loaded again and again.
    fn ones(&mut self, side: Side) -> Tile {
        if let Some(ones) = self.accumulators.ones {
            return ones;
        }
        let (slices, address) = self.memory.weights(side, 1);
        let ones = |slice| Image::Bytes { place: Place { slice, address }, runs: vec![(0, 1)] };
        self.data.images.extend(slices[0].map(ones));
        let tile = Tile { slices, address, loads: (ALL_LANES / SUPERLANE) as u16, step: 0 };
        self.accumulators.ones = Some(tile);
        tile
    }

    /// The layer's outputs. The tiles of several output vectors are placed before the first of their sums, so that sums find their way between
    /// weights, and not the other way round.
    pub(crate) fn linear(&mut self, x: &Quant, layer: &Layer<'_>) -> Vec<Word> {
        let mut words = Vec::new();
        for first in (0..layer.outputs.len()).step_by(IN_FLIGHT) {
            let vectors = first..layer.outputs.len().min(first + IN_FLIGHT);
            let sums: Vec<Vec<Sum>> = vectors.clone().map(|v| self.sums(x, layer, v)).collect();
            words.extend(vectors.zip(sums).map(|(v, sums)| self.output_vector(x, layer, v, &sums)));
        }
        words
    }

    fn sums(&mut self, x: &Quant, layer: &Layer<'_>, v: usize) -> Vec<Sum> {
        let side = Side::ALL[v % 2];
        match layer.bytes {
            TileBytes::Pair => self.pair_sums(x, layer, v, side),
            TileBytes::Integer => vec![self.integer_sum(x, layer, v, side)],
        }
    }

    fn output_vector(&mut self, x: &Quant, layer: &Layer<'_>, v: usize, sums: &[Sum]) -> Word {
        let sums: Vec<Word> = sums.iter().map(|sum| self.emit(sum.plane, sum.accumulator, sum.done)).collect();
        let scale = Word { quad: self.memory.constant(1), ready: 0 };
        let lanes = layer.outputs.lanes(v, |output| output);
        self.data.images.push(Image::Scales { quad: scale.quad, param: layer.param.to_owned(), lanes: lanes.clone() });
        let bias = layer.bias.map(|param| {
            let quad = self.memory.constant(1);
            self.data.images.push(Image::Numbers { quad, param: param.to_owned(), lanes });
            Word { quad, ready: 0 }
        });
        let mut expr = Expr::default();
        let terms: Vec<_> = sums.iter().map(|sum| expr.word(*sum)).collect();
        let sum = match (&terms[..], x.correction) {
            ([a, odd, even], Some(correction)) => {
                use crate::schedule::vector::Arg::Constant;
                let difference = expr.op(AluOp::SubI, *a, *even);
                let odd = expr.op(AluOp::Shl, *odd, Constant(4));
                let sum = expr.op(AluOp::AddI, difference, odd);
                let correction = expr.word(correction);
                let sum = expr.op(AluOp::AddI, sum, correction);
                expr.op(AluOp::Sar, sum, Constant(3))
            }
            _ => terms[0],
        };
        let sum = expr.unary(AluOp::ToFloat, sum);
        let scale = expr.word(scale);
        let y = expr.op(AluOp::MulF, sum, scale);
        let scale = expr.word(x.scale);
        let mut y = expr.op(AluOp::MulF, y, scale);
        if let Some(bias) = bias {
            let bias = expr.word(bias);
            y = expr.op(AluOp::AddF, y, bias);
        }
        expr.keep(y);
        let y = self.word(&expr);
        sums.into_iter().for_each(|sum| self.memory.release(sum));
        y
    }

    /// `A`, `B_o` and `B_e`.
    fn pair_sums(&mut self, x: &Quant, layer: &Layer<'_>, v: usize, side: Side) -> Vec<Sum> {
        let [a, b] = planes(side);
        let [raw, odd, even] = [(); 3].map(|()| self.accumulators.next());
        let mut earliest = [0; 2];
        let mut done = [0; 2];
        for (chunk, pair) in x.bytes.chunks(2).enumerate() {
            let inputs = layer.inputs.lanes(2 * chunk, |element| element / 2);
            let outputs = layer.outputs.lanes(v, |output| output);
            let columns = layer.outputs.vector(v).len();
            let tile = self.tile(side, layer.param, TileBytes::Pair, outputs, columns, inputs);
            let add = chunk > 0;
            let multiply = |input: [Byte; 2], accumulator| Multiply { input: input[side as usize], accumulator, add };
            let (first, last) =
                self.install(b, tile, Bytes::Nibbles, &[multiply(pair[1], odd), multiply(pair[0], even)], earliest[1]);
            (earliest[1], done[1]) = (first + 1, last);
            let (first, last) = self.install(a, tile, Bytes::Raw, &[multiply(pair[0], raw)], earliest[0]);
            (earliest[0], done[0]) = (first + 1, last);
        }
        let sum = |plane, accumulator, done| Sum { plane, accumulator, done };
        vec![sum(a, raw, done[0]), sum(b, odd, done[1]), sum(b, even, done[1])]
    }

    fn integer_sum(&mut self, x: &Quant, layer: &Layer<'_>, v: usize, side: Side) -> Sum {
        let plane = planes(side)[v / 2 % 2];
        let accumulator = self.accumulators.next();
        let (mut earliest, mut done) = (0, 0);
        for (u, input) in x.bytes.iter().enumerate() {
            let inputs = layer.inputs.lanes(u, |element| element);
            let outputs = layer.outputs.lanes(v, |output| output);
            let columns = layer.outputs.vector(v).len();
            let tile = self.tile(side, layer.param, TileBytes::Integer, outputs, columns, inputs);
            let multiply = Multiply { input: input[side as usize], accumulator, add: u > 0 };
            let (first, last) = self.install(plane, tile, Bytes::Raw, &[multiply], earliest);
            (earliest, done) = (first + 1, last);
        }
        Sum { plane, accumulator, done }
    }
}
