//! Ops that read an operand at indices which are another operand's elements.

use super::{Eval, Res};
use crate::sym::Id;
use q35_graph::NodeId;

/// An index counted from the front.
fn from_front(eval: &mut Eval, index: Id, dim: Id) -> Id {
    let behind = eval.sym.linear(&[(index, -1.0)], -1.0);
    if eval.sym.proves_non_negative(behind) { eval.sym.add(index, dim) } else { index }
}

pub(super) fn gather_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (data, indices) = (eval.dims(node, 0)?, eval.dims(node, 1)?);
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), data.len())?;
    Ok(vec![[&data[..axis], &indices[..], &data[axis + 1..]].concat()])
}

pub(super) fn gather(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (data, indices) = (eval.operand(node, 0)?, eval.operand(node, 1)?);
    let (dims, rank) = (eval.shape(data)?, eval.shape(indices)?.len());
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), dims.len())?;
    let at = eval.element(indices, &index[axis..axis + rank])?;
    let at = from_front(eval, at, dims[axis]);
    let at = [&index[..axis], &[at], &index[axis + rank..]].concat();
    eval.element(data, &at)
}

pub(super) fn gather_elements_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (data, indices) = (eval.dims(node, 0)?, eval.dims(node, 1)?);
    if data.len() != indices.len() {
        return eval.fault(node, "picks elements of a tensor of another rank");
    }
    Ok(vec![indices])
}

/// The data at the same index, except along the axis.
pub(super) fn gather_elements(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (data, indices) = (eval.operand(node, 0)?, eval.operand(node, 1)?);
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), index.len())?;
    let (dims, at) = (eval.shape(data)?, eval.element(indices, index)?);
    let at = [&index[..axis], &[from_front(eval, at, dims[axis])], &index[axis + 1..]].concat();
    eval.element(data, &at)
}

/// Leading index dimensions, and the length of one index tuple.
fn tuples(eval: &mut Eval, node: NodeId) -> Res<(Vec<Id>, usize)> {
    let mut indices = eval.dims(node, 1)?;
    let rank = eval.dims(node, 0)?.len();
    if eval.call(node)?.int("batch_dims", 0) != 0 {
        return eval.fault(node, "has batch dimensions");
    }
    match indices.pop().and_then(|n| eval.sym.as_int(n)) {
        Some(n) if (1..=rank as i64).contains(&n) => Ok((indices, n as usize)),
        _ => eval.fault(node, "has index tuples of unknown length"),
    }
}

pub(super) fn gather_nd_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (leading, length) = tuples(eval, node)?;
    let data = eval.dims(node, 0)?;
    Ok(vec![[&leading[..], &data[length..]].concat()])
}

pub(super) fn gather_nd(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (leading, length) = tuples(eval, node)?;
    let (data, indices) = (eval.operand(node, 0)?, eval.operand(node, 1)?);
    let dims = eval.shape(data)?;
    let mut at = Vec::with_capacity(dims.len());
    for (i, dim) in dims[..length].iter().enumerate() {
        let tuple = [&index[..leading.len()], &[eval.sym.int(i as i64)]].concat();
        let element = eval.element(indices, &tuple)?;
        at.push(from_front(eval, element, *dim));
    }
    at.extend(&index[leading.len()..]);
    eval.element(data, &at)
}
