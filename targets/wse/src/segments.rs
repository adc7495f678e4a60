//! The graph in topological order, cut wherever only the residual stream is alive: what may stand in a region together.

use q35_dialects::q35::Op;
use q35_dialects::{Graph, Ty};
use q35_graph::{NodeId, Value};
use std::collections::BTreeMap;

/// Nodes between two cuts, and the value alive behind them.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) nodes: Vec<NodeId>,
    /// `None` behind the last.
    pub(crate) leaves: Option<Value>,
}

/// What the host does before the first segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prologue {
    pub(crate) embed: Option<NodeId>,
    pub(crate) rotary: Option<NodeId>,
    pub(crate) more: Vec<NodeId>,
}

/// With one token per step there is nothing to select.
pub(crate) fn through_select(graph: &Graph, mut value: Value) -> Value {
    while matches!(graph.node(value.node).op, Op::Select(_)) {
        match graph.operand(value.node, 0) {
            Some(of) => value = of,
            None => break,
        }
    }
    value
}

/// Cuts a verified graph.
pub(crate) fn segments(graph: &Graph) -> (Prologue, Vec<Segment>) {
    let (mut prologue, mut work) = (Prologue::default(), Vec::new());
    for id in graph.topological().unwrap_or_default() {
        match &graph.node(id).op {
            Op::Tokens(_) | Op::Positions(_) | Op::Select(_) => {}
            Op::Embed(_) if prologue.embed.is_none() => prologue.embed = Some(id),
            Op::Rotary(_) if prologue.rotary.is_none() => prologue.rotary = Some(id),
            Op::Embed(_) | Op::Rotary(_) => prologue.more.push(id),
            _ => work.push(id),
        }
    }
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (at, id) in work.iter().enumerate() {
        for operand in graph.operands(*id).into_iter().flatten() {
            last.insert(through_select(graph, operand), at);
        }
    }
    let mut made: Vec<Value> = prologue.embed.iter().map(|node| Value { node: *node, result: 0 }).collect();
    let (mut segments, mut nodes) = (Vec::new(), Vec::new());
    for (at, id) in work.iter().enumerate() {
        nodes.push(*id);
        made.push(Value { node: *id, result: 0 });
        made.retain(|value| last.get(value).is_some_and(|last| *last > at));
        if let [only] = made[..]
            && matches!(graph.ty(only), Ty::Act { .. })
        {
            segments.push(Segment { nodes: std::mem::take(&mut nodes), leaves: Some(only) });
        }
    }
    if !nodes.is_empty() {
        segments.push(Segment { nodes, leaves: None });
    }
    (prologue, segments)
}
