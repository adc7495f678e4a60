//! The standard's `Attention` and ONNX Runtime's `MultiHeadAttention`, by their definitions.

use super::attend::Heads;
use super::{Raised, Raiser, Res};
use crate::sym::{Id, Kind};
use q35_graph::{NodeId, Value};

/// Which attributes and operands say what.
struct Fused {
    /// Numbers of heads of the query, and of keys and values.
    heads: [&'static str; 2],
    /// A number per column of queries, keys and values.
    bias: Option<usize>,
    /// Which entries are no padding.
    padding: Option<usize>,
    /// What is seen, as truth values or added to the scores.
    mask: usize,
    past: [usize; 2],
    causal: &'static str,
    /// Whether causality counts from the first new token, not from the first entry.
    causal_after_past: bool,
    /// Operands that change the meaning of the others.
    refused: &'static [usize],
}

const ATTENTION: Fused = Fused {
    heads: ["q_num_heads", "kv_num_heads"],
    bias: None,
    padding: None,
    mask: 3,
    past: [4, 5],
    causal: "is_causal",
    causal_after_past: false,
    refused: &[6],
};

const MULTI_HEAD: Fused = Fused {
    heads: ["num_heads"; 2],
    bias: Some(3),
    padding: Some(4),
    mask: 5,
    past: [6, 7],
    causal: "unidirectional",
    causal_after_past: true,
    refused: &[8, 9],
};

/// Queries, keys or values of the op.
struct Part {
    new: Value,
    /// Added to `new`, from a column on.
    bias: Option<(Value, u64)>,
    /// `[B, heads, P, width]`.
    past: Option<Value>,
    /// Rank of `new`.
    rank: usize,
    width: u64,
    /// Query heads that share a head of this, if it is not the query.
    group: Option<Id>,
}

impl Part {
    fn element(&self, raiser: &mut Raiser, head: Id, row: Id, column: Id) -> Res<Id> {
        let b = raiser.grid.b;
        let head = match self.group {
            Some(group) => raiser.eval.sym.div_mod(head, group).0,
            None => head,
        };
        let mut row = row;
        if let Some(past) = self.past {
            let length = raiser.eval.shape(past)?[2];
            let old = raiser.eval.sym.less(row, length);
            match raiser.eval.sym.as_number(old) {
                Some(0.0) => row = raiser.eval.sym.sub(row, length),
                Some(_) => return raiser.eval.element(past, &[b, head, row, column]),
                None => return raiser.fault("reads old and new tokens at once"),
            }
        }
        if self.rank == 4 {
            return raiser.eval.element(self.new, &[b, head, row, column]);
        }
        let flat = raiser.eval.sym.linear(&[(head, self.width as f64), (column, 1.0)], 0.0);
        let element = raiser.eval.element(self.new, &[b, row, flat])?;
        let Some((bias, first)) = self.bias else { return Ok(element) };
        let at = raiser.eval.sym.plus(flat, first as f64);
        let bias = raiser.eval.element(bias, &[at])?;
        Ok(raiser.eval.sym.add(element, bias))
    }
}

impl Raiser<'_> {
    /// The standard's op.
    pub(super) fn attention_op(&mut self, node: NodeId) -> Res<()> {
        self.fused(node, &ATTENTION)
    }

    /// ONNX Runtime's.
    pub(super) fn multi_head(&mut self, node: NodeId) -> Res<()> {
        self.fused(node, &MULTI_HEAD)
    }

