//! Writing keys and values into the KV cache.

use q35_bundle::Dim;

use super::columns::each;
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use q35_launch::spec::Append;

impl Kernel for Append {
    fn build(&self, level: Level, call: &Call<'_>) {
        let b = call.b;
        let halves = [(call.arg(0), call.arg(4), self.key_dim), (call.arg(1), call.arg(5), self.value_dim)];
        let (slots, index, capacity) = (call.arg(2), call.arg(3), call.dim(Dim::Capacity));
        call.for_tiles(|token| {
            let (slot, index) = (entry(slots, token), entry(index, token));
            for (rows, cache, dim) in halves {
                let row = row_at(rows, token, self.kv_heads * dim);
                let bytes = 4 * dim as i64;
                b.for_(0, self.kv_heads as i64, 1, |head| {
                    let place = (slot * self.kv_heads as i64 + head) * capacity + index;
                    let (from, to) = (row.at(head * bytes), cache.at(place * bytes));
                    each(b, lanes(level), dim, |at| at.store(to, at.load(from)));
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, run};
    use super::*;

    #[test]
    fn every_row_lands_in_its_place_and_nothing_else_changes() {
        let (slots, index) = ([1, 0, 1, 2], [3, 0, 4, 1]);
        let capacity = 5;
        for (heads, key_dim, value_dim) in [(1, 1, 3), (2, 16, 16), (3, 20, 7)] {
            let spec = Append { kv_heads: heads as u64, key_dim: key_dim as u64, value_dim: value_dim as u64 };
            let (key, value) = (numbers(4 * heads * key_dim, 1.0), numbers(4 * heads * value_dim, 2.0));
            let before = |dim: usize| vec![-9.0f32; 3 * heads * capacity * dim];
            let expected = |rows: &[f32], dim: usize| {
                let mut cache = before(dim);
                for (token, row) in rows.chunks(heads * dim).enumerate() {
                    for (head, part) in row.chunks(dim).enumerate() {
                        let place = (slots[token] as usize * heads + head) * capacity + index[token] as usize;
                        cache[place * dim..][..dim].copy_from_slice(part);
                    }
                }
                cache
            };
            let args = [
                Arg::rows(&key, heads * key_dim),
                Arg::rows(&value, heads * value_dim),
                Arg::ints(&slots),
                Arg::ints(&index),
                Arg::floats(&before(key_dim)),
                Arg::floats(&before(value_dim)),
            ];
            run(&spec, args, [4, 0, 3, capacity as i64], 4, |level, args| {
                assert_eq!(args[4].as_floats(), expected(&key, key_dim), "{spec:?} {level:?}");
                assert_eq!(args[5].as_floats(), expected(&value, value_dim), "{spec:?} {level:?}");
            });
        }
    }
}
