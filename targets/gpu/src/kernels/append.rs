//! Writing keys and values into the KV cache.

use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_bundle::Dim;
use q35_launch::spec::Append;

impl Kernel for Append {
    fn build(&self, call: &Call<'_>) {
        let (slot, index) = (entry(call.arg(2), call.tile), entry(call.arg(3), call.tile));
        let capacity = call.dim(Dim::Capacity);
        let halves = [(call.arg(0), call.arg(4), self.key_dim), (call.arg(1), call.arg(5), self.value_dim)];
        for (rows, cache, dim) in halves {
            let row = row_at(rows, call.tile, self.kv_heads * dim);
            call.each(Team::Group, (self.kv_heads * dim) as i64, |column| {
                let (head, within) = (column.div_u(dim as i64), column.rem_u(dim as i64));
                let place = (slot * self.kv_heads as i64 + head) * capacity + index;
                set(cache, place * dim as i64 + within, element(row, column));
            });
        }
    }
}
