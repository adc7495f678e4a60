//! Moving parts of activations: rows whose logits are wanted, ranges of columns.

use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_launch::spec::{Columns, Select};

impl Kernel for Select {
    fn build(&self, call: &Call<'_>) {
        let from = row_at(call.arg(0), entry(call.arg(1), call.tile), self.width);
        let to = row_at(call.arg(2), call.tile, self.width);
        call.each(Team::Group, self.width as i64, |column| set(to, column, element(from, column)));
    }
}

impl Kernel for Columns {
    fn build(&self, call: &Call<'_>) {
        let from = row_at(call.arg(0), call.tile, self.width).at(4 * self.start as i64);
        let to = row_at(call.arg(1), call.tile, self.len);
        call.each(Team::Group, self.len as i64, |column| set(to, column, element(from, column)));
    }
}
