//! Where things lie: the contract between the linear kernels, the kernel that packs activations, and whoever writes the weights file.
//!
//! Rows of weights come in tiles of [`TILE`], columns in blocks of [`BLOCK`]. A block is what one wave takes from memory at a time: each [seat](crate::isa)
//! holds [`SPAN`] columns that follow each other, of each of its rows. What a seat reads lies together, and seats that follow each
//! other read neighbouring places, 16 bytes at a time.
//!
//! | what | where |
//! | --- | --- |
//! | packed activations, one token | f16; per block and two matrix instructions the four columns of part 0 for the first, for the second, then part 1, ...; columns past K are 0 |
//! | pairs | per tile and block: per 16 (at the end fewer) bytes of a seat's words, all seats; a seat's words are the 7 of each of its rows |
//! | `q8` | alike; a seat's words are those of its rows in turn, unsigned (plus 128) |
//! | `f32`, `f16`, `bf16` | rows as they are |
//! | scales | per tile and group: 16 values |

use crate::isa::{COLUMNS, Matrix, PARTS, ROWS};
use q35_format::PackedSpec;
use q35_format::codec::Storage;
use q35_launch::layout::tile_start;
use q35_target::{Arrangement, Place};

/// Rows of weights that are computed together.
pub const TILE: usize = ROWS as usize;
/// Columns of a block.
pub const BLOCK: usize = SPAN * PARTS as usize;
/// Columns of a row that a seat holds of a block: 32 containers, 7 words of stream.
pub const SPAN: usize = 64;
/// Matrix instructions per block.
pub const STEPS: usize = SPAN / COLUMNS as usize;
/// Bytes of a row's stream that a seat holds of a block.
pub const STREAM: usize = SPAN / 2 * 7 / 8;
/// Bytes of a word.
pub const WORD: usize = 4;

/// Blocks of a row of `cols` columns.
pub fn blocks(cols: usize) -> usize {
    cols.div_ceil(BLOCK)
}

/// Bytes of a row of `width` packed activations.
pub fn packed_stride(width: usize) -> usize {
    2 * BLOCK * blocks(width)
}

/// Place in bytes of the first of four columns, `step` of `part` of a block, in a row of packed activations.
pub fn packed_place(block: usize, part: usize, step: usize) -> usize {
    let quad = (block * STEPS / 2 + step / 2) * PARTS as usize + part;
    (quad * 2 + step % 2) * COLUMNS as usize * 2
}

/// Bytes that a seat holds of a block.
pub fn seat_bytes(storage: Storage, matrix: Matrix) -> usize {
    let row = match storage {
        Storage::Int8 => SPAN,
        Storage::Pairs { .. } => STREAM,
        Storage::Float { bytes } => SPAN * bytes,
    };
    row * matrix.seat_rows as usize
}

/// Bytes of a tile's block.
pub fn block_bytes(storage: Storage, matrix: Matrix) -> usize {
    seat_bytes(storage, matrix) * matrix.seats() as usize
}

/// Place of byte `at` of what `seat` holds, in a tile's block: 16 bytes of every seat, then the next 16; the last may be fewer.
pub fn seat_place(seat: usize, at: usize, seat_bytes: usize, seats: usize) -> usize {
    let (vector, within) = (at / 16, at % 16);
    let width = (seat_bytes - 16 * vector).min(16);
    vector * 16 * seats + seat * width + within
}

/// The place of a byte of a row's stream, for a matrix instruction.
fn stream_place(a: &Arrangement, matrix: Matrix, row: usize, byte: usize) -> usize {
    let storage = Storage::Pairs { window: 7 };
    let (start, row) = (tile_start(a, row, TILE), row % TILE);
    let (block, within) = (byte / (PARTS as usize * STREAM), byte % (PARTS as usize * STREAM));
    let rows = TILE / matrix.seat_rows as usize;
    let seat = matrix.seat(row % rows, within / STREAM);
    let at = row / rows * STREAM + within % STREAM;
    start + block * block_bytes(storage, matrix) + seat_place(seat, at, seat_bytes(storage, matrix), matrix.seats() as usize)
}

/// The place of a column of 8-bit weights, for a matrix instruction.
fn byte_place(a: &Arrangement, matrix: Matrix, row: usize, col: usize) -> usize {
    let (start, row) = (tile_start(a, row, TILE), row % TILE);
    let (block, within) = (col / BLOCK, col % BLOCK);
    let rows = TILE / matrix.seat_rows as usize;
    let seat = matrix.seat(row % rows, within / SPAN);
    let word = within % SPAN / WORD * matrix.seat_rows as usize + row / rows;
    let at = word * WORD + col % WORD;
    start
        + block * block_bytes(Storage::Int8, matrix)
        + seat_place(seat, at, seat_bytes(Storage::Int8, matrix), matrix.seats() as usize)
}

