//! Ops that make tensors from shapes and numbers.

use super::{Eval, Res};
use crate::sym::{Id, Kind};
use q35_graph::source::Attr;
use q35_graph::{NodeId, Value};

/// The slice of dimensions that `Shape` reports.
fn reported(eval: &mut Eval, node: NodeId) -> Res<Vec<Id>> {
    let dims = eval.dims(node, 0)?;
    let call = eval.call(node)?;
    let rank = dims.len() as i64;
    let clamp = |x: i64| (if x < 0 { x.saturating_add(rank) } else { x }).clamp(0, rank) as usize;
    let (start, end) = (clamp(call.int("start", 0)), clamp(call.int("end", rank)));
    Ok(dims[start..end.max(start)].to_vec())
}

pub(super) fn shape_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let count = reported(eval, node)?.len();
    Ok(vec![vec![eval.sym.int(count as i64)]])
}

pub(super) fn shape(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let dims = reported(eval, node)?;
    match eval.sym.as_int(index[0]).and_then(|i| dims.get(i as usize).copied()) {
        Some(dim) => Ok(dim),
        None => eval.fault(node, "is read at an index that is not fixed"),
    }
}

pub(super) fn size_shape(_: &mut Eval, _: NodeId) -> Res<Vec<Vec<Id>>> {
    Ok(vec![Vec::new()])
}

pub(super) fn size(eval: &mut Eval, node: NodeId, _: u16, _: &[Id]) -> Res<Id> {
    let dims = eval.dims(node, 0)?;
    Ok(eval.volume(&dims))
}

fn scalar(eval: &mut Eval, node: NodeId, at: usize) -> Res<Id> {
    let value = eval.operand(node, at)?;
    let zeros = vec![eval.sym.int(0); eval.shape(value)?.len()];
    eval.element(value, &zeros)
}

pub(super) fn range_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (start, limit, step) = (scalar(eval, node, 0)?, scalar(eval, node, 1)?, scalar(eval, node, 2)?);
    match eval.sym.as_number(step) {
        Some(by) if by > 0.0 && by.fract() == 0.0 => {
            let span = eval.sym.linear(&[(limit, 1.0), (start, -1.0)], by - 1.0);
            let count = eval.sym.div_mod(span, step).0;
            let zero = eval.sym.int(0);
            Ok(vec![vec![eval.sym.max(count, zero)]])
        }
        _ => eval.fault(node, "counts in steps that are no positive constant"),
    }
}

pub(super) fn range(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (start, step) = (scalar(eval, node, 0)?, scalar(eval, node, 2)?);
    let offset = eval.sym.mul(index[0], step);
    Ok(eval.sym.add(start, offset))
}

pub(super) fn fill_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let target = eval.operand(node, 0)?;
    Ok(vec![eval.list(target)?])
}

pub(super) fn fill_kind(eval: &mut Eval, node: NodeId) -> Res<Kind> {
    Ok(match eval.call(node)?.attrs.get("value") {
        Some(Attr::Tensor(tensor)) => Kind::of(tensor.dtype()),
        _ => Kind::Real,
    })
}

pub(super) fn fill(eval: &mut Eval, node: NodeId, _: u16, _: &[Id]) -> Res<Id> {
    Ok(match eval.call(node)?.attrs.get("value") {
        Some(Attr::Tensor(tensor)) if tensor.count() == 1 => eval.sym.number(tensor.number(0)),
        _ => eval.sym.int(0),
    })
}

/// Where the dimension of classes goes.
fn class_axis(eval: &mut Eval, node: NodeId) -> Res<usize> {
    let rank = eval.dims(node, 0)?.len() + 1;
    eval.axis(node, eval.call(node)?.int("axis", -1), rank)
}

pub(super) fn one_hot_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (axis, mut dims) = (class_axis(eval, node)?, eval.dims(node, 0)?);
    dims.insert(axis, depth(eval, node)?);
    Ok(vec![dims])
}

/// The number of classes: a scalar, or a list of one.
fn depth(eval: &mut Eval, node: NodeId) -> Res<Id> {
    let value = eval.operand(node, 1)?;
    match eval.list(value)?[..] {
        [depth] => Ok(depth),
        _ => eval.fault(node, "has an unknown number of classes"),
    }
}

/// The second of two values where the class is the index, counted from the front or from behind, else the first.
pub(super) fn one_hot(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (axis, depth) = (class_axis(eval, node)?, depth(eval, node)?);
    let (mut at, class) = (index.to_vec(), index[axis]);
    at.remove(axis);
    let (indices, values) = (eval.operand(node, 0)?, eval.operand(node, 2)?);
    let named = eval.element(indices, &at)?;
    let behind = eval.sym.add(named, depth);
    let (front, behind) = (eval.sym.equal(class, named), eval.sym.equal(class, behind));
    let hit = eval.sym.or(front, behind);
    let (off, on) = (eval.sym.int(0), eval.sym.int(1));
    let (off, on) = (eval.element(values, &[off])?, eval.element(values, &[on])?);
    Ok(eval.sym.select(hit, on, off))
}

/// Keeps one triangle of the last two dimensions.
pub(super) fn trilu(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let value = eval.operand(node, 0)?;
    let shift = match eval.graph.operand(node, 1) {
        Some(_) => scalar(eval, node, 1)?,
        None => eval.sym.int(0),
    };
    let [.., row, column] = *index else { return eval.fault(node, "needs a matrix") };
    let diagonal = eval.sym.add(row, shift);
    let kept = match eval.call(node)?.int("upper", 1) {
        0 => eval.sym.less_equal(column, diagonal),
        _ => eval.sym.less_equal(diagonal, column),
    };
    let x = eval.element(value, index)?;
    if eval.kind(Value { node, result: 0 })? == Kind::Truth {
        return Ok(eval.sym.and(kept, x));
    }
    let zero = eval.sym.int(0);
    Ok(eval.sym.select(kept, x, zero))
}
