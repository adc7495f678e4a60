//! Ops that say where something is: the places of the largest elements, and of those that are not 0.
//!
//! The places are not known, but something is known of them: each is within its dimension; a `TopK` gives an element for each of its
//! places, all different; an `ArgMax` gives one; and a sum over the places that `NonZero` lists is a sum over all places, of those that are not 0.

use super::{Eval, Res};
use crate::sym::{Base, Combine, Dim, Id, Kind};
use q35_graph::{NodeId, Value};
use std::collections::HashMap;

/// Values and indices of the `k` largest along an axis.
pub(super) fn top_k_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut dims = eval.dims(node, 0)?;
    let axis = eval.axis(node, eval.call(node)?.int("axis", -1), dims.len())?;
    let count = match eval.call(node)?.int("k", 0) {
        0 => {
            let value = eval.operand(node, 1)?;
            match eval.list(value)?[..] {
                [count] => count,
                _ => return eval.fault(node, "chooses an unknown number"),
            }
        }
        count => eval.sym.int(count),
    };
    dims[axis] = count;
    Ok(vec![dims.clone(), dims])
}

/// Result 0 is the operand at the places that result 1 says.
pub(super) fn top_k(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    let data = eval.operand(node, 0)?;
    let dims = eval.shape(data)?;
    let axis = eval.axis(node, eval.call(node)?.int("axis", -1), dims.len())?;
    if eval.sym.as_number(dims[axis]) == Some(1.0) {
        let only = eval.sym.int(0);
        return if result == 1 { Ok(only) } else { eval.element(data, index) };
    }
    let places = Value { node, result: 1 };
    let base = eval.base_of(places)?;
    eval.sym.bound_base(base, dims[axis]);
    let place = eval.opaque(places, index)?;
    if result == 1 {
        return Ok(place);
    }
    let mut at = index.to_vec();
    at[axis] = place;
    eval.element(data, &at)
}

/// The place of the largest along an axis, of equal ones the first.
pub(super) fn arg_max_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut dims = eval.dims(node, 0)?;
    let axis = eval.axis(node, eval.call(node)?.int("axis", 0), dims.len())?;
    match eval.call(node)?.int("keepdims", 1) {
        0 => drop(dims.remove(axis)),
        _ => dims[axis] = eval.sym.int(1),
    }
    Ok(vec![dims])
}

/// An index of the operand, but 0 along the axis: the same whether the dimension is kept or not.
pub(super) fn arg_max(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let dims = eval.dims(node, 0)?;
    let call = eval.call(node)?;
    let axis = eval.axis(node, call.int("axis", 0), dims.len())?;
    if call.int("select_last_index", 0) != 0 {
        return eval.fault(node, "takes the last of equals");
    }
    let (zero, mut at) = (eval.sym.int(0), index.to_vec());
    if at.len() < dims.len() {
        at.insert(axis, zero);
    }
    if eval.sym.as_number(dims[axis]) == Some(1.0) {
        return Ok(zero);
    }
    let place = Value { node, result: 0 };
    let base = eval.base_of(place)?;
    eval.sym.bound_base(base, dims[axis]);
    eval.opaque(place, &at)
}

/// One row per dimension of the operand, one column per element that is not 0.
pub(super) fn non_zero_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let rank = eval.dims(node, 0)?.len() as i64;
    let count = eval.sym.dim(Dim::Other(format!("count of {}", eval.graph.node(node).name)));
    Ok(vec![vec![eval.sym.int(rank), count]])
}

pub(super) fn non_zero(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let dims = eval.dims(node, 0)?;
    let [axis, at] = index else { return eval.fault(node, "is no list of places") };
    let Some(axis) = eval.sym.as_int(*axis).filter(|a| (0..dims.len() as i64).contains(a)) else {
        return eval.fault(node, "is read along its dimensions");
    };
    if !eval.places.contains_key(&node) {
        let name = eval.graph.node(node).name.clone();
        let bases = dims.iter().enumerate().map(|(i, dim)| {
            let base = eval.sym.add_base(Base::Opaque(format!("{name}.{i}"), Kind::Integer));
            eval.sym.bound_base(base, *dim);
            base
        });
        let bases = bases.collect();
        eval.places.insert(node, bases);
    }
    let base = eval.places[&node][axis as usize];
    Ok(eval.sym.load(base, &[*at]))
}

impl Eval<'_> {
    /// The sum of `body` over `var`; over the places of a `NonZero`, which are not known, it becomes a sum over all places.
    pub(super) fn total(&mut self, var: Id, extent: Id, body: Id) -> Res<Id> {
        let nodes: Vec<NodeId> = self.places.keys().copied().collect();
        for node in nodes {
            if self.shape(Value { node, result: 0 })?[1] != extent {
                continue;
            }
            let operand = self.operand(node, 0)?;
            let dims = self.shape(operand)?;
            let all: Vec<(Id, Id)> = dims.iter().map(|dim| (self.fold_var(*dim), *dim)).collect();
            let mut map = HashMap::new();
            for (base, (var_here, _)) in self.places[&node].clone().into_iter().zip(&all) {
                map.insert(self.sym.load(base, &[var]), *var_here);
            }
            let index: Vec<Id> = all.iter().map(|(v, _)| *v).collect();
            let listed = self.element(operand, &index)?;
            let listed = self.sym.as_truth(listed);
            let body = self.sym.subst(body, &map);
            self.folds -= all.len() as u32;
            if self.sym.contains(body, var) {
                return self.fault(node, "lists places that are counted");
            }
            let zero = self.sym.int(0);
            let mut sum = match self.sym.kept(body) {
                Some((condition, term)) => {
                    let both = self.sym.and(listed, condition);
                    self.sym.select(both, term, zero)
                }
                None => self.sym.select(listed, body, zero),
            };
            for (var, dim) in all.into_iter().rev() {
                sum = self.sym.fold(Combine::Sum, var, dim, sum);
            }
            return Ok(sum);
        }
        Ok(self.sym.fold(Combine::Sum, var, extent, body))
    }
}
