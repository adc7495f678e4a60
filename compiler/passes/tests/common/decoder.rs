//! A decoder of one layer in source ops, with parts that a test may spell in its own way.

use q35_graph::source::{Attr, Call, Dim, SourceGraph, SourceOp, SourceType};
use q35_graph::{DType, Tensor, Value};
use std::collections::BTreeMap;

pub(crate) const HIDDEN: i64 = 16;
pub(crate) const HEADS: i64 = 2;
pub(crate) const WIDTH: i64 = 8;
pub(crate) const VOCAB: i64 = 32;
pub(crate) const FREQUENCIES: [f32; 4] = [1.0, 0.25, 0.1, 0.01];

/// A graph being written.
#[derive(Default)]
pub(crate) struct Writer {
    pub(crate) graph: SourceGraph,
    count: usize,
    matrices: i64,
}

/// An attribute list.
pub(crate) type Attrs<'a> = &'a [(&'a str, Attr)];

impl Writer {
    pub(crate) fn input(&mut self, name: &str, dtype: DType, dims: &[&str]) -> Value {
        let dims = dims.iter().map(|d| d.parse().map_or_else(|_| Dim::Named((*d).to_owned()), Dim::Fixed)).collect();
        let ty = SourceType { name: name.to_owned(), dtype: Some(dtype), dims: Some(dims) };
        Value { node: self.graph.add(name, SourceOp::Input, &[], vec![ty]), result: 0 }
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> Value {
        self.count += 1;
        let name = format!("c{}", self.count);
        let ty = SourceType { name: name.clone(), dtype: Some(tensor.dtype()), dims: None };
        Value { node: self.graph.add(name, SourceOp::Const(tensor), &[], vec![ty]), result: 0 }
    }

    /// Numbers that all differ.
    pub(crate) fn weights(&mut self, dims: &[i64]) -> Value {
        self.matrices += 1;
        let count: i64 = dims.iter().product();
        let numbers: Vec<f32> = (0..count).map(|i| ((i * 37 + self.matrices * 11) % 101) as f32 / 50.0 - 1.0).collect();
        self.constant(Tensor::from_f32(dims.iter().map(|d| *d as u64).collect(), &numbers))
    }

    pub(crate) fn number(&mut self, x: f32) -> Value {
        self.constant(Tensor::from_f32(vec![], &[x]))
    }

    pub(crate) fn ints(&mut self, list: &[i64]) -> Value {
        self.constant(Tensor::from_i64(vec![list.len() as u64], list))
    }

    pub(crate) fn int(&mut self, x: i64) -> Value {
        self.constant(Tensor::from_i64(vec![], &[x]))
    }

    pub(crate) fn call(&mut self, op: &str, operands: &[Value], attrs: Attrs) -> Value {
        let (domain, op) = op.split_once(':').unwrap_or(("", op));
        let attrs: BTreeMap<String, Attr> = attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let call = Call { domain: domain.to_owned(), op: op.to_owned(), version: 20, attrs };
        let operands: Vec<Option<Value>> = operands.iter().copied().map(Some).collect();
        let number = self.graph.ids().filter(|id| matches!(&self.graph.node(*id).op, SourceOp::Call(c) if c.op == op)).count();
        let name = format!("{op}_{number}");
        let node = self.graph.add(name, SourceOp::Call(call), &operands, vec![SourceType::default()]);
        Value { node, result: 0 }
    }

    pub(crate) fn op(&mut self, op: &str, operands: &[Value]) -> Value {
        self.call(op, operands, &[])
    }

    pub(crate) fn transpose(&mut self, x: Value, perm: &[i64]) -> Value {
        self.call("Transpose", &[x], &[("perm", Attr::Ints(perm.to_vec()))])
    }

    pub(crate) fn reshape(&mut self, x: Value, to: &[i64]) -> Value {
        let to = self.ints(to);
        self.op("Reshape", &[x, to])
    }

    pub(crate) fn concat(&mut self, parts: &[Value], axis: i64) -> Value {
        self.call("Concat", parts, &[("axis", Attr::Int(axis))])
    }

    /// `x[.., from..to:step]`.
    pub(crate) fn columns(&mut self, x: Value, from: i64, to: i64, step: i64) -> Value {
        let bounds = [self.ints(&[from]), self.ints(&[to]), self.ints(&[-1]), self.ints(&[step])];
        self.op("Slice", &[x, bounds[0], bounds[1], bounds[2], bounds[3]])
    }

    /// `[0, 1, .. S)` as `[S]`.
    pub(crate) fn token_range(&mut self, ids: Value) -> Value {
        let tokens = self.call("Shape", &[ids], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
        let (tokens, zero, one) = (self.op("Squeeze", &[tokens]), self.int(0), self.int(1));
        self.op("Range", &[zero, tokens, one])
    }
}

/// How the parts of a decoder are spelled.
pub(crate) struct Spelling {
    /// `(x, weight)`.
    pub(crate) norm: fn(&mut Writer, Value, Value) -> Value,
    /// `(x [B, S, in], weight [in, out])`.
    pub(crate) linear: fn(&mut Writer, Value, Value) -> Value,
    /// `(x [B, H, S, W], ids, frequencies [W / 2])`.
    pub(crate) rope: fn(&mut Writer, Value, Value, Value) -> Value,
    /// `(q, k, v, all [B, H, S, W], ids)`.
    pub(crate) attention: fn(&mut Writer, Value, Value, Value, Value) -> Value,
    /// `(gate, up)`.
    pub(crate) gate: fn(&mut Writer, Value, Value) -> Value,
    /// `(embedding)`.
    pub(crate) embedding: fn(&mut Writer, Value) -> Value,
    /// `(logits)`.
    pub(crate) logits: fn(&mut Writer, Value) -> Value,
}

/// `x * (mean(x^2) + 1e-5)^-1/2 * w`.
pub(crate) fn plain_norm(w: &mut Writer, x: Value, weight: Value) -> Value {
    let (two, eps, axis) = (w.number(2.0), w.number(1e-5), w.ints(&[-1]));
    let square = w.op("Pow", &[x, two]);
    let mean = w.op("ReduceMean", &[square, axis]);
    let shifted = w.op("Add", &[mean, eps]);
    let root = w.op("Sqrt", &[shifted]);
    let inverse = w.op("Reciprocal", &[root]);
    let normal = w.op("Mul", &[x, inverse]);
    w.op("Mul", &[weight, normal])
}

pub(crate) fn angles(w: &mut Writer, ids: Value, frequencies: Value) -> Value {
    let (range, axis) = (w.token_range(ids), w.ints(&[1]));
    let column = w.op("Unsqueeze", &[range, axis]);
    let column = w.call("Cast", &[column], &[("to", Attr::Int(1))]);
    w.op("Mul", &[column, frequencies])
}

/// `x cos + rotate_half(x) sin`.
pub(crate) fn plain_rope(w: &mut Writer, x: Value, ids: Value, frequencies: Value) -> Value {
    let angles = angles(w, ids, frequencies);
    let both = w.concat(&[angles, angles], -1);
    let (cos, sin) = (w.op("Cos", &[both]), w.op("Sin", &[both]));
    let (low, high) = (w.columns(x, 0, WIDTH / 2, 1), w.columns(x, WIDTH / 2, i64::MAX, 1));
    let minus = w.op("Neg", &[high]);
    let turned = w.concat(&[minus, low], -1);
    let (a, b) = (w.op("Mul", &[x, cos]), w.op("Mul", &[turned, sin]));
    w.op("Add", &[a, b])
}

/// `k <= q` as `[S, S]`.
pub(crate) fn causal(w: &mut Writer, ids: Value) -> Value {
    let (range, axis) = (w.token_range(ids), w.ints(&[1]));
    let rows = w.op("Unsqueeze", &[range, axis]);
    w.op("LessOrEqual", &[range, rows])
}

/// Scores scaled on both sides, a mask added, values weighted.
pub(crate) fn plain_attention(w: &mut Writer, q: Value, k: Value, v: Value, ids: Value) -> Value {
    let (left, right) = (w.number(2.0), w.number(0.25));
    let k = w.transpose(k, &[0, 1, 3, 2]);
    let (q, k) = (w.op("Mul", &[q, left]), w.op("Mul", &[k, right]));
    let scores = w.op("MatMul", &[q, k]);
    let (seen, zero, low) = (causal(w, ids), w.number(0.0), w.number(f32::NEG_INFINITY));
    let bias = w.op("Where", &[seen, zero, low]);
    let scores = w.op("Add", &[scores, bias]);
    let p = w.op("Softmax", &[scores]);
    w.op("MatMul", &[p, v])
}

pub(crate) const PLAIN: Spelling = Spelling {
    norm: plain_norm,
    linear: |w, x, weight| w.op("MatMul", &[x, weight]),
    rope: plain_rope,
    attention: plain_attention,
    gate: |w, gate, up| {
        let s = w.op("Sigmoid", &[gate]);
        let silu = w.op("Mul", &[gate, s]);
        w.op("Mul", &[silu, up])
    },
    embedding: |_, x| x,
    logits: |_, x| x,
};

/// The graph of one layer.
pub(crate) fn decoder(s: &Spelling) -> SourceGraph {
    let mut writer = Writer::default();
    let w = &mut writer;
    let ids = w.input("input_ids", DType::I64, &["batch", "sequence"]);
    let table = w.weights(&[VOCAB, HIDDEN]);
    let x = w.op("Gather", &[table, ids]);
    let x = (s.embedding)(w, x);
    let weight = w.weights(&[HIDDEN]);
    let normal = (s.norm)(w, x, weight);
    let frequencies = w.constant(Tensor::from_f32(vec![4], &FREQUENCIES));
    let heads = |w: &mut Writer| {
        let weight = w.weights(&[HIDDEN, HEADS * WIDTH]);
        let y = (s.linear)(w, normal, weight);
        let y = w.reshape(y, &[0, 0, HEADS, WIDTH]);
        w.transpose(y, &[0, 2, 1, 3])
    };
    let [q, k, v] = [heads(w), heads(w), heads(w)];
    let (q, k) = ((s.rope)(w, q, ids, frequencies), (s.rope)(w, k, ids, frequencies));
    let attended = (s.attention)(w, q, k, v, ids);
    let attended = w.transpose(attended, &[0, 2, 1, 3]);
    let attended = w.reshape(attended, &[0, 0, HEADS * WIDTH]);
    let weight = w.weights(&[HEADS * WIDTH, HIDDEN]);
    let out = (s.linear)(w, attended, weight);
    let x = w.op("Add", &[x, out]);
    let weight = w.weights(&[HIDDEN]);
    let normal = (s.norm)(w, x, weight);
    let (gate, up, down) = (w.weights(&[HIDDEN, 12]), w.weights(&[HIDDEN, 12]), w.weights(&[12, HIDDEN]));
    let (gate, up) = ((s.linear)(w, normal, gate), (s.linear)(w, normal, up));
    let inner = (s.gate)(w, gate, up);
    let out = (s.linear)(w, inner, down);
    let x = w.op("Add", &[x, out]);
    let weight = w.weights(&[HIDDEN]);
    let normal = (s.norm)(w, x, weight);
    let head = w.weights(&[HIDDEN, VOCAB]);
    let logits = (s.linear)(w, normal, head);
    let logits = (s.logits)(w, logits);
    writer.graph.outputs.push(("logits".to_owned(), logits));
    writer.graph
}
