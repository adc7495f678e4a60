//! What every linear kernel has: its arguments, the chunks of rows it walks over, and the last steps of an output.

use super::geometry::{self, HEADER, TILE, quant_stride};
use super::rows::{Part, RowOrder, Span};
use super::{Linear, LinearKernel};
use crate::abi::Call;
use crate::level::Level;
use q35_format::{Codec, ScaleType};
use q35_launch::layout::act_stride;
use q35_mlir::builder::{Builder, Val};
use q35_mlir::types::{BF16, F32, I16, I64, Ty};

/// Sixteen outputs.
pub(super) const OUTPUTS: Ty = F32.x(TILE as u32);

/// A linear kernel under construction.
pub(super) struct Frame<'k> {
    pub(super) b: &'k Builder<'k>,
    pub(super) level: Level,
    pub(super) linear: Linear,
    /// Which rows of x meet which weights.
    pub(super) order: RowOrder<'k>,
    x: Val<'k>,
    weights: Vec<Weight<'k>>,
}

/// One of the weights that share x: what its first tile has.
struct Weight<'k> {
    first: Tile<'k>,
    /// Tiles, of one expert where there are experts.
    tiles: i64,
}

/// Sixteen outputs of one of the weights: where what belongs to them lies.
#[derive(Clone, Copy)]
pub(super) struct Tile<'k> {
    /// The arranged codes.
    pub(super) codes: Val<'k>,
    scales: Option<Val<'k>>,
    offsets: Option<Val<'k>>,
    bias: Option<Val<'k>>,
    /// The outputs of the first row.
    y: Val<'k>,
    /// Bytes from one row's outputs to the next one's.
    stride: Val<'k>,
}

/// Some rows that are computed together.
pub(super) struct Chunk<'k> {
    /// Where each row's activations start: f32, or bytes after the header.
    pub(super) x: Vec<Val<'k>>,
    /// Each row's activation scale, where activations are rounded.
    scale: Vec<Val<'k>>,
    /// The rows of y.
    y: Vec<Val<'k>>,
}

/// What an exact sum of a group of columns is multiplied with, and what the sum of the activations.
pub(super) struct Factors<'k> {
    scales: Val<'k>,
    offsets: Option<Val<'k>>,
}

impl<'k> Tile<'k> {
    /// The tile `weights` tiles further on in the weights, and `outputs` tiles further on in y.
    fn further(self, weights: Val<'k>, outputs: Val<'k>, linear: &Linear) -> Self {
        let vector = 4 * TILE as i64;
        let code_bytes = geometry::codes(&linear.spec).tile_bytes as i64;
        let scale_bytes = geometry::scales(&linear.spec).tile_bytes as i64;
        Tile {
            codes: self.codes.at(weights * code_bytes),
            scales: self.scales.map(|scales| scales.at(weights * scale_bytes)),
            offsets: self.offsets.map(|offsets| offsets.at(weights * scale_bytes)),
            bias: self.bias.map(|bias| bias.at(weights * vector)),
            y: self.y.at(outputs * vector),
            stride: self.stride,
        }
    }

    /// This tile where `holds`, else the other one.
    fn or(self, holds: Val<'k>, other: Self) -> Self {
        let optional = |this: Option<Val<'k>>, other: Option<Val<'k>>| Some(holds.select(this?, other?));
        Tile {
            codes: holds.select(self.codes, other.codes),
            scales: optional(self.scales, other.scales),
            offsets: optional(self.offsets, other.offsets),
            bias: optional(self.bias, other.bias),
            y: holds.select(self.y, other.y),
            stride: holds.select(self.stride, other.stride),
        }
    }
}

impl<'k> Frame<'k> {
    pub(super) fn new(call: &Call<'k>, level: Level, kernel: &LinearKernel) -> Self {
        let (b, linear) = (call.b, &kernel.linear);
        let spec = &linear.spec;
        let mut next = (linear.inputs()..).map(|at| call.arg(at));
        let mut argument = || next.next().unwrap_or_else(|| unreachable!("there is always one more address"));
        let mut weight = |outputs: usize| {
            let codes = argument();
            let scales = spec.codec().has_scales().then(&mut argument);
            let offsets = spec.asymmetric().then(&mut argument);
            let bias = linear.bias.then(&mut argument);
            let stride = b.i64(act_stride(outputs) as i64);
            let first = Tile { codes, scales, offsets, bias, y: argument(), stride };
            Weight { first, tiles: outputs.div_ceil(TILE) as i64 }
        };
        let weights = linear.outputs().map(&mut weight).collect();
        Self { b, level, order: RowOrder::new(call, kernel), linear: linear.clone(), x: call.arg(0), weights }
    }

