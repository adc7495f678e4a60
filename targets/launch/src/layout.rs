//! Rows of activations and of routings in memory, the same on every target.
//!
//! | what | where |
//! | --- | --- |
//! | activations | f32, each row from a multiple of [`ALIGN`] bytes on |
//! | a routing, one row | the experts, best first, i32, then their weights, f32, in a row as any activation's |
//! | a routing by expert | the routed rows, by expert and then by number, i32; then per expert where its rows begin in that list, i32, and where the last one's end |

use q35_mlir::builder::Val;
use q35_mlir::types::{I32, I64};
use q35_target::Arrangement;

/// Bytes to which rows of activations are aligned.
pub const ALIGN: usize = 64;

/// Bytes of a row of `width` f32 activations.
pub fn act_stride(width: usize) -> usize {
    (4 * width).next_multiple_of(ALIGN)
}

/// Bytes of a row of a routing to `choices` experts.
pub fn routing_stride(choices: usize) -> usize {
    act_stride(2 * choices)
}

/// Bytes per routed row's origin of a routing by expert: enough even if there is one origin only. The beginnings take one entry more
/// than there are experts, and one for whoever counts.
pub fn sorted_bytes(choices: usize, experts: usize) -> usize {
    4 * (choices + experts + 2)
}

/// An arrangement of tiles for the weights of experts with `outputs` rows each, one below the other. Where experts end within a tile,
/// whole experts are arranged at once, each from a tile of its own on.
pub fn stacked(tiles: Arrangement, outputs: usize) -> Arrangement {
    let rows = tiles.tile_rows;
    if outputs.is_multiple_of(rows) {
        return tiles;
    }
    Arrangement { tile_rows: outputs, tile_bytes: outputs.div_ceil(rows) * tiles.tile_bytes, ..tiles }
}

/// Where the `rows` rows begin that a row belongs to, in an arrangement of tiles of so many rows that may be [`stacked`].
pub fn tile_start(a: &Arrangement, row: usize, rows: usize) -> usize {
    row / rows * (a.tile_bytes / a.tile_rows.div_ceil(rows))
}

/// The arrangement of `count` vectors of `len` f32 in one row, each in a row of activations of its own.
pub fn vectors(len: usize, count: usize) -> Arrangement {
    Arrangement {
        unit: 4 * len,
        tile_bytes: count * act_stride(len),
        place: |a, _, vector| vector * (a.tile_bytes / (a.row_bytes / a.unit)),
        ..Arrangement::plain(4 * len * count)
    }
}

/// The address of row `row` of a buffer of activations `width` wide.
pub fn row_at<'k>(buffer: Val<'k>, row: Val<'k>, width: u64) -> Val<'k> {
    buffer.at(row * act_stride(width as usize) as i64)
}

/// Entry `at` of an i32 array, as i64.
pub fn entry<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 4).load(I32, 4).to(I64)
}
