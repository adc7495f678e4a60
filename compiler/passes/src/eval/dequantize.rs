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
