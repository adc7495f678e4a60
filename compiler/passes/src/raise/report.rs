//! What could not be understood, in the model's words.

use super::is_consequence;
use crate::eval::{Fault, table};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_graph::source::{Dim, SourceGraph, SourceOp};
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Names listed per kind of op.
const NAMED: usize = 8;

/// One diagnostic per op that has no meaning here, with the nodes that use it.
pub(super) fn unknown_ops(graph: &SourceGraph, live: &BTreeSet<NodeId>) -> Result<()> {
    let mut unknown: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for &id in live {
        if let SourceOp::Call(call) = &graph.node(id).op
            && !table::is_known(&call.domain, &call.op)
        {
            unknown.entry((call.domain.clone(), call.op.clone())).or_default().push(graph.node(id).name.clone());
        }
    }
    let mut found = Diagnostics::new();
    for ((domain, op), names) in unknown {
        let full = if domain.is_empty() { op } else { format!("{domain}.{op}") };
        let times = if names.len() == 1 { "once".to_owned() } else { format!("{} times", names.len()) };
        let what = format!("op '{full}' is not supported; the model uses it {times}");
        found.push(Diagnostic { place: Some(listed(&names)), ..Diagnostic::error(Code::UnknownOp, what) });
    }
    found.into_result(())
}

/// `node 'a'`, or `nodes 'a', 'b' and 3 more`.
fn listed(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().take(NAMED).map(|name| format!("'{name}'")).collect();
    let word = if names.len() == 1 { "node" } else { "nodes" };
    match names.len().saturating_sub(NAMED) {
        0 => format!("{word} {}", quoted.join(", ")),
        more => format!("{word} {} and {more} more", quoted.join(", ")),
    }
}

/// One diagnostic per node that could not be understood.
pub(super) fn faults(graph: &SourceGraph, faults: Vec<Fault>) -> Result<()> {
    let mut found = Diagnostics::new();
    for fault in faults.iter().filter(|f| !is_consequence(f)) {
        let node = graph.node(fault.node);
        let op = match &node.op {
            SourceOp::Call(call) if call.domain.is_empty() => call.op.clone(),
            SourceOp::Call(call) => format!("{}.{}", call.domain, call.op),
            SourceOp::Input => "input".to_owned(),
            SourceOp::Const(_) => "constant".to_owned(),
        };
        let what = format!("{op}{} {}", shapes(graph, fault.node), fault.why);
        found.push(Diagnostic::error(Code::NotRecognised, what).at("node", &node.name));
    }
    found.into_result(())
}

/// The recorded shapes of a node's operands.
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
    if shapes.is_empty() { String::new() } else { format!(" of {}", shapes.join(", ")) }
}
