//! Moving parts of activations: rows whose logits are wanted, ranges of columns.

use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;

/// `y[r] = x[rows[r]]`. Arguments: x, rows (i32), y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Select {
    /// Columns.
    pub width: u64,
}

impl Kernel for Select {
    fn name(&self) -> String {
        format!("select_{}", self.width)
    }

    fn args(&self) -> usize {
        3
    }

    fn build(&self, call: &Call<'_>) {
        let from = row_at(call.arg(0), entry(call.arg(1), call.tile), self.width);
        let to = row_at(call.arg(2), call.tile, self.width);
        call.each(Team::Group, self.width as i64, |column| set(to, column, element(from, column)));
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

impl Kernel for Columns {
    fn name(&self) -> String {
        format!("columns_{}_from_{}_of_{}", self.len, self.start, self.width)
    }

    fn args(&self) -> usize {
        2
    }

    fn build(&self, call: &Call<'_>) {
        let from = row_at(call.arg(0), call.tile, self.width).at(4 * self.start as i64);
        let to = row_at(call.arg(1), call.tile, self.len);
        call.each(Team::Group, self.len as i64, |column| set(to, column, element(from, column)));
    }
}
