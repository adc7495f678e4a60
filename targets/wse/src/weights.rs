//! Tiles of word planes.
//!
//! A tile is the weights that one PE multiplies: some outputs by some inputs. A canonical row is a stream of bits; cut into 16-bit words,
//! word `i` of all rows of the tile stands together, so that a vector operation over rows has unit stride and the stream itself is never
//! changed. Tiles of one row block follow each other, so a PE's tile is one run of bytes: column `c` of PEs starts `c` times the
//! planes of its inputs further.

use q35_format::{Codec, Group, PackedSpec};
use q35_target::Arrangement;

/// Bits per weight that the kernels decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// 3.5 bits: blocks of 32 inputs in 7 words.
    Split,
    /// 8 bits: blocks of 2 inputs in 1 word.
    Byte,
}

impl Coding {
    /// The coding of a parameter, or why it has none.
    pub(crate) fn of(codec: Codec, group: Group) -> Result<Self, String> {
        match (codec, group) {
            (Codec::Split, Group::Row) => Ok(Self::Split),
            (Codec::Q8, Group::Row) => Ok(Self::Byte),
            (Codec::Split | Codec::Q8, group) => Err(format!("a scale per {group} columns; only one per row is supported")),
            (codec, _) => Err(format!("weights in codec {codec} cannot be decoded by vector operations; use --codec split")),
        }
    }

    /// Inputs of a block.
    pub(crate) fn inputs(self) -> u64 {
        match self {
            Self::Split => 32,
            Self::Byte => 2,
        }
    }

    /// Words of `inputs` inputs of one output.
    pub(crate) fn words(self, inputs: u64) -> u64 {
        match self {
            Self::Split => inputs.div_ceil(32) * 7,
            Self::Byte => inputs.div_ceil(2),
        }
    }
}

/// Codes in tiles of `rows` outputs, `words` words of each.
pub(crate) fn planes(row_bytes: usize, rows: u64, words: u64) -> Arrangement {
    let rows = rows as usize;
    let unit = if row_bytes.is_multiple_of(2) { 2 } else { 1 };
    Arrangement {
        unit,
        tile_rows: rows,
        tile_bytes: rows * words as usize * 2,
        place: |arrangement, row, unit| {
            let byte = unit * arrangement.unit;
            byte / 2 * 2 * arrangement.tile_rows + 2 * row + byte % 2
        },
        ..Arrangement::plain(row_bytes)
    }
}

/// f32 weights of `cols` inputs in tiles of `rows` outputs and `inputs` inputs, input by input.
pub(crate) fn singles(cols: u64, rows: u64, inputs: u64) -> Arrangement {
    Arrangement {
        unit: 4,
        tile_rows: rows as usize,
        tile_bytes: 4 * (rows * inputs) as usize,
        place: |arrangement, row, unit| 4 * (unit * arrangement.tile_rows + row),
        ..Arrangement::plain(4 * cols as usize)
    }
}

/// Scales in tiles of `rows`.
pub(crate) fn scales(spec: &PackedSpec, rows: u64) -> Arrangement {
    let bytes = spec.scale().bytes();
    let rows = rows as usize;
    let place = |arrangement: &Arrangement, row: usize, _: usize| row * arrangement.row_bytes;
    Arrangement { tile_rows: rows, tile_bytes: rows * bytes, place, ..Arrangement::plain(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_tile_stand_plane_by_plane() {
        // Two rows of 7 bytes in a tile of 2 x 4 words.
        let rows: Vec<u8> = (1..=14).collect();
        let tile = planes(7, 2, 4).arrange_all(&rows);
        assert_eq!(tile, [1, 2, 8, 9, 3, 4, 10, 11, 5, 6, 12, 13, 7, 0, 14, 0]);
        let even: Vec<u8> = (1..=8).collect();
        assert_eq!(planes(4, 2, 2).arrange_all(&even), [1, 2, 5, 6, 3, 4, 7, 8]);
    }
}
