//! Writing keys and values into the KV cache.

use q35_bundle::Dim;

use super::cached::Cached;
use super::columns::each;
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use q35_launch::spec::Append;

impl Kernel for Append {
    fn build(&self, level: Level, call: &Call<'_>) {
        let b = call.b;
        let halves = [(call.arg(0), call.arg(4), self.key_dim), (call.arg(1), call.arg(5), self.value_dim)];
        let cached = Cached { dtype: self.dtype, level };
        let (slots, index, capacity) = (call.arg(2), call.arg(3), call.dim(Dim::Capacity));
        call.for_tiles(|token| {
            let (slot, index) = (entry(slots, token), entry(index, token));
            for (rows, cache, dim) in halves {
                let row = row_at(rows, token, self.kv_heads * dim);
                b.for_(0, self.kv_heads as i64, 1, |head| {
                    let place = (slot * self.kv_heads as i64 + head) * capacity + index;
                    let (from, to) = (row.at(head * (4 * dim as i64)), cache.at(place * cached.bytes(dim)));
                    each(b, lanes(level), dim, |at| cached.store(at, to, at.load(from)));
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, run};
    use super::*;
    use half::f16;
    use q35_bundle::CacheDtype;

    #[test]
    fn every_row_lands_in_its_place_and_nothing_else_changes() {
        let (slots, index) = ([1, 0, 1, 2], [3, 0, 4, 1]);
        let capacity = 5;
        for (heads, key_dim, value_dim) in [(1, 1, 3), (2, 16, 16), (3, 20, 7)] {
            let dtype = CacheDtype::F32;
            let spec = Append { kv_heads: heads as u64, key_dim: key_dim as u64, value_dim: value_dim as u64, dtype };
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

    /// Two heads of so many columns that whole vectors and a rest are written at every level.
    #[test]
    fn numbers_are_rounded_to_half_precision() {
        let (heads, dim, capacity) = (2, 37, 3);
        let special =
            [65519.0, 65520.0, -1e30, f32::INFINITY, f32::NAN, 2f32.powi(-25), 2f32.powi(-25) * 1.001, -0.0, 2049.0, 2051.0];
        let mut key = numbers(2 * heads * dim, 300.0);
        key[..special.len()].copy_from_slice(&special);
        key[dim - 5..dim].copy_from_slice(&special[..5]);
        let value = numbers(2 * heads * dim, 1e-5);
        let spec = Append { kv_heads: heads as u64, key_dim: dim as u64, value_dim: dim as u64, dtype: CacheDtype::F16 };
        let before = vec![0xc5u8; 2 * 2 * heads * capacity * dim];
        let expected = |rows: &[f32]| {
            let mut cache: Vec<u16> = vec![0xc5c5; before.len() / 2];
            for (token, row) in rows.chunks(heads * dim).enumerate() {
                for (head, part) in row.chunks(dim).enumerate() {
                    // Token 0 goes to slot 1, entry 2; token 1 to slot 0, entry 1.
                    let place = ((1 - token) * heads + head) * capacity + 2 - token;
                    let stored = part.iter().map(|x| f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits());
                    cache[place * dim..][..dim].iter_mut().zip(stored).for_each(|(cell, bits)| *cell = bits);
                }
            }
            cache
        };
        let halves = |arg: &Arg| arg.content().chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect::<Vec<_>>();
        // A NaN stays one, whatever its bits are.
        let same = |a: u16, b: u16| a == b || f16::from_bits(a).is_nan() && f16::from_bits(b).is_nan();
        let args = [
            Arg::rows(&key, heads * dim),
            Arg::rows(&value, heads * dim),
            Arg::ints(&[1, 0]),
            Arg::ints(&[2, 1]),
            Arg::bytes(&before),
            Arg::bytes(&before),
        ];
        run(&spec, args, [2, 0, 2, capacity as i64], 2, |level, args| {
            for (arg, rows) in [(4, &key), (5, &value)] {
                let (found, expected) = (halves(&args[arg]), expected(rows));
                for (at, (a, b)) in found.iter().zip(&expected).enumerate() {
                    assert!(same(*a, *b), "{level:?}: [{at}] is {a:#06x}, not {b:#06x}");
                }
                assert_eq!(found.len(), expected.len());
            }
        });
    }
}
