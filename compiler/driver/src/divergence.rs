//! How far apart two evaluations of one graph are, op by op.
//!
//! The float model and the quantized model are the same graph with other parameters; with activations rounded to int8 or not, and with keys and values rounded to half precision or not. Both are
//! run by the interpreter on the same step, and wherever an op leaves activations, the distance between the two is taken relative to
//! the size of the float model's.

use q35_bundle::CacheDtype;
use q35_diag::Result;
use q35_dialects::Graph;
use q35_dialects::data::{Data, Matrix};
use q35_dialects::interp::{ParamValues, Session, StepInput};
use q35_dialects::q35::{Op, assign_cache_dtype};
use q35_graph::{NodeId, Value};
use std::collections::BTreeMap;

/// Activations after every op that computes from parameters or mixes tokens, by node.
pub type Trace = BTreeMap<NodeId, Matrix>;

/// The graph without the rounding of activations, and of keys and values: what the model would compute in f32 everywhere.
pub fn without_rounding(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    let rounding: Vec<NodeId> = graph.ids().filter(|&id| matches!(graph.node(id).op, Op::Quantize(_))).collect();
    for id in rounding {
        if let Some(unrounded) = graph.operand(id, 0) {
            graph.replace_uses(Value { node: id, result: 0 }, unrounded, &[]);
        }
    }
    graph.drop_dead(|_| false);
    assign_cache_dtype(&mut graph, CacheDtype::F32);
    graph
}

/// Runs one step and keeps what [`shown`] ops leave. Also gives the logits.
pub fn trace(graph: &Graph, params: &dyn ParamValues, input: &StepInput) -> Result<(Trace, Matrix)> {
    let mut trace = Trace::new();
    let logits = Session::new(graph, params).step_watched(input, &mut |id, data| {
        if let (true, Data::Act(matrix)) = (shown(&graph.node(id).op), data) {
            trace.insert(id, matrix.clone());
        }
    })?;
    Ok((trace, logits))
}

/// Whether an op has a line in a comparison.
pub fn shown(op: &Op) -> bool {
    matches!(op, Op::Linear(_) | Op::Attention(_) | Op::Embed(_))
}

/// `|y - x| / |x|` in the Euclidean norm over all elements; 0 for two zeros.
///
/// # Panics
/// If the sizes differ.
pub fn relative(x: &[f32], y: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    let square = |v: f64| v * v;
    let size: f64 = x.iter().map(|x| square(f64::from(*x))).sum();
    let distance: f64 = x.iter().zip(y).map(|(x, y)| square(f64::from(*x) - f64::from(*y))).sum();
    if distance == 0.0 { 0.0 } else { (distance / size).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_relative() {
        assert_eq!(relative(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(relative(&[3.0, 4.0], &[3.0, 9.0]), 1.0);
        assert_eq!(relative(&[0.0], &[0.0]), 0.0);
        assert_eq!(relative(&[0.0], &[1.0]), f64::INFINITY);
        assert!(relative(&[1.0], &[f32::NAN]).is_nan());
    }
}
