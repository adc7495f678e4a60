//! Ops that only rearrange: their elements are elements of an operand at another index.

use super::{Eval, Res, choices};
use crate::sym::Id;
use q35_graph::{NodeId, Value};

fn element_at(eval: &mut Eval, node: NodeId, index: &[Id]) -> Res<Id> {
    let value = eval.operand(node, 0)?;
    eval.element(value, index)
}

pub(super) fn identity(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    element_at(eval, node, index)
}

pub(super) fn reshape_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let target = eval.operand(node, 1)?;
    let mut target = eval.list(target)?;
    let copies = eval.call(node)?.int("allowzero", 0) == 0;
    let mut open = None;
    for (i, dim) in target.iter_mut().enumerate() {
        match eval.sym.as_int(*dim) {
            Some(0) if copies && i < dims.len() => *dim = dims[i],
            Some(-1) if open.is_none() => open = Some(i),
            Some(n) if n < 0 => return eval.fault(node, "has a negative target dimension"),
            _ => {}
        }
    }
    let all = eval.volume(&dims);
    if let Some(open) = open {
        target[open] = eval.sym.int(1);
        let rest = eval.volume(&target);
        target[open] = match eval.sym.exact_quotient(all, rest) {
            Some(dim) => dim,
            None => return eval.fault(node, "has a target dimension that cannot be derived"),
        };
    }
    if eval.volume(&target) != all {
        let (from, to) = (eval.sym.show(all), eval.volume(&target));
        let to = eval.sym.show(to);
        return eval.fault(node, format!("reshapes {from} elements to {to}"));
    }
    Ok(vec![target])
}

pub(super) fn flatten_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let axis = eval.call(node)?.int("axis", 1);
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    let Some(axis) = usize::try_from(axis).ok().filter(|a| *a <= dims.len()) else {
        return eval.fault(node, "flattens at an axis it does not have");
    };
    Ok(vec![vec![eval.volume(&dims[..axis]), eval.volume(&dims[axis..])]])
}

/// Same elements in row-major order under other dimensions.
pub(super) fn reshape(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let to = eval.shape(Value { node, result: 0 })?;
    let from = eval.dims(node, 0)?;
    let at = regroup(eval, &from, &to, index);
    element_at(eval, node, &at)
}

/// The index under dimensions `from` of the element at `index` under dimensions `to`.
///
/// Dimensions are compared group by group, each the shortest with equal products on both sides, so that untouched dimensions keep
/// their index as it is.
fn regroup(eval: &mut Eval, from: &[Id], to: &[Id], index: &[Id]) -> Vec<Id> {
    let (zero, one) = (eval.sym.int(0), eval.sym.int(1));
    let mut result = vec![zero; from.len()];
    let sources: Vec<usize> = (0..from.len()).filter(|i| from[*i] != one).collect();
    let targets: Vec<usize> = (0..to.len()).filter(|i| to[*i] != one).collect();
    let (mut i, mut j) = (0, 0);
    while i < sources.len() && j < targets.len() {
        let (i0, j0) = (i, j);
        let (mut a, mut b) = (from[sources[i]], to[targets[j]]);
        (i, j) = (i + 1, j + 1);
        while a != b {
            if j < targets.len() && eval.sym.exact_quotient(a, b).is_some() {
                b = eval.sym.mul(b, to[targets[j]]);
                j += 1;
            } else if i < sources.len() && eval.sym.exact_quotient(b, a).is_some() {
                a = eval.sym.mul(a, from[sources[i]]);
                i += 1;
            } else {
                (i, j) = (sources.len(), targets.len());
                break;
            }
        }
        let mut flat = zero;
        for &t in &targets[j0..j] {
            flat = eval.sym.mul(flat, to[t]);
            flat = eval.sym.add(flat, index[t]);
        }
        for &s in sources[i0 + 1..i].iter().rev() {
            let (quotient, remainder) = eval.sym.div_mod(flat, from[s]);
            (flat, result[s]) = (quotient, remainder);
        }
        result[sources[i0]] = flat;
    }
    result
}

fn permutation(eval: &mut Eval, node: NodeId, rank: usize) -> Res<Vec<usize>> {
    match eval.call(node)?.ints("perm") {
        Some(perm) if perm.len() == rank => perm.iter().map(|p| eval.axis(node, *p, rank)).collect(),
        Some(_) => eval.fault(node, "permutes another number of dimensions"),
        None => Ok((0..rank).rev().collect()),
    }
}

pub(super) fn transpose_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let perm = permutation(eval, node, dims.len())?;
    Ok(vec![perm.iter().map(|p| dims[*p]).collect()])
}

