//! `DequantizeLinear`: of a constant, a constant whose elements are what its integers stand for; of what was quantized just before, in the same way,
//! whatever that was. Such a pair says how somebody would round activations; a compiled model rounds them as its own number format says.

use super::{Eval, Res};
use crate::sym::Id;
use q35_graph::source::SourceOp;
use q35_graph::{Dequantized, Elements, NodeId, Tensor, Value};
use std::sync::Arc;

/// The element of the result.
pub(super) fn element(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    let integers = eval.operand(node, 0)?.node;
    match &eval.graph.node(integers).op {
        SourceOp::Call(call) if call.op == "QuantizeLinear" => {
            if !(1..3).all(|at| same(eval, [node, integers], at)) {
                return eval.fault(node, "does not undo what its operand was quantized by");
            }
            let before = eval.operand(integers, 0)?;
            eval.element(before, index)
        }
        _ => eval.opaque(Value { node, result }, index),
    }
}

/// Integers like the operand, their scale, and what stands for 0.
pub(super) fn dynamic_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    Ok(vec![eval.dims(node, 0)?, Vec::new(), Vec::new()])
}

/// Whether an operand of two nodes is the same, or constants of equal numbers.
fn same(eval: &Eval, nodes: [NodeId; 2], at: usize) -> bool {
    let [a, b] = nodes.map(|node| eval.graph.operand(node, at));
    let constant = |value: Option<Value>| match &eval.graph.node(value?.node).op {
        SourceOp::Const(tensor) => Some(tensor),
        _ => None,
    };
    a == b
        || constant(a).zip(constant(b)).is_some_and(|(a, b)| {
            a.dims() == b.dims() && a.dtype() == b.dtype() && (0..a.count()).all(|i| a.number(i) == b.number(i))
        })
}

/// The elements of a `DequantizeLinear`, and the name of its integers in the model.
pub(super) fn constant(eval: &Eval, node: NodeId) -> Res<(String, Elements)> {
    let call = eval.call(node)?;
    let [data, scales, zero_points] = std::array::from_fn(|at| eval.graph.operand(node, at));
    integers(eval, node, [data, scales, zero_points], call.int("axis", 1), call.int("block_size", 0))
}

/// What integers, with scales and zero points along an axis, stand for to `node`, and the name of the integers in the model. The last axis will do
/// for one that is beyond it.
pub(crate) fn integers(
    eval: &Eval,
    node: NodeId,
    operands: [Option<Value>; 3],
    axis: i64,
    block: i64,
) -> Res<(String, Elements)> {
    let tensor = |value: Option<Value>| -> Res<Option<(String, Tensor)>> {
        let Some(value) = value else { return Ok(None) };
        let from = eval.graph.node(value.node);
        match &from.op {
            SourceOp::Const(tensor) => Ok(Some((from.results[0].name.clone(), tensor.clone()))),
            _ => eval.fault(node, "dequantizes what is no constant"),
        }
    };
    let [data, scales, zero_points] = operands;
    let (Some((name, data)), Some((_, scales))) = (tensor(data)?, tensor(scales)?) else {
        return eval.fault(node, "lacks integers or scales");
    };
    let zero_points = tensor(zero_points)?.map(|(_, tensor)| tensor);
    let axis = match data.dims().len() {
        0 => 0,
        rank => eval.axis(node, axis.min(rank as i64 - 1), rank)?,
    };
    let Ok(block) = u64::try_from(block) else { return eval.fault(node, "has blocks of no known form") };
    match Dequantized::new(data, scales, zero_points, axis, block) {
        Some(elements) => Ok((name, Elements::Dequantized(Arc::new(elements)))),
        None => eval.fault(node, "has scales or zero points that do not fit its integers"),
    }
}
