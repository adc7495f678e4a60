//! Ops that combine elements along dimensions, and norms, which are defined by them.

use super::{Eval, Res};
use crate::sym::{Arena, Combine, Func, Id, Power};
use q35_graph::{NodeId, Value};

/// Which dimensions are reduced; none named means all, or none if the op says so.
fn reduced(eval: &mut Eval, node: NodeId, rank: usize) -> Res<Vec<usize>> {
    let call = eval.call(node)?;
    match eval.integers(node, "axes", 1)? {
        Some(axes) if !axes.is_empty() => {
            let mut axes: Vec<usize> = axes.iter().map(|a| eval.axis(node, *a, rank)).collect::<Res<_>>()?;
            axes.sort_unstable();
            axes.dedup();
            Ok(axes)
        }
        _ if call.int("noop_with_empty_axes", 0) != 0 => Ok(Vec::new()),
        _ => Ok((0..rank).collect()),
    }
}

pub(super) fn reduce_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let axes = reduced(eval, node, dims.len())?;
    let (keep, one) = (eval.call(node)?.int("keepdims", 1) != 0, eval.sym.int(1));
    let shape = dims
        .iter()
        .enumerate()
        .filter(|(i, _)| keep || !axes.contains(i))
        .map(|(i, d)| if axes.contains(&i) { one } else { *d });
    Ok(vec![shape.collect()])
}

/// The elements of a reduction, each after `map`, combined; and how many there are.
fn reduce_mapped(
    eval: &mut Eval,
    node: NodeId,
    index: &[Id],
    combine: Combine,
    map: fn(&mut Arena, Id) -> Id,
) -> Res<(Id, Id)> {
    let value = eval.operand(node, 0)?;
    let dims = eval.shape(value)?;
    let axes = reduced(eval, node, dims.len())?;
    let mut at = index.to_vec();
    if eval.call(node)?.int("keepdims", 1) == 0 {
        for &axis in &axes {
            at.insert(axis, eval.sym.int(0));
        }
    }
    let count = axes.iter().map(|a| dims[*a]).collect::<Vec<_>>();
    let count = eval.volume(&count);
    let vars: Vec<(Id, Id)> = axes.iter().map(|a| (eval.fold_var(dims[*a]), dims[*a])).collect();
    axes.iter().zip(&vars).for_each(|(a, v)| at[*a] = v.0);
    let body = eval.element(value, &at)?;
    let mut body = map(&mut eval.sym, body);
    let nested = vars.len() as u32;
    for (var, extent) in vars {
        body = match combine {
            Combine::Sum => eval.total(var, extent, body)?,
            Combine::Max => eval.sym.fold(combine, var, extent, body),
        };
    }
    eval.folds -= nested;
    Ok((body, count))
}

fn reduce(eval: &mut Eval, node: NodeId, index: &[Id], combine: Combine) -> Res<(Id, Id)> {
    reduce_mapped(eval, node, index, combine, |_, x| x)
}

impl Eval<'_> {
    /// A variable for a fold that is being evaluated; folds inside it get others.
    pub(super) fn fold_var(&mut self, extent: Id) -> Id {
        self.folds += 1;
        self.sym.var(&format!("fold{}", self.folds), extent)
    }
}

pub(super) fn reduce_sum(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    Ok(reduce(eval, node, index, Combine::Sum)?.0)
}

pub(super) fn reduce_max(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    Ok(reduce(eval, node, index, Combine::Max)?.0)
}

/// The logarithm of a sum of exponentials.
pub(super) fn reduce_log_sum_exp(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (sum, _) = reduce_mapped(eval, node, index, Combine::Sum, |sym, x| sym.apply(Func::Exp, x))?;
    Ok(eval.sym.apply(Func::Log, sum))
}

pub(super) fn reduce_mean(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (sum, count) = reduce(eval, node, index, Combine::Sum)?;
    Ok(eval.sym.quotient(sum, count))
}

/// Running sum along an axis.
pub(super) fn cumulate(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let value = eval.operand(node, 0)?;
    let Some([axis]) = eval.integers(node, "", 1)?.map(|a| [a.first().copied().unwrap_or(0)]) else {
        return eval.fault(node, "has no axis");
    };
    let axis = eval.axis(node, axis, index.len())?;
    let call = eval.call(node)?;
    if call.int("reverse", 0) != 0 {
        return eval.fault(node, "runs backwards");
    }
    let extent = match call.int("exclusive", 0) {
        0 => eval.sym.plus(index[axis], 1.0),
        _ => index[axis],
    };
    let dim = eval.shape(value)?[axis];
    let var = eval.fold_var(dim);
    let mut at = index.to_vec();
    at[axis] = var;
    let body = eval.element(value, &at)?;
    eval.folds -= 1;
    Ok(eval.sym.fold(Combine::Sum, var, extent, body))
}