pub(super) fn transpose(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let perm = permutation(eval, node, index.len())?;
    let mut at = index.to_vec();
    perm.iter().zip(index).for_each(|(p, i)| at[*p] = *i);
    element_at(eval, node, &at)
}

/// The dimensions that `Squeeze` removes, in order.
fn squeezed(eval: &mut Eval, node: NodeId) -> Res<Vec<usize>> {
    let dims = eval.dims(node, 0)?;
    let one = eval.sym.int(1);
    match eval.integers(node, "axes", 1)? {
        Some(axes) => {
            let mut axes: Vec<usize> = axes.iter().map(|a| eval.axis(node, *a, dims.len())).collect::<Res<_>>()?;
            axes.sort_unstable();
            axes.dedup();
            if axes.iter().any(|a| dims[*a] != one) {
                return eval.fault(node, "removes a dimension that is not 1");
            }
            Ok(axes)
        }
        None => Ok((0..dims.len()).filter(|i| dims[*i] == one).collect()),
    }
}

pub(super) fn squeeze_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (dims, axes) = (eval.dims(node, 0)?, squeezed(eval, node)?);
    Ok(vec![dims.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, d)| *d).collect()])
}

pub(super) fn squeeze(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let mut at = index.to_vec();
    for axis in squeezed(eval, node)? {
        at.insert(axis, eval.sym.int(0));
    }
    element_at(eval, node, &at)
}

/// The dimensions that `Unsqueeze` adds, in order, counted in the result.
fn unsqueezed(eval: &mut Eval, node: NodeId) -> Res<Vec<usize>> {
    let rank = eval.dims(node, 0)?.len();
    let Some(axes) = eval.integers(node, "axes", 1)? else { return eval.fault(node, "has no axes") };
    let mut axes: Vec<usize> = axes.iter().map(|a| eval.axis(node, *a, rank + axes.len())).collect::<Res<_>>()?;
    axes.sort_unstable();
    if axes.windows(2).any(|w| w[0] == w[1]) {
        return eval.fault(node, "adds one axis twice");
    }
    Ok(axes)
}

pub(super) fn unsqueeze_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut dims = eval.dims(node, 0)?;
    for axis in unsqueezed(eval, node)? {
        dims.insert(axis, eval.sym.int(1));
    }
    Ok(vec![dims])
}

pub(super) fn unsqueeze(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let axes = unsqueezed(eval, node)?;
    let at: Vec<Id> = index.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, x)| *x).collect();
    element_at(eval, node, &at)
}

pub(super) fn expand_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let target = eval.operand(node, 1)?;
    let target = eval.list(target)?;
    Ok(vec![eval.broadcast(node, &dims, &target)?])
}

pub(super) fn expand(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let dims = eval.dims(node, 0)?;
    let at = eval.unbroadcast(node, &dims, index)?;
    element_at(eval, node, &at)
}

pub(super) fn tile_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let repeats = eval.operand(node, 1)?;
    let repeats = eval.list(repeats)?;
    if repeats.len() != dims.len() {
        return eval.fault(node, "repeats another number of dimensions");
    }
    Ok(vec![dims.iter().zip(&repeats).map(|(d, r)| eval.sym.mul(*d, *r)).collect()])
}

pub(super) fn tile(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let dims = eval.dims(node, 0)?;
    let at: Vec<Id> = dims.iter().zip(index).map(|(d, i)| eval.sym.div_mod(*i, *d).1).collect();
    element_at(eval, node, &at)
}

/// Along one dimension: where it starts, in which steps it goes on, how many there are.
struct Stretch {
    axis: usize,
    start: Id,
    step: Id,
    count: Id,
}

fn stretches(eval: &mut Eval, node: NodeId) -> Res<Vec<Stretch>> {
    let dims = eval.dims(node, 0)?;
    let (starts, ends) = if eval.call(node)?.ints("starts").is_some() {
        let list = |eval: &mut Eval, name: &str| -> Vec<Id> {
            let list = eval.call(node).ok().and_then(|c| c.ints(name)).unwrap_or_default().to_vec();
            list.into_iter().map(|x| eval.sym.int(x)).collect()
        };
        (list(eval, "starts"), list(eval, "ends"))
    } else {
        let (starts, ends) = (eval.operand(node, 1)?, eval.operand(node, 2)?);
        (eval.list(starts)?, eval.list(ends)?)
    };
    let axes = eval.integers(node, "axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = eval.integers(node, "steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return eval.fault(node, "has bounds of different lengths");
    }
    (0..starts.len())
        .map(|i| {
            let axis = eval.axis(node, axes[i], dims.len())?;
            if steps[i] <= 0 {
                return eval.fault(node, "goes backwards");
            }
            let start = clamped(eval, node, starts[i], dims[axis])?;
            let end = clamped(eval, node, ends[i], dims[axis])?;
            let step = eval.sym.int(steps[i]);
            let span = eval.sym.linear(&[(end, 1.0), (start, -1.0)], steps[i] as f64 - 1.0);
            let (count, zero) = (eval.sym.div_mod(span, step).0, eval.sym.int(0));
            Ok(Stretch { axis, start, step, count: eval.sym.max(count, zero) })
        })
        .collect()
}

