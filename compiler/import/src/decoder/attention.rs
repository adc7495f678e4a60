//! Attention over heads of queries, keys and values.

use super::shared::Shared;
use super::{Heads, Layer, QkNorm, Write};
use crate::onnx::proto::Attribute;

/// What is behind a softmax: scaled, bounded, masked scores.
pub(super) struct Scores<'a> {
    pub(super) scale: f32,
    pub(super) softcap: Option<f32>,
    /// Tensor of one score per head that belongs to no token, and the number of heads.
    pub(super) sinks: Option<(&'a str, u64)>,
    pub(super) window: Option<u64>,
}

impl Write<'_> {
    pub(super) fn heads(&mut self, name: &str, x: &str, a: &Heads, layer: &Layer, shared: &Shared) -> String {
        let m = self.model;
        let (queries, keys) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let [mut q, mut k, v] = match m.fused.woven {
            true => self.woven_heads(name, x, a, shared),
            false => self.linears(name, x, m.hidden, parts, m.fused.qkv.then_some(m.names.qkv), m.biases.qkv),
        };
        let [q_norm, k_norm] = m.names.qk_norms.map(|norm| format!("{name}.{norm}"));
        if a.qk_norm == QkNorm::Whole {
            q = self.norm(&q_norm, &q, queries, m.eps);
            k = self.norm(&k_norm, &k, keys, m.eps);
        }
        self.w.enter(name);
        let [mut q, mut k, v] =
            if m.fused.woven { [q, k, v] } else { [q, k, v].map(|x| self.split_heads(&x, a.head_dim, shared)) };
        if a.qk_norm == QkNorm::Heads {
            q = self.norm(&q_norm, &q, a.head_dim, m.eps);
            k = self.norm(&k_norm, &k, a.head_dim, m.eps);
        }
        if matches!(a.qk_norm, QkNorm::EachHead | QkNorm::HeadByHead) {
            q = self.norm_of_heads(&q_norm, &q, [a.heads, a.head_dim], a.qk_norm);
            k = self.norm_of_heads(&k_norm, &k, [a.kv_heads, a.head_dim], a.qk_norm);
        }
        self.w.enter(name);
        let [mut q, mut k, v] = [q, k, v].map(|x| self.heads_first(&x));
        if let Some(angles) = layer.rotation.map(|at| &shared.angles[at]) {
            [q, k] = [q, k].map(|x| self.rotate(&x, a.head_dim, a.turn, angles, shared));
        }
        if a.qk_norm == QkNorm::Turned {
            q = self.norm(&q_norm, &q, a.head_dim, m.eps);
            k = self.norm(&k_norm, &k, a.head_dim, m.eps);
            self.w.enter(name);
        }
        let [k, v] = [k, v].map(|x| self.repeat(&x, a, shared));
        let sinks = format!("{name}.sinks");
        let scores =
            Scores { scale: a.scale, softcap: a.softcap, sinks: a.sinks.then_some((&sinks, a.heads)), window: layer.window };
        let mut mixed = self.attend([&q, &k, &v], queries, &scores, shared);
        if let Some(gate) = a.gate {
            let gate = self.linear(&format!("{name}.{gate}"), x, m.hidden, queries, false);
            let gate = self.w.op("Sigmoid", [&gate], []);
            mixed = self.w.op("Mul", [&mixed, &gate], []);
        }
        self.linear(&format!("{name}.{}", m.names.attention_out), &mixed, queries, m.hidden, m.biases.output)
    }

    /// Queries, keys and values `[batch, sequence, heads, width]` from one weight in which those of a head are neighbours.
    fn woven_heads(&mut self, name: &str, x: &str, a: &Heads, shared: &Shared) -> [String; 3] {
        let (m, width) = (self.model, a.head_dim);
        let all = self.linear(&format!("{name}.query_key_value"), x, m.hidden, 3 * a.heads * width, m.biases.qkv);
        let all = self.split_heads(&all, 3 * width, shared);
        [0, 1, 2].map(|at| self.columns(&all, (at * width) as i64, ((at + 1) * width) as i64))
    }

    /// Attention of `[batch, heads, sequence, width]` each to `[batch, sequence, columns]`.
    pub(super) fn attend(&mut self, [q, k, v]: [&str; 3], columns: u64, by: &Scores, shared: &Shared) -> String {
        let k = self.w.op("Transpose", [k], [Attribute::ints("perm", &[0, 1, 3, 2])]);
        let scores = self.w.op("MatMul", [q, &k], []);
        let scores = self.times(scores, by.scale);
        let scores = self.capped(scores, by.softcap);
        let scores = self.w.op("Add", [&scores, shared.mask(by.window)], []);
        let shares = match by.sinks {
            None => self.w.op("Softmax", [&scores], [Attribute::int("axis", -1)]),
            Some((name, heads)) => self.shares_beside_sinks(&scores, name, heads, shared),
        };
        let mixed = self.w.op("MatMul", [&shares, v], []);
        let mixed = self.heads_first(&mixed);
        let flat = self.w.ints(&[0, 0, columns as i64]);
        self.w.op("Reshape", [&mixed, &flat], [])
    }

    /// A softmax in which one more score per head takes part.
    fn shares_beside_sinks(&mut self, scores: &str, name: &str, heads: u64, shared: &Shared) -> String {
        let sinks = self.weight(name, &[heads]);
        let apart = self.w.ints(&[1, heads as i64, 1, 1]);
        let sinks = self.w.op("Reshape", [&sinks, &apart], []);
        let (heads, one) = (self.w.ints(&[heads as i64]), self.w.ints(&[1]));
        let shape = self.w.op("Concat", [&shared.batch, &heads, &shared.sequence, &one], [Attribute::int("axis", 0)]);
        let sinks = self.w.op("Expand", [&sinks, &shape], []);
        let all = self.w.op("Concat", [scores, &sinks], [Attribute::int("axis", -1)]);
        let shares = self.w.op("Softmax", [&all], [Attribute::int("axis", -1)]);
        self.columns(&shares, 0, -1)
    }

    /// Gives every query head a key or value head of its own: `[batch, kv_heads, ..]` to `[batch, heads, ..]`.
    fn repeat(&mut self, x: &str, a: &Heads, shared: &Shared) -> String {
        if a.heads == a.kv_heads {
            return x.to_owned();
        }
        let (after_head, width) = (self.w.ints(&[2]), self.w.ints(&[a.head_dim as i64]));
        let groups = self.w.ints(&[a.kv_heads as i64, (a.heads / a.kv_heads) as i64]);
        let heads = self.w.ints(&[a.heads as i64]);
        let wide = self.w.op("Concat", [&shared.batch, &groups, &shared.sequence, &width], [Attribute::int("axis", 0)]);
        let flat = self.w.op("Concat", [&shared.batch, &heads, &shared.sequence, &width], [Attribute::int("axis", 0)]);
        let x = self.w.op("Unsqueeze", [x, &after_head], []);
        let x = self.w.op("Expand", [&x, &wide], []);
        self.w.op("Reshape", [&x, &flat], [])
    }
}
