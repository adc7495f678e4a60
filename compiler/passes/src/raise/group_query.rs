//! ONNX Runtime's `GroupQueryAttention`, which is one of our ops almost as it stands.

use super::rope::Rotation;
use super::rotary_table::Table;
use super::{Layer, Raised, Raiser, Res};
use crate::sym::{Combine, Id, Node};
use q35_bundle::PositionRule;
use q35_dialects::q35::{Append, Attention, RmsNorm, Rope, RopeStyle};
use q35_graph::{NodeId, Value};

impl Raiser<'_> {
    /// Operands: query (or query, key and value packed), key, value, past key, past value, last index of each sequence, total length,
    /// cosines, sines, positions, bias, sinks, scales of a quantized cache (two), weights of norms of queries and of keys.
    pub(super) fn group_query(&mut self, node: NodeId) -> Res<()> {
        let call = self.eval.call(node)?;
        let output = Value { node, result: 0 };
        let (heads, kv_heads) = (call.int("num_heads", 0) as u64, call.int("kv_num_heads", 0) as u64);
        let Some(width) = self.eval.shape(output)?.last().and_then(|w| self.eval.sym.as_int(*w)) else {
            return self.fault("has heads of unknown width");
        };
        let head_dim = width as u64 / heads;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return self.fault("has query heads that share key heads unevenly");
        }
        if [9, 10].iter().any(|at| self.eval.graph.operand(node, *at).is_some()) || call.int("smooth_softmax", 0) == 1 {
            return self.fault("has positions, a bias or a smooth softmax, which are not supported");
        }
        let operands = self.eval.graph.operands(node);
        if operands.iter().enumerate().any(|(at, operand)| operand.is_some() && (at == 12 || at == 13 || at > 15)) {
            return self.fault("has a quantized cache, or operands beyond those that are known");
        }
        self.counts_sequences(node)?;
        let q = self.eval.operand(node, 0)?;
        let (k, v, k_start, v_start) = match (self.eval.graph.operand(node, 1), self.eval.graph.operand(node, 2)) {
            (Some(k), Some(v)) => (k, v, 0, 0),
            _ => (q, q, heads * head_dim, (heads + kv_heads) * head_dim),
        };
        let q = self.columns_of(q, 0, heads * head_dim)?;
        let k = self.columns_of(k, k_start, kv_heads * head_dim)?;
        let v = self.columns_of(v, v_start, kv_heads * head_dim)?;
        let q = self.head_norm(node, 14, q, head_dim)?;
        let k = self.head_norm(node, 15, k, head_dim)?;
        let (q, k) = match call.int("do_rotary", 0) {
            0 => (q, k),
            _ => {
                let rotation = self.table_rotation(node)?;
                let rotary = self.rotary(&rotation, rotation.ratio)?;
                let rope = Rope { head_dim, style: rotation.style };
                (self.add(rope.clone(), &[q, rotary])?, self.add(rope, &[k, rotary])?)
            }
        };
        let layer = self.layers.len() as u32;
        let cache = self.add(Append::plain(layer, kv_heads), &[k, v])?;
        let scale = match call.float("scale", 0.0) {
            0.0 => (1.0 / (head_dim as f64).sqrt()) as f32,
            scale => scale,
        };
        let sinks = match self.eval.graph.operand(node, 11) {
            Some(sinks) => {
                let count = self.eval.sym.number(heads as f64);
                let h = self.eval.sym.var("h", count);
                let element = self.eval.element(sinks, &[h])?;
                Some(self.vector(element, h, heads, "sinks")?)
            }
            None => None,
        };
        let window = u64::try_from(call.int("local_window_size", -1)).ok().filter(|w| *w > 0);
        let softcap = Some(call.float("softcap", 0.0)).filter(|c| *c != 0.0);
        let attended = self.add(Attention { heads, scale, window, softcap, sinks }, &[q, cache])?;
        let columns = self.eval.sym.int(width);
        let (c, [b, s]) = (self.eval.sym.var("c", columns), [self.grid.b, self.grid.s]);
        self.cut(output, vec![b, s, c], Raised::Whole(attended, width as u64), [b, s, c], 1.0);
        self.group_layer(node, [k, v], kv_heads, head_dim)?;
        for (result, which) in [(1, 0), (2, 1)] {
            self.cut_present(Value { node, result }, which)?;
        }
        Ok(())
    }

    /// The root mean square norm of each head, before it rotates, if the operand with its weight is there.
    fn head_norm(&mut self, node: NodeId, operand: usize, x: Value, head_dim: u64) -> Res<Value> {
        let Some(weight) = self.eval.graph.operand(node, operand) else { return Ok(x) };
        let count = self.eval.sym.number(head_dim as f64);
        let d = self.eval.sym.var("d", count);
        let element = self.eval.element(weight, &[d])?;
        let weight = Some(self.vector(element, d, head_dim, "a norm's weight")?);
        let eps = self.eval.call(node)?.float("qk_norm_epsilon", 1e-6);
        self.add(RmsNorm { weight, eps, group: head_dim }, &[x])
    }

    /// Columns of an operand `[B, S, width]`, as a value.
    fn columns_of(&mut self, operand: Value, start: u64, len: u64) -> Res<Value> {
        let columns = self.eval.sym.number(len as f64);
        let c = self.eval.sym.var("c", columns);
        let at = self.eval.sym.plus(c, start as f64);
        let element = self.eval.element(operand, &[self.grid.b, self.grid.s, at])?;
        let (element, row) = self.settle(element)?;
        if row != [self.grid.b, self.grid.s] {
            return self.fault("attends with what belongs to other tokens");
        }
        self.exact(element, c, len)
    }

    /// The sequence lengths have to be the mask's sums.
    fn counts_sequences(&mut self, node: NodeId) -> Res<()> {
        let lengths = self.eval.operand(node, 5)?;
        let b = self.grid.b;
        let rank = self.eval.shape(lengths)?.len();
        let at = if rank == 1 { vec![b] } else { vec![b, self.eval.sym.int(0)] };
        let last = self.eval.element(lengths, &at)?;
        let (terms, c) = self.eval.sym.terms(last);
        let entries = self.grid.total(&mut self.eval.sym);
        let sums_mask = match terms[..] {
            [(fold, 1.0)] if c == -1.0 => match *self.eval.sym.node(fold) {
                Node::Fold(Combine::Sum, bound, body) if self.eval.sym.bound_extent(bound) == Some(entries) => {
                    matches!(self.eval.sym.node(body), Node::Load(base, index)
                        if self.eval.value_of(*base) == self.grid.mask && **index == [b, bound])
                }
                _ => false,
            },
            _ => false,
        };
        self.masked |= sums_mask;
        if sums_mask { Ok(()) } else { self.fault("has sequence lengths that are not the attention mask's sums") }
    }

    /// The rotation that cosines and sines by position give.
    fn table_rotation(&mut self, node: NodeId) -> Res<Rotation> {
        let style =
            if self.eval.call(node)?.int("rotary_interleaved", 0) == 0 { RopeStyle::Halves } else { RopeStyle::Interleaved };
        let (cos, sin) = (self.eval.operand(node, 7)?, self.eval.operand(node, 8)?);
        let dims = self.eval.shape(cos)?;
        let &[rows, half] = &dims[..] else { return self.fault("rotates by tables of unknown layout") };
        let (p, i) = (self.eval.sym.var("position", rows), self.eval.sym.var("i", half));
        let Some(half) = self.eval.sym.as_int(half) else { return self.fault("rotates by tables of unknown width") };
        let tables: Vec<Table> = [cos, sin]
            .into_iter()
            .map(|table| {
                let element = self.eval.element(table, &[p, i])?;
                self.table(element, i, half as u64)
            })
            .collect::<Res<_>>()?;
        // The op counts positions by itself, from the lengths of the sequences.
        self.position_rule(PositionRule::Unmasked)?;
        let (inv_freq, ratio) = self.fitted(&tables[0], &tables[1], half as u64)?;
        Ok(Rotation { inv_freq, style, ratio })
    }

    fn group_layer(&mut self, node: NodeId, made: [Value; 2], kv_heads: u64, head_dim: u64) -> Res<()> {
        let past = match (self.eval.graph.operand(node, 3), self.eval.graph.operand(node, 4)) {
            (Some(key), Some(value)) => Some([key, value]),
            _ => None,
        };
        let present = self.eval.shape(Value { node, result: 1 })?;
        let (g, d) = (self.eval.sym.var("g", present[1]), self.eval.sym.var("d", present[3]));
        let new = made.map(|value| -> Id {
            let base = self.raise_base(Raised::Whole(value, kv_heads * head_dim));
            let column = self.eval.sym.linear(&[(g, head_dim as f64), (d, 1.0)], 0.0);
            self.eval.sym.load(base, &[self.grid.b, self.grid.s, column])
        });
        self.new_layer(Layer { past, new, head: g, columns: [d, d] })
    }
}
