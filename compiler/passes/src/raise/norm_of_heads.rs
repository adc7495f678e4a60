//! Norms of heads that were cut apart, normalized one by one, each by its own weights, and put together again: where an expression branches on the
//! head, each head is looked at by itself, and all of them have to be one norm, but for constants. These become vectors over all heads.

use super::activation::{Ask, Made};
use super::{Raiser, Res};
use crate::sym::{Combine, Id, Node, Power};

/// What one head is: `content * varying * factor + bias`, where `factor` and `bias` are constants of each column.
struct Head {
    content: f64,
    varying: Vec<(Id, Power)>,
    factor: Id,
    bias: Id,
}

impl Raiser<'_> {
    /// A norm whose weights are chosen by the head.
    pub(super) fn norm_of_heads(&mut self, ask: Ask) -> Res<Option<Made>> {
        let Some(group) = self.branches_on_heads(ask) else { return Ok(None) };
        let size = self.eval.sym.number(group as f64);
        let j = self.eval.sym.var("j", size);
        let mut heads = Vec::new();
        for head in 0..ask.width / group {
            let at = self.eval.sym.plus(j, (head * group) as f64);
            let element = self.moved(ask.expr, ask.column, at);
            let Some(head) = self.head(element) else { return Ok(None) };
            heads.push(head);
        }
        let Some(normed) = heads.first().and_then(|first| self.like(first, j, ask.column, group)) else { return Ok(None) };
        let (of_head, within) = self.eval.sym.div_mod(ask.column, size);
        let (mut weight, mut bias) = (self.eval.sym.int(1), self.eval.sym.int(0));
        // What all heads have in common is no part of their weights.
        let mut common = None;
        for (at, head) in heads.iter().enumerate() {
            let column = self.eval.sym.plus(j, at as f64 * group as f64);
            let here = self.moved(normed, ask.column, column);
            let (content, here) = self.eval.sym.coefficient(here);
            let here = self.eval.sym.factors(here);
            if !self.are_similar(&head.varying, &here) || content == 0.0 {
                return Ok(None);
            }
            let content = head.content / content;
            let factor = self.eval.sym.scaled(head.factor, content / *common.get_or_insert(content));
            let [factor, added] = [factor, head.bias].map(|x| self.moved(x, j, within));
            let beyond = self.eval.sym.plus(of_head, -(at as f64));
            let from_here = self.eval.sym.non_negative(beyond);
            weight = self.eval.sym.select(from_here, factor, weight);
            bias = self.eval.sym.select(from_here, added, bias);
        }
        let weighed = self.eval.sym.mul(normed, weight);
        let expr = self.eval.sym.linear(&[(weighed, common.unwrap_or(1.0)), (bias, 1.0)], 0.0);
        self.norm(Ask { expr, ..ask })
    }

    /// Columns of a head, if there are branches on the head of a column and heads make up the row.
    fn branches_on_heads(&self, ask: Ask) -> Option<u64> {
        let mut group = None;
        self.eval.sym.visit(ask.expr, |_, node| {
            let Node::Select(condition, ..) = node else { return true };
            self.eval.sym.visit(*condition, |_, node| {
                if let Node::Div(column, by) = node
                    && *column == ask.column
                {
                    group = self.eval.sym.as_int(*by);
                }
                group.is_none()
            });
            group.is_none()
        });
        group.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 1 && ask.width.is_multiple_of(*n))
    }

    /// Takes a head's element apart.
    fn head(&mut self, element: Id) -> Option<Head> {
        let (terms, constant) = self.eval.sym.terms(element);
        let (varying, fixed): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(term, _)| self.is_varying(*term));
        let [(term, content)] = varying[..] else { return None };
        let bias = self.eval.sym.linear(&fixed, constant);
        let (varying, fixed): (Vec<_>, Vec<_>) =
            self.eval.sym.factors(term).into_iter().partition(|(factor, _)| self.is_varying(*factor));
        let factor = self.eval.sym.powers(&fixed);
        Some(Head { content, varying, factor, bias })
    }

    /// The norm that a head, a function of `j`, is, of all columns.
    fn like(&mut self, head: &Head, j: Id, column: Id, group: u64) -> Option<Id> {
        let inverse =
            head.varying.iter().filter(|(_, power)| *power == Power::MINUS_HALF).find_map(|(f, _)| self.squares(*f))?;
        if inverse.group != group {
            return None;
        }
        let (root, bound) = (self.root(&inverse), inverse.bound);
        let uncentered = self.uncentered(root, bound, group, j);
        let x = match uncentered {
            Some(x) => x,
            None => self.moved(root, bound, j),
        };
        let x = self.moved(x, j, column);
        // The same columns of the column's own head.
        let size = self.eval.sym.number(group as f64);
        let (_, within) = self.eval.sym.div_mod(column, size);
        let first = self.eval.sym.sub(column, within);
        let v = self.eval.sym.var("v", size);
        let other = self.eval.sym.add(first, v);
        let mut at_other = self.moved(x, column, other);
        let mut here = x;
        if uncentered.is_some() {
            let sum = self.eval.sym.fold(Combine::Sum, v, size, at_other);
            let mean = self.eval.sym.quotient(sum, size);
            [here, at_other] = [here, at_other].map(|x| self.eval.sym.sub(x, mean));
        }
        // The root of what is summed may be any multiple of this.
        let of_first = self.moved(at_other, column, j);
        let of_first = self.moved(of_first, v, bound);
        let ratio = self.eval.sym.quotient(root, of_first);
        let ratio = self.eval.sym.as_number(ratio)?;
        let squares = self.eval.sym.pow(at_other, Power::integer(2));
        let sum = self.eval.sym.fold(Combine::Sum, v, size, squares);
        let sum = self.eval.sym.plus(sum, inverse.offset / (inverse.scale * ratio * ratio));
        let inverse = self.eval.sym.pow(sum, Power::MINUS_HALF);
        Some(self.eval.sym.mul(here, inverse))
    }

    /// Whether two lists of factors are alike, in any order.
    fn are_similar(&self, a: &[(Id, Power)], b: &[(Id, Power)]) -> bool {
        let alike = |x: &(Id, Power), y: &(Id, Power)| x.1 == y.1 && self.eval.sym.is_similar(x.0, y.0);
        a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| alike(x, y)))
    }
}
