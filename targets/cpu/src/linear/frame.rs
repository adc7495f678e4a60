//! What every linear kernel has: its arguments, the chunks of tokens it walks over, and the last steps of an output.

use super::geometry::{HEADER, TILE, act_stride, quant_stride};
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
    /// The arranged codes.
    pub(super) codes: Val<'k>,
    scales: Option<Val<'k>>,
    bias: Option<Val<'k>>,
    x: Val<'k>,
    y: Val<'k>,
}

/// Some tokens that are computed together.
pub(super) struct Chunk<'k> {
    /// Where each token's activations start: f32, or bytes after the header.
    pub(super) x: Vec<Val<'k>>,
    /// Each token's activation scale, where activations are rounded.
    pub(super) scale: Vec<Val<'k>>,
    y: Vec<Val<'k>>,
}

impl<'k> Frame<'k> {
    pub(super) fn new(call: &Call<'k>, level: Level, linear: Linear) -> Self {
        use super::Argument as A;
        let arguments = linear.arguments();
        let find = |wanted| arguments.iter().position(|argument| *argument == wanted).map(|at| call.arg(at));
        let required = |wanted| find(wanted).unwrap_or_else(|| unreachable!("every linear kernel has {wanted:?}"));
        let (x, codes, y) = (required(A::Input), required(A::Codes), required(A::Output));
        let (scales, bias) = (find(A::Scales), find(A::Bias));
        Self { b: call.b, level, linear, count: call.dim(linear.rows.dim()), codes, scales, bias, x, y }
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
        let rows = |base: Val<'k>, stride: usize| tokens.iter().map(move |t| base.at(*t * stride as i64)).collect::<Vec<_>>();
        let x = rows(self.x, stride);
        let scale = if rounded { x.iter().map(|x| x.load(F32, 4)).collect() } else { vec![] };
        let x = if rounded { x.iter().map(|x| x.at(HEADER as i64)).collect() } else { x };
        Chunk { x, scale, y: rows(self.y, act_stride(spec.rows())) }
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
    pub(super) fn scales(&self, tile: Val<'k>, group: Val<'k>) -> Val<'k> {
        let spec = &self.linear.spec;
        let bytes = (TILE * spec.scale().bytes()) as i64;
        let at = self.scales.map(|base| base.at((tile * spec.groups() as i64 + group) * bytes));
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
    pub(super) fn finish(&self, tile: Val<'k>, chunk: &Chunk<'k>, token: usize, sum: Val<'k>) {
        let at = tile * (4 * TILE as i64);
        let scaled = chunk.scale.get(token).map_or(sum, |scale| sum * *scale);
        let y = self.bias.map_or(scaled, |bias| scaled + bias.at(at).load(OUTPUTS, 4));
        chunk.y[token].at(at).store(y, 4);
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
