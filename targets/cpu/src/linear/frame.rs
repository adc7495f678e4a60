//! What every linear kernel has: its arguments, the chunks of tokens it walks over, and the last steps of an output.

use super::geometry::{self, HEADER, TILE, act_stride, quant_stride};
use super::{Linear, decode};
use crate::abi::Call;
use crate::level::Level;
use q35_format::{Codec, ScaleType};
use q35_mlir::builder::{Builder, Val};
use q35_mlir::math::f16_bits_to_f32;
use q35_mlir::types::{BF16, F16, F32, I16, I64, Ty};

/// Sixteen outputs.
pub(super) const OUTPUTS: Ty = F32.x(TILE as u32);

/// A linear kernel under construction.
pub(super) struct Frame<'k> {
    pub(super) b: &'k Builder<'k>,
    pub(super) level: Level,
    pub(super) linear: Linear,
    /// Tokens (or logit rows) of the step.
    pub(super) count: Val<'k>,
    x: Val<'k>,
    /// The weights, with what their first tiles have.
    weights: Vec<(Tile<'k>, usize)>,
}

/// Sixteen outputs of one of the weights: where what belongs to them lies.
#[derive(Clone, Copy)]
pub(super) struct Tile<'k> {
    /// The arranged codes.
    pub(super) codes: Val<'k>,
    scales: Option<Val<'k>>,
    bias: Option<Val<'k>>,
    /// The outputs of the first token.
    y: Val<'k>,
    /// Bytes from one token's outputs to the next one's.
    stride: Val<'k>,
}

/// Some tokens that are computed together.
pub(super) struct Chunk<'k> {
    /// Where each token's activations start: f32, or bytes after the header.
    pub(super) x: Vec<Val<'k>>,
    /// Each token's activation scale, where activations are rounded.
    pub(super) scale: Vec<Val<'k>>,
    tokens: Vec<Val<'k>>,
}

impl<'k> Tile<'k> {
    /// The tile `number` tiles further on, of the same weight.
    fn further(self, number: Val<'k>, linear: &Linear) -> Self {
        let vector = number * (4 * TILE as i64);
        let code_bytes = geometry::codes(&linear.spec).tile_bytes as i64;
        let scale_bytes = geometry::scales(&linear.spec).tile_bytes as i64;
        Tile {
            codes: self.codes.at(number * code_bytes),
            scales: self.scales.map(|scales| scales.at(number * scale_bytes)),
            bias: self.bias.map(|bias| bias.at(vector)),
            y: self.y.at(vector),
            stride: self.stride,
        }
    }

    /// This tile where `holds`, else the other one.
    fn or(self, holds: Val<'k>, other: Self) -> Self {
        let optional = |this: Option<Val<'k>>, other: Option<Val<'k>>| Some(holds.select(this?, other?));
        Tile {
            codes: holds.select(self.codes, other.codes),
            scales: optional(self.scales, other.scales),
            bias: optional(self.bias, other.bias),
            y: holds.select(self.y, other.y),
            stride: holds.select(self.stride, other.stride),
        }
    }
}

impl<'k> Frame<'k> {
    pub(super) fn new(call: &Call<'k>, level: Level, linear: Linear) -> Self {
        let b = call.b;
        let mut next = (0..).map(|at| call.arg(at));
        let mut argument = || next.next().unwrap_or_else(|| unreachable!("there is always one more address"));
        let x = argument();
        let mut weights = Vec::new();
        for outputs in linear.outputs() {
            let codes = argument();
            let scales = linear.spec.codec().has_scales().then(&mut argument);
            let bias = linear.bias.then(&mut argument);
            let stride = b.i64(act_stride(outputs) as i64);
            weights.push((Tile { codes, scales, bias, y: argument(), stride }, outputs));
        }
        Self { b, level, count: call.dim(linear.rows.dim()), linear, x, weights }
    }

