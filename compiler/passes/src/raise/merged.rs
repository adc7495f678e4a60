//! Graphs that are two: one for the first tokens of a text and one for those that follow, behind an `If` whose condition is an input of its own
//! (`use_cache_branch` of merged decoders). What is compiled starts with an empty cache, so both have to be one model, and are compared.
//!
//! What enters: a source graph. What leaves: the model of the way that reads a cache, with the condition as an input that nobody reads, or the
//! reason why there is none.

use super::{Options, control, live, raise_one};
use q35_bundle::{Port, Role};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::{Model, Param};
use q35_graph::source::{Dim, SourceGraph, SourceOp};
use q35_graph::{DType, NodeId, Storage, Tensor, Value, WeightView};
use std::collections::BTreeSet;

/// Rows of a parameter that are compared at a time.
const ROWS_AT_ONCE: u64 = 256;

/// The one truth value among the inputs that conditions of `If` nodes are made of, if nothing else is.
pub(super) fn switch(graph: &SourceGraph) -> Option<Value> {
    let live = live(graph);
    let mut found = BTreeSet::new();
    for &node in live.iter().filter(|id| control::is_control(&graph.node(**id).op)) {
        let mut work: Vec<NodeId> = graph.operand(node, 0).map(|value| value.node).into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(node) = work.pop().filter(|_| seen.len() < 16) {
            if seen.insert(node) {
                if matches!(graph.node(node).op, SourceOp::Input) {
                    found.insert(node);
                }
                work.extend(graph.operands(node).into_iter().flatten().map(|value| value.node));
            }
        }
    }
    let mut found = found.into_iter().filter(|id| graph.node(*id).results[0].dtype == Some(DType::Bool));
    found.next().filter(|_| found.next().is_none()).map(|node| Value { node, result: 0 })
}

/// Raises a graph both ways.
pub(super) fn raise_both(graph: &SourceGraph, switch: Value, options: &Options) -> Result<(Model, Vec<Diagnostic>)> {
    let way = |truth: u8| raise_one(&with(graph, switch, truth)?, options);
    let ((yes, yes_warnings), (no, no_warnings)) = (way(1)?, way(0)?);
    let caches = |model: &Model| model.interface.inputs.iter().filter(|port| matches!(port.role, Role::PastKey(_))).count();
    let name = &graph.node(switch.node).results[0].name;
    if !are_one(&yes, &no) {
        let what = format!("the graph is one model where '{name}' holds and another where it does not");
        return Err(Diagnostic::error(Code::UnsupportedForm, what).help("export one of them alone").into());
    }
    let (mut model, warnings) = if caches(&yes) >= caches(&no) { (yes, yes_warnings) } else { (no, no_warnings) };
    let inputs = graph.ids().filter(|id| matches!(graph.node(*id).op, SourceOp::Input));
    let at = inputs.take_while(|id| *id != switch.node).count().min(model.interface.inputs.len());
    let port = Port { name: name.clone(), role: Role::Passive(None), dtype: DType::Bool.name().to_owned() };
    model.interface.inputs.insert(at, port);
    Ok((model, warnings))
}

/// The graph in which the switch is a constant.
fn with(graph: &SourceGraph, switch: Value, truth: u8) -> Result<SourceGraph> {
    let mut graph = graph.clone();
    let ty = graph.ty(switch).clone();
    let dims: Vec<u64> = ty.dims.iter().flatten().map(|dim| if let Dim::Fixed(n) = dim { *n } else { 1 }).collect();
    let name = ty.name.clone();
    if dims.iter().any(|n| *n != 1) {
        let what = format!("'{name}' is a condition of more than one element");
        return Err(Diagnostic::error(Code::UnsupportedForm, what).into());
    }
    let Ok(tensor) = Tensor::new(DType::Bool, dims, Storage::from(vec![truth]), 0) else {
        return Err(Diagnostic::error(Code::UnsupportedForm, format!("'{name}' is no condition")).into());
    };
    let node = graph.add(name, SourceOp::Const(tensor), &[], vec![ty]);
    graph.replace_uses(switch, Value { node, result: 0 }, &[]);
    graph.drop_dead(|node| matches!(node.op, SourceOp::Input) && node.results[0].dtype != Some(DType::Bool));
    Ok(graph)
}

/// Whether two models are the same ops on the same numbers.
fn are_one(a: &Model, b: &Model) -> bool {
    let ops = |model: &Model| -> Vec<String> {
        let text = q35_dialects::print::graph(&model.graph);
        text.lines().map(|line| line.split(" '").next().unwrap_or_default().to_owned()).collect()
    };
    a.interface.positions == b.interface.positions
        && ops(a) == ops(b)
        && a.params.keys().eq(b.params.keys())
        && a.params.values().zip(b.params.values()).all(|(a, b)| same_numbers(a, b))
}

fn same_numbers(a: &Param, b: &Param) -> bool {
    let (x, y) = (&a.source, &b.source);
    let (rows, cols) = (x.rows(), x.cols());
    if a.role != b.role || (rows, cols) != (y.rows(), y.cols()) {
        return false;
    }
    if x.identity() == y.identity() && x.stored() == y.stored() {
        return true;
    }
    let read = |view: &WeightView, from: u64, count: u64| {
        let mut numbers = vec![0.0f32; (count * cols) as usize];
        view.read_rows(from..from + count, &mut numbers);
        view.release();
        numbers
    };
    (0..rows).step_by(ROWS_AT_ONCE as usize).all(|from| {
        let count = ROWS_AT_ONCE.min(rows - from);
        read(x, from, count) == read(y, from, count)
    })
}