/// Arrangements know no closures: one function per matrix instruction there is.
fn places(matrix: Matrix) -> (Place, Place) {
    const PARTS_FIRST: Matrix = Matrix { tokens: 8, seat_rows: 2, parts_first: true };
    const ROWS_FIRST: Matrix = Matrix { tokens: 16, seat_rows: 1, parts_first: false };
    if matrix == PARTS_FIRST {
        (|a, row, at| stream_place(a, PARTS_FIRST, row, at), |a, row, at| byte_place(a, PARTS_FIRST, row, at))
    } else {
        assert_eq!(matrix, ROWS_FIRST, "a matrix instruction without an arrangement");
        (|a, row, at| stream_place(a, ROWS_FIRST, row, at), |a, row, at| byte_place(a, ROWS_FIRST, row, at))
    }
}

/// The arrangement of the codes of a linear layer's weight.
pub fn codes(spec: &PackedSpec, matrix: Matrix) -> Arrangement {
    let (row_bytes, storage) = (spec.row_bytes(), spec.codec().facts().storage);
    let (stream, byte) = places(matrix);
    let tile_bytes = blocks(spec.cols()) * block_bytes(storage, matrix);
    let tile = Arrangement { unit: 1, tile_rows: TILE, tile_bytes, ..Arrangement::plain(row_bytes) };
    match storage {
        Storage::Float { .. } => Arrangement::plain(row_bytes),
        Storage::Int8 => Arrangement { flip: 0x80, place: byte, ..tile },
        Storage::Pairs { .. } => Arrangement { place: stream, ..tile },
    }
}

/// Bytes of sections of a weight with so many rows, where others follow it.
pub struct Sizes {
    /// Of the codes.
    pub codes: usize,
    /// Of the scales.
    pub scales: usize,
}

/// The sizes of a weight like `spec` with `outputs` rows.
pub fn sizes(spec: &PackedSpec, outputs: usize, matrix: Matrix) -> Sizes {
    let bytes = |a: Arrangement| a.tiles(outputs) * a.tile_bytes;
    Sizes { codes: bytes(codes(spec, matrix)), scales: bytes(scales(spec)) }
}

/// The arrangement of the scales of a linear layer's weight.
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

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::{Codec, Group};

    const MATRICES: [Matrix; 2] =
        [Matrix { tokens: 8, seat_rows: 2, parts_first: true }, Matrix { tokens: 16, seat_rows: 1, parts_first: false }];

    /// Seat, row and column of a tile's block in the words that are read: the kernel's view, the other way round than places.
    #[test]
    fn a_seat_has_its_columns_in_the_words_that_are_read_for_it() {
        for matrix in MATRICES {
            let rows_of_seats = TILE / matrix.seat_rows as usize;
            for (codec, cols) in [(Codec::W8, 600), (Codec::Q8, 515)] {
                let spec = PackedSpec::new(TILE, cols, codec, Group::Row).unwrap();
                let arrangement = codes(&spec, matrix);
                let rows: Vec<u8> = (0..spec.codes_bytes()).map(|at| (at * 7 + at / 251) as u8).collect();
                let tile = arrangement.arrange_all(&rows);
                for row in 0..TILE {
                    let mut bytes = vec![0; spec.row_bytes()];
                    arrangement.restore(&tile, row, &mut bytes);
                    assert_eq!(bytes, rows[row * spec.row_bytes()..][..spec.row_bytes()], "{codec} {matrix:?}");
                }
                let storage = codec.facts().storage;
                let held = seat_bytes(storage, matrix);
                let per_row = held / matrix.seat_rows as usize;
                for block in 0..blocks(cols) {
                    for row in 0..TILE {
                        for part in 0..PARTS as usize {
                            let seat = matrix.seat(row % rows_of_seats, part);
                            let words: Vec<u8> = (0..held)
                                .map(|at| {
                                    tile[block * block_bytes(storage, matrix)
                                        + seat_place(seat, at, held, matrix.seats() as usize)]
                                })
                                .collect();
                            for at in 0..per_row {
                                let of_seat = if codec == Codec::Q8 {
                                    (at / WORD * matrix.seat_rows as usize + row / rows_of_seats) * WORD + at % WORD
                                } else {
                                    row / rows_of_seats * per_row + at
                                };
                                let column = (block * PARTS as usize + part) * per_row + at;
                                let expected = rows[row * spec.row_bytes()..][..spec.row_bytes()].get(column);
                                let expected = expected.map_or(0, |byte| byte ^ arrangement.flip);
                                assert_eq!(words[of_seat], expected, "{codec} block {block} row {row} part {part} byte {at}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_stored_twice() {
        for matrix in MATRICES {
            let spec = PackedSpec::new(TILE, 2 * BLOCK, Codec::W7, Group::Row).unwrap();
            let arrangement = codes(&spec, matrix);
            assert_eq!(arrangement.tile_bytes, spec.codes_bytes());
            let places = (0..TILE).flat_map(|row| (0..spec.row_bytes()).map(move |at| (row, at)));
            let places: std::collections::BTreeSet<usize> =
                places.map(|(row, at)| (arrangement.place)(&arrangement, row, at)).collect();
            assert!(places.len() == spec.codes_bytes() && places.last() < Some(&spec.codes_bytes()));
        }
    }
}