    /// `body(tile)` for every tile of a call. The weights' tiles follow each other.
    pub(super) fn for_tiles(&self, call: &Call<'k>, body: impl FnOnce(&Tile<'k>)) {
        call.for_tiles(|number| {
            let mut first = 0;
            let mut found: Option<Tile<'k>> = None;
            for (weight, outputs) in &self.weights {
                let own = weight.further(number - first, &self.linear);
                found = Some(found.map_or(own, |before| own.or(number.ge(first), before)));
                first += outputs.div_ceil(TILE) as i64;
            }
            body(&found.unwrap_or_else(|| unreachable!("a layer has a weight")));
        });
    }

    /// What has been added to the weights to make them unsigned.
    pub(super) fn weight_bias(&self) -> i64 {
        decode::bias(self.linear.spec.codec()).into()
    }

    /// `tokens` and what belongs to them.
    pub(super) fn chunk(&self, tokens: &[Val<'k>]) -> Chunk<'k> {
        let spec = &self.linear.spec;
        let rounded = spec.codec().has_scales();
        let stride = if rounded { quant_stride(spec.cols()) } else { act_stride(spec.cols()) };
        let x: Vec<Val<'k>> = tokens.iter().map(|token| self.x.at(*token * stride as i64)).collect();
        let scale = if rounded { x.iter().map(|x| x.load(F32, 4)).collect() } else { vec![] };
        let x = if rounded { x.iter().map(|x| x.at(HEADER as i64)).collect() } else { x };
        Chunk { x, scale, tokens: tokens.to_vec() }
    }

    /// `body(chunk)` over all tokens, as many at a time as the first of `sizes` says, the rest as the next one says; the last size is 1.
    pub(super) fn for_chunks(&self, sizes: &[i64], mut body: impl FnMut(&Chunk<'k>)) {
        debug_assert_eq!(sizes.last(), Some(&1));
        let mut from = self.b.i64(0);
        for &size in sizes {
            let to = from + (self.count - from) / size * size;
            self.b.for_(from, to, size, |token| {
                body(&self.chunk(&(0..size).map(|at| token + at).collect::<Vec<_>>()));
            });
            from = to;
        }
    }

    /// The scales of a tile's rows for a group.
    pub(super) fn scales(&self, tile: &Tile<'k>, group: Val<'k>) -> Val<'k> {
        let spec = &self.linear.spec;
        let at = tile.scales.map(|scales| scales.at(group * (TILE * spec.scale().bytes()) as i64));
        let at = at.unwrap_or_else(|| unreachable!("codecs without scales have no groups"));
        match spec.scale() {
            ScaleType::F32 => at.load(OUTPUTS, 4),
            ScaleType::F16 => self.halves(at),
        }
    }

    /// Sixteen stored floats.
    pub(super) fn floats(&self, at: Val<'k>) -> Val<'k> {
        match self.linear.spec.codec() {
            Codec::F16 => self.halves(at),
            Codec::Bf16 => at.load(BF16.x(TILE as u32), 2).to(F32),
            _ => at.load(OUTPUTS, 4),
        }
    }

    fn halves(&self, at: Val<'k>) -> Val<'k> {
        match self.level {
            Level::Avx512 => at.load(F16.x(TILE as u32), 2).to(F32),
            Level::Base => f16_bits_to_f32(at.load(I16.x(TILE as u32), 2)),
        }
    }

    /// Finishes and stores a tile's outputs of token `token` of a chunk: times the activation scale, plus the bias.
    pub(super) fn finish(&self, tile: &Tile<'k>, chunk: &Chunk<'k>, token: usize, sum: Val<'k>) {
        let scaled = chunk.scale.get(token).map_or(sum, |scale| sum * *scale);
        let y = tile.bias.map_or(scaled, |bias| scaled + bias.load(OUTPUTS, 4));
        tile.y.at(chunk.tokens[token] * tile.stride).store(y, 4);
    }

    /// Zero sums to which adding leaves every number, -0 too, as it is.
    pub(super) fn no_sum(&self) -> Val<'k> {
        self.b.constant(OUTPUTS, -0.0)
    }

    /// A 64-bit number.
    pub(super) fn number(&self, n: usize) -> Val<'k> {
        self.b.constant(I64, n as i64)
    }
}
