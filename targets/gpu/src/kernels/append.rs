//! Writing keys and values into the KV cache.

use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_bundle::Dim;

/// Writes token `m`'s key and value as entry `index[m]` of slot `slots[m]`. A cache half is `[slot][head][capacity][columns]` f32 without gaps.
/// Arguments: key, value, slots (i32), index (i32), the layer's keys, the layer's values. A tile is a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Columns of a key.
    pub key_dim: u64,
    /// Columns of a value.
    pub value_dim: u64,
}

impl Kernel for Append {
    fn name(&self) -> String {
        format!("append_{}_heads_of_{}_{}", self.kv_heads, self.key_dim, self.value_dim)
    }

    fn args(&self) -> usize {
        6
    }

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
