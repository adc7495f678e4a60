//! Compute ops: their shapes; their elements stand for themselves.

use super::{Eval, Res, shapes};
use crate::sym::Id;
use q35_graph::source::SourceOp;
use q35_graph::{DType, NodeId, Tensor, Value};

/// What may be a number of heads.
const HEADS: std::ops::Range<i64> = 1..1 << 20;

/// A product that contracts a dimension of 1 is an outer product, hence elementwise; any other is opaque.
pub(super) fn matmul(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (a, b) = (eval.operand(node, 0)?, eval.operand(node, 1)?);
    let (dims_a, dims_b) = (eval.shape(a)?, eval.shape(b)?);
    let one = eval.sym.int(1);
    if dims_a.len() < 2 || dims_b.len() < 2 || dims_a.last() != Some(&one) {
        return eval.opaque(Value { node, result: 0 }, index);
    }
    let (zero, rank) = (eval.sym.int(0), index.len());
    let (row, column) = (index[rank - 2], index[rank - 1]);
    let mut of = |value: Value, dims: &[Id], tail: [Id; 2]| -> Res<Id> {
        let at = [&index[..rank - 2], &tail].concat();
        let at = eval.unbroadcast(node, dims, &at)?;
        eval.element(value, &at)
    };
    let (x, y) = (of(a, &dims_a, [row, zero])?, of(b, &dims_b, [zero, column])?);
    Ok(eval.sym.mul(x, y))
}

pub(super) fn gemm_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (a, b) = (eval.dims(node, 0)?, eval.dims(node, 1)?);
    if a.len() != 2 || b.len() != 2 {
        return eval.fault(node, "multiplies what are no matrices");
    }
    let call = eval.call(node)?;
    let rows = if call.int("transA", 0) == 0 { a[0] } else { a[1] };
    let columns = if call.int("transB", 0) == 0 { b[1] } else { b[0] };
    Ok(vec![vec![rows, columns]])
}

pub(super) fn blocks_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut dims = eval.dims(node, 0)?;
    let width = eval.call(node)?.int("N", 0);
    match dims.last_mut() {
        Some(last) if width > 0 => *last = eval.sym.int(width),
        _ => return eval.fault(node, "has no output width"),
    }
    Ok(vec![dims])
}

pub(super) fn gather_blocks_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (data, mut shape) = (eval.dims(node, 0)?, eval.dims(node, 1)?);
    let call = eval.call(node)?;
    let table = eval.operand(node, 0)?.node;
    let narrow = |tensor: &Tensor| matches!(tensor.dtype(), DType::I4 | DType::U4);
    let each = match &eval.graph.node(table).op {
        SourceOp::Const(tensor) if narrow(tensor) => 1,
        _ => 8 / call.int("bits", 4).clamp(1, 8),
    };
    match data[..] {
        [_, columns] if call.int("gather_axis", 0) == 0 => shape.push(eval.sym.scaled(columns, each as f64)),
        _ => return eval.fault(node, "gathers from what is no matrix of rows"),
    }
    Ok(vec![shape])
}

/// Alpha times a product of operands that may be transposed.
pub(super) fn fused_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (mut a, mut b) = (eval.dims(node, 0)?, eval.dims(node, 1)?);
    let call = eval.call(node)?;
    if a.len() < 2 || b.len() < 2 || call.int("transBatchA", 0) != 0 || call.int("transBatchB", 0) != 0 {
        return eval.fault(node, "multiplies operands of unknown layout");
    }
    for (dims, attr) in [(&mut a, "transA"), (&mut b, "transB")] {
        if call.int(attr, 0) != 0 {
            let rank = dims.len();
            dims.swap(rank - 1, rank - 2);
        }
    }
    Ok(vec![shapes::product_of(eval, node, &a, &b)?])
}

pub(super) fn attention_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    attended_shape(eval, node, ["q_num_heads", "kv_num_heads"], [4, 5])
}

pub(super) fn multi_head_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    attended_shape(eval, node, ["num_heads"; 2], [6, 7])
}

/// Result 0, then keys and values of old and new tokens.
fn attended_shape(eval: &mut Eval, node: NodeId, heads: [&str; 2], past: [usize; 2]) -> Res<Vec<Vec<Id>>> {
    let (q, mut k, mut v) = (eval.dims(node, 0)?, eval.dims(node, 1)?, eval.dims(node, 2)?);
    let call = eval.call(node)?;
    let mut out = q.clone();
    match (q.len(), k.len(), v.len()) {
        (4, 4, 4) => out[3] = v[3],
        (3, 3, 3) => {
            let (heads, kv_heads) = (eval.sym.int(call.int(heads[0], 0)), eval.sym.int(call.int(heads[1], 0)));
            let zero = eval.sym.int(0);
            if heads == zero || kv_heads == zero {
                return eval.fault(node, "has no head counts");
            }
            let mut split = |dims: &[Id]| -> Res<Vec<Id>> {
                match eval.sym.exact_quotient(dims[2], kv_heads) {
                    Some(width) => Ok(vec![dims[0], kv_heads, dims[1], width]),
                    None => eval.fault(node, "has a width that its heads do not divide"),
                }
            };
            (k, v) = (split(&k)?, split(&v)?);
            out[2] = eval.sym.mul(heads, v[3]);
        }
        _ => return eval.fault(node, "has operands of unknown layout"),
    }
    for (dims, past) in [(&mut k, past[0]), (&mut v, past[1])] {
        if let Some(past) = eval.graph.operand(node, past) {
            let old = eval.shape(past)?;
            if old.len() != 4 {
                return eval.fault(node, "has a cache of unknown layout");
            }
            dims[2] = eval.sym.add(old[2], dims[2]);
        }
    }
    Ok(vec![out, k, v])
}

/// Result 0 `[B, S, heads * width]`, then keys and values of old and new tokens.
pub(super) fn group_query_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut out = eval.dims(node, 0)?;
    let call = eval.call(node)?;
    let (heads, kv_heads) = (call.int("num_heads", 0), call.int("kv_num_heads", 0));
    if out.len() != 3 || !HEADS.contains(&heads) || !HEADS.contains(&kv_heads) {
        return eval.fault(node, "has operands of unknown layout");
    }
    let packed = eval.graph.operand(node, 1).is_none();
    let parts = eval.sym.int(if packed { heads + 2 * kv_heads } else { heads });
    let Some(width) = eval.sym.exact_quotient(out[2], parts) else {
        return eval.fault(node, "has a width that its heads do not divide");
    };
    let tokens = match eval.graph.operand(node, 3) {
        Some(past) => {
            let old = eval.shape(past)?;
            if old.len() != 4 {
                return eval.fault(node, "has a cache of unknown layout");
            }
            eval.sym.add(old[2], out[1])
        }
        None => out[1],
    };
    let present = vec![out[0], eval.sym.int(kv_heads), tokens, width];
    out[2] = eval.sym.scaled(width, heads as f64);
    Ok(vec![out, present.clone(), present])
}
