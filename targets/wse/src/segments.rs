//! The graph in topological order, cut wherever only the residual stream is alive: what may stand in a region together. A mixture of experts is cut
//! once more, into what every token needs and what only the chosen experts do.

use q35_dialects::q35::Op;
use q35_dialects::{Graph, Ty};
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet};

/// What a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Work on every token.
    Plain,
    /// The same with a choice of experts, which are the segment behind it. What leaves lacks what the experts add.
    Router,
    /// What each of so many experts does; what leaves is what the router's segment leaves plus what they made.
    Experts(u64),
}

/// Nodes between two cuts, and the value alive behind them.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) kind: Kind,
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
            segments.extend(cut(graph, std::mem::take(&mut nodes), Some(only)));
        }
    }
    if !nodes.is_empty() {
        segments.extend(cut(graph, nodes, None));
    }
    (prologue, segments)
}

/// A segment, in two if it has experts: their products and what lies between those.
fn cut(graph: &Graph, nodes: Vec<NodeId>, leaves: Option<Value>) -> Vec<Segment> {
    let experts = nodes.iter().find_map(|id| match (&graph.node(*id).op, graph.node(*id).results.first()) {
        (Op::Route(_), Some(Ty::Routing { experts, .. })) => Some(*experts),
        _ => None,
    });
    let Some(experts) = experts else { return vec![Segment { kind: Kind::Plain, nodes, leaves }] };
    let mut of_experts: BTreeSet<NodeId> = BTreeSet::new();
    for id in &nodes {
        let op = &graph.node(*id).op;
        let between = graph
            .operands(*id)
            .into_iter()
            .flatten()
            .any(|value| of_experts.contains(&value.node) && !matches!(graph.node(value.node).op, Op::Combine(_)));
        if between || matches!(op, Op::ExpertLinear(_) | Op::Combine(_)) {
            of_experts.insert(*id);
        }
    }
    let (theirs, all) = nodes.into_iter().partition(|id| of_experts.contains(id));
    vec![Segment { kind: Kind::Router, nodes: all, leaves }, Segment { kind: Kind::Experts(experts), nodes: theirs, leaves }]
}
