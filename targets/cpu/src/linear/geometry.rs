//! Where things lie: the contract between the linear kernels, the kernel that rounds activations, and whoever writes the weights file.
//!
//! Outputs come in tiles of [`TILE`] rows of the weight; a thread computes whole tiles. Columns come in blocks of [`BLOCK`]. Of the 32
//! containers, or pairs of columns, of a row's block, number `8 b + v` belongs to byte `b` of *quad* `v`: four bytes that one lane
//! multiplies at once. What comes next in a row is then in the same byte of the next quad, where whole registers reach it.
//!
//! | what | where |
//! | --- | --- |
//! | rounded activations, one token | a header of 64 bytes: f32 scale, i32 sums of the even and of the odd columns' integers, zeros; per block the 8 quads of its even columns, then those of its odd ones, i8; then per block the i32 sums of its even and of its odd columns; columns past K are 0 |
//! | `split`, `w7` to `w10`, `a11` | per tile and block 7 vectors of 64 bytes, quads 0 to 6 of 16 rows: a container in bits 0 to 6 of a byte. Bit `v` of the container that would be at the same place of an eighth vector, quad 7, is bit 7 of that byte of vector `v`. After the last tile [`PAD`] bytes |
//! | `q8` | per tile and block 16 vectors of 64 bytes: the 8 quads of the even columns of 16 rows, then those of the odd ones, unsigned (plus 128) |
//! | `f32`, `f16`, `bf16` | per tile and column: 16 values |
//! | scales | per tile and group: 16 values |
//! | offsets | as scales |
//! | bias | as it is, with zeros up to a whole tile |
//! | weights of experts | those of the first expert, of the second, ...; each begins with a tile of its own |

use q35_format::codec::Storage;
use q35_format::{Group, PackedSpec};
use q35_launch::layout::{ALIGN, tile_start};
use q35_target::{Arrangement, Weave};

/// Outputs that are computed together: one 32-bit lane each in a 512-bit vector.
pub const TILE: usize = 16;
/// Columns of a block.
pub const BLOCK: usize = 64;
/// Columns whose bytes are multiplied by one lane in one instruction.
pub const QUAD: usize = 4;
/// Quads of the even columns of a block, or of the odd ones: vectors of containers.
pub const QUADS: usize = BLOCK / QUAD / 2;
/// Bytes of a quad of every row of a tile.
pub const VECTOR: usize = TILE * QUAD;
/// Bytes of the containers of a tile's block: the eighth vector is in the spare bits of the others.
pub const WOVEN: usize = (QUADS - 1) * VECTOR;
/// Zeros after the containers, since the vector after a block is read with it.
pub const PAD: usize = VECTOR;
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

/// Place of the sums of blocks in a row of `width` rounded activations.
pub fn quant_sums(width: usize) -> usize {
    HEADER + blocks(width) * BLOCK
}

/// Place of a column in its block of rounded activations.
pub fn quant_place(col: usize) -> usize {
    let (half, quad, byte) = column(col);
    (half * QUADS + quad) * QUAD + byte
}

/// Bytes of a tile of containers.
pub fn woven_bytes(cols: usize) -> usize {
    blocks(cols) * WOVEN
}

/// Bytes of a tile of 8-bit weights.
pub fn panel_bytes(cols: usize) -> usize {
    blocks(cols) * TILE * BLOCK
}

/// Place of column `col` of row `row` in a tile of 8-bit weights.
pub fn panel_place(row: usize, col: usize) -> usize {
    let (half, quad, byte) = column(col % BLOCK);
    ((col / BLOCK * 2 + half) * QUADS + quad) * VECTOR + row * QUAD + byte
}

/// Whether a column of a block is an odd one, which quad it is in, and which byte of it is.
fn column(col: usize) -> (usize, usize, usize) {
    let pair = col / 2;
    (col % 2, pair % QUADS, pair / QUADS)
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
            tile_bytes: woven_bytes(cols),
            tail_bytes: PAD,
            weave: Some(Weave {
                set: |a, row, bytes, tile| {
                    for (number, container) in containers(bytes).enumerate() {
                        weave(container, &mut tile[container_place(a, row, number)..], number);
                    }
                },
                get: |a, tile, row, bytes| {
                    for number in 0..bytes.len() * 8 / 7 {
                        let container = unweave(&tile[container_place(a, row, number)..], number);
                        let at = 7 * number;
                        let bits = u16::from(container) << (at % 8);
                        bytes[at / 8] |= bits as u8;
                        bytes.get_mut(at / 8 + 1).into_iter().for_each(|byte| *byte |= (bits >> 8) as u8);
                    }
                },
            }),
            ..tile
        },
    }
}

/// The containers of a row's stream; the last may be one that is not there, which is 0.
fn containers(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    (0..bytes.len() * 8 / 7).map(|number| {
        let at = 7 * number;
        let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
        ((byte(at / 8) | byte(at / 8 + 1) << 8) >> (at % 8)) as u8 & 0x7f
    })
}

/// Place of a container in a tile, in the first of its block's vectors.
fn container_place(a: &Arrangement, row: usize, number: usize) -> usize {
    let (block, byte) = (number / (BLOCK / 2), number % (BLOCK / 2) / QUADS);
    tile_start(a, row, TILE) + block * WOVEN + row % TILE * QUAD + byte
}

/// Puts a container at its place, given what begins there in the first of its block's vectors.
fn weave(container: u8, vectors: &mut [u8], number: usize) {
    match number % QUADS {
        quad if quad < QUADS - 1 => vectors[quad * VECTOR] |= container,
        _ => (0..QUADS - 1).for_each(|bit| vectors[bit * VECTOR] |= (container >> bit & 1) << 7),
    }
}

/// The inverse of [`weave`].
fn unweave(vectors: &[u8], number: usize) -> u8 {
    match number % QUADS {
        quad if quad < QUADS - 1 => vectors[quad * VECTOR] & 0x7f,
        _ => (0..QUADS - 1).map(|bit| vectors[bit * VECTOR] >> 7 << bit).sum(),
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

/// Blocks of a group of columns; of a whole row, all.
pub fn group_blocks(group: Group, cols: usize) -> usize {
    match group {
        Group::Columns(columns) => columns as usize / BLOCK,
        Group::Row => blocks(cols),
    }
}
