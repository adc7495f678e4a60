//! Matrices one below the other, each somewhere else: experts in tensors of their own, rows in another order.

use crate::WeightView;

/// Views with equally many columns; row `r` is a row of the part that `r` falls into.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    parts: Vec<WeightView>,
    /// First row of each part, then the number of all rows.
    starts: Vec<u64>,
}

impl Joined {
    /// `None` without parts, or if their columns differ, or if their rows cannot be counted.
    pub(crate) fn new(parts: Vec<WeightView>) -> Option<Self> {
        let cols = parts.first()?.cols();
        let mut starts = vec![0u64];
        for part in &parts {
            let last = starts[starts.len() - 1];
            starts.push(last.checked_add(part.rows())?);
        }
        parts.iter().all(|part| part.cols() == cols).then_some(Self { parts, starts })
    }

    pub(crate) fn parts(&self) -> &[WeightView] {
        &self.parts
    }

    /// Rows of all parts.
    pub(crate) fn rows(&self) -> u64 {
        self.starts[self.parts.len()]
    }

    /// Columns of each part.
    pub(crate) fn cols(&self) -> u64 {
        self.parts[0].cols()
    }

    /// The part that a row falls into, and which of its rows it is.
    fn find(&self, row: u64) -> (&WeightView, u64) {
        let at = self.starts.partition_point(|start| *start <= row) - 1;
        (&self.parts[at], row - self.starts[at])
    }

    /// One element.
    pub(crate) fn get(&self, row: u64, col: u64) -> f32 {
        let (part, row) = self.find(row);
        part.get(row, col)
    }

    /// All columns of a row.
    pub(crate) fn read_row(&self, row: u64, out: &mut [f32]) {
        let (part, row) = self.find(row);
        part.read_rows(row..row + 1, out);
    }
}
