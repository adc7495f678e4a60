//! Choices: which of a row's elements are the largest, the best first.
//!
//! A choice is made by a `TopK` or an `ArgMax` along the last axis, or by a succession: a `Concat` of `ArgMax`s of which each sees the row
//! without what those before it took. Their places are opaque elements at (row.., choice).

use super::{Eval, Res};
use crate::sym::{Id, Kind, Node};
use q35_graph::source::SourceOp;
use q35_graph::{NodeId, Value};

/// More choices are not made one after the other.
const LONGEST_SUCCESSION: usize = 64;

/// The node that makes the choice whose place an expression reads, and where.
pub(crate) fn choice_of(eval: &Eval, expr: Id) -> Option<(NodeId, Vec<Id>)> {
    let Node::Load(base, index) = eval.sym.node(expr) else { return None };
    let value = eval.value_of(*base)?;
    let SourceOp::Call(call) = &eval.graph.node(value.node).op else { return None };
    let last = |default| [-1, index.len() as i64 - 1].contains(&call.int("axis", default));
    let chosen = match (call.op.as_str(), value.result) {
        ("TopK", 1) => last(-1),
        ("ArgMax", 0) => last(0),
        ("Concat", 0) => matches!(eval.successions.get(&value.node), Some(Some(_))),
        _ => false,
    };
    (call.domain.is_empty() && chosen).then(|| (value.node, index.to_vec()))
}

impl Eval<'_> {
    /// The nodes that a choice is made by, the first choice first: one, or the members of a succession.
    pub(crate) fn choosers(&self, node: NodeId) -> Vec<NodeId> {
        match self.successions.get(&node) {
            Some(Some(members)) => members.clone(),
            _ => vec![node],
        }
    }

    /// The places that a choice gives: (row.., choice).
    pub(crate) fn chosen_places(&self, node: NodeId) -> Value {
        let is_top_k = matches!(&self.graph.node(node).op, SourceOp::Call(call) if call.op == "TopK");
        Value { node, result: u16::from(is_top_k) }
    }

    /// What a choice is made of: (row.., candidate).
    pub(crate) fn candidates(&self, node: NodeId) -> Res<Value> {
        self.operand(self.choosers(node)[0], 0)
    }
}

/// Whether a `Concat` joins one choice after the other along its last axis.
pub(super) fn is_succession(eval: &mut Eval, node: NodeId, axis: usize, rank: usize) -> Res<bool> {
    if let Some(known) = eval.successions.get(&node) {
        return Ok(known.is_some());
    }
    let found = if axis + 1 == rank && rank > 1 { succession(eval, node)? } else { None };
    let is_one = found.is_some();
    if let Some(members) = &found {
        let candidates = eval.operand(members[0], 0)?;
        let (base, dims) = (eval.base_of(Value { node, result: 0 })?, eval.shape(candidates)?);
        eval.sym.bound_base(base, dims[rank - 1]);
    }
    eval.successions.insert(node, found);
    Ok(is_one)
}

fn succession(eval: &mut Eval, node: NodeId) -> Res<Option<Vec<NodeId>>> {
    let parts: Vec<Value> = eval.graph.operands(node).into_iter().flatten().collect();
    if !(2..=LONGEST_SUCCESSION).contains(&parts.len()) || eval.kind(parts[0])? != Kind::Integer {
        return Ok(None);
    }
    let mut index = eval.index_vars(parts[0], "row")?;
    let Some(last) = index.pop().filter(|last| eval.sym.as_number(*last) == Some(0.0)) else { return Ok(None) };
    let here = [&index[..], &[last]].concat();
    let mut members: Vec<NodeId> = Vec::with_capacity(parts.len());
    let mut left = None;
    for part in parts {
        if eval.shape(part)?.last().and_then(|size| eval.sym.as_number(*size)) != Some(1.0) {
            return Ok(None);
        }
        let place = eval.element(part, &here)?;
        let Some((member, at)) = choice_of(eval, place) else { return Ok(None) };
        if at != here || eval.chosen_places(member).result != 0 {
            return Ok(None);
        }
        let candidates = eval.operand(member, 0)?;
        let Some(&count) = eval.shape(candidates)?.last() else { return Ok(None) };
        let candidate = eval.sym.var("candidate", count);
        let score = eval.element(candidates, &[&index[..], &[candidate]].concat())?;
        if left.is_some_and(|left| left != score) {
            return Ok(None);
        }
        let (taken, never) = (eval.sym.equal(place, candidate), eval.sym.number(f64::NEG_INFINITY));
        left = Some(eval.sym.select(taken, never, score));
        members.push(member);
    }
    Ok(Some(members))
}
