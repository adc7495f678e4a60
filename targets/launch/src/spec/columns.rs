//! Moving parts of activations: rows whose logits are wanted, ranges of columns.

use super::Spec;

/// `y[r] = x[rows[r]]`. Arguments: x, rows (i32), y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Columns.
    pub width: u64,
}

impl Spec for Select {
    fn name(&self) -> String {
        format!("select_{}", self.width)
    }

    fn args(&self) -> usize {
        3
    }
}

/// Columns `start .. start + len` of each row. Arguments: x, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Columns of x.
    pub width: u64,
    /// First column taken.
    pub start: u64,
    /// Columns taken.
    pub len: u64,
}

impl Spec for Columns {
    fn name(&self) -> String {
        format!("columns_{}_from_{}_of_{}", self.len, self.start, self.width)
    }

    fn args(&self) -> usize {
        2
    }
}
