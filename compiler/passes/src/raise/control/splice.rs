//! Bodies put into the graph around them.

use q35_graph::source::{Attr, Call, SourceGraph, SourceOp, SourceType};
use q35_graph::{DType, NodeId, Tensor, Value};
use std::collections::BTreeMap;

/// The inputs of a body, in order.
pub(super) fn inputs(body: &SourceGraph) -> Vec<NodeId> {
    body.ids().filter(|id| matches!(body.node(*id).op, SourceOp::Input)).collect()
}

/// Nodes of a graph and of the graphs in it.
pub(super) fn size(graph: &SourceGraph) -> usize {
    let inside = |id: NodeId| match &graph.node(id).op {
        SourceOp::Call(call) => call.attrs.values().map(|a| if let Attr::Graph(b) = a { size(&b.graph) } else { 0 }).sum(),
        _ => 0,
    };
    graph.ids().map(|id| 1 + inside(id)).sum()
}

/// Copies a body into `graph`, its inputs being `given`. Gives its nodes in topological order, and its outputs.
///
/// # Errors
/// What is wrong with the body.
pub(super) fn splice(
    graph: &mut SourceGraph,
    body: &SourceGraph,
    given: &[Option<Value>],
    prefix: &str,
) -> Result<(Vec<NodeId>, Vec<Value>), String> {
    let inputs = inputs(body);
    if inputs.len() != given.len() {
        return Err(format!("a body takes {} values and is given {}", inputs.len(), given.len()));
    }
    let mut values: BTreeMap<NodeId, Option<NodeId>> = BTreeMap::new();
    let given: BTreeMap<NodeId, Option<Value>> = inputs.into_iter().zip(given.iter().copied()).collect();
    let outer = |values: &BTreeMap<NodeId, Option<NodeId>>, value: Value| match given.get(&value.node) {
        Some(outer) => *outer,
        None => values.get(&value.node).copied().flatten().map(|node| Value { node, ..value }),
    };
    let mut added = Vec::new();
    for id in body.topological().ok_or("a body depends on itself")? {
        if given.contains_key(&id) {
            continue;
        }
        let node = body.node(id);
        let operands: Vec<Option<Value>> = body.operands(id).into_iter().map(|v| outer(&values, v?)).collect();
        let new = graph.add(format!("{prefix}{}", node.name), node.op.clone(), &operands, node.results.clone());
        values.insert(id, Some(new));
        added.push(new);
    }
    let outputs = body
        .outputs
        .iter()
        .map(|(name, value)| outer(&values, *value).ok_or_else(|| format!("a body's output '{name}' is not given")));
    Ok((added, outputs.collect::<Result<_, _>>()?))
}

/// Makes whoever reads `old` read `new`; if one of `made` gives it, it takes what is recorded of the old one.
pub(super) fn replace(graph: &mut SourceGraph, old: Value, new: Value, made: &[NodeId]) {
    if made.contains(&new.node) && matches!(graph.node(new.node).op, SourceOp::Call(_)) {
        let outer = graph.ty(old).clone();
        let inner = &mut graph.node_mut(new.node).results[new.result as usize];
        inner.name = if outer.name.is_empty() { std::mem::take(&mut inner.name) } else { outer.name };
        inner.dtype = outer.dtype.or(inner.dtype);
        inner.dims = outer.dims.or_else(|| inner.dims.take());
    }
    graph.replace_uses(old, new, &[]);
}

/// One iteration of a loop.
pub(super) struct Iteration {
    /// What the names of its nodes start with.
    pub name: String,
    pub number: i64,
}

impl Iteration {
    /// Its number, as a value.
    pub(super) fn count(&self, graph: &mut SourceGraph) -> Value {
        constant(graph, format!("{}iteration", self.name), Tensor::from_i64(vec![], &[self.number]))
    }

    /// The condition it was entered by, as a value.
    pub(super) fn truth(&self, graph: &mut SourceGraph) -> Value {
        let name = format!("{}condition", self.name);
        match Tensor::new(DType::Bool, vec![], vec![1].into(), 0) {
            Ok(tensor) => constant(graph, name, tensor),
            Err(why) => panic!("one truth value: {why:?}"),
        }
    }
}

/// Values of one shape, one after the other along a new first dimension; `nodes` gets what is added.
pub(super) fn stack(graph: &mut SourceGraph, name: &str, parts: &[Value], nodes: &mut Vec<NodeId>) -> Value {
    let axis = constant(graph, format!("{name}/axis"), Tensor::from_i64(vec![1], &[0]));
    nodes.push(axis.node);
    let mut add = |graph: &mut SourceGraph, op: &str, operands: &[Value], attrs: BTreeMap<String, Attr>| {
        let call = SourceOp::Call(Call { domain: String::new(), op: op.to_owned(), version: 13, attrs });
        let operands: Vec<Option<Value>> = operands.iter().copied().map(Some).collect();
        let node = graph.add(name, call, &operands, vec![SourceType::default()]);
        nodes.push(node);
        Value { node, result: 0 }
    };
    let rows: Vec<Value> = parts.iter().map(|part| add(graph, "Unsqueeze", &[*part, axis], BTreeMap::new())).collect();
    add(graph, "Concat", &rows, [("axis".to_owned(), Attr::Int(0))].into())
}

fn constant(graph: &mut SourceGraph, name: String, tensor: Tensor) -> Value {
    let ty = SourceType { name: name.clone(), dtype: Some(tensor.dtype()), dims: None };
    Value { node: graph.add(name, SourceOp::Const(tensor), &[], vec![ty]), result: 0 }
}
