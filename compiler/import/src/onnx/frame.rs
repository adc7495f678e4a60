//! One graph under construction: nodes in file order with numbered values between them, before anything is known about the order of evaluation.
//!
//! Files need not list nodes in topological order, and an inlined function's results have two names, so values are first numbered and only linked
//! when all nodes are there.

use super::graph::MAX_DEPTH;
use crate::report::Report;
use q35_diag::{Code, Diagnostic};
use q35_graph::source::{SourceGraph, SourceOp, SourceType};
use q35_graph::{NodeId, Value};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Number of a value within its frame.
pub(super) type ValueIdx = usize;

/// Where a value comes from.
#[derive(Clone, Copy)]
enum Origin {
    /// Nothing has made it yet.
    Open,
    /// Result of a node.
    Result(usize, u16),
    /// Another value under a second name.
    Alias(ValueIdx),
}

/// The node that makes a value, and which of its results it is.
type Maker = Option<(usize, u16)>;

struct Pending {
    name: String,
    op: SourceOp,
    operands: Vec<Option<ValueIdx>>,
    results: Vec<Option<ValueIdx>>,
}

/// Nodes and values of a graph.
#[derive(Default)]
pub(super) struct Frame {
    values: Vec<(SourceType, Origin)>,
    nodes: Vec<Pending>,
}

impl Frame {
    /// A new value that nothing makes yet.
    pub(super) fn value(&mut self, ty: SourceType) -> ValueIdx {
        self.values.push((ty, Origin::Open));
        self.values.len() - 1
    }

    /// Adds a node that makes `results` from `operands`.
    pub(super) fn node(&mut self, name: String, op: SourceOp, operands: Vec<Option<ValueIdx>>, results: Vec<Option<ValueIdx>>) {
        for (at, value) in results.iter().enumerate() {
            if let Some(value) = value {
                self.values[*value].1 = Origin::Result(self.nodes.len(), at as u16);
            }
        }
        self.nodes.push(Pending { name, op, operands, results });
    }

    /// Adds a node without operands and with one result; returns the result.
    pub(super) fn leaf(&mut self, op: SourceOp, ty: SourceType) -> ValueIdx {
        let name = ty.name.clone();
        let value = self.value(ty);
        self.node(name, op, Vec::new(), vec![Some(value)]);
        value
    }

    /// Makes `outer` another name of `inner`. A value that was made since the frame had `since` values takes the type of `outer` with the name.
    pub(super) fn alias(&mut self, outer: ValueIdx, inner: ValueIdx, since: usize) {
        let mut renamed = Some(inner).filter(|&v| v >= since);
        for _ in 0..=MAX_DEPTH {
            let Some(value) = renamed else { break };
            self.values[value].0 = self.values[outer].0.clone();
            renamed = match self.values[value].1 {
                Origin::Alias(deeper) if deeper >= since => Some(deeper),
                _ => None,
            };
        }
        self.values[outer].1 = Origin::Alias(inner);
    }

    /// Changes the recorded type of a value.
    pub(super) fn set_type(&mut self, value: ValueIdx, ty: SourceType) {
        self.values[value].0 = ty;
    }

    /// Number of values so far.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// The recorded type of a value.
    pub(super) fn ty(&self, value: ValueIdx) -> &SourceType {
        &self.values[value].0
    }

    /// The node that makes each value, and which of its results it is; none for a value that nothing makes. A value that is only another name of
    /// itself is reported.
    fn makers(&self, report: &mut Report) -> Vec<Maker> {
        let mut makers: Vec<Option<Maker>> = vec![None; self.values.len()];
        let mut visited = vec![false; self.values.len()];
        let mut path = Vec::new();
        for start in 0..self.values.len() {
            let mut at = start;
            let maker = loop {
                match (makers[at], self.values[at].1) {
                    (Some(known), _) => break known,
                    (None, Origin::Open) => break None,
                    (None, Origin::Result(node, result)) => break Some((node, result)),
                    (None, Origin::Alias(_)) if visited[at] => {
                        let what = "the value is only another name of itself";
                        report.push(Diagnostic::error(Code::BadGraph, what).at("value", &self.values[at].0.name));
                        break None;
                    }
                    (None, Origin::Alias(other)) => {
                        visited[at] = true;
                        path.push(at);
                        at = other;
                    }
                }
            };
            path.drain(..).chain([at]).for_each(|value| makers[value] = Some(maker));
        }
        makers.into_iter().map(Option::flatten).collect()
    }

    /// Links everything into a graph: nodes in topological order, ties as in the file. Nodes on a cycle are reported and left out.
    pub(super) fn link(mut self, outputs: &[(String, ValueIdx)], report: &mut Report) -> SourceGraph {
        let makers = self.makers(report);
        let sources: Vec<Vec<Maker>> = self.nodes.iter().map(|n| n.operands.iter().map(|o| makers[(*o)?]).collect()).collect();
        let mut waiting: Vec<usize> = sources.iter().map(|s| s.iter().flatten().count()).collect();
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (reader, source) in sources.iter().enumerate() {
            source.iter().flatten().for_each(|(node, _)| readers[*node].push(reader));
        }
        let mut ready: BinaryHeap<Reverse<usize>> = (0..self.nodes.len()).filter(|&n| waiting[n] == 0).map(Reverse).collect();
        let mut graph = SourceGraph::new();
        let mut ids: Vec<Option<NodeId>> = vec![None; self.nodes.len()];
        let linked = |ids: &[Option<NodeId>], at: Maker| at.and_then(|(node, result)| Some(Value { node: ids[node]?, result }));
        while let Some(Reverse(at)) = ready.pop() {
            let operands: Vec<Option<Value>> = sources[at].iter().map(|&source| linked(&ids, source)).collect();
            let node = &mut self.nodes[at];
            let types = node.results.iter().map(|r| r.map_or_else(SourceType::default, |r| self.values[r].0.clone())).collect();
            let op = std::mem::replace(&mut node.op, SourceOp::Input);
            ids[at] = Some(graph.add(std::mem::take(&mut node.name), op, &operands, types));
            for &reader in &readers[at] {
                waiting[reader] -= 1;
                if waiting[reader] == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
        if graph.len() < self.nodes.len() {
            report.push(self.cycle(&sources, &ids));
        }
        for (name, value) in outputs {
            if let Some(value) = linked(&ids, makers[*value]) {
                graph.outputs.push((name.clone(), value));
            }
        }
        graph
    }

    /// Names the nodes of one cycle, in the direction of the data.
    fn cycle(&self, sources: &[Vec<Maker>], ids: &[Option<NodeId>]) -> Diagnostic {
        const NAMED: usize = 8;
        let unfinished = |at: usize| sources[at].iter().flatten().map(|s| s.0).find(|&s| ids[s].is_none());
        let mut walk: Vec<usize> = ids.iter().position(Option::is_none).into_iter().collect();
        let mut seen = vec![false; self.nodes.len()];
        walk.iter().for_each(|&at| seen[at] = true);
        let start = loop {
            match walk.last().and_then(|&at| unfinished(at)) {
                Some(next) if seen[next] => break walk.iter().position(|&n| n == next).unwrap_or(0),
                Some(next) => {
                    seen[next] = true;
                    walk.push(next);
                }
                None => break 0,
            }
        };
        let mut names: Vec<String> = walk[start..].iter().rev().map(|&n| format!("'{}'", self.nodes[n].name)).collect();
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        if more > 0 {
            names.push(format!("and {more} more"));
        }
        Diagnostic::error(Code::BadGraph, format!("nodes depend on themselves: {}", names.join(", ")))
    }
}
