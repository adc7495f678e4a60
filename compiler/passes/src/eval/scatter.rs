//! Ops that write an operand's elements to places that another operand says.
//!
//! Read from the other side, element `i` of the result is the data there plus the sum of those updates whose place is `i`; where places
//! are all different and nothing is added, the update takes the place of the data. Where they are a range, or a permutation, no sum is
//! needed.

use super::choices::choice_of;
use super::{Eval, Res};
use crate::sym::{Id, Kind};
use q35_graph::source::SourceOp;
use q35_graph::{NodeId, Value};

/// How updates and data meet.
#[derive(Clone, Copy, PartialEq)]
enum Reduction {
    Replace,
    Add,
}

fn reduction(eval: &Eval, node: NodeId) -> Res<Reduction> {
    match eval.call(node)?.str("reduction").unwrap_or("none") {
        "none" => Ok(Reduction::Replace),
        "add" => Ok(Reduction::Add),
        other => eval.fault(node, format!("combines by '{other}'")),
    }
}

/// The data at an index; a constant of zeros is 0 at any.
fn data_at(eval: &mut Eval, node: NodeId, index: &[Id]) -> Res<Id> {
    let data = eval.operand(node, 0)?;
    if let SourceOp::Const(tensor) = &eval.graph.node(data.node).op
        && tensor.count() <= LONGEST_ZEROS
        && (0..tensor.count()).all(|i| tensor.number(i) == 0.0)
    {
        return Ok(eval.sym.int(0));
    }
    eval.element(data, index)
}

/// Constants longer than this are not looked through.
const LONGEST_ZEROS: u64 = 1 << 16;

/// Element `index`: the data, and every update along the axis whose place is `index[axis]`.
pub(super) fn elements(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (reduction, axis) = (reduction(eval, node)?, eval.call(node)?.int("axis", 0));
    let axis = eval.axis(node, axis, index.len())?;
    let (places, updates) = (eval.operand(node, 1)?, eval.operand(node, 2)?);
    let (dims, all) = (eval.shape(places)?, eval.dims(node, 0)?);
    if dims.len() != index.len() || (0..dims.len()).any(|i| i != axis && dims[i] != all[i]) {
        return eval.fault(node, "writes to a part of its rows");
    }
    let var = eval.fold_var(dims[axis]);
    let mut at = index.to_vec();
    at[axis] = var;
    let place = eval.element(places, &at)?;
    let update = eval.element(updates, &at)?;
    let data = data_at(eval, node, index)?;
    if reduction == Reduction::Replace && eval.sym.as_number(dims[axis]) == Some(1.0) {
        eval.folds -= 1;
        let hit = eval.sym.equal(place, index[axis]);
        return Ok(eval.sym.select(hit, update, data));
    }
    // Where a place may occur twice it is not said which update is the last.
    let change = match reduction {
        Reduction::Add => update,
        Reduction::Replace if is_distinct(eval, place, var) => eval.sym.sub(update, data),
        Reduction::Replace => return eval.fault(node, "writes to places that may be the same"),
    };
    let (hit, zero) = (eval.sym.equal(place, index[axis]), eval.sym.int(0));
    let body = eval.sym.select(hit, change, zero);
    let sum = eval.total(var, dims[axis], body)?;
    eval.folds -= 1;
    Ok(eval.sym.add(data, sum))
}

/// Whether places for different values of `var` differ: the choices of one `TopK`, or the rows that a `NonZero` lists for one expert.
fn is_distinct(eval: &mut Eval, place: Id, var: Id) -> bool {
    let chosen = choice_of(eval, place).is_some_and(|(_, at)| {
        at.split_last().is_some_and(|(last, rows)| *last == var && rows.iter().all(|row| !eval.sym.contains(*row, var)))
    });
    chosen || eval.lists_once(place, var)
}

