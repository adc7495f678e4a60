//! Writing keys and values into the KV cache.

use crate::data::{CacheRef, Data};
use crate::decl::op;
use crate::interp::{Entry, Env};
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, row_bytes};
use crate::ty::{Rows, Ty};
use q35_bundle::Size;

op! {
    /// Writes token `m`'s key and value as entry `index[m]` of slot `slots[m]` of a layer's cache. Row layout: head by head.
    Append = "append"(key: Act, value: Act) -> Cache {
        /// Layer, from 0.
        layer: u32,
        /// Heads of keys and values.
        kv_heads: u64,
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
        Ok(Ty::Cache { layer: self.layer, kv_heads: self.kv_heads, key_dim: dims[0], value_dim: dims[1] })
    }

    fn cost(&self, operands: &[Ty], _: &Ty, _: &dyn ParamTable) -> Cost {
        let bytes = Size(operands.iter().flat_map(|ty| row_bytes(ty).0).collect());
        Cost { read: bytes.clone(), written: bytes, operations: Size::default() }
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (key, value) = (operands[0].act(), operands[1].act());
        let layer = env.caches.entry(self.layer).or_default();
        for (row, place) in env.input.slots.iter().copied().zip(env.input.index.iter().copied()).enumerate() {
            layer.insert(place, Entry { key: key.row(row).to_vec(), value: value.row(row).to_vec() });
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
        bench.eval(Append { layer: 3, kv_heads: 1 }, &[&act(2, &[1.0, 2.0, 3.0, 4.0]), &act(1, &[5.0, 6.0])]);
        let entries: Vec<_> = bench.caches[&3].iter().map(|(place, e)| (*place, e.key.clone(), e.value.clone())).collect();
        assert_eq!(entries, [((0, 7), vec![1.0, 2.0], vec![5.0]), ((4, 0), vec![3.0, 4.0], vec![6.0])]);
    }

    #[test]
    fn the_layout_follows_from_heads_and_widths() {
        let op = |kv_heads| Append { layer: 1, kv_heads };
        let cache = Ty::Cache { layer: 1, kv_heads: 2, key_dim: 4, value_dim: 3 };
        assert_eq!(infer(op(2), &[tokens(8), tokens(6)], &[]), Ok(cache));
        assert_eq!(
            infer(op(4), &[tokens(8), tokens(6)], &[]),
            Err("the 6 columns of 'value' do not divide into 4 heads".into())
        );
        assert!(infer(op(0), &[tokens(8), tokens(6)], &[]).is_err());
    }
}
