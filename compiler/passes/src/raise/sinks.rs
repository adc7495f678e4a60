//! Scores that belong to no token, one for each head: they take part in a softmax, and nothing is weighed by what they get.
//!
//! Spelled as one more column of scores whose share is cut away; or, since `sigmoid(log L - c) / L = 1 / (L + e^c)` for the sum `L` of all `e^score`, as
//! that sigmoid behind an attention without them.

use super::attention::Stack;
use super::{Raiser, Res};
use crate::sym::{Combine, Func, Id, Node};
use q35_graph::Value;
use q35_graph::source::SourceOp;

impl Raiser<'_> {
    /// A score without the maximum that was taken off all of them, and the score of one more entry behind all others, if there is one.
    pub(super) fn without_sink(&mut self, element: Id, scores: Value, stack: &Stack, [h, t]: [Id; 2]) -> Res<(Id, Option<Id>)> {
        let entries = self.grid.total(&mut self.eval.sym);
        let (score, largest) = self.without_largest(element, t);
        let Some(&all) = self.eval.shape(scores)?.last() else { return self.consequence() };
        if all == entries {
            return Ok((score, None));
        }
        let beyond = self.eval.sym.sub(all, entries);
        let at = stack.index(self, h, self.grid.s, entries);
        let sink = self.eval.element(scores, &at)?;
        let (sink, sink_largest) = self.without_largest(sink, t);
        if self.eval.sym.as_number(beyond) != Some(1.0) || sink_largest != largest || self.is_varying(sink) {
            return self.fault("weighs values with a softmax over more than their scores");
        }
        Ok((score, Some(sink)))
    }

    /// Takes the largest over all entries off; whatever is taken off all scores, their softmax is the same.
    fn without_largest(&mut self, element: Id, t: Id) -> (Id, Option<Id>) {
        let (terms, constant) = self.eval.sym.terms(element);
        let is_largest =
            |term: Id| matches!(self.eval.sym.node(term), Node::Fold(Combine::Max, ..)) && !self.eval.sym.contains(term, t);
        let largest = terms.iter().find(|(term, c)| *c == -1.0 && is_largest(*term)).map(|(term, _)| *term);
        let Some(found) = largest else { return (element, None) };
        let others: Vec<(Id, f64)> = terms.into_iter().filter(|(term, _)| *term != found).collect();
        (self.eval.sym.linear(&others, constant), largest)
    }

    /// The product of what an attention gives with the sigmoid of the logarithm of its summed exponentials less something, if that is all that reads it;
    /// and what is taken off.
    pub(super) fn scaled_by_sink(
        &mut self,
        attended: Value,
        score: Id,
        stack: &Stack,
        [h, t]: [Id; 2],
    ) -> Res<Option<(Value, Id)>> {
        let [(product, at)] = self.eval.graph.users(attended)[..] else { return Ok(None) };
        if !matches!(&self.eval.graph.node(product).op, SourceOp::Call(call) if call.op == "Mul") {
            return Ok(None);
        }
        let (scaled, factor) = (Value { node: product, result: 0 }, self.eval.operand(product, 1 - at)?);
        let dims = self.eval.shape(scaled)?;
        let (Some(width), true) = (dims.last().copied(), dims == self.eval.shape(attended)?) else { return Ok(None) };
        let column = self.eval.sym.var("e", width);
        let index = stack.index(self, h, self.grid.s, column);
        let of_factor = self.eval.shape(factor)?;
        let index = self.eval.unbroadcast(product, &of_factor, &index)?;
        let element = self.eval.element(factor, &index)?;
        let Node::Apply(Func::Sigmoid, inner) = *self.eval.sym.node(element) else { return Ok(None) };
        let entries = self.grid.total(&mut self.eval.sym);
        let exponential = self.eval.sym.apply(Func::Exp, score);
        let sum = self.eval.sym.fold(Combine::Sum, t, entries, exponential);
        let log = self.eval.sym.apply(Func::Log, sum);
        let beyond = self.eval.sym.sub(inner, log);
        let sink = self.eval.sym.scaled(beyond, -1.0);
        if self.is_varying(sink) || self.eval.sym.contains(sink, column) {
            return Ok(None);
        }
        Ok(Some((scaled, sink)))
    }
}
