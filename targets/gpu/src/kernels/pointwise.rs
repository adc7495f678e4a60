//! Everything that treats the elements of a row one by one.

use super::{Kernel, element, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_launch::Spec;
use q35_launch::spec::Pointwise;
use q35_mlir::types::F32;

impl Kernel for Pointwise {
    fn build(&self, call: &Call<'_>) {
        let from = row_at(call.arg(0), call.tile, self.width);
        let to = row_at(call.arg(self.args() - 1), call.tile, self.width);
        let second_width = if self.column { 1 } else { self.width };
        let second = self.operation.is_binary().then(|| row_at(call.arg(1), call.tile, second_width));
        call.each(Team::Group, self.width as i64, |column| {
            let second = second.map(|row| if self.column { row.load(F32, 4) } else { element(row, column) });
            set(to, column, self.operation.apply(element(from, column), second));
        });
    }
}
