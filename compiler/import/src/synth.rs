//! Models of any size that nobody trained, as ONNX files with external data or as checkpoints: for tests of memory, speed and bad input.
//!
//! Only with the feature `synth`; no part of the compiler uses it.

mod checkpoint;
mod numbers;
mod shapes;

pub use checkpoint::{Checkpoint, Stored, Written};
pub use shapes::{SHAPES, shape};

use crate::decoder::{
    Activation, Attention, Biases, Decoder, Ffn, Fused, Heads, Layer, LayerNorms, Names, NormKind, OPSET, Parts, QkNorm,
    Rotation, Scalars, Turn, Weights,
};
use crate::onnx::proto::build::FLOAT;
use crate::onnx::proto::{Model, OperatorSet, Tensor};
use numbers::{Normal, Numbers};
use prost::Message;
use q35_graph::DType;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A LLaMA of the given sizes, in the form torch's exporter gives it: opset 20, no cache, linear weights `[in, out]`.
#[derive(Clone, Debug)]
pub struct Llama {
    /// Tokens in the vocabulary.
    pub vocab: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width inside the feed-forward part.
    pub ffn: u64,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Width of a head; even.
    pub head_dim: u64,
    /// Whether the head's weight is the embedding's.
    pub tied: bool,
    /// What the weights are.
    pub fill: Fill,
}

/// What the weights of a synthetic model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros, as a hole in the file: a model of any size takes no disk.
    Zeros,
    /// Gaussian numbers that this seed stands for, with variance 1/K for matrices of K inputs, around 1 for the weights of norms.
    Seeded(u64),
}

/// Writes `model.onnx` and `model.onnx.data` into `folder`; returns the path of the first.
///
/// # Errors
/// What the file system reports.
pub fn write_llama(model: &Llama, folder: &Path) -> io::Result<PathBuf> {
    let half = model.head_dim / 2;
    let inv_freq = (0..half).map(|i| 10_000f64.powf(-(i as f64) / half as f64) as f32).collect();
    let layer = Layer { window: None, rotation: Some(0), ffn: Ffn::Dense(model.ffn) };
    let decoder = Decoder {
        vocab: model.vocab,
        hidden: model.hidden,
        eps: 1e-5,
        norm: NormKind::RootMeanSquare,
        embedding_norm: false,
        norms: LayerNorms::PRE,
        parts: Parts::InTurn,
        unit_offset: false,
        attention: Attention::Heads(Heads {
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            scale: (model.head_dim as f32).sqrt().recip(),
            softcap: None,
            qk_norm: QkNorm::Absent,
            sinks: false,
            turn: Turn::Halves,
            gate: None,
        }),
        rotations: vec![Rotation { inv_freq, scale: 1.0 }],
        layers: vec![layer; model.layers],
        activation: Activation::Silu,
        biases: Biases::default(),
        fused: Fused::default(),
        names: Names::LLAMA,
        tied: model.tied,
        transposed: true,
        scalars: Scalars::default(),
    };
    let mut layout = Layout::default();
    let graph = decoder.graph(&mut layout);
    let data = File::create(folder.join(DATA))?;
    match model.fill {
        Fill::Zeros => data.set_len(layout.end)?,
        Fill::Seeded(seed) => layout.fill(&data, seed)?,
    }
    let opset_import = vec![OperatorSet { domain: String::new(), version: OPSET }];
    let file =
        Model { ir_version: 10, producer_name: "q35 synth".into(), opset_import, graph: Some(graph), ..Model::default() };
    let path = folder.join("model.onnx");
    std::fs::write(&path, file.encode_to_vec())?;
    Ok(path)
}

const DATA: &str = "model.onnx.data";

/// Places weights in the data file one after the other.
#[derive(Default)]
struct Layout {
    end: u64,
    tensors: Vec<(String, Vec<u64>)>,
}

impl Weights for Layout {
    fn tensor(&mut self, name: &str, dims: &[u64]) -> Tensor {
        let (offset, length) = (self.end, dims.iter().product::<u64>() * 4);
        self.end += length;
        self.tensors.push((name.to_owned(), dims.to_vec()));
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let entries = [("location", DATA), ("offset", &offset.to_string()), ("length", &length.to_string())];
        Tensor::external(name, FLOAT, &dims, &entries)
    }

    fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> Tensor {
        self.tensor(name, &[&[parts.len() as u64], dims].concat())
    }
}

impl Layout {
    fn fill(&self, data: &File, seed: u64) -> io::Result<()> {
        let mut offset = 0;
        for (name, dims) in &self.tensors {
            let (mean, deviation) = match dims[..] {
                [_] => (1.0, 0.1),
                _ => (0.0, (dims[0] as f32).sqrt().recip()),
            };
            let count = dims.iter().product::<u64>();
            Numbers { seed, name, dtype: DType::F32, normal: Normal { mean, deviation } }.write(data, offset, count)?;
            offset += count * 4;
        }
        Ok(())
    }
}
