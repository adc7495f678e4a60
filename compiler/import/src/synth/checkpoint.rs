//! Checkpoints that nobody trained: whatever tensors a configuration asks for, in shards.

use super::Fill;
use super::numbers::{Normal, Numbers};
use crate::checkpoint::{config, families};
use crate::decoder::Weights;
use crate::onnx::proto::Tensor;
use crate::onnx::proto::build::FLOAT;
use q35_graph::DType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// All in bf16.
    Bf16,
    /// All in f16.
    F16,
    /// Projections in e4m3 with a scale for every tile of 128 by 128, the rest in bf16.
    Fp8,
}

impl Stored {
    /// A configuration that says so.
    fn said(self, config: &str) -> io::Result<String> {
        let mut config: serde_json::Map<String, serde_json::Value> = serde_json::from_str(config)?;
        let dtype = if self == Self::F16 { "float16" } else { "bfloat16" };
        config.insert("torch_dtype".into(), dtype.into());
        config.remove("quantization_config");
        if self == Self::Fp8 {
            let how = serde_json::json!({ "quant_method": "fp8", "weight_block_size": [TILE, TILE] });
            config.insert("quantization_config".into(), how);
        }
        Ok(serde_json::to_string_pretty(&config)? + "\n")
    }
}

/// A checkpoint to write.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    /// Its `config.json`; what it says of types is replaced by what is true.
    pub config: &'a str,
    /// How its weights are stored.
    pub stored: Stored,
    /// What they are.
    pub fill: Fill,
    /// Bytes after which another file begins.
    pub shard: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Numbers of all tensors but scales.
    pub parameters: u64,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Shards.
    pub files: usize,
}

/// Side of a tile that shares a scale.
const TILE: u64 = 128;

/// What is stored in eight bits is the weight times this over its standard deviation: the largest quantile stays below the largest number.
const FP8_DEVIATION: f32 = 64.0;

impl Checkpoint<'_> {
    /// Writes `config.json`, shards and their index into `folder`; `progress` hears the bytes written so far, and how many there will be.
    ///
    /// # Errors
    /// What the file system reports, and what is wrong with the configuration.
    pub fn write(&self, folder: &Path, mut progress: impl FnMut(u64, u64)) -> io::Result<Written> {
        let wrong = |problem: q35_diag::Diagnostic| io::Error::other(problem.to_string());
        let config = self.stored.said(self.config)?;
        let decoder = families::decoder(&config::read(config.as_bytes()).map_err(wrong)?, None).map_err(wrong)?;
        let mut layout = Layout { stored: self.stored, unit_offset: decoder.unit_offset, entries: Vec::new() };
        decoder.graph(&mut layout);
        std::fs::write(folder.join("config.json"), config)?;
        let shards = cut(&layout.entries, self.shard);
        let total = layout.entries.iter().map(Entry::bytes).sum();
        let (mut index, mut done) = (BTreeMap::new(), 0);
        let mut written = Written { files: shards.len(), ..Written::default() };
        for (at, entries) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", at + 1, shards.len());
            written.bytes += write_shard(&folder.join(&file), entries, self.fill, |bytes| {
                done += bytes;
                progress(done, total);
            })?;
            index.extend(entries.iter().map(|entry| (entry.name.as_str(), file.clone())));
        }
        let weights = layout.entries.iter().filter(|entry| !entry.name.ends_with(SCALE));
        written.parameters = weights.map(Entry::count).sum();
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": index });
        std::fs::write(folder.join("model.safetensors.index.json"), index.to_string())?;
        Ok(written)
    }
}

/// What the name of a tensor of scales ends with.
const SCALE: &str = "_scale_inv";

/// One tensor.
struct Entry {
    name: String,
    dtype: DType,
    dims: Vec<u64>,
    normal: Normal,
}

impl Entry {
    fn count(&self) -> u64 {
        self.dims.iter().product()
    }

    fn bytes(&self) -> u64 {
        self.count() * self.dtype.bits() / 8
    }

