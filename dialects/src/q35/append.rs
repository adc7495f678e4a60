//! Writing keys and values into the KV cache.

use crate::data::{CacheRef, Data};
use crate::decl::op;
use crate::interp::{Entry, Env};
use crate::model::Graph;
use crate::q35::Op;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, row_bytes};
use crate::ty::{Rows, Ty};
use half::f16;
use q35_bundle::{CacheDtype, Size};

op! {
    /// Writes token `m`'s key and value as entry `index[m]` of slot `slots[m]` of a layer's cache, rounded to the cache's element type: in
    /// half precision a number becomes the nearest one, the even one of two, and what is larger than 65504 becomes 65504. Row layout: head
    /// by head.
    Append = "append"(key: Act, value: Act) -> Cache {
        /// Layer, from 0.
        layer: u32,
        /// Heads of keys and values.
        kv_heads: u64,
        /// Type of the cache's elements.
        dtype: CacheDtype,
    }
}

impl Append {
    /// Entries that are not rounded.
    pub fn plain(layer: u32, kv_heads: u64) -> Self {
        Self { layer, kv_heads, dtype: CacheDtype::F32 }
    }
}

/// Gives every layer of the cache in `graph` its element type, in the ops and in the types of their results.
pub fn assign_cache_dtype(graph: &mut Graph, wanted: CacheDtype) {
    let ids: Vec<_> = graph.ids().collect();
    for id in ids {
        let node = graph.node_mut(id);
        if let Op::Append(append) = &mut node.op {
            append.dtype = wanted;
        }
        for ty in &mut node.results {
            if let Ty::Cache { dtype, .. } = ty {
                *dtype = wanted;
            }
        }
    }
}

/// The numbers that a cache holds for some others.
fn stored(dtype: CacheDtype, numbers: &[f32]) -> Vec<f32> {
    let half = |x: &f32| f16::from_f32(x.clamp(-CacheDtype::F16_MAX, CacheDtype::F16_MAX)).to_f32();
    match dtype {
        CacheDtype::F32 => numbers.to_vec(),
        CacheDtype::F16 => numbers.iter().map(half).collect(),
    }
}

impl Semantics for Append {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let mut dims = [0; 2];
        for (dim, (name, ty)) in dims.iter_mut().zip(["key", "value"].into_iter().zip(operands)) {
            let (rows, width) = matrix(ty);
            ensure(rows == Rows::Tokens, || format!("operand '{name}' has not one row per token"))?;
            ensure(self.kv_heads > 0 && width.is_multiple_of(self.kv_heads), || {
                format!("the {width} columns of '{name}' do not divide into {} heads", self.kv_heads)
            })?;
            *dim = width / self.kv_heads;
        }
        let [key_dim, value_dim] = dims;
        Ok(Ty::Cache { layer: self.layer, kv_heads: self.kv_heads, key_dim, value_dim, dtype: self.dtype })
    }

    fn cost(&self, operands: &[Ty], _: &Ty, _: &dyn ParamTable) -> Cost {
        let read = Size(operands.iter().flat_map(|ty| row_bytes(ty).0).collect());
        let stored = |ty: &Ty| matrix(ty).0.size(self.dtype.bytes().saturating_mul(matrix(ty).1));
        let written = Size(operands.iter().flat_map(|ty| stored(ty).0).collect());
        Cost { read, written, operations: Size::default() }
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (key, value) = (operands[0].act(), operands[1].act());
        let layer = env.caches.entry(self.layer).or_default();
        for (row, place) in env.input.slots.iter().copied().zip(env.input.index.iter().copied()).enumerate() {
            let [key, value] = [key, value].map(|half| stored(self.dtype, half.row(row)));
            layer.insert(place, Entry { key, value });
        }
        let kv_heads = self.kv_heads as usize;
        Ok(Data::Cache(CacheRef {
            layer: self.layer,
            kv_heads,
            key_dim: key.width / kv_heads,
            value_dim: value.width / kv_heads,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, tokens};

    #[test]
    fn entries_land_in_their_slots() {
        let mut bench = Bench::default();
        bench.input.slots = vec![0, 4];
        bench.input.index = vec![7, 0];
        bench.eval(Append::plain(3, 1), &[&act(2, &[1.0, 2.0, 3.0, 4.0]), &act(1, &[5.0, 6.0])]);
        let entries: Vec<_> = bench.caches[&3].iter().map(|(place, e)| (*place, e.key.clone(), e.value.clone())).collect();
        assert_eq!(entries, [((0, 7), vec![1.0, 2.0], vec![5.0]), ((4, 0), vec![3.0, 4.0], vec![6.0])]);
    }

    /// Half precision has 11 bits: above 2048 every second integer, of which 2050 is odd in the last bit.
    #[test]
    fn entries_are_rounded_to_the_element_type() {
        let mut bench = Bench::default();
        (bench.input.slots, bench.input.index) = (vec![0], vec![0]);
        let key = [2049.0, -2051.0, 65519.0, 1e9, -f32::INFINITY, 3e-8, 2e-8, f32::NAN];
        bench.eval(Append { dtype: CacheDtype::F16, ..Append::plain(0, 1) }, &[&act(8, &key), &act(1, &[0.1])]);
        let entry = &bench.caches[&0][&(0, 0)];
        assert_eq!(entry.key[..7], [2048.0, -2052.0, 65504.0, 65504.0, -65504.0, 2f32.powi(-24), 0.0]);
        assert!(entry.key[7].is_nan());
        assert_eq!(entry.value, [1638.0 / 16384.0]);
    }

    #[test]
    fn the_layout_follows_from_heads_and_widths() {
        let op = |kv_heads| Append { dtype: CacheDtype::F16, ..Append::plain(1, kv_heads) };
        let cache = Ty::Cache { layer: 1, kv_heads: 2, key_dim: 4, value_dim: 3, dtype: CacheDtype::F16 };
        assert_eq!(infer(op(2), &[tokens(8), tokens(6)], &[]), Ok(cache));
        assert_eq!(
            infer(op(4), &[tokens(8), tokens(6)], &[]),
            Err("the 6 columns of 'value' do not divide into 4 heads".into())
        );
        assert!(infer(op(0), &[tokens(8), tokens(6)], &[]).is_err());
    }
}
