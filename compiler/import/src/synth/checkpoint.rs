//! Checkpoints that nobody trained: whatever tensors a configuration asks for, in shards, all of them holes in their files.

use crate::checkpoint::{config, families};
use crate::decoder::Weights;
use crate::onnx::proto::Tensor;
use crate::onnx::proto::build::FLOAT;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// All in bf16.
    Bf16,
    /// Projections in e4m3 with a scale for every tile of 128 by 128, the rest in bf16. The configuration has to say so too.
    Fp8,
}

/// Side of a tile that shares a scale.
const TILE: u64 = 128;

/// Writes `config.json`, shards of about `shard` bytes and their index into `folder`; gives the bytes of all shards.
///
/// # Errors
/// What the file system reports, and what is wrong with the configuration.
pub fn write_checkpoint(text: &str, folder: &Path, stored: Stored, shard: u64) -> io::Result<u64> {
    let wrong = |problem: q35_diag::Diagnostic| io::Error::other(problem.to_string());
    let decoder = families::decoder(&config::read(text.as_bytes()).map_err(wrong)?, None).map_err(wrong)?;
    let mut layout = Layout { stored, ..Layout::default() };
    decoder.graph(&mut layout);
    std::fs::write(folder.join("config.json"), text)?;
    let mut shards: Vec<Vec<Entry>> = vec![Vec::new()];
    let mut filled = 0;
    for entry in layout.entries {
        if filled > 0 && filled + entry.bytes > shard {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += entry.bytes;
        shards.last_mut().into_iter().for_each(|last| last.push(entry.clone()));
    }
    let (mut index, mut total) = (BTreeMap::new(), 0);
    for (at, entries) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", at + 1, shards.len());
        total += write_shard(&folder.join(&file), entries)?;
        index.extend(entries.iter().map(|entry| (entry.name.clone(), file.clone())));
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": index });
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string())?;
    Ok(total)
}

/// One tensor.
#[derive(Clone)]
struct Entry {
    name: String,
    dtype: &'static str,
    dims: Vec<u64>,
    bytes: u64,
}

/// Lists the tensors that a graph asks for.
struct Layout {
    stored: Stored,
    entries: Vec<Entry>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { stored: Stored::Bf16, entries: Vec::new() }
    }
}

impl Layout {
    fn push(&mut self, name: String, dtype: &'static str, width: u64, dims: &[u64]) {
        self.entries.push(Entry { name, dtype, dims: dims.to_vec(), bytes: dims.iter().product::<u64>() * width });
    }

    fn add(&mut self, name: &str, dims: &[u64]) {
        match (self.stored, dims) {
            (Stored::Fp8, &[rows, cols]) if name.contains("_proj") => {
                self.push(name.to_owned(), "F8_E4M3", 1, dims);
                let tiles = [rows.div_ceil(TILE), cols.div_ceil(TILE)];
                self.push(format!("{name}_scale_inv"), "F32", 4, &tiles);
            }
            _ => self.push(name.to_owned(), "BF16", 2, dims),
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

/// Writes a header and leaves the rest a hole; gives the length.
fn write_shard(path: &Path, entries: &[Entry]) -> io::Result<u64> {
    let (mut end, mut header) = (0, serde_json::Map::new());
    for entry in entries {
        let (start, name) = (end, entry.name.clone());
        end += entry.bytes;
        header.insert(name, serde_json::json!({ "dtype": entry.dtype, "shape": entry.dims, "data_offsets": [start, end] }));
    }
    let mut header = serde_json::Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let length = 8 + header.len() as u64 + end;
    let mut file = File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.set_len(length)?;
    Ok(length)
}
