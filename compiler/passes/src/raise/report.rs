//! What could not be understood, in the model's words.

use super::{control, is_consequence};
use crate::eval::{Fault, table};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_graph::source::{Dim, SourceGraph, SourceOp};
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A node whose op has no meaning here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Its name in the model.
    pub name: String,
    /// Its op.
    pub op: String,
    /// The operator set; the standard one is empty.
    pub domain: String,
    /// What the file records of its operands' shapes, if anything, such as `[batch, 8], [8]`.
    pub shapes: String,
}

/// The nodes that the graph's outputs depend on and whose ops have no meaning here.
pub fn unsupported(graph: &SourceGraph) -> Vec<Unsupported> {
    let settled = control::settle(graph, &super::live(graph), super::DEFAULT_CONTEXT);
    let unknown = Unknown::of(&settled.graph, &super::live(&settled.graph), settled.open);
    let mut all: Vec<Unsupported> = unknown.nodes.into_values().collect();
    all.sort_by(|a, b| (&a.domain, &a.op, &a.shapes).cmp(&(&b.domain, &b.op, &b.shapes)));
    all
}

/// Nodes whose ops have no meaning here.
pub(super) struct Unknown {
    nodes: BTreeMap<NodeId, Unsupported>,
    /// Control flow that could not be settled.
    open: BTreeMap<NodeId, Diagnostic>,
}

impl Unknown {
    pub(super) fn of(graph: &SourceGraph, live: &BTreeSet<NodeId>, mut open: BTreeMap<NodeId, Diagnostic>) -> Self {
        open.retain(|node, _| live.contains(node));
        let describe = |id: NodeId| match &graph.node(id).op {
            SourceOp::Call(call) if !table::is_known(&call.domain, &call.op) && !open.contains_key(&id) => Some(Unsupported {
                name: graph.node(id).name.clone(),
                op: call.op.clone(),
                domain: call.domain.clone(),
                shapes: shapes(graph, id),
            }),
            _ => None,
        };
        Self { nodes: live.iter().filter_map(|&id| Some((id, describe(id)?))).collect(), open }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.open.is_empty()
    }

    /// Whether control flow is left.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node) || self.open.contains_key(&node)
    }

    /// One diagnostic for each op with operands of the same shapes, with the nodes that use it, and one for each node of control flow.
    pub(super) fn diagnostics(&self) -> Diagnostics {
        let mut alike: BTreeMap<[&str; 3], Vec<&str>> = BTreeMap::new();
        for node in self.nodes.values() {
            alike.entry([&node.domain, &node.op, &node.shapes]).or_default().push(&node.name);
        }
        let mut found = Diagnostics::new();
        for ([domain, op, shapes], names) in alike {
            let full = if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") };
            let of = if shapes.is_empty() { String::new() } else { format!(" of {shapes}") };
            let times = if names.len() == 1 { "once".to_owned() } else { format!("{} times", names.len()) };
            let what = format!("op '{full}'{of} is not supported; the model uses it {times}");
            let quoted: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
            let place = format!("{} {}", if names.len() == 1 { "node" } else { "nodes" }, quoted.join(", "));
            found.push(Diagnostic { place: Some(place), ..Diagnostic::error(Code::UnknownOp, what) });
        }
        found.extend(self.open.values().cloned());
        found
    }
}

/// Everything at once: ops that have no meaning here, then one diagnostic per node that could not be understood though its op is known.
pub(super) fn faults(graph: &SourceGraph, unknown: &Unknown, faults: Vec<Fault>) -> Result<()> {
    let mut found = unknown.diagnostics();
    for fault in faults.iter().filter(|f| !is_consequence(f) && !unknown.contains(f.node)) {
        let node = graph.node(fault.node);
        let op = match &node.op {
            SourceOp::Call(call) if call.domain.is_empty() => call.op.clone(),
            SourceOp::Call(call) => format!("{}.{}", call.domain, call.op),
            SourceOp::Input => "input".to_owned(),
            SourceOp::Const(_) => "constant".to_owned(),
        };
        let shapes = shapes(graph, fault.node);
        let of = if shapes.is_empty() { String::new() } else { format!(" of {shapes}") };
        let what = format!("{op}{of} {}", fault.why);
        found.push(Diagnostic::error(Code::NotRecognised, what).at("node", &node.name));
    }
    found.into_result(())
}

/// The recorded shapes of a node's operands, empty if there are none.
fn shapes(graph: &SourceGraph, node: NodeId) -> String {
    let of = |value: Value| -> Option<String> {
        let dims = graph.node(value.node).results[value.result as usize].dims.as_ref()?;
        let dims: Vec<String> = dims
            .iter()
            .map(|d| match d {
                Dim::Fixed(n) => n.to_string(),
                Dim::Named(name) => name.clone(),
                Dim::Unknown => "?".to_owned(),
            })
            .collect();
        Some(format!("[{}]", dims.join(", ")))
    };
    let shapes: Vec<String> = graph.operands(node).into_iter().flatten().filter_map(of).collect();
    shapes.join(", ")
}
