//! 8-bit weights, stored or just decoded: products with rounded activations.
//!
//! Weights are unsigned here, each too large by the same bias, so that one instruction multiplies unsigned by signed bytes; the bias
//! times the sum of the activations is taken off each group's sum. All of it is exact. Then, in f32: a group's sum times its scale,
//! groups added in order, times the activation scale, plus the bias of the layer.

use super::dot::{BYTES, SUMS, dot, quad};
use super::frame::{Chunk, Frame, Tile};
use super::geometry::{BLOCK, HEADER, QUAD, QUADS, TILE, blocks, group_quads, quant_sums};
use crate::level::Level;
use q35_format::Group;
use q35_mlir::builder::Val;
use q35_mlir::types::I32;
use std::ops::Range;

/// How much of the work stands side by side in the innermost loop.
pub(super) struct Shape {
    /// Rows that share a load of weights: sizes of chunks, as [`Frame::for_chunks`] takes them.
    pub(super) rows: &'static [i64],
    /// Quads per round; divides 8.
    unroll: usize,
    /// Independent sums that keep the multiplier busy.
    sums: usize,
}

/// What suits the registers of a level.
pub(super) fn shape(level: Level) -> Shape {
    match level {
        Level::Avx512 => Shape { rows: &[8, 2, 1], unroll: 4, sums: 16 },
        Level::Base => Shape { rows: &[2, 1], unroll: 1, sums: 1 },
    }
}

/// Bytes of weights per quad of a tile.
const QUAD_BYTES: i64 = (TILE * QUAD) as i64;

/// `body(group, block, quads)` for every group in order, carrying `state`: the group's number, the first block it reads and the quads
/// it reads, counted from that block.
pub(super) fn for_groups<'k, C: q35_mlir::builder::Carry<'k>>(
    f: &Frame<'k>,
    state: C,
    body: impl Fn(Val<'k>, Val<'k>, &[Range<usize>], C) -> C,
) -> C {
    let spec = &f.linear.spec;
    if spec.group() == Group::Row {
        let all = 0..QUADS * blocks(spec.cols());
        return body(f.number(0), f.number(0), &[all], state);
    }
    let parts = group_quads(spec.group());
    let n = parts.len();
    let whole = spec.groups() / n;
    let state = f.b.for_iter(0, whole as i64, 1, state, |block, state| {
        parts.iter().enumerate().fold(state, |state, (part, quads)| body(block * n as i64 + part as i64, block, quads, state))
    });
    (whole * n..spec.groups()).fold(state, |state, group| body(f.number(group), f.number(whole), &parts[group % n], state))
}

/// The sum of a group's activations for each row of a chunk, i32.
pub(super) fn activation_sums<'k>(f: &Frame<'k>, chunk: &Chunk<'k>, group: Val<'k>) -> Vec<Val<'k>> {
    let spec = &f.linear.spec;
    let halves = (quant_sums(spec.cols()) - HEADER) as i64;
    let sum = |x: &Val<'k>| match spec.group() {
        Group::Row => x.at(4 - HEADER as i64).load(I32, 4),
        Group::Columns(columns) => {
            let parts = i64::from(columns) / (BLOCK as i64 / 2);
            let half = |part: i64| x.at(group * (4 * parts) + (halves + 4 * part)).load(I32, 4);
            (1..parts).fold(half(0), |sum, part| sum + half(part))
        }
    };
    chunk.x.iter().map(sum).collect()
}

/// Computes and stores the outputs of a tile for a chunk of rows from the tile's unsigned weights at `panel`.
pub(super) fn tile<'k>(f: &Frame<'k>, tile: &Tile<'k>, panel: Val<'k>, chunk: &Chunk<'k>) {
    let zero = vec![f.no_sum(); chunk.x.len()];
    let outputs = for_groups(f, zero, |group, block, quads, outputs| {
        let of_x = activation_sums(f, chunk, group);
        let sums = group_sums(f, panel, chunk, block, quads);
        let factors = f.factors(tile, group);
        let add = |(row, output): (usize, &Val<'k>)| *output + factors.share(sums[row], of_x[row], f.weight_bias());
        outputs.iter().enumerate().map(add).collect()
    });
    for (row, output) in outputs.into_iter().enumerate() {
        f.finish(tile, chunk, row, output);
    }
}

/// Sums of the products of some quads, for each row.
fn group_sums<'k>(f: &Frame<'k>, panel: Val<'k>, chunk: &Chunk<'k>, block: Val<'k>, quads: &[Range<usize>]) -> Vec<Val<'k>> {
    let Shape { unroll, sums, .. } = shape(f.level);
    let ways = (sums / chunk.x.len()).clamp(1, unroll);
    let zero = vec![vec![f.b.constant(SUMS, 0i64); ways]; chunk.x.len()];
    let first = block * QUADS as i64;
    let sums = quads.iter().fold(zero, |sums, range| {
        f.b.for_iter(first + range.start as i64, first + range.end as i64, unroll as i64, sums, |at, mut sums| {
            for u in 0..unroll {
                let w = panel.at((at + u as i64) * QUAD_BYTES).load(BYTES, 1);
                for (x, sums) in chunk.x.iter().zip(&mut sums) {
                    let x = quad(x.at((at + u as i64) * QUAD as i64));
                    sums[u % ways] = dot(f.level, sums[u % ways], w, x);
                }
            }
            sums
        })
    });
    sums.into_iter().map(|ways| ways.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| unreachable!("at least one"))).collect()
}
