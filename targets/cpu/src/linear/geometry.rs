//! Where things lie: the contract between the linear kernels, the kernel that rounds activations, and whoever writes the weights file.
//!
//! Outputs come in tiles of [`TILE`] rows of the weight; a thread computes whole tiles. Columns come in blocks of [`BLOCK`].
//!
//! | what | where |
//! | --- | --- |
//! | rounded activations, one token | a header of 64 bytes: f32 scale, i32 sum of the integers, zeros; per block the 64 even columns, then the 64 odd ones, i8; then per half block of 64 columns the i32 sum of its integers; columns past K are 0 |
//! | `split`, `w7`, `w8`, `w9`, `w10` | per row a stream of 56 bytes per block, and [`PAD`] bytes after the last row |
//! | `q8` | per tile and quad (4 activation bytes that follow each other): 16 rows x 4 bytes, unsigned (plus 128) |
//! | `f32`, `f16`, `bf16` | per tile and column: 16 values |
//! | scales | per tile and group: 16 values |
//! | offsets | as scales |
//! | bias | as it is, with zeros up to a whole tile |
//! | weights of experts | those of the first expert, of the second, ...; each begins with a tile of its own |

use q35_format::codec::Storage;
use q35_format::{Group, PackedSpec};
use q35_launch::layout::{ALIGN, tile_start};
use q35_target::Arrangement;

/// Outputs that are computed together: one 32-bit lane each in a 512-bit vector.
pub const TILE: usize = 16;
/// Columns of a block: 64 containers, 56 bytes of stream.
pub const BLOCK: usize = 128;
/// Bytes of stream per block.
pub const STREAM: usize = 56;
/// Columns whose bytes are multiplied by one lane in one instruction.
pub const QUAD: usize = 4;
/// Quads of a block: 16 of even columns, then 16 of odd ones.
pub const QUADS: usize = BLOCK / QUAD;
/// Zeros after the streams, since blocks of 56 bytes are read 64 bytes at a time.
pub const PAD: usize = 64;
/// Bytes before a token's rounded activations.
pub const HEADER: usize = 64;
/// Blocks of a row of `cols` columns.
pub fn blocks(cols: usize) -> usize {
    cols.div_ceil(BLOCK)
}

/// Bytes of a row of `width` rounded activations.
pub fn quant_stride(width: usize) -> usize {
    (quant_sums(width) + 2 * 4 * blocks(width)).next_multiple_of(ALIGN)
}

/// Place of the sums of half blocks in a row of `width` rounded activations.
pub fn quant_sums(width: usize) -> usize {
    HEADER + blocks(width) * BLOCK
}

/// Bytes of a row's stream.
pub fn stream_stride(cols: usize) -> usize {
    blocks(cols) * STREAM
}

/// Bytes of a tile of 8-bit weights.
pub fn panel_bytes(cols: usize) -> usize {
    blocks(cols) * QUADS * TILE * QUAD
}

/// Place of column `col` of row `row` in a tile of 8-bit weights.
pub fn panel_place(row: usize, col: usize) -> usize {
    let (block, within) = (col / BLOCK, col % BLOCK);
    let (half, pair) = (within % 2, within / 2);
    let quad = block * QUADS + half * QUADS / 2 + pair / QUAD;
    (quad * TILE + row) * QUAD + pair % QUAD
}

/// The arrangement of the codes of a linear layer's weight.
pub fn codes(spec: &PackedSpec) -> Arrangement {
    let (cols, row_bytes) = (spec.cols(), spec.row_bytes());
    let tile = Arrangement { tile_rows: TILE, ..Arrangement::plain(row_bytes) };
    match spec.codec().facts().storage {
        Storage::Float { bytes } => Arrangement {
            unit: bytes,
            tile_bytes: TILE * cols * bytes,
            place: |a, row, col| tile_start(a, row, TILE) + (col * TILE + row % TILE) * a.unit,
            ..tile
        },
        Storage::Int8 => Arrangement {
            unit: 1,
            tile_bytes: panel_bytes(cols),
            flip: 0x80,
            place: |a, row, col| tile_start(a, row, TILE) + panel_place(row % TILE, col),
            ..tile
        },
        Storage::Pairs { .. } => Arrangement {
            tile_bytes: TILE * stream_stride(cols),
            tail_bytes: PAD,
            place: |a, row, _| row * (a.tile_bytes / a.tile_rows.next_multiple_of(TILE)),
            ..tile
        },
    }
}

/// The arrangement of the scales, or of the offsets, of a linear layer's weight.
pub fn scales(spec: &PackedSpec) -> Arrangement {
    let unit = spec.scale().bytes();
    Arrangement {
        unit,
        tile_rows: TILE,
        tile_bytes: TILE * spec.groups() * unit,
        place: |a, row, group| tile_start(a, row, TILE) + (group * TILE + row % TILE) * a.unit,
        ..Arrangement::plain(spec.groups() * unit)
    }
}

/// Quads of a block that belong to one group, as ranges within the block; a group of whole blocks has all of them.
pub fn group_quads(group: Group) -> Vec<Vec<std::ops::Range<usize>>> {
    match group {
        Group::Columns(64) => vec![vec![0..8, 16..24], vec![8..16, 24..32]],
        Group::Columns(_) | Group::Row => vec![vec![0..QUADS]],
    }
}
