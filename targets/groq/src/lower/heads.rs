//! How heads of queries meet those of keys and values that they share.
//!
//! A lane of the query's vectors meets the same lane of the cache's. Where several heads of the query read one of the cache, either each stands
//! in a *round* of its own, vectors that meet the same vectors of the cache again, or keys and values are computed in several *copies*, side
//! by side. Rounds cost nothing; copies fill vectors that would be empty otherwise, so there are as many as one vector has room for. What
//! follows an attention has to bear its heads in another order: where it cannot, there is one round, and the query is in order.

use super::layout::{LANES, Layout};
use q35_dialects::q35::Op;
use q35_dialects::{Graph, Ty};
use q35_graph::{NodeId, Value};
use std::collections::BTreeMap;

/// What stands in the lanes of a node's vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heads {
    /// Heads of `dim` columns, each in so many copies.
    Cached { dim: u64, copies: u64 },
    /// Heads of `dim` columns, of which `group` neighbours share one of the cache: `copies` in each round.
    Asking { dim: u64, group: u64, copies: u64 },
}

impl Heads {
    /// The layout of `width` columns.
    pub(crate) fn layout(self, width: u64) -> Layout {
        match self {
            Self::Cached { dim, copies } => Layout::repeated(width, dim, copies),
            Self::Asking { dim, group, copies } => Layout::rounds(width, dim, group, copies),
        }
    }
}

/// Heads of the query that reads a cache; `None` where readers differ.
pub(crate) fn attention_heads(graph: &Graph, append: NodeId) -> Option<u64> {
    let heads: Vec<u64> = readers(graph, append).filter_map(|id| attended(graph, id)).collect();
    heads.first().copied().filter(|first| heads.iter().all(|other| other == first))
}

fn attended(graph: &Graph, id: NodeId) -> Option<u64> {
    if let Op::Attention(op) = &graph.node(id).op { Some(op.heads) } else { None }
}

/// Attentions that read a cache.
fn readers(graph: &Graph, append: NodeId) -> impl Iterator<Item = NodeId> + '_ {
    let reads =
        move |id: &NodeId| attended(graph, *id).is_some() && graph.operand(*id, 1).is_some_and(|cache| cache.node == append);
    graph.ids().filter(reads)
}

/// Nodes that make an operand of heads, from the last one back to the layer that computes it.
fn makers(graph: &Graph, user: NodeId, at: usize) -> Vec<NodeId> {
    let (mut makers, mut value) = (Vec::new(), graph.operand(user, at));
    while let Some(node) = value.map(|value| value.node) {
        makers.push(node);
        let through = matches!(graph.node(node).op, Op::Rope(_) | Op::RmsNorm(_));
        value = if through { graph.operand(node, 0) } else { None };
    }
    makers
}

fn users(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    graph.users(Value { node: id, result: 0 }).into_iter().map(|(user, _)| user).collect()
}

/// Whether an attention's heads may be in any order, before it and after it.
fn bears_rounds(graph: &Graph, attention: NodeId, powers: bool) -> bool {
    let makers = makers(graph, attention, 0);
    let own = makers.iter().all(|maker| users(graph, *maker).len() == 1);
    let layer = makers.last().is_some_and(|maker| matches!(graph.node(*maker).op, Op::Linear(_)));
    let rounds = |id: NodeId| matches!(graph.node(id).op, Op::Quantize(_));
    let after = users(graph, attention).into_iter().all(|user| match graph.node(user).op {
        // A rotation goes over whole vectors and over lanes, in whatever order, if all numbers are powers of two.
        Op::Hadamard(_) => powers && users(graph, user).into_iter().all(rounds),
        _ => rounds(user),
    });
    own && layer && after && !graph.outputs.iter().any(|(_, value)| value.node == attention)
}

/// The heads of every node whose vectors are not in order.
pub(crate) fn heads(graph: &Graph) -> BTreeMap<NodeId, Heads> {
    let mut found = BTreeMap::new();
    for id in graph.ids() {
        let Op::Append(op) = &graph.node(id).op else { continue };
        let Some(Ty::Cache { key_dim: dim, .. }) = graph.node(id).results.first().copied() else { continue };
        let Some(group) = attention_heads(graph, id).map(|heads| heads / op.kv_heads).filter(|group| *group > 1) else {
            continue;
        };
        let powers = [dim, group, op.kv_heads].iter().all(|n| n.is_power_of_two());
        let copies = copies(graph, id, powers, [dim, group, op.kv_heads]);
        for at in 0..2 {
            found.extend(makers(graph, id, at).into_iter().map(|node| (node, Heads::Cached { dim, copies })));
        }
        if copies < group {
            let asking = readers(graph, id).flat_map(|reader| [vec![reader], makers(graph, reader, 0)].concat());
            found.extend(asking.map(|node| (node, Heads::Asking { dim, group, copies })));
        }
    }
    found
}

fn copies(graph: &Graph, append: NodeId, powers: bool, [dim, group, kv_heads]: [u64; 3]) -> u64 {
    if !readers(graph, append).all(|reader| bears_rounds(graph, reader, powers)) {
        return group;
    }
    let room = (2 * LANES as u64 / dim / kv_heads).max(1);
    (1..=group.min(room)).rev().find(|copies| group.is_multiple_of(*copies)).unwrap_or(1)
}
