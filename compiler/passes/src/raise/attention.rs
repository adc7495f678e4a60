//! Attention spelled out: a product with what came out of a softmax over masked scores.

use super::attend::Heads;
use super::{Raiser, Res};
use crate::sym::{BaseId, Func, Id, Node};
use q35_graph::source::SourceOp;
use q35_graph::{NodeId, Value};

/// Additions below this to a score mean that the entry is not seen; exporters use -inf, the least f32 or f16, or -1e4.
pub(super) const UNSEEN: f64 = -9999.0;

/// Scores before the softmax.
struct Parsed {
    load: Id,
    base: BaseId,
    scale: f64,
    softcap: Option<f64>,
    mask: Id,
}

/// Dimensions of stacked matrices: `[batch, heads, rows, columns]`, or the first two as one.
pub(super) struct Stack {
    heads: u64,
    rank: usize,
}

impl Stack {
    pub(super) fn index(&self, raiser: &mut Raiser, head: Id, row: Id, column: Id) -> Vec<Id> {
        let b = raiser.grid.b;
        if self.rank == 4 {
            return vec![b, head, row, column];
        }
        let both = raiser.eval.sym.linear(&[(b, self.heads as f64), (head, 1.0)], 0.0);
        vec![both, row, column]
    }
}

impl Raiser<'_> {
    /// `MatMul(softmax(...), values)`. Other products of two activations are left for whoever reads them.
    pub(super) fn probabilities_times_values(&mut self, node: NodeId) -> Res<()> {
        let output = Value { node, result: 0 };
        let dims = self.eval.shape(output)?;
        let (weights, values) = (self.eval.operand(node, 0)?, self.eval.operand(node, 1)?);
        let Some(stack) = self.stack(&dims) else { return Ok(()) };
        let heads = self.eval.sym.number(stack.heads as f64);
        let (h, s) = (self.eval.sym.var("h", heads), self.grid.s);
        let entries = self.grid.total(&mut self.eval.sym);
        let t = self.eval.sym.var("t", entries);
        if self.eval.shape(weights)?.last() != Some(&entries) {
            return Ok(());
        }
        let at = stack.index(self, h, s, t);
        let element = self.eval.element(weights, &at)?;
        let Some(softmax) = self.softmax_behind(element) else { return Ok(()) };
        let axis = self.eval.call(softmax)?.int("axis", -1);
        if axis != -1 && axis != stack.rank as i64 - 1 {
            return self.fault("weighs values with a softmax over another dimension");
        }
        let scores = self.eval.operand(softmax, 0)?;
        let element = self.eval.element(scores, &at)?;
        let (element, mut sinks) = self.without_sink(element, scores, &stack, [h, t])?;
        let mut whole = output;
        if sinks.is_none()
            && let Some((scaled, sink)) = self.scaled_by_sink(output, element, &stack, [h, t])?
        {
            (whole, sinks) = (scaled, Some(sink));
        }
        let parsed = self.scores(element)?;
        let Some(product) = self.eval.value_of(parsed.base).map(|v| v.node) else { return self.consequence() };
        let (query, key) = (self.eval.operand(product, 0)?, self.eval.operand(product, 1)?);
        let call = self.eval.call(product)?;
        let (alpha, by_rows) = (f64::from(call.float("alpha", 1.0)), call.int("transB", 0) != 0);
        if call.int("transA", 0) != 0 {
            return self.fault("weighs values with scores of transposed queries");
        }
        let (Some(key_dim), Some(value_dim)) = (self.fixed_last(query)?, self.fixed_last(output)?) else {
            return self.fault("has heads of unknown width");
        };
        let expected = self.eval.opaque(Value { node: product, result: 0 }, &at)?;
        if parsed.load != expected {
            return self.fault("weighs values with the scores of other tokens");
        }
        let attended = self.attend(&Heads {
            query: &|r, h, row, d| {
                let at = stack.index(r, h, row, d);
                r.eval.element(query, &at)
            },
            key: &|r, h, row, d| {
                let at = if by_rows { stack.index(r, h, row, d) } else { stack.index(r, h, d, row) };
                r.eval.element(key, &at)
            },
            value: &|r, h, row, d| {
                let at = stack.index(r, h, row, d);
                r.eval.element(values, &at)
            },
            heads: stack.heads,
            key_dim,
            value_dim,
            mask: parsed.mask,
            entry: t,
            scale: parsed.scale * alpha,
            softcap: parsed.softcap,
            sinks,
        })?;
        self.cut_heads(whole, attended, stack.heads, value_dim)
    }

    fn fixed_last(&mut self, value: Value) -> Res<Option<u64>> {
        let dims = self.eval.shape(value)?;
        Ok(dims.last().and_then(|d| self.eval.sym.as_int(*d)).and_then(|d| u64::try_from(d).ok()))
    }

    fn stack(&mut self, dims: &[Id]) -> Option<Stack> {
        let heads = match dims {
            [batch, heads, rows, _] if *batch == self.grid.batch && *rows == self.grid.tokens => *heads,
            [both, rows, _] if *rows == self.grid.tokens => self.eval.sym.exact_quotient(*both, self.grid.batch)?,
            _ => return None,
        };
        let heads = self.eval.sym.as_int(heads).filter(|h| *h > 0)?;
        Some(Stack { heads: heads as u64, rank: dims.len() })
    }

    /// The softmax whose element this is.
    fn softmax_behind(&self, element: Id) -> Option<NodeId> {
        let Node::Load(base, _) = self.eval.sym.node(element) else { return None };
        let node = self.eval.value_of(*base)?.node;
        matches!(&self.eval.graph.node(node).op, SourceOp::Call(call) if call.op == "Softmax").then_some(node)
    }

    /// What an additive mask sees.
    pub(super) fn added_mask(&mut self, element: Id) -> Res<Id> {
        let (mask, rest) = self.unmasked(element);
        if self.eval.sym.as_number(rest) == Some(0.0) { Ok(mask) } else { self.fault("adds more than a mask to its scores") }
    }

    /// Which entries a masked score sees, and the score without its mask.
    fn unmasked(&mut self, element: Id) -> (Id, Id) {
        let mut mask = self.eval.sym.truth(true);
        let mut rest = element;
        loop {
            // Masked by choice: condition ? score : unseen.
            if let Node::Select(condition, a, b) = *self.eval.sym.node(rest) {
                let low = |id: Id| self.eval.sym.as_number(id).is_some_and(|x| x <= UNSEEN);
                let (seen, score) = if low(b) {
                    (condition, a)
                } else if low(a) {
                    (self.eval.sym.not(condition), b)
                } else {
                    break;
                };
                mask = self.eval.sym.and(mask, seen);
                rest = score;
                continue;
            }
            // Masked by addition: score + (condition ? 0 : unseen).
            let (terms, constant) = self.eval.sym.terms(rest);
            let added = terms.iter().enumerate().find_map(|(at, (term, c))| match *self.eval.sym.node(*term) {
                Node::Select(condition, a, b) => {
                    let branches = [self.eval.sym.as_number(a)? * c, self.eval.sym.as_number(b)? * c];
                    // Where seen nothing is added; a constant beside the selection may be a part of that.
                    [0.0, constant].into_iter().find_map(|shift| match branches.map(|x| x + shift) {
                        [0.0, low] if low <= UNSEEN => Some((at, condition, true, shift)),
                        [low, 0.0] if low <= UNSEEN => Some((at, condition, false, shift)),
                        _ => None,
                    })
                }
                _ => None,
            });
            let Some((at, condition, seen, shift)) = added else {
                // Masked by a constant table that is added.
                let table = terms.iter().enumerate().find_map(|(at, (term, c))| Some((at, self.added_table(*term, *c)?)));
                let Some((at, seen)) = table else { break };
                mask = self.eval.sym.and(mask, seen);
                rest = self.without_term(&terms, at, constant);
                continue;
            };
            let seen = if seen { condition } else { self.eval.sym.not(condition) };
            mask = self.eval.sym.and(mask, seen);
            rest = self.without_term(&terms, at, constant - shift);
        }
        (mask, rest)
    }

    fn without_term(&mut self, terms: &[(Id, f64)], at: usize, constant: f64) -> Id {
        let others: Vec<(Id, f64)> = terms.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, t)| *t).collect();
        self.eval.sym.linear(&others, constant)
    }

    /// Takes a score apart.
    fn scores(&mut self, element: Id) -> Res<Parsed> {
        if self.is_poisoned(element) {
            return self.consequence();
        }
        let (mask, rest) = self.unmasked(element);
        let (mut scale, mut load) = self.eval.sym.coefficient(rest);
        let mut softcap = None;
        if let Node::Apply(Func::Tanh, inner) = *self.eval.sym.node(load) {
            softcap = Some(scale);
            (scale, load) = self.eval.sym.coefficient(inner);
            scale *= softcap.unwrap_or(1.0);
        }
        match self.eval.sym.node(load) {
            Node::Load(base, _) if self.is_product(*base) => Ok(Parsed { load, base: *base, scale, softcap, mask }),
            _ => {
                let text = self.eval.sym.show(rest);
                self.fault(format!("weighs values with scores of no known form: {text}"))
            }
        }
    }

    fn is_product(&self, base: BaseId) -> bool {
        self.eval
            .value_of(base)
            .is_some_and(|v| matches!(&self.eval.graph.node(v.node).op, SourceOp::Call(call) if ["MatMul", "FusedMatMul"].contains(&&call.op[..])))
    }

    /// Cuts a value of stacked heads that an attention gives.
    pub(super) fn cut_heads(&mut self, output: Value, attended: Value, heads: u64, width: u64) -> Res<()> {
        let dims = self.eval.shape(output)?;
        let (count, columns) = (self.eval.sym.number(heads as f64), self.eval.sym.number(width as f64));
        let (h, e, [b, s]) = (self.eval.sym.var("h", count), self.eval.sym.var("e", columns), [self.grid.b, self.grid.s]);
        let raised = super::Raised::Whole(attended, heads * width);
        if dims.len() == 4 {
            let column = self.eval.sym.linear(&[(h, width as f64), (e, 1.0)], 0.0);
            self.cut(output, vec![b, h, s, e], raised, [b, s, column], 1.0);
        } else {
            let both = self.eval.sym.var("bh", dims[0]);
            let (b, h) = self.eval.sym.div_mod(both, count);
            let column = self.eval.sym.linear(&[(h, width as f64), (e, 1.0)], 0.0);
            self.cut(output, vec![both, s, e], raised, [b, s, column], 1.0);
        }
        Ok(())
    }
}
