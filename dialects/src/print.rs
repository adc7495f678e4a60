//! Short stable text of graphs and models, for `--emit=graph` and for tests.
//!
//! One line per node in topological order, values numbered in that order; parameters sorted by name. Nothing in it depends on
//! addresses, insertion order or the number of threads.

use crate::model::{Graph, Model, Param, Transform};
use crate::semantics::Packed;
use q35_graph::NodeId;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The text of a graph's nodes and outputs. A graph with a cycle has no text.
pub fn graph(graph: &Graph) -> String {
    let mut text = String::new();
    let order = graph.topological().unwrap_or_default();
    let numbers: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(number, id)| (*id, number)).collect();
    for id in &order {
        let node = graph.node(*id);
        let operands: Vec<String> = graph
            .operands(*id)
            .iter()
            .map(|operand| operand.map_or("none".to_owned(), |value| format!("%{}", numbers[&value.node])))
            .collect();
        let _ = write!(text, "%{} = {}", numbers[id], node.op.name());
        if !operands.is_empty() {
            let _ = write!(text, "({})", operands.join(", "));
        }
        let attrs: Vec<String> = node.op.attrs().iter().map(|(name, attr)| format!("{name} = {attr}")).collect();
        if !attrs.is_empty() {
            let _ = write!(text, " {{{}}}", attrs.join(", "));
        }
        let types: Vec<String> = node.results.iter().map(|ty| ty.to_string()).collect();
        let _ = writeln!(text, " : {} '{}'", types.join(", "), node.name);
    }
    for (name, value) in &graph.outputs {
        let _ = writeln!(text, "output {name} = %{}", numbers.get(&value.node).copied().unwrap_or_default());
    }
    text
}

/// The text of a model: facts, parameters, graph.
pub fn model(model: &Model) -> String {
    let f = &model.facts;
    let mut text =
        format!("model '{}': vocab {}, hidden {}, layers {}, context {}\n", f.name, f.vocab, f.hidden, f.layers, f.context);
    for (name, param) in &model.params {
        let _ = writeln!(text, "@{name} = {} '{}'", param_text(param), param.origin);
    }
    text + &graph(&model.graph)
}

fn param_text(param: &Param) -> String {
    let Packed { rows, cols, codec, group } = param.packed();
    let mut text = format!("{} {rows}x{cols} {codec}", param.role.name());
    if codec.has_scales() {
        let _ = write!(text, " per {group}");
    }
    for transform in &param.transforms {
        let _ = match transform {
            Transform::ScaleColumns(_) => write!(text, ", scale columns"),
            Transform::ScaleRows(_) => write!(text, ", scale rows"),
            Transform::Scale(factor) => write!(text, ", scale {factor:?}"),
            Transform::RotateInput { block, seed } => write!(text, ", rotate input {block} seed {seed}"),
            Transform::RotateOutput { block, seed } => write!(text, ", rotate output {block} seed {seed}"),
        };
    }
    text
}
