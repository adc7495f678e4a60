//! From canonical rows, in pieces of any number of them, to the arrangement a target asked for, a tile at a time.

use q35_diag::Result;
use q35_target::Arrangement;

/// Collects rows until a tile is full, and passes arranged tiles on.
pub struct Arranger<'a> {
    arrangement: &'a Arrangement,
    rows: Vec<u8>,
    tile: Vec<u8>,
}

impl<'a> Arranger<'a> {
    /// For one section of one matrix.
    pub fn new(arrangement: &'a Arrangement) -> Self {
        Self { arrangement, rows: Vec::new(), tile: vec![0; arrangement.tile_bytes] }
    }

    /// Takes whole rows; every tile that they complete goes to `sink`.
    ///
    /// # Panics
    /// If `rows` is no whole number of rows: a mistake of the caller.
    pub fn push(&mut self, rows: &[u8], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        assert!(rows.len().is_multiple_of(self.arrangement.row_bytes));
        let full = self.arrangement.tile_rows * self.arrangement.row_bytes;
        let mut rest = rows;
        while !rest.is_empty() {
            if self.rows.is_empty() && rest.len() >= full {
                self.arrangement.arrange(&rest[..full], &mut self.tile);
                sink(&self.tile)?;
                rest = &rest[full..];
                continue;
            }
            let (taken, left) = rest.split_at(rest.len().min(full - self.rows.len()));
            self.rows.extend_from_slice(taken);
            rest = left;
            if self.rows.len() == full {
                self.flush(sink)?;
            }
        }
        Ok(())
    }

    /// Passes on what is left of the last tile, and the zeros behind it.
    pub fn finish(mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if !self.rows.is_empty() {
            self.flush(sink)?;
        }
        sink(&vec![0; self.arrangement.tail_bytes])
    }

    fn flush(&mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.arrangement.arrange(&self.rows, &mut self.tile);
        self.rows.clear();
        sink(&self.tile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_bytes_of_the_whole() {
        let arrangement = Arrangement {
            row_bytes: 6,
            unit: 2,
            tile_rows: 4,
            tile_bytes: 26,
            tail_bytes: 3,
            flip: 0x80,
            place: |_, row, unit| 8 * unit + 2 * row,
            weave: None,
        };
        let rows: Vec<u8> = (0..66).collect();
        let whole = arrangement.arrange_all(&rows);
        for piece in [1, 2, 3, 4, 5, 8, 11] {
            let mut got = Vec::new();
            let mut sink = |tile: &[u8]| {
                got.extend_from_slice(tile);
                Ok(())
            };
            let mut arranger = Arranger::new(&arrangement);
            for rows in rows.chunks(piece * 6) {
                arranger.push(rows, &mut sink).unwrap();
            }
            arranger.finish(&mut sink).unwrap();
            assert_eq!(got, whole, "{piece}");
        }
    }
}
