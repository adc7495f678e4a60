//! `DequantizeLinear` of a constant: a constant whose elements are what its integers stand for.

use super::{Eval, Res};
use q35_graph::source::SourceOp;
use q35_graph::{Dequantized, Elements, NodeId, Tensor};
use std::sync::Arc;

/// The elements, and the name of the integers in the model.
pub(super) fn constant(eval: &Eval, node: NodeId) -> Res<(String, Elements)> {
    let call = eval.call(node)?;
    let tensor = |at: usize| -> Res<Option<(String, Tensor)>> {
        let Some(value) = eval.graph.operand(node, at) else { return Ok(None) };
        let from = eval.graph.node(value.node);
        match &from.op {
            SourceOp::Const(tensor) => Ok(Some((from.results[0].name.clone(), tensor.clone()))),
            _ => eval.fault(node, "dequantizes what is no constant"),
        }
    };
    let (Some((name, data)), Some((_, scales))) = (tensor(0)?, tensor(1)?) else {
        return eval.fault(node, "lacks integers or scales");
    };
    let zero_points = tensor(2)?.map(|(_, tensor)| tensor);
    let axis = match data.dims().len() {
        0 => 0,
        rank => eval.axis(node, call.int("axis", 1).min(rank as i64 - 1), rank)?,
    };
    let Ok(block) = u64::try_from(call.int("block_size", 0)) else { return eval.fault(node, "has blocks of no known form") };
    match Dequantized::new(data, scales, zero_points, axis, block) {
        Some(elements) => Ok((name, Elements::Dequantized(Arc::new(elements)))),
        None => eval.fault(node, "has scales or zero points that do not fit its integers"),
    }
}