    /// Its type as safetensors files call it.
    fn type_name(&self) -> &'static str {
        match self.dtype {
            DType::F8E4M3 => "F8_E4M3",
            DType::Bf16 => "BF16",
            DType::F16 => "F16",
            _ => "F32",
        }
    }
}

/// Lists the tensors that a graph asks for.
struct Layout {
    stored: Stored,
    /// Whether a norm's weight is its factor less one.
    unit_offset: bool,
    entries: Vec<Entry>,
}

impl Layout {
    /// Numbers with which activations stay near 1: matrices of K inputs have variance 1/K, norms keep what they scale, biases are small.
    fn normal(&self, name: &str, dims: &[u64]) -> Normal {
        let (mean, deviation) = match dims {
            _ if name.ends_with("bias") => (0.0, 0.02),
            [_] if name.ends_with("norm.weight") => (if self.unit_offset { 0.0 } else { 1.0 }, 0.1),
            [_] => (0.0, 1.0),
            [.., inputs] => (0.0, (*inputs as f32).sqrt().recip()),
            [] => (0.0, 0.0),
        };
        Normal { mean, deviation }
    }

    fn add(&mut self, name: &str, dims: &[u64]) {
        let normal = self.normal(name, dims);
        let mut push = |name: String, dtype, dims: &[u64], normal| {
            self.entries.push(Entry { name, dtype, dims: dims.to_vec(), normal });
        };
        match (self.stored, dims) {
            (Stored::Fp8, &[rows, cols]) if name.contains("_proj") => {
                let scale = Normal { mean: normal.deviation / FP8_DEVIATION, deviation: 0.0 };
                push(name.to_owned(), DType::F8E4M3, dims, Normal { deviation: FP8_DEVIATION, ..normal });
                push(format!("{name}{SCALE}"), DType::F32, &[rows.div_ceil(TILE), cols.div_ceil(TILE)], scale);
            }
            (Stored::F16, _) => push(name.to_owned(), DType::F16, dims, normal),
            _ => push(name.to_owned(), DType::Bf16, dims, normal),
        }
    }
}

impl Weights for Layout {
    fn tensor(&mut self, name: &str, dims: &[u64]) -> Tensor {
        self.add(name, dims);
        Tensor { name: name.to_owned(), data_type: FLOAT, ..Tensor::default() }
    }

    fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> Tensor {
        parts.iter().for_each(|part| self.add(part, dims));
        Tensor { name: name.to_owned(), data_type: FLOAT, ..Tensor::default() }
    }
}

/// Cuts a list of tensors where a file would exceed `shard` bytes; a larger tensor has a file to itself.
fn cut(entries: &[Entry], shard: u64) -> Vec<&[Entry]> {
    let (mut shards, mut first, mut filled) = (Vec::new(), 0, 0);
    for (at, entry) in entries.iter().enumerate() {
        if filled > 0 && filled + entry.bytes() > shard {
            shards.push(&entries[first..at]);
            (first, filled) = (at, 0);
        }
        filled += entry.bytes();
    }
    shards.push(&entries[first..]);
    shards
}

/// Writes one file; gives its length. `progress` hears the bytes of each tensor written.
fn write_shard(path: &Path, entries: &[Entry], fill: Fill, mut progress: impl FnMut(u64)) -> io::Result<u64> {
    let (mut end, mut header) = (0, serde_json::Map::new());
    for entry in entries {
        let start = end;
        end += entry.bytes();
        let place = serde_json::json!({ "dtype": entry.type_name(), "shape": entry.dims, "data_offsets": [start, end] });
        header.insert(entry.name.clone(), place);
    }
    let mut header = serde_json::Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let mut at = 8 + header.len() as u64;
    let length = at + end;
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(length)?;
    for entry in entries {
        if let Fill::Seeded(seed) = fill {
            let Entry { name, dtype, normal, .. } = entry;
            Numbers { seed, name, dtype: *dtype, normal: *normal }.write(&file, at, entry.count())?;
        }
        at += entry.bytes();
        progress(entry.bytes());
    }
    Ok(length)
}
