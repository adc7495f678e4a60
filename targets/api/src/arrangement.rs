//! How the canonical bytes of a packed parameter become the bytes that a target's kernels read.
//!
//! The format crate stores a matrix as rows of codes and rows of scales. A target may want rows padded, interleaved or biased: all of
//! these move whole units (a row, an element, a byte) to other places, so an [`Arrangement`] is one function from (row, unit) to
//! place, and both directions follow from it. Where single bits move, it is a [`Weave`]. Rows are arranged in tiles, in order, so that whoever writes a weights file needs
//! no more than one tile of a matrix in memory.

/// Place of a unit inside its tile, in bytes: arguments are the row within the tile and the unit within the row.
pub type Place = fn(&Arrangement, usize, usize) -> usize;

/// A movement of the bits of a row that leaves no byte whole, in both directions. Rows do not share bits of a tile.
#[derive(Clone, Copy, Debug)]
pub struct Weave {
    /// `set(arrangement, row, bytes, tile)` sets those bits of `tile` that a canonical row with the bits of `bytes` sets, of which all are 0.
    pub set: fn(&Arrangement, usize, &[u8], &mut [u8]),
    /// `get(arrangement, tile, row, bytes)` restores a row, of which all bits are 0, from a tile.
    pub get: fn(&Arrangement, &[u8], usize, &mut [u8]),
}

/// The arrangement of one section (codes, scales) of a matrix.
#[derive(Clone, Debug)]
pub struct Arrangement {
    /// Bytes of a canonical row.
    pub row_bytes: usize,
    /// Bytes that stay together; divides `row_bytes`.
    pub unit: usize,
    /// Rows of a tile. Missing rows of the last tile are zero.
    pub tile_rows: usize,
    /// Bytes of an arranged tile; what no unit covers is zero.
    pub tile_bytes: usize,
    /// Zeros after the last tile, for kernels that read a little further than they use.
    pub tail_bytes: usize,
    /// Every byte of a unit is exclusive-ored with this.
    pub flip: u8,
    /// Where a unit goes.
    pub place: Place,
    /// Where bits go, instead of units, and without a flip.
    pub weave: Option<Weave>,
}

impl Arrangement {
    /// Canonical rows as they are.
    pub fn plain(row_bytes: usize) -> Self {
        let place: Place = |_, _, _| 0;
        Self { row_bytes, unit: row_bytes, tile_rows: 1, tile_bytes: row_bytes, tail_bytes: 0, flip: 0, place, weave: None }
    }

    /// Tiles of a matrix of `rows` rows.
    pub fn tiles(&self, rows: usize) -> usize {
        rows.div_ceil(self.tile_rows)
    }

    /// Bytes of the arranged matrix; `None` on overflow.
    pub fn bytes(&self, rows: usize) -> Option<usize> {
        self.tiles(rows).checked_mul(self.tile_bytes)?.checked_add(self.tail_bytes)
    }

    /// Arranges up to [`Self::tile_rows`] canonical rows, one after the other in `rows`, into `tile`.
    ///
    /// # Panics
    /// If `rows` is not whole rows of at most a tile, or `tile` is not [`Self::tile_bytes`] long.
    pub fn arrange(&self, rows: &[u8], tile: &mut [u8]) {
        assert!(rows.len().is_multiple_of(self.row_bytes) && rows.len() <= self.tile_rows * self.row_bytes);
        assert_eq!(tile.len(), self.tile_bytes);
        tile.fill(0);
        for (row, bytes) in rows.chunks_exact(self.row_bytes).enumerate() {
            if let Some(weave) = self.weave {
                (weave.set)(self, row, bytes, tile);
                continue;
            }
            for (at, unit) in bytes.chunks_exact(self.unit).enumerate() {
                let place = (self.place)(self, row, at);
                for (to, from) in tile[place..place + self.unit].iter_mut().zip(unit) {
                    *to = from ^ self.flip;
                }
            }
        }
    }

    /// The inverse of [`Self::arrange`] for one row of a tile.
    ///
    /// # Panics
    /// If `tile` or `bytes` have other sizes than [`Self::tile_bytes`] and [`Self::row_bytes`].
    pub fn restore(&self, tile: &[u8], row: usize, bytes: &mut [u8]) {
        assert_eq!((tile.len(), bytes.len()), (self.tile_bytes, self.row_bytes));
        if let Some(weave) = self.weave {
            bytes.fill(0);
            return (weave.get)(self, tile, row, bytes);
        }
        for (at, unit) in bytes.chunks_exact_mut(self.unit).enumerate() {
            let place = (self.place)(self, row, at);
            for (to, from) in unit.iter_mut().zip(&tile[place..place + self.unit]) {
                *to = from ^ self.flip;
            }
        }
    }

    /// Arranges a whole section.
    pub fn arrange_all(&self, rows: &[u8]) -> Vec<u8> {
        let tile_input = self.tile_rows * self.row_bytes;
        let mut out = vec![0; rows.len().div_ceil(tile_input) * self.tile_bytes + self.tail_bytes];
        for (rows, tile) in rows.chunks(tile_input).zip(out.chunks_exact_mut(self.tile_bytes)) {
            self.arrange(rows, tile);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_follow_from_places() {
        // Two rows of three 2-byte units, interleaved unit by unit, with 4 bytes of tail.
        let arrangement = Arrangement {
            row_bytes: 6,
            unit: 2,
            tile_rows: 2,
            tile_bytes: 12,
            tail_bytes: 4,
            flip: 0x80,
            place: |_, row, unit| 4 * unit + 2 * row,
            weave: None,
        };
        let rows: Vec<u8> = (1..=18).collect();
        let all = arrangement.arrange_all(&rows);
        assert_eq!(all.len(), arrangement.bytes(3).unwrap());
        let flipped: Vec<u8> = all.iter().map(|byte| if *byte == 0 { 0 } else { byte ^ 0x80 }).collect();
        assert_eq!(flipped[..12], [1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12]);
        assert_eq!(flipped[12..], [13, 14, 0, 0, 15, 16, 0, 0, 17, 18, 0, 0, 0, 0, 0, 0]);
        for row in 0..3 {
            let mut bytes = [0; 6];
            arrangement.restore(&all[row / 2 * 12..][..12], row % 2, &mut bytes);
            assert_eq!(bytes, rows[row * 6..][..6]);
        }
        assert_eq!(Arrangement::plain(3).arrange_all(&rows), rows);
    }
}
