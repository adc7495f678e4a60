//! A dense decoder of the LLaMA family, written out as an ONNX graph.
//!
//! The one place where this compiler writes a model instead of reading one: a checkpoint has weights and a configuration but no graph, and a test of
//! memory needs a model of any size. Both hand the graph to the same importer as any other file, so they meet the same checks and the same raising.
//!
//! The graph maps `input_ids` and `attention_mask`, both `int64[batch, sequence]`, to `logits`, `float[batch, sequence, vocab]`. Positions count from
//! 0; attention is causal, in a window where there is one, and does not see positions whose mask is 0. Everything is computed in f32, whatever type
//! the weights are stored in. Names of weights and of modules are those of Hugging Face checkpoints.

mod writer;

use crate::onnx::proto::build::{BOOL, FLOAT, INT64};
use crate::onnx::proto::{Attribute, Graph, Tensor, ValueInfo};
use writer::Writer;

/// Version of the standard operator set that the graph uses.
pub(crate) const OPSET: i64 = 20;

/// What a mask adds to the score of a key that is not seen.
const UNSEEN: f32 = f32::MIN;

/// A dense decoder. Sizes are numbers of elements.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    /// Tokens in the vocabulary.
    pub(crate) vocab: u64,
    /// Width of the residual stream.
    pub(crate) hidden: u64,
    /// Width inside the feed-forward part.
    pub(crate) ffn: u64,
    /// Query heads.
    pub(crate) heads: u64,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: u64,
    /// Width of a head.
    pub(crate) head_dim: u64,
    /// Added to the mean square in every norm.
    pub(crate) eps: f32,
    /// Rotation frequencies, in radians per position; twice as many columns of a head rotate.
    pub(crate) inv_freq: Vec<f32>,
    /// Factor on the cosines and sines.
    pub(crate) rope_scale: f32,
    /// For each layer, how many positions back attention sees, the current one included.
    pub(crate) windows: Vec<Option<u64>>,
    /// Whether queries and keys are normalized per head before they rotate.
    pub(crate) qk_norm: bool,
    /// Which linear layers have biases.
    pub(crate) biases: Biases,
    /// Whether q, k, v come from one weight, and gate and up from another.
    pub(crate) fused: bool,
    /// Whether the head's weight is the embedding's.
    pub(crate) tied: bool,
    /// Whether linear weights are stored `[in, out]`, as exporters write them, or `[out, in]`, as checkpoints do.
    pub(crate) transposed: bool,
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Biases {
    /// The projections to q, k and v.
    pub(crate) qkv: bool,
    /// The projection from the attention.
    pub(crate) output: bool,
    /// All of the feed-forward part.
    pub(crate) ffn: bool,
}

/// Where the weights of a decoder are.
pub(crate) trait Weights {
    /// The tensor of that name, which must have these dimensions.
    fn tensor(&mut self, name: &str, dims: &[u64]) -> Tensor;
}

/// Values that all layers read.
struct Shared {
    /// `[1, 1, sequence, 2 * inv_freq]`
    cos: String,
    sin: String,
    /// Broadcast to `[batch, heads, sequence, sequence]`; one for each different window.
    masks: Vec<(Option<u64>, String)>,
    /// `int64[1]`
    batch: String,
    sequence: String,
}

impl Decoder {
    /// Writes the graph.
    pub(crate) fn graph(&self, weights: &mut dyn Weights) -> Graph {
        let mut write = Write { w: Writer::default(), weights, model: self };
        write.model();
        write.w.finish()
    }
}

struct Write<'a> {
    w: Writer,
    weights: &'a mut dyn Weights,
    model: &'a Decoder,
}