impl Eval<'_> {
    /// Whether `place` is the coordinate of a `NonZero`'s entry `var` that determines all others: those elements are not 0 where the choice
    /// of a `TopK`, which is made once per row, is some number.
    fn lists_once(&mut self, place: Id, var: Id) -> bool {
        let found = self.places.iter().find_map(|(node, bases)| {
            let axis = bases.iter().position(|base| match self.sym.node(place) {
                crate::sym::Node::Load(of, at) => of == base && **at == [var],
                _ => false,
            })?;
            Some((*node, axis))
        });
        let Some((node, axis)) = found else { return false };
        let Some(operand) = self.graph.operand(node, 0) else { return false };
        let Ok(index) = self.index_vars(operand, "place") else { return false };
        let Ok(element) = self.element(operand, &index) else { return false };
        // TopK[.., choice] = number, for every row and choice: a number is chosen at most once per row.
        let truth = self.sym.as_truth(element);
        let crate::sym::Node::Zero(gap) = *self.sym.node(truth) else { return false };
        let (terms, _) = self.sym.terms(gap);
        let [(load, _)] = terms[..] else { return false };
        let Some((_, at)) = choice_of(self, load) else { return false };
        let Some((choice, rows)) = at.split_last() else { return false };
        let others: Vec<Id> = (0..index.len()).filter(|i| *i != axis).map(|i| index[i]).collect();
        rows.contains(&index[axis]) && others == [*choice] && rows.iter().all(|row| *row == index[axis])
    }
}

/// Writes slices at tuples of leading indices: to a box, whose tuples count up from its first corner in every dimension, or to all
/// indices of the first dimension, in some order.
pub(super) fn slices(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let (places, updates) = (eval.operand(node, 1)?, eval.operand(node, 2)?);
    let dims = eval.shape(places)?;
    let tuple = dims.last().and_then(|tuple| eval.sym.as_int(*tuple));
    let (Some((_, counts)), Some(tuple)) = (dims.split_last(), tuple) else {
        return eval.fault(node, "writes to an unknown number of dimensions");
    };
    if tuple != counts.len() as i64 || counts.len() > index.len() {
        return eval.fault(node, "writes to places that are no box");
    }
    if reduction(eval, node)? != Reduction::Replace || eval.kind(places)? != Kind::Integer {
        return eval.fault(node, "combines what it writes with what is there");
    }
    let steps: Vec<Id> = (counts.iter().enumerate()).map(|(c, count)| eval.sym.var(&format!("written{c}"), *count)).collect();
    let mut corner = Vec::with_capacity(counts.len());
    let mut first = None;
    for (c, step) in steps.iter().enumerate() {
        let component = eval.sym.int(c as i64);
        let place = eval.element(places, &[&steps[..], &[component]].concat())?;
        first.get_or_insert(place);
        corner.push(eval.sym.sub(place, *step));
    }
    if corner.iter().all(|start| steps.iter().all(|step| !eval.sym.contains(*start, *step))) {
        return in_box(eval, node, index, &corner, counts);
    }
    let (&[count], &[j], Some(place)) = (counts, &steps[..], first) else {
        return eval.fault(node, "writes to places that depend on the run");
    };
    // All places, in some order: then the update is the one that this place is the place of.
    let all = eval.dims(node, 0)?[0];
    match choice_of(eval, place) {
        Some((order, rows)) if rows == [j] && eval.dims(order, 0)? == [all] && count == all => {
            let back = eval.inverse(order, node, all)?;
            let from = eval.sym.load(back, &[index[0]]);
            eval.element(updates, &[&[from], &index[1..]].concat())
        }
        _ => eval.fault(node, "writes to places that depend on the run"),
    }
}

/// The update where `index` is inside a box of `counts` places from `corner` on, the data elsewhere.
fn in_box(eval: &mut Eval, node: NodeId, index: &[Id], corner: &[Id], counts: &[Id]) -> Res<Id> {
    let (updates, zero) = (eval.operand(node, 2)?, eval.sym.int(0));
    let mut from = index.to_vec();
    let mut inside = eval.sym.int(1);
    for (at, (start, count)) in from.iter_mut().zip(corner.iter().zip(counts)) {
        let after = eval.sym.less_equal(*start, *at);
        *at = eval.sym.sub(*at, *start);
        let before = eval.sym.less(*at, *count);
        let within = eval.sym.and(after, before);
        inside = eval.sym.and(inside, within);
    }
    let old = match eval.sym.as_number(inside) {
        Some(1.0) => zero,
        _ => data_at(eval, node, index)?,
    };
    let new = match eval.sym.as_number(inside) {
        Some(0.0) => zero,
        _ => eval.element(updates, &from)?,
    };
    Ok(eval.sym.select(inside, new, old))
}

impl Eval<'_> {
    /// What undoes the permutation that a `TopK` of all elements gives.
    fn inverse(&mut self, order: NodeId, scatter: NodeId, all: Id) -> Res<crate::sym::BaseId> {
        let forward = self.base_of(Value { node: order, result: 1 })?;
        let back = self.base_of(Value { node: scatter, result: 0 })?;
        self.sym.bound_base(back, all);
        self.sym.invert_base(forward, back);
        Ok(back)
    }
}
