//! Models of any size that nobody trained, as ONNX files with external data or as checkpoints: for tests of memory, speed and bad input.
//!
//! Only with the feature `synth`; no part of the compiler uses it.

mod checkpoint;

pub use checkpoint::{Stored, write_checkpoint};

use crate::decoder::{
    Activation, Attention, Biases, Decoder, Ffn, Fused, Heads, Layer, LayerNorms, Names, NormKind, OPSET, QkNorm, Rotation,
    Scalars, Turn, Weights,
};
use crate::onnx::proto::build::FLOAT;
use crate::onnx::proto::{Model, OperatorSet, Tensor};
use prost::Message;
use std::fs::File;
use std::io::{self, BufWriter, Write};
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
    /// Numbers from a generator with this seed, uniform with variance 1/K for matrices of K inputs, around 1 for vectors.
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
        norms: LayerNorms::PRE,
        parallel: false,
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
        Fill::Seeded(seed) => layout.fill(BufWriter::new(data), seed)?,
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
    dims: Vec<Vec<u64>>,
}

impl Weights for Layout {
    fn tensor(&mut self, name: &str, dims: &[u64]) -> Tensor {
        let (offset, length) = (self.end, dims.iter().product::<u64>() * 4);
        self.end += length;
        self.dims.push(dims.to_vec());
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let entries = [("location", DATA), ("offset", &offset.to_string()), ("length", &length.to_string())];
        Tensor::external(name, FLOAT, &dims, &entries)
    }

    fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> Tensor {
        self.tensor(name, &[&[parts.len() as u64], dims].concat())
    }
}

impl Layout {
    fn fill(&self, mut out: impl Write, seed: u64) -> io::Result<()> {
        let mut state = seed;
        let mut uniform = || {
            // splitmix64, the top 24 bits as a number in [-1, 1).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for dims in &self.dims {
            let (centre, width) = match dims[..] {
                [_] => (1.0, 0.25),
                _ => (0.0, (3.0 / dims[0] as f32).sqrt()),
            };
            for _ in 0..dims.iter().product() {
                out.write_all(&(centre + width * uniform()).to_le_bytes())?;
            }
        }
        out.flush()
    }
}
