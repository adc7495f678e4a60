//! The invariants of a model. After verification nothing that consumes the model panics.
//!
//! 1. The graph is well formed (`q35_graph` invariants), and every node has exactly one result and all of its operands.
//! 2. Every result has the type that inference gives it; every parameter that an op names exists and fits it.
//! 3. There is exactly one output, `logits`, one row per wanted logit row, as wide as the vocabulary.
//! 4. Every cache layer is appended to exactly once, and every attention reads one.
//! 5. A weight in a float codec meets activations in f32: only integers multiply integers.
//! 6. Every parameter has a name that is not empty, is named by some op, can be stored in its codec and group, and its
//!    transforms fit its shape.
//! 7. A vector is one row in f32.
//! 8. The layers of the cache are numbered from 0 without gaps, as many as the facts say.
//!
//! A violation is a compiler bug, not a user error: it is a sentence with the invariant's number and the node's name.

use crate::model::{LOGITS, Model, Param, ParamRole, Transform, infer_node};
use crate::q35::Op;
use crate::ty::Ty;
use q35_format::PackedSpec;
use std::collections::{BTreeMap, BTreeSet};

/// Checks every invariant; the error has one violation per line.
pub fn verify(model: &Model) -> Result<(), String> {
    let mut found = Vec::new();
    if let Err(text) = model.graph.check() {
        return Err(format!("invariant 1: {text}"));
    }
    nodes(model, &mut found);
    output(model, &mut found);
    caches(model, &mut found);
    params(model, &mut found);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

fn nodes(model: &Model, found: &mut Vec<String>) {
    let graph = &model.graph;
    for id in graph.ids() {
        let node = graph.node(id);
        let mut violated =
            |number: u32, text: &str| found.push(format!("invariant {number}: '{}' ({}): {text}", node.name, node.op.name()));
        let [ty] = node.results.as_slice() else {
            violated(1, &format!("{} results", node.results.len()));
            continue;
        };
        if graph.operands(id).len() != node.op.decl().operands.len() || graph.operands(id).contains(&None) {
            violated(1, "operands are missing or too many");
            continue;
        }
        match infer_node(graph, id, &model.params) {
            Ok(inferred) if inferred == *ty => {}
            Ok(inferred) => violated(2, &format!("has type {ty}, inference gives {inferred}")),
            Err(text) => violated(2, &text),
        }
        if let Op::Linear(linear) = &node.op
            && let Some(weight) = model.params.get(&linear.weight)
            && !weight.codec.has_scales()
            && graph.operand(id, 0).is_some_and(|x| matches!(graph.ty(x), Ty::Quant { .. }))
        {
            violated(5, &format!("@{} is stored as {}, but 'x' is rounded to int8", linear.weight, weight.codec));
        }
    }
}

fn output(model: &Model, found: &mut Vec<String>) {
    match model.graph.outputs.as_slice() {
        [(name, value)] if name == LOGITS => {
            let node = model.graph.node(value.node);
            if node.results.get(value.result as usize) != Some(&model.logits_ty()) {
                found.push(format!("invariant 3: '{}' has no result of type {}", node.name, model.logits_ty()));
            }
        }
        outputs => {
            let names: Vec<&str> = outputs.iter().map(|(name, _)| name.as_str()).collect();
            found.push(format!("invariant 3: outputs are [{}]", names.join(", ")));
        }
    }
}

fn caches(model: &Model, found: &mut Vec<String>) {
    let mut appended: BTreeMap<u32, &str> = BTreeMap::new();
    for id in model.graph.ids() {
        let node = model.graph.node(id);
        if let Op::Append(append) = &node.op
            && let Some(other) = appended.insert(append.layer, &node.name)
        {
            found.push(format!("invariant 4: '{}' and '{other}' both append to layer {}", node.name, append.layer));
        }
    }
    let expected: BTreeSet<u32> = (0..appended.len() as u32).collect();
    if !appended.keys().eq(&expected) || model.facts.layers != appended.len() as u64 {
        let layers: Vec<u32> = appended.keys().copied().collect();
        found.push(format!("invariant 8: the cache has layers {layers:?}, the model {} layers", model.facts.layers));
    }
}

fn params(model: &Model, found: &mut Vec<String>) {
    let used: BTreeSet<_> = model.graph.ids().flat_map(|id| model.graph.node(id).op.params()).collect();
    for (name, param) in &model.params {
        let mut violated =
            |number: u32, text: String| found.push(format!("invariant {number}: @{name} ('{}'): {text}", param.origin));
        if name.as_str().is_empty() {
            violated(6, "its name is empty".to_owned());
        }
        if !used.contains(name) {
            violated(6, "no op names it".to_owned());
        }
        let packed = param.packed();
        if let Err(text) = PackedSpec::new(packed.rows as usize, packed.cols as usize, packed.codec, packed.group) {
            violated(6, text.to_string());
        }
        for transform in &param.transforms {
            if !fits(transform, param) {
                violated(6, format!("{transform:?} does not fit {}x{}", packed.rows, packed.cols));
            }
        }
        if param.role == ParamRole::Vector && (packed.rows != 1 || packed.codec != q35_format::Codec::F32) {
            violated(7, format!("a vector of {} rows in {}", packed.rows, packed.codec));
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