    /// Operands: query, key, value, `[B, heads, S, width]`, or `[B, S, heads * width]` with head counts, and others as `fused` says.
    fn fused(&mut self, node: NodeId, fused: &Fused) -> Res<()> {
        if fused.refused.iter().any(|at| self.eval.graph.operand(node, *at).is_some()) {
            return self.fault("has an operand that is not supported");
        }
        let call = self.eval.call(node)?;
        let output = Value { node, result: 0 };
        let operands = [self.eval.operand(node, 0)?, self.eval.operand(node, 1)?, self.eval.operand(node, 2)?];
        let mut shapes = Vec::new();
        for (value, attr) in operands.into_iter().zip([fused.heads[0], fused.heads[1], fused.heads[1]]) {
            let dims = self.eval.shape(value)?;
            let (heads, width) = match dims[..] {
                [_, heads, _, width] => (self.eval.sym.as_int(heads), self.eval.sym.as_int(width)),
                [_, _, all] => {
                    let heads = call.int(attr, 0);
                    (Some(heads), self.eval.sym.as_int(all).and_then(|w| w.checked_div(heads)))
                }
                _ => (None, None),
            };
            match (heads, width) {
                (Some(heads @ 1..), Some(width @ 1..)) => shapes.push((dims.len(), heads as u64, width as u64)),
                _ => return self.fault("has heads of unknown number or width"),
            }
        }
        let ([q, k, v], [past_k, past_v]) = (operands, fused.past.map(|at| self.eval.graph.operand(node, at)));
        let [(rank, heads, key_dim), (_, kv_heads, _), (_, _, value_dim)] = shapes[..] else { return self.consequence() };
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return self.fault("has query heads that share key heads unevenly");
        }
        let group = self.eval.sym.number((heads / kv_heads) as f64);
        if shapes.iter().any(|(other, ..)| *other != rank) {
            return self.fault("has queries, keys and values of different layout");
        }
        let bias = fused.bias.and_then(|at| self.eval.graph.operand(node, at));
        let part = |new, past, width, group, first| Part { new, bias: bias.map(|b| (b, first)), past, rank, width, group };
        let (of_keys, of_values) = (heads * key_dim, (heads + kv_heads) * key_dim);
        let (q, k, v) = (
            part(q, None, key_dim, None, 0),
            part(k, past_k, key_dim, Some(group), of_keys),
            part(v, past_v, value_dim, Some(group), of_values),
        );
        let entries = self.grid.total(&mut self.eval.sym);
        let t = self.eval.sym.var("t", entries);
        let mask = self.op_mask(node, fused, heads, t)?;
        let scale = match call.attrs.get("scale") {
            Some(_) if call.float("scale", 1.0) != 0.0 => f64::from(call.float("scale", 1.0)),
            _ => 1.0 / (key_dim as f64).sqrt(),
        };
        let softcap = Some(f64::from(call.float("softcap", 0.0))).filter(|c| *c != 0.0);
        let attended = self.attend(&Heads {
            query: &|r, h, row, d| q.element(r, h, row, d),
            key: &|r, h, row, d| k.element(r, h, row, d),
            value: &|r, h, row, d| v.element(r, h, row, d),
            heads,
            key_dim,
            value_dim,
            mask,
            entry: t,
            scale,
            softcap,
            sinks: None,
        })?;
        if rank == 4 {
            self.cut_heads(output, attended, heads, value_dim)?;
        } else {
            let columns = self.eval.sym.number((heads * value_dim) as f64);
            let (c, [b, s]) = (self.eval.sym.var("c", columns), [self.grid.b, self.grid.s]);
            self.cut(output, vec![b, s, c], Raised::Whole(attended, heads * value_dim), [b, s, c], 1.0);
        }
        for (result, at) in [(1u16, 0), (2, 1)] {
            self.cut_present(Value { node, result }, at)?;
        }
        Ok(())
    }

    /// Masks and causality, as one truth value.
    fn op_mask(&mut self, node: NodeId, fused: &Fused, heads: u64, t: Id) -> Res<Id> {
        let mut mask = self.eval.sym.truth(true);
        if self.eval.call(node)?.int(fused.causal, 0) != 0 {
            let own = match fused.causal_after_past {
                true => self.grid.column(&mut self.eval.sym),
                // Counted from the first entry it says something only without a past.
                false if self.grid.past.is_none() => self.grid.s,
                false => return self.fault("is causal by attribute although it has a cache"),
            };
            mask = self.eval.sym.less_equal(t, own);
        }
        if let Some(padding) = fused.padding.and_then(|at| self.eval.graph.operand(node, at)) {
            if self.eval.shape(padding)?.len() != 2 {
                return self.fault("has a padding mask of unknown layout");
            }
            let element = self.eval.element(padding, &[self.grid.b, t])?;
            let real = self.eval.sym.as_truth(element);
            mask = self.eval.sym.and(mask, real);
        }
        let Some(operand) = self.eval.graph.operand(node, fused.mask) else { return Ok(mask) };
        let count = self.eval.sym.number(heads as f64);
        let (h, dims) = (self.eval.sym.var("h", count), self.eval.shape(operand)?);
        let full = [self.grid.b, h, self.grid.s, t];
        if dims.len() > 4 {
            return self.fault("has a mask of unknown layout");
        }
        let (zero, unit) = (self.eval.sym.int(0), self.eval.sym.int(1));
        let at: Vec<Id> = dims.iter().zip(&full[4 - dims.len()..]).map(|(d, i)| if *d == unit { zero } else { *i }).collect();
        let element = self.eval.element(operand, &at)?;
        if self.is_poisoned(element) {
            return self.consequence();
        }
        let seen = match self.eval.kind(operand)? {
            Kind::Truth => element,
            _ => self.added_mask(element)?,
        };
        Ok(self.eval.sym.and(mask, seen))
    }

    /// Cuts the cache that a fused op hands out: what came in, then the new tokens of the layer just added.
    pub(super) fn cut_present(&mut self, output: Value, which: usize) -> Res<()> {
        if output.result as usize >= self.eval.graph.node(output.node).results.len() {
            return Ok(());
        }
        let shape = self.eval.shape(output)?;
        let &[_, _, entries, _] = &shape[..] else { return self.consequence() };
        let Some(layer) = self.layers.last() else { return self.consequence() };
        let (past, new, head, column) = (layer.past, layer.new[which], layer.head, layer.columns[which]);
        let (b, s) = (self.grid.b, self.grid.s);
        let t = self.eval.sym.var("t", entries);
        let start = self.grid.past.unwrap_or_else(|| self.eval.sym.int(0));
        let token = self.eval.sym.sub(t, start);
        let mut element = self.moved(new, s, token);
        if let Some(past) = past {
            let old = self.eval.sym.less(t, start);
            let cached = self.eval.element(past[which], &[b, head, t, column])?;
            element = self.eval.sym.select(old, cached, element);
        }
        self.eval.cut(output, vec![b, head, t, column], element);
        Ok(())
    }
}