/// `x * (mean(x^2) + epsilon)^(-1/2) * weight`, the mean over the last dimension.
pub(super) fn rms_norm(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let x = eval.operand(node, 0)?;
    norm_of(eval, node, x, &Norm { centered: false, weight: 1, bias: None }, index)
}

/// The same of `x - mean(x)`, plus a bias.
pub(super) fn layer_norm(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    if result > 0 {
        return eval.fault(node, "is asked for its statistics");
    }
    let x = eval.operand(node, 0)?;
    norm_of(eval, node, x, &Norm { centered: true, weight: 1, bias: Some(2) }, index)
}

/// A kind of norm: whether the mean is taken off first, and which operands its weight and bias are.
struct Norm {
    centered: bool,
    weight: usize,
    bias: Option<usize>,
}

fn norm_of(eval: &mut Eval, node: NodeId, x: Value, norm: &Norm, index: &[Id]) -> Res<Id> {
    let dims = eval.shape(x)?;
    let call = eval.call(node)?;
    let axis = eval.axis(node, call.int("axis", -1), dims.len())?;
    if axis + 1 != dims.len() {
        return eval.fault(node, "normalizes more than the last dimension");
    }
    let mut at = index.to_vec();
    at[axis] = eval.fold_var(dims[axis]);
    let mut other = eval.element(x, &at)?;
    eval.folds -= 1;
    let mut here = eval.element(x, index)?;
    if norm.centered {
        let sum = eval.sym.fold(Combine::Sum, at[axis], dims[axis], other);
        let mean = eval.sym.quotient(sum, dims[axis]);
        other = eval.sym.sub(other, mean);
        here = eval.sym.sub(here, mean);
    }
    let square = eval.sym.pow(other, Power::integer(2));
    let sum = eval.sym.fold(Combine::Sum, at[axis], dims[axis], square);
    let mean = eval.sym.quotient(sum, dims[axis]);
    let inner = eval.sym.plus(mean, call.float("epsilon", 1e-5).into());
    let inverse = eval.sym.pow(inner, Power::MINUS_HALF);
    let mut y = eval.sym.mul(here, inverse);
    let mut vector = |at: usize| -> Res<Option<Id>> {
        let Some(vector) = eval.graph.operand(node, at) else { return Ok(None) };
        let dims = eval.shape(vector)?;
        let at = eval.unbroadcast(node, &dims, index)?;
        eval.element(vector, &at).map(Some)
    };
    let (weight, bias) = (vector(norm.weight)?, norm.bias.map_or(Ok(None), vector)?);
    if let Some(weight) = weight {
        y = eval.sym.mul(y, weight);
    }
    Ok(bias.map_or(y, |bias| eval.sym.add(y, bias)))
}

/// The root mean square norm of a sum, and the sum.
pub(super) fn skip_rms_norm(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    skip_norm(eval, node, result, index, &Norm { centered: false, weight: 2, bias: None }, SKIP_RMS_BIAS)
}

/// The layer norm of a sum, and the sum.
pub(super) fn skip_layer_norm(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    skip_norm(eval, node, result, index, &Norm { centered: true, weight: 2, bias: Some(3) }, SKIP_LAYER_BIAS)
}

/// Which operand of `SkipSimplifiedLayerNormalization` is added to the sum of its first two.
pub(crate) const SKIP_RMS_BIAS: usize = 3;
/// The same of `SkipLayerNormalization`.
pub(crate) const SKIP_LAYER_BIAS: usize = 4;

/// Result 3 is the sum of the operands, result 0 its norm; whoever raises cuts result 3 first.
fn skip_norm(eval: &mut Eval, node: NodeId, result: u16, index: &[Id], norm: &Norm, bias: usize) -> Res<Id> {
    match result {
        0 => norm_of(eval, node, Value { node, result: 3 }, norm, index),
        3 => {
            let mut sum = eval.sym.int(0);
            for at in [0, 1, bias] {
                let Some(value) = eval.graph.operand(node, at) else { continue };
                let dims = eval.shape(value)?;
                let part = eval.unbroadcast(node, &dims, index)?;
                let part = eval.element(value, &part)?;
                sum = eval.sym.add(sum, part);
            }
            Ok(sum)
        }
        _ => eval.fault(node, "is asked for its statistics"),
    }
}

/// A norm, and two statistics of each row.
pub(super) fn norm_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let dims = eval.dims(node, 0)?;
    let mut row = dims.clone();
    if let Some(last) = row.last_mut() {
        *last = eval.sym.int(1);
    }
    Ok(vec![dims, row.clone(), row])
}

pub(super) fn skip_norm_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut shapes = norm_shape(eval, node)?;
    shapes.push(eval.dims(node, 0)?);
    Ok(shapes)
}
