//! Few rows: containers are decoded in registers and multiplied at once, so that a weight is read once and never written.

use super::decode::Decoder;
use super::dot::Sums;
use super::frame::{Chunk, Frame, Tile};
use super::geometry::{VECTOR, WOVEN};
use super::integer::{self, Add};
use super::panel::follows;
use super::rows::{RowOrder, Span};
use crate::abi::Call;
use q35_format::Codec;
use q35_mlir::builder::Val;

/// Rows of x that are computed together, and the most that these kernels are meant for in a plain layer.
pub(crate) const MOST: usize = 4;
/// Bytes to ask for ahead: what memory delivers while a request is under way. Processors foresee the sequence, but not past a page.
const AHEAD: usize = 4096;

pub(super) fn build<'k>(call: &Call<'k>, f: &Frame<'k>, codec: Codec, window: u32) {
    let decoder = Decoder::new(f.b, f.level, codec, window);
    let outputs = |tile: &Tile<'k>, chunk: &Chunk<'k>| tile_outputs(f, &decoder, tile, chunk);
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

fn tile_outputs<'k>(f: &Frame<'k>, decoder: &Decoder<'k>, tile: &Tile<'k>, chunk: &Chunk<'k>) {
    let weights = |block: Val<'k>, part: usize, sums: Sums<'k>, add: &Add<'_, 'k>| {
        let address = tile.codes.at(block * WOVEN as i64);
        if part == 0 {
            (AHEAD..AHEAD + WOVEN).step_by(VECTOR).for_each(|line| address.at(line as i64).prefetch(3));
        }
        decoder.block(address.at((part * f.level.bytes() as usize) as i64), follows(f, block), sums, add)
    };
    integer::tile(f, tile, &weights, chunk);
}
