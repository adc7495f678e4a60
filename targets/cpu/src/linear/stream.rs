//! Few rows: streams are decoded in registers and multiplied at once, so that a weight is read once and never written.
//!
//! Four rows of the weight run side by side. Their sums lie across the lanes; once per group a transposition adds them up to one lane per row.

use super::decode::Decoder;
use super::dot::{BYTES, SUMS, dot, sum_quarters, transpose_add};
use super::frame::{Chunk, Frame, Tile};
use super::geometry::{BLOCK, STREAM, TILE, blocks, group_quads, stream_stride};
use super::integer::activation_sums;
use super::rows::{RowOrder, Span};
use crate::abi::Call;
use q35_format::{Codec, Group};
use q35_mlir::builder::Val;

/// Rows of x that are computed together, and the most that these kernels are meant for in a plain layer.
pub(crate) const MOST: usize = 4;
/// Rows of the weight that are decoded side by side.
const ROWS: usize = 4;
/// Bytes to ask for ahead, at least: what memory delivers while a request is under way.
const AHEAD: usize = 4096;
/// Bytes of the sums of a tile and a token.
const SUMS_BYTES: i64 = (4 * TILE) as i64;

pub(super) fn build<'k>(call: &Call<'k>, f: &Frame<'k>, codec: Codec, window: u32) {
    let parts = group_quads(f.linear.spec.group()).len();
    let sums = f.b.alloca((parts * MOST) as u32 * SUMS_BYTES as u32, 64);
    let decoder = Decoder::new(f.b, codec, window);
    let outputs = |tile: &Tile<'k>, chunk: &Chunk<'k>| tile_outputs(f, &decoder, tile, chunk, sums);
    match f.order {
        // What the rows have is loaded once for all tiles.
        RowOrder::Plain { count } => for_chunks(f, Span { from: f.number(0), to: count }, &|chunk| {
            f.for_tiles(call, |tile, _| outputs(tile, chunk));
        }),
        RowOrder::Single { .. } => f.for_tiles(call, |tile, rows| outputs(tile, &f.chunk(&[rows.from]))),
        RowOrder::Sorted { .. } => {
            f.for_tiles(call, |tile, rows| for_chunks(f, rows, &|chunk| outputs(tile, chunk)));
        }
    }
}

/// `body(chunk)` for a single row, or for [`MOST`] rows at a time, where those that are not there repeat the last one.
fn for_chunks<'k>(f: &Frame<'k>, rows: Span<'k>, body: &dyn Fn(&Chunk<'k>)) {
    let Span { from, to } = rows;
    f.b.if_else(
        (to - from).eq(1),
        || body(&f.chunk(&[from])),
        || {
            f.b.for_(from, to, MOST as i64, |first| {
                body(&f.chunk(&(0..MOST as i64).map(|at| (first + at).min(to - 1)).collect::<Vec<_>>()));
            });
        },
    );
}

fn tile_outputs<'k>(f: &Frame<'k>, decoder: &Decoder<'k>, tile: &Tile<'k>, chunk: &Chunk<'k>, sums: Val<'k>) {
    let spec = &f.linear.spec;
    let (tokens, n) = (chunk.x.len(), blocks(spec.cols()));
    let parts = group_quads(spec.group()).len();
    // Sums of the blocks `first..end` of the 16 rows, for each part of a block and each token, to memory.
    let sum_blocks = |first: Val<'k>, end: Val<'k>| {
        f.b.for_(0, TILE as i64, ROWS as i64, |row| {
            let by_row = row_sums(f, decoder, tile.codes, row, first, end, chunk);
            for token in 0..tokens {
                let rows: [Val<'k>; ROWS] = by_row.each_ref().map(|sums| sums[token]);
                let quarters = transpose_add(rows);
                for part in 0..parts {
                    let count = (4 / parts) as u32;
                    let place = sums.at(row * 4 + (part * tokens + token) as i64 * SUMS_BYTES);
                    place.store(sum_quarters(quarters, part as u32 * count, count), 4);
                }
            }
        });
    };
    let add = |group: Val<'k>, part: usize, outputs: Vec<Val<'k>>| -> Vec<Val<'k>> {
        let factors = f.factors(tile, group);
        let of_x = activation_sums(f, chunk, group);
        let one = |(token, output): (usize, Val<'k>)| {
            let group_sums = sums.at((part * tokens + token) as i64 * SUMS_BYTES).load(SUMS, 64);
            output + factors.share(group_sums, of_x[token], f.weight_bias())
        };
        outputs.into_iter().enumerate().map(one).collect()
    };
    let zero = vec![f.no_sum(); tokens];
    let outputs = if spec.group() == Group::Row {
        sum_blocks(f.number(0), f.number(n));
        add(f.number(0), 0, zero)
    } else {
        let whole = spec.groups() / parts;
        let outputs = f.b.for_iter(0, whole as i64, 1, zero, |block, outputs| {
            sum_blocks(block, block + 1);
            (0..parts).fold(outputs, |outputs, part| add(block * parts as i64 + part as i64, part, outputs))
        });
        if whole < n {
            sum_blocks(f.number(whole), f.number(n));
        }
        (whole * parts..spec.groups()).fold(outputs, |outputs, group| add(f.number(group), group % parts, outputs))
    };
    for (token, output) in outputs.into_iter().enumerate() {
        f.finish(tile, chunk, token, output);
    }
}

/// For each of the four rows from `row` on and each token, the lanes of the sum over the blocks `first..end`.
fn row_sums<'k>(
    f: &Frame<'k>,
    decoder: &Decoder<'k>,
    streams: Val<'k>,
    row: Val<'k>,
    first: Val<'k>,
    end: Val<'k>,
    chunk: &Chunk<'k>,
) -> [Vec<Val<'k>>; ROWS] {
    let cols = f.linear.spec.cols();
    let stride = stream_stride(cols) as i64;
    let last = blocks(cols) as i64 - 1;
    let ends_with_block = cols.next_multiple_of(2).is_multiple_of(BLOCK);
    let streams = streams.at(row * stride);
    // Four rows at once are no sequence that processors foresee; together they read memory in order, a step of four rows at a time.
    let ahead = (AHEAD.div_ceil(ROWS * stride as usize) * ROWS) as i64 * stride;
    let zero: [_; ROWS] = std::array::from_fn(|_| vec![f.b.constant(SUMS, 0i64); chunk.x.len()]);
    f.b.for_iter(first, end, 1, zero, |block, mut sums| {
        let follows = ends_with_block.then(|| block.ne(last));
        let stream = streams.at(block * STREAM as i64);
        for (row, sums) in sums.iter_mut().enumerate() {
            let stream = stream.at(row as i64 * stride);
            stream.at(ahead).prefetch(3);
            let halves = decoder.block(stream, follows);
            for (x, sum) in chunk.x.iter().zip(sums) {
                let x = x.at(block * BLOCK as i64);
                for (half, weights) in halves.into_iter().enumerate() {
                    let x = x.at(half as i64 * BLOCK as i64 / 2).load(BYTES, 1);
                    *sum = dot(f.level, *sum, weights, x);
                }
            }
        }
        sums
    })
}