/// A bound counted from the front and inside the dimension.
fn clamped(eval: &mut Eval, node: NodeId, bound: Id, dim: Id) -> Res<Id> {
    const FAR: f64 = (1u64 << 40) as f64;
    let zero = eval.sym.int(0);
    match eval.sym.as_number(bound) {
        Some(x) if x >= FAR => return Ok(dim),
        Some(x) if x <= -FAR => return Ok(zero),
        _ => {}
    }
    if eval.sym.proves_non_negative(bound) {
        return Ok(eval.sym.min(bound, dim));
    }
    let behind = eval.sym.linear(&[(bound, -1.0)], -1.0);
    if eval.sym.proves_non_negative(behind) {
        let from_front = eval.sym.add(bound, dim);
        return Ok(eval.sym.max(from_front, zero));
    }
    eval.fault(node, "has a bound of unknown sign")
}

pub(super) fn slice_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut dims = eval.dims(node, 0)?;
    for stretch in stretches(eval, node)? {
        dims[stretch.axis] = stretch.count;
    }
    Ok(vec![dims])
}

pub(super) fn slice(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let mut at = index.to_vec();
    for stretch in stretches(eval, node)? {
        let offset = eval.sym.mul(index[stretch.axis], stretch.step);
        at[stretch.axis] = eval.sym.add(stretch.start, offset);
    }
    element_at(eval, node, &at)
}

/// Axis and sizes of the parts of a `Split`.
fn parts(eval: &mut Eval, node: NodeId) -> Res<(usize, Vec<Id>)> {
    let dims = eval.dims(node, 0)?;
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), dims.len())?;
    if let Some(sizes) = eval.integers(node, "split", 1)? {
        return Ok((axis, sizes.iter().map(|s| eval.sym.int(*s)).collect()));
    }
    let count = eval.graph.node(node).results.len() as i64;
    let (counted, last) = (eval.sym.int(count), eval.sym.plus(dims[axis], (count - 1) as f64));
    let size = eval.sym.div_mod(last, counted).0;
    let before = eval.sym.scaled(size, (count - 1) as f64);
    let mut sizes = vec![size; count as usize];
    sizes[count as usize - 1] = eval.sym.sub(dims[axis], before);
    Ok((axis, sizes))
}

pub(super) fn split_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let (axis, sizes) = parts(eval, node)?;
    let with = |size: Id| {
        let mut shape = dims.clone();
        shape[axis] = size;
        shape
    };
    Ok(sizes.into_iter().map(with).collect())
}

pub(super) fn split(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    let (axis, sizes) = parts(eval, node)?;
    let mut at = index.to_vec();
    for size in &sizes[..(result as usize).min(sizes.len())] {
        at[axis] = eval.sym.add(at[axis], *size);
    }
    element_at(eval, node, &at)
}

pub(super) fn concat_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut shape = eval.dims(node, 0)?;
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), shape.len())?;
    for value in eval.graph.operands(node).into_iter().flatten().skip(1) {
        let dims = eval.shape(value)?;
        if dims.len() != shape.len() {
            return eval.fault(node, "joins tensors of different rank");
        }
        shape[axis] = eval.sym.add(shape[axis], dims[axis]);
    }
    Ok(vec![shape])
}

pub(super) fn concat(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), index.len())?;
    let values: Vec<_> = eval.graph.operands(node).into_iter().flatten().collect();
    if choices::is_succession(eval, node, axis, index.len())? {
        return eval.opaque(Value { node, result: 0 }, index);
    }
    let mut cases = Vec::new();
    let mut at = index.to_vec();
    for value in values {
        let size = eval.shape(value)?[axis];
        let inside = eval.sym.less(at[axis], size);
        if eval.sym.as_number(inside) != Some(0.0) {
            cases.push((inside, eval.element(value, &at)?));
        }
        if eval.sym.as_number(inside) == Some(1.0) {
            break;
        }
        at[axis] = eval.sym.sub(at[axis], size);
    }
    let Some((_, mut result)) = cases.pop() else { return eval.fault(node, "is read outside its bounds") };
    for (inside, element) in cases.into_iter().rev() {
        result = eval.sym.select(inside, element, result);
    }
    Ok(result)
}
