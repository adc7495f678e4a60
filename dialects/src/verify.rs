//! The invariants of programs and models. After verification nothing that consumes them panics.
//!
//! Of a program, and of the program in a model:
//!
//! 1. The graph is well formed (`q35_graph` invariants), and every node has exactly one result and all of its operands.
//! 2. Every result has the type that inference gives it; every parameter that an op names exists and fits it.
//! 3. There is exactly one output, `logits`: activations with one row per wanted logit row.
//! 4. The layers of the cache are numbered from 0 without gaps, and each is appended to exactly once.
//! 5. A weight in a float codec meets activations in f32: only integers multiply integers.
//! 6. Every parameter has a name that is not empty, is named by some op, and can be stored in its codec and group.
//!
//! Of a model:
//!
//! 7. The logits are as wide as the vocabulary, and the cache has as many layers as the facts say.
//! 8. The transforms of a parameter fit its shape, and a vector is one row in f32.
//!
//! A violation in a model is a compiler bug, not a user error: it is a sentence with the invariant's number and the node's name.

use crate::model::{Graph, LOGITS, Model, Param, ParamRole, Program, Transform, infer_node};
use crate::q35::Op;
use crate::ty::{Rows, Ty};
use q35_format::{Codec, PackedSpec};
use q35_graph::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Checks every invariant of a model; the error has one violation per line.
pub fn verify(model: &Model) -> Result<(), String> {
    let mut found = program_violations(&model.program())?;
    facts(model, &mut found);
    params(model, &mut found);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// Checks the invariants of a program; the error has one violation per line.
pub fn program(program: &Program) -> Result<(), String> {
    let found = program_violations(program)?;
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// The violations; an error where the graph cannot even be walked.
fn program_violations(program: &Program) -> Result<Vec<String>, String> {
    program.graph.check().map_err(|text| format!("invariant 1: {text}"))?;
    let mut found = Vec::new();
    for id in program.graph.ids() {
        let node = program.graph.node(id);
        if let Err((number, text)) = node_violation(program, id) {
            found.push(format!("invariant {number}: '{}' ({}): {text}", node.name, node.op.name()));
        }
    }
    output(&program.graph, &mut found);
    caches(&program.graph, &mut found);
    storage(program, &mut found);
    Ok(found)
}

/// Number and text of the first invariant that a node breaks.
fn node_violation(program: &Program, id: NodeId) -> Result<(), (u32, String)> {
    let graph = &program.graph;
    let node = graph.node(id);
    let [ty] = node.results.as_slice() else {
        return Err((1, format!("{} results", node.results.len())));
    };
    let operands = graph.operands(id);
    if operands.len() != node.op.decl().operands.len() || operands.contains(&None) {
        return Err((1, "operands are missing or too many".to_owned()));
    }
    let inferred = infer_node(graph, id, &program.params).map_err(|text| (2, text))?;
    if inferred != *ty {
        return Err((2, format!("has type {ty}, inference gives {inferred}")));
    }
    if let Some(name) = node.op.layer_weight()
        && let Some(weight) = program.params.get(name)
        && !weight.codec.has_scales()
        && graph.operand(id, 0).is_some_and(|x| matches!(graph.ty(x), Ty::Quant { .. }))
    {
        return Err((5, format!("@{name} is stored as {}, but 'x' is rounded to int8", weight.codec)));
    }
    Ok(())
}

fn output(graph: &Graph, found: &mut Vec<String>) {
    match graph.outputs.as_slice() {
        [(name, value)] if name == LOGITS => {
            let node = graph.node(value.node);
            if !matches!(node.results.get(value.result as usize), Some(Ty::Act { rows: Rows::Logits, .. })) {
                found.push(format!("invariant 3: the result of '{}' has not one row per logit row", node.name));
            }
        }
        outputs => {
            let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
            found.push(format!("invariant 3: outputs are [{}]", names.join(", ")));
        }
    }
}

/// Layers that are appended to, with the names of the nodes that do.
fn appended(graph: &Graph) -> BTreeMap<u32, Vec<&str>> {
    let mut layers: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for node in graph.ids().map(|id| graph.node(id)) {
        if let Op::Append(append) = &node.op {
            layers.entry(append.layer).or_default().push(&node.name);
        }
    }
    layers
}

fn caches(graph: &Graph, found: &mut Vec<String>) {
    let layers = appended(graph);
    for (layer, nodes) in layers.iter().filter(|(_, nodes)| nodes.len() > 1) {
        found.push(format!("invariant 4: '{}' all append to layer {layer}", nodes.join("', '")));
    }
    if !layers.keys().copied().eq(0..layers.len() as u32) {
        found.push(format!("invariant 4: the cache has layers {:?}", layers.keys().collect::<Vec<_>>()));
    }
}

fn storage(program: &Program, found: &mut Vec<String>) {
    let used: BTreeSet<_> = program.graph.ids().flat_map(|id| program.graph.node(id).op.params()).collect();
    for (name, packed) in &program.params {
        if name.as_str().is_empty() {
            found.push("invariant 6: a parameter's name is empty".to_owned());
        }
        if !used.contains(name) {
            found.push(format!("invariant 6: @{name}: no op names it"));
        }
        if let Err(text) = PackedSpec::new(packed.rows as usize, packed.cols as usize, packed.codec, packed.group) {
            found.push(format!("invariant 6: @{name}: {text}"));
        }
    }
}

fn facts(model: &Model, found: &mut Vec<String>) {
    let layers = appended(&model.graph).len() as u64;
    if model.facts.layers != layers {
        found.push(format!("invariant 7: the cache has {layers} layers, the model {}", model.facts.layers));
    }
    let width = model.logits().and_then(|value| model.graph.node(value.node).results.first()?.matrix());
    if let Some((_, width)) = width
        && width != model.facts.vocab
    {
        found.push(format!("invariant 7: the logits have {width} columns, the vocabulary {}", model.facts.vocab));
    }
}

fn params(model: &Model, found: &mut Vec<String>) {
    for (name, param) in &model.params {
        let mut violated = |text: String| found.push(format!("invariant 8: @{name} ('{}'): {text}", param.origin));
        let (rows, cols) = (param.source.rows(), param.source.cols());
        for transform in param.transforms.iter().filter(|transform| !fits(transform, param)) {
            violated(format!("{transform:?} does not fit {rows}x{cols}"));
        }
        if param.role == ParamRole::Vector && (rows != 1 || param.codec != Codec::F32) {
            violated(format!("a vector of {rows} rows in {}", param.codec));
        }
    }
}

fn fits(transform: &Transform, param: &Param) -> bool {
    let (rows, cols) = (param.source.rows(), param.source.cols());
    let rotates = |block: u64, len: u64| block.is_power_of_two() && len.is_multiple_of(block);
    match transform {
        Transform::ScaleColumns(by) => (by.rows(), by.cols()) == (1, cols),
        Transform::ScaleRows(by) => (by.rows(), by.cols()) == (1, rows),
        Transform::Scale(factor) => factor.is_finite(),
        Transform::RotateInput { block, .. } => rotates(*block, cols),
        Transform::RotateOutput { block, .. } => rotates(*block, rows),
    }
}
