//! `manifest.json`.

use crate::{Device, Interface, MemoryPlan, Step};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the manifest's schema; a reader refuses every other.
pub const SCHEMA: u32 = 1;

/// Facts about the model that do not depend on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// Name of the model: the file's or folder's stem.
    pub name: String,
    /// Size of the vocabulary.
    pub vocab: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Decoder layers.
    pub layers: u64,
    /// Longest context: positions `0..context`.
    pub context: u64,
    /// Number of weights in all parameters.
    pub parameters: u64,
}

/// One tensor of the weights file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightEntry {
    /// Codec name, or `f32` for vectors.
    pub codec: String,
    /// Rows and columns of the logical matrix.
    pub shape: [u64; 2],
    /// Columns that share a scale; 0 for the whole row.
    pub group: u64,
    /// Bits per weight, scales and offsets included.
    pub effective_bits: f64,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Length.
    pub bytes: u64,
    /// SHA-256 of the content, lower-case hexadecimal.
    pub sha256: String,
}

/// Everything a runtime needs to know before it opens another file of the bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Compiler and version.
    pub compiler: String,
    /// Options that shaped the result, by name; no paths, no times.
    pub options: BTreeMap<String, String>,
    /// Facts about the model.
    pub model: ModelFacts,
    /// The user's graph.
    pub interface: Interface,
    /// What runs it.
    pub device: Device,
    /// Memory.
    pub plan: MemoryPlan,
    /// The program.
    pub steps: Vec<Step>,
    /// Logical weights by parameter name; the tensors in the weights file are named `NAME`, `NAME.scales`, ....
    pub weights: BTreeMap<String, WeightEntry>,
    /// Every other file of the bundle, by relative path.
    pub files: BTreeMap<String, FileEntry>,
}
