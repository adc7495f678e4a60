//! A decoder, written out as an ONNX graph.
//!
//! The one place where this compiler writes a model instead of reading one: a checkpoint has weights and a configuration but no graph, and a test of
//! memory needs a model of any size. Both hand the graph to the same importer as any other file, so they meet the same checks and the same raising.
//!
//! | module | writes |
//! | --- | --- |
//! | [`spec`] | nothing: what a decoder is, as data |
//! | [`layers`] | the whole: embedding, layers, head |
//! | [`shared`] | masks, cosines and sines |
//! | [`attention`], [`latent`] | attention over heads of keys and values, and over a compressed latent |
//! | [`experts`], [`router`] | experts, and how they are chosen |
//! | [`pieces`] | norms, linear layers, activations, rotations |
//! | [`writer`] | nodes |
//!
//! The graph maps `input_ids` and `attention_mask`, both `int64[batch, sequence]`, to `logits`, `float[batch, sequence, vocab]`. Positions count from
//! 0; attention is causal, in a window where there is one, and does not see positions whose mask is 0. Everything is computed in f32, whatever type
//! the weights are stored in. Names of weights and of modules are those of Hugging Face checkpoints.

mod attention;
mod experts;
mod latent;
mod layers;
mod pieces;
mod router;
mod shared;
mod spec;
mod writer;

pub(crate) use spec::{
    Activation, Attention, Biases, Choice, Clamp, Decoder, ExpertLayout, Experts, Ffn, Fused, GatedUnit, GroupScore, Groups,
    Heads, Latent, Layer, LayerNorms, Names, NormKind, Parts, QkNorm, Rotation, Scalars, Scoring, SharedExpert, Turn,
};

use crate::onnx::proto::{Graph, Tensor};
use writer::Writer;

/// Version of the standard operator set that the graph uses.
pub(crate) const OPSET: i64 = 20;

/// Where the weights of a decoder are.
pub(crate) trait Weights {
    /// The tensor of that name, which must have these dimensions.
    fn tensor(&mut self, name: &str, dims: &[u64]) -> Tensor;

    /// Tensors of those names, each with these dimensions, stacked along a new first axis; the stack is called `name`.
    fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> Tensor;
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