impl Write<'_> {
    fn model(&mut self) {
        let m = self.model;
        let ids = self.w.input(ValueInfo::tensor("input_ids", INT64, &["batch", "sequence"]));
        let padding = self.w.input(ValueInfo::tensor("attention_mask", INT64, &["batch", "sequence"]));
        let shared = self.shared(&ids, &padding);
        self.w.enter("model.embed_tokens");
        let table = self.weight("model.embed_tokens.weight", &[m.vocab, m.hidden]);
        let mut x = self.w.op("Gather", [&table, &ids], []);
        for (layer, window) in m.windows.iter().enumerate() {
            let name = format!("model.layers.{layer}");
            let normed = self.norm(&format!("{name}.input_layernorm"), &x, m.hidden);
            let attention = self.attention(&format!("{name}.self_attn"), &normed, *window, &shared);
            self.w.enter(&name);
            x = self.w.op("Add", [&x, &attention], []);
            let normed = self.norm(&format!("{name}.post_attention_layernorm"), &x, m.hidden);
            let ffn = self.ffn(&format!("{name}.mlp"), &normed);
            self.w.enter(&name);
            x = self.w.op("Add", [&x, &ffn], []);
        }
        let x = self.norm("model.norm", &x, m.hidden);
        self.w.enter("lm_head");
        let logits = if m.tied {
            let transposed = self.w.op("Transpose", [&table], [Attribute::ints("perm", &[1, 0])]);
            self.w.op("MatMul", [&x, &transposed], [])
        } else {
            self.linear("lm_head", &x, m.hidden, m.vocab, false)
        };
        self.w.output(&logits, ValueInfo::tensor("logits", FLOAT, &["batch", "sequence", &m.vocab.to_string()]));
    }

    /// Masks, cosines and sines.
    fn shared(&mut self, ids: &str, padding: &str) -> Shared {
        let w = &mut self.w;
        w.enter("model");
        let batch = w.op("Shape", [ids], [Attribute::int("start", 0), Attribute::int("end", 1)]);
        let sequence = w.op("Shape", [ids], [Attribute::int("start", 1), Attribute::int("end", 2)]);
        let length = w.op("Squeeze", [&sequence], []);
        let (zero, one) = (w.int(0), w.int(1));
        let positions = w.op("Range", [&zero, &length, &one], []);
        let (to_keys, to_queries, to_padding, to_angles) =
            (w.ints(&[0, 1, 2]), w.ints(&[0, 1, 3]), w.ints(&[1, 2]), w.ints(&[0, 2]));
        let keys = w.op("Unsqueeze", [&positions, &to_keys], []);
        let queries = w.op("Unsqueeze", [&positions, &to_queries], []);
        let real = w.op("Cast", [padding], [Attribute::int("to", BOOL.into())]);
        let real = w.op("Unsqueeze", [&real, &to_padding], []);
        let causal = w.op("LessOrEqual", [&keys, &queries], []);
        let seen = w.op("And", [&causal, &real], []);
        let (nothing, unseen) = (w.number(0.0), w.number(UNSEEN));
        let mut masks: Vec<(Option<u64>, String)> = Vec::new();
        for &window in &self.model.windows {
            if masks.iter().any(|(other, _)| *other == window) {
                continue;
            }
            let seen = match window {
                None => seen.clone(),
                Some(width) => {
                    let width = w.int(width as i64);
                    let before = w.op("Sub", [&queries, &width], []);
                    let near = w.op("Greater", [&keys, &before], []);
                    w.op("And", [&seen, &near], [])
                }
            };
            masks.push((window, w.op("Where", [&seen, &nothing, &unseen], [])));
        }
        w.enter("model.rotary_emb");
        let frequencies =
            w.tensor(Tensor::f32s("model.rotary_emb.inv_freq", &[self.model.inv_freq.len() as i64], &self.model.inv_freq));
        let positions = w.op("Unsqueeze", [&positions, &to_angles], []);
        let positions = w.op("Cast", [&positions], [Attribute::int("to", FLOAT.into())]);
        let angles = w.op("Mul", [&positions, &frequencies], []);
        let angles = w.op("Concat", [&angles, &angles], [Attribute::int("axis", -1)]);
        let heads = w.ints(&[1]);
        let [cos, sin] = ["Cos", "Sin"].map(|op| {
            let mut value = w.op(op, [&angles], []);
            if self.model.rope_scale != 1.0 {
                let scale = w.number(self.model.rope_scale);
                value = w.op("Mul", [&value, &scale], []);
            }
            w.op("Unsqueeze", [&value, &heads], [])
        });
        Shared { cos, sin, masks, batch, sequence }
    }

    /// A weight in f32.
    fn weight(&mut self, name: &str, dims: &[u64]) -> String {
        let tensor = self.weights.tensor(name, dims);
        let stored = tensor.data_type;
        let name = self.w.tensor(tensor);
        if stored == FLOAT { name } else { self.w.op("Cast", [&name], [Attribute::int("to", FLOAT.into())]) }
    }

    /// `x / sqrt(mean(x^2) + eps) * weight` over the last axis, which has `width` elements.
    fn norm(&mut self, name: &str, x: &str, width: u64) -> String {
        self.w.enter(name);
        let weight = self.weight(&format!("{name}.weight"), &[width]);
        let (two, eps, last) = (self.w.number(2.0), self.w.number(self.model.eps), self.w.ints(&[-1]));
        let squares = self.w.op("Pow", [x, &two], []);
        let mean = self.w.op("ReduceMean", [&squares, &last], [Attribute::int("keepdims", 1)]);
        let sum = self.w.op("Add", [&mean, &eps], []);
        let root = self.w.op("Sqrt", [&sum], []);
        let inverse = self.w.op("Reciprocal", [&root], []);
        let normed = self.w.op("Mul", [x, &inverse], []);
        self.w.op("Mul", [&weight, &normed], [])
    }

    /// `x W^T + bias`
    fn linear(&mut self, name: &str, x: &str, inputs: u64, outputs: u64, bias: bool) -> String {
        self.w.enter(name);
        let dims = if self.model.transposed { [inputs, outputs] } else { [outputs, inputs] };
        let mut weight = self.weight(&format!("{name}.weight"), &dims);
        if !self.model.transposed {
            weight = self.w.op("Transpose", [&weight], [Attribute::ints("perm", &[1, 0])]);
        }
        let y = self.w.op("MatMul", [x, &weight], []);
        if !bias {
            return y;
        }
        let bias = self.weight(&format!("{name}.bias"), &[outputs]);
        self.w.op("Add", [&y, &bias], [])
    }

    /// Several linear layers of one input; fused ones are one weight, called `{module}.{fused}`.
    fn linears<const N: usize>(
        &mut self,
        module: &str,
        x: &str,
        inputs: u64,
        parts: [(&str, u64); N],
        fused: &str,
        bias: bool,
    ) -> [String; N] {
        if !self.model.fused {
            return parts.map(|(part, outputs)| self.linear(&format!("{module}.{part}"), x, inputs, outputs, bias));
        }
        let all = self.linear(&format!("{module}.{fused}"), x, inputs, parts.iter().map(|p| p.1).sum(), bias);
        let sizes = self.w.ints(&parts.map(|p| p.1 as i64));
        let mut split = self.w.ops("Split", [&all, &sizes], [Attribute::int("axis", -1)], N).into_iter();
        parts.map(|_| split.next().unwrap_or_default())
    }

    fn attention(&mut self, name: &str, x: &str, window: Option<u64>, shared: &Shared) -> String {
        let m = self.model;
        let (queries, keys) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
        let parts = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        let [q, k, v] = self.linears(name, x, m.hidden, parts, "qkv_proj", m.biases.qkv);
        let [mut q, mut k, v] = [q, k, v].map(|x| self.split_heads(name, &x, shared));
        if m.qk_norm {
            q = self.norm(&format!("{name}.q_norm"), &q, m.head_dim);
            k = self.norm(&format!("{name}.k_norm"), &k, m.head_dim);
        }
        self.w.enter(name);
        let heads_first = || [Attribute::ints("perm", &[0, 2, 1, 3])];
        let [q, k, v] = [q, k, v].map(|x| self.w.op("Transpose", [&x], heads_first()));
        let (q, k) = (self.rotate(&q, shared), self.rotate(&k, shared));
        let [k, v] = [k, v].map(|x| self.repeat(&x, shared));
        let k = self.w.op("Transpose", [&k], [Attribute::ints("perm", &[0, 1, 3, 2])]);
        let scores = self.w.op("MatMul", [&q, &k], []);
        let scale = self.w.number((m.head_dim as f32).sqrt().recip());
        let scores = self.w.op("Mul", [&scores, &scale], []);
        let mask = shared.masks.iter().find(|(w, _)| *w == window).map_or("", |(_, mask)| mask);
        let scores = self.w.op("Add", [&scores, mask], []);
        let shares = self.w.op("Softmax", [&scores], [Attribute::int("axis", -1)]);
        let mixed = self.w.op("MatMul", [&shares, &v], []);
        let mixed = self.w.op("Transpose", [&mixed], heads_first());
        let flat = self.w.ints(&[0, 0, queries as i64]);
        let mixed = self.w.op("Reshape", [&mixed, &flat], []);
        self.linear(&format!("{name}.o_proj"), &mixed, queries, m.hidden, m.biases.output)
    }

    /// `[batch, sequence, heads * head_dim]` to `[batch, sequence, heads, head_dim]`
    fn split_heads(&mut self, name: &str, x: &str, shared: &Shared) -> String {
        self.w.enter(name);
        let (any, width) = (self.w.ints(&[-1]), self.w.ints(&[self.model.head_dim as i64]));
        let shape = self.w.op("Concat", [&shared.batch, &shared.sequence, &any, &width], [Attribute::int("axis", 0)]);
        self.w.op("Reshape", [x, &shape], [])
    }

    /// Rotates the first columns of every head by their position.
    fn rotate(&mut self, x: &str, shared: &Shared) -> String {
        let half = self.model.inv_freq.len() as i64;
        let rotated = 2 * half;
        let turning = if rotated == self.model.head_dim as i64 { x.to_owned() } else { self.columns(x, 0, rotated) };
        let (low, high) = (self.columns(x, 0, half), self.columns(x, half, rotated));
        let high = self.w.op("Neg", [&high], []);
        let turned = self.w.op("Concat", [&high, &low], [Attribute::int("axis", -1)]);
        let straight = self.w.op("Mul", [&turning, &shared.cos], []);
        let across = self.w.op("Mul", [&turned, &shared.sin], []);
        let result = self.w.op("Add", [&straight, &across], []);
        if rotated == self.model.head_dim as i64 {
            return result;
        }
        let rest = self.columns(x, rotated, self.model.head_dim as i64);
        self.w.op("Concat", [&result, &rest], [Attribute::int("axis", -1)])
    }

    fn columns(&mut self, x: &str, start: i64, end: i64) -> String {
        let (start, end, axis) = (self.w.ints(&[start]), self.w.ints(&[end]), self.w.ints(&[-1]));
        self.w.op("Slice", [x, &start, &end, &axis], [])
    }

    /// Gives every query head a key or value head of its own: `[batch, kv_heads, ..]` to `[batch, heads, ..]`.
    fn repeat(&mut self, x: &str, shared: &Shared) -> String {
        let m = self.model;
        if m.heads == m.kv_heads {
            return x.to_owned();
        }
        let (after_head, width) = (self.w.ints(&[2]), self.w.ints(&[m.head_dim as i64]));
        let groups = self.w.ints(&[m.kv_heads as i64, (m.heads / m.kv_heads) as i64]);
        let heads = self.w.ints(&[m.heads as i64]);
        let wide = self.w.op("Concat", [&shared.batch, &groups, &shared.sequence, &width], [Attribute::int("axis", 0)]);
        let flat = self.w.op("Concat", [&shared.batch, &heads, &shared.sequence, &width], [Attribute::int("axis", 0)]);
        let x = self.w.op("Unsqueeze", [x, &after_head], []);
        let x = self.w.op("Expand", [&x, &wide], []);
        self.w.op("Reshape", [&x, &flat], [])
    }

    fn ffn(&mut self, name: &str, x: &str) -> String {
        let m = self.model;
        let parts = [("gate_proj", m.ffn), ("up_proj", m.ffn)];
        let [gate, up] = self.linears(name, x, m.hidden, parts, "gate_up_proj", m.biases.ffn);
        self.w.enter(name);
        let share = self.w.op("Sigmoid", [&gate], []);
        let gate = self.w.op("Mul", [&gate, &share], []);
        let product = self.w.op("Mul", [&gate, &up], []);
        self.linear(&format!("{name}.down_proj"), &product, m.ffn, m.hidden, m.biases.ffn)
    }
}