    /// `body(tile, rows)` for every tile of a call, with the rows that meet it. The weights' tiles follow each other.
    pub(super) fn for_tiles(&self, call: &Call<'k>, body: impl FnOnce(&Tile<'k>, Span<'k>)) {
        self.order.for_parts(call, |Part { tile, expert, rows }| {
            let mut first = 0;
            let mut found: Option<Tile<'k>> = None;
            for weight in &self.weights {
                let outputs = tile - first;
                let weights = expert.map_or(outputs, |expert| expert * weight.tiles + outputs);
                let own = weight.first.further(weights, outputs, &self.linear);
                found = Some(found.map_or(own, |before| own.or(tile.ge(first), before)));
                first += weight.tiles;
            }
            body(&found.unwrap_or_else(|| unreachable!("a layer has a weight")), rows);
        });
    }

    /// The rows at some positions, and what belongs to them.
    pub(super) fn chunk(&self, positions: &[Val<'k>]) -> Chunk<'k> {
        let spec = &self.linear.spec;
        let rounded = spec.codec().has_scales();
        let stride = if rounded { quant_stride(spec.cols()) } else { act_stride(spec.cols()) };
        let rows: Vec<[Val<'k>; 2]> = positions.iter().map(|position| self.order.row(*position)).collect();
        let x: Vec<Val<'k>> = rows.iter().map(|[from, _]| self.x.at(*from * stride as i64)).collect();
        let scale = if rounded { x.iter().map(|x| x.load(F32, 4)).collect() } else { vec![] };
        let x = if rounded { x.iter().map(|x| x.at(HEADER as i64)).collect() } else { x };
        Chunk { x, scale, y: rows.iter().map(|[_, to]| *to).collect() }
    }

    /// `body(chunk)` over some rows, in chunks as [`Span::for_chunks`] cuts them.
    pub(super) fn for_chunks(&self, rows: Span<'k>, sizes: &[i64], mut body: impl FnMut(&Chunk<'k>)) {
        rows.for_chunks(self.b, sizes, |positions| body(&self.chunk(positions)));
    }

    /// The scales, and the offsets, of a tile's rows for a group.
    pub(super) fn factors(&self, tile: &Tile<'k>, group: Val<'k>) -> Factors<'k> {
        let scale = self.linear.spec.scale();
        let of_group = |all: Val<'k>| {
            let at = all.at(group * (TILE * scale.bytes()) as i64);
            match scale {
                ScaleType::F32 => at.load(OUTPUTS, 4),
                ScaleType::F16 => self.halves(at),
            }
        };
        let scales = tile.scales.unwrap_or_else(|| unreachable!("codecs without scales have no groups"));
        Factors { scales: of_group(scales), offsets: tile.offsets.map(of_group) }
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
        self.level.halves_to_f32(at.load(I16.x(TILE as u32), 2))
    }

    /// Finishes and stores a tile's outputs of row `row` of a chunk: times the activation scale, plus the bias.
    pub(super) fn finish(&self, tile: &Tile<'k>, chunk: &Chunk<'k>, row: usize, sum: Val<'k>) {
        let scaled = chunk.scale.get(row).map_or(sum, |scale| sum * *scale);
        let y = tile.bias.map_or(scaled, |bias| scaled + bias.load(OUTPUTS, 4));
        tile.y.at(chunk.y[row] * tile.stride).store(y, 4);
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

impl<'k> Factors<'k> {
    /// A group's share of the outputs of a row, before the activation scale, from the exact sums of products; `x` is the sum of the
    /// activations, i32.
    pub(super) fn share(&self, sums: Val<'k>, x: Val<'k>) -> Val<'k> {
        let share = sums.to(OUTPUTS) * self.scales;
        self.offsets.map_or(share, |offsets| share + offsets * x.to(F32))
    }
}
