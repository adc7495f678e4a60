//! Heads, the cache and attention: each row of PEs has its heads, each column every n-th entry of the cache.

use super::{Builder, Place};
use q35_bundle::{CacheDtype, WaferCache};
use q35_dialects::Ty;
use q35_dialects::q35::Op;
use q35_dialects::wse::{Arena, Attention, Axis, Call};
use q35_graph::{NodeId, Value};
use q35_target::Request;
use std::collections::BTreeMap;

/// Products that make heads: columns of a head, and how many heads there are in all.
pub(crate) type Heads = BTreeMap<NodeId, (u64, u64)>;

/// Finds them.
pub(crate) fn heads(request: &Request<'_>) -> Heads {
    let graph = request.graph;
    let mut found = BTreeMap::new();
    for id in graph.ids() {
        let wants = match (&graph.node(id).op, graph.node(id).results.first()) {
            (Op::Append(op), Some(Ty::Cache { key_dim, value_dim, .. })) => {
                vec![(0, *key_dim, op.kv_heads), (1, *value_dim, op.kv_heads)]
            }
            (Op::Attention(op), _) => match graph.operand(id, 0).map(|query| *graph.ty(query)) {
                Some(Ty::Act { width, .. }) => vec![(0, width / op.heads, op.heads)],
                _ => vec![],
            },
            _ => vec![],
        };
        for (operand, dim, count) in wants {
            let mut at = graph.operand(id, operand);
            while let Some(value) = at {
                found.insert(value.node, (dim, count));
                at = match graph.node(value.node).op {
                    Op::Rope(_) | Op::RmsNorm(_) | Op::Select(_) => graph.operand(value.node, 0),
                    _ => None,
                };
            }
        }
    }
    found
}

impl Builder<'_> {
    pub(super) fn append(&mut self, id: NodeId, layer: u32) -> Result<(), String> {
        let (key, value) = (self.operand(id, 0)?, self.operand(id, 1)?);
        let Some(Ty::Cache { kv_heads, key_dim, value_dim, dtype, .. }) = self.request.graph.node(id).results.first().copied()
        else {
            return Err("it makes no cache".to_owned());
        };
        if dtype != CacheDtype::F16 {
            return Err(format!("its KV cache is in {dtype}, and a wafer keeps it in f16"));
        }
        if key_dim != value_dim {
            return Err("keys and values have different columns".to_owned());
        }
        if key.axis != Axis::Rows || key.share != value.share {
            return Err("keys and values lie in different ways".to_owned());
        }
        let heads = key.part.len / key_dim;
        let entries = self.request.context.div_ceil(self.grid.width);
        let room = heads * key_dim * entries;
        let (keys, values) = (self.room(Arena::Keys, room, None), self.room(Arena::Values, room, None));
        debug_assert_eq!(heads * self.grid.height, kv_heads * key.share);
        self.built.caches.push(WaferCache { layer, heads, share: key.share, dim: key_dim, entries, keys, values });
        // The module is known when the queries are.
        let attention = Attention { heads: 0, kv_heads: heads, dim: key_dim, entries, scale: 0.0, window: 0 };
        self.caches.insert(Value { node: id, result: 0 }, (keys, values, attention));
        self.call(Call::Append { module: usize::MAX, key: key.part, value: value.part, keys, values });
        Ok(())
    }

    pub(super) fn attend(&mut self, id: NodeId, heads: u64, scale: f32, window: u64) -> Result<(), String> {
        let q = self.operand(id, 0)?;
        let cache = self.request.graph.operand(id, 1).and_then(|cache| self.caches.get(&cache).copied());
        let (keys, values, own) = cache.ok_or_else(|| "its cache lies elsewhere".to_owned())?;
        if !heads.is_multiple_of(self.grid.height) {
            return Err(format!("{heads} heads do not spread over {} rows", self.grid.height));
        }
        let attention = Attention { heads: heads / self.grid.height, scale, window, ..own };
        let known = self.built.kernel.attentions.iter().position(|other| *other == attention);
        let module = known.unwrap_or_else(|| {
            self.built.kernel.attentions.push(attention);
            self.built.kernel.attentions.len() - 1
        });
        for call in &mut self.built.kernel.calls {
            match call {
                Call::Append { module: of, keys: at, .. } if *of == usize::MAX && *at == keys => *of = module,
                _ => {}
            }
        }
        // In place, where the query is not read again: all of its scores are there before the first output.
        let y = if self.dies(id, 0) { q.part } else { self.buffer("attended", q.part.len) };
        self.call(Call::Attend { module, y, q: q.part, keys, values });
        self.result(id, Place { part: y, ..q });
        Ok(())
    }
}
