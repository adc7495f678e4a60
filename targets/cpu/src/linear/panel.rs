//! Many rows: a tile is decoded once into memory that stays in the nearest cache, then multiplied with every row.
//!
//! The decoded tile is laid out as stored 8-bit weights are, so that both share the multiplication. Rows come in spans that stay in the
//! second cache while all tiles of a call meet them.

use super::decode::{Decoder, meaning};
use super::dot::Sums;
use super::frame::{Frame, Tile};
use super::geometry::{BLOCK, QUADS, VECTOR, WOVEN, blocks, panel_bytes, quant_stride};
use super::integer::{self, Add, panel, parts, rows_at_once};
use super::rows::{RowOrder, Span};
use crate::abi::Call;
use q35_format::Codec;
use q35_mlir::builder::Val;

/// Bytes of the second cache, on the smallest processors of the last years that have one for each core.
const SECOND_CACHE: usize = 512 << 10;

/// Stored 8-bit weights, any number of rows.
pub(super) fn build_stored<'k>(call: &Call<'k>, f: &Frame<'k>, codec: Codec) {
    let signed = meaning(f.level.isa(), codec)[0].signed;
    for_spans(call, f, |tile, rows| {
        let stored = panel(f, tile.codes);
        // Stored bytes are unsigned.
        let weights = |block: Val<'k>, part: usize, sums: Sums<'k>, add: &Add<'_, 'k>| {
            let of_level = |bytes: Val<'k>| if signed { bytes ^ -128 } else { bytes };
            stored(block, part, sums, &|sums, quad, bytes| add(sums, quad, bytes.map(of_level)))
        };
        f.for_chunks(rows, rows_at_once(f), |chunk| integer::tile(f, tile, &weights, chunk));
    });
}

/// Containers, any number of rows.
pub(super) fn build<'k>(call: &Call<'k>, f: &Frame<'k>, codec: Codec, window: u32) {
    let cols = f.linear.spec.cols();
    let memory = f.b.alloca(panel_bytes(cols) as u32, 64);
    let decoder = Decoder::new(f.b, f.level, codec, window);
    for_spans(call, f, |tile, rows| {
        f.b.for_(0, blocks(cols) as i64, 1, |block| {
            let (from, to) = (tile.codes.at(block * WOVEN as i64), memory.at(block * (2 * QUADS * VECTOR) as i64));
            for part in 0..parts(f) {
                let offset = (part * f.level.bytes() as usize) as i64;
                decoder.block(from.at(offset), follows(f, block), (), |(), quad, weights| {
                    let to = to.at(quad * VECTOR as i64).at(offset);
                    to.store(weights[0], 1);
                    to.at((QUADS * VECTOR) as i64).store(weights[1], 1);
                });
            }
        });
        f.for_chunks(rows, rows_at_once(f), |chunk| integer::tile(f, tile, &panel(f, memory), chunk));
    });
}

/// Whether what follows a block in memory belongs to its rows too. Where a row ends inside its last block, zeros follow it.
pub(super) fn follows<'k>(f: &Frame<'k>, block: Val<'k>) -> Option<Val<'k>> {
    let cols = f.linear.spec.cols();
    cols.next_multiple_of(2).is_multiple_of(BLOCK).then(|| block.ne(blocks(cols) as i64 - 1))
}

/// `body(tile, rows)` for every tile of a call, with as many of the rows that meet it as stay near.
fn for_spans<'k>(call: &Call<'k>, f: &Frame<'k>, body: impl Fn(&Tile<'k>, Span<'k>)) {
    let RowOrder::Plain { count } = f.order else {
        return f.for_tiles(call, body);
    };
    let most = rows_at_once(f)[0];
    let near = (SECOND_CACHE / 2 / quant_stride(f.linear.spec.cols())) as i64 / most * most;
    let near = near.max(8 * most);
    f.b.for_(0, count, near, |from| {
        f.for_tiles(call, |tile, _| body(tile, Span { from, to: (from + near).min(count) }));
    });
}
