//! The safetensors files of a checkpoint: which tensor lies where. Only headers are read.

use crate::files;
use crate::onnx::External;
use crate::report::Report;
use q35_diag::{Code, Diagnostic};
use q35_graph::{DType, Storage, Tensor};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The file of a checkpoint that has one file, and the index of one that has several.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Element types.
const TYPES: &[(Dtype, DType)] = &[
    (Dtype::F32, DType::F32),
    (Dtype::F16, DType::F16),
    (Dtype::BF16, DType::Bf16),
    (Dtype::F8_E4M3, DType::F8E4M3),
    (Dtype::F8_E5M2, DType::F8E5M2),
    (Dtype::U8, DType::U8),
    (Dtype::F8_E8M0, DType::U8),
];

/// Where one tensor lies.
struct Place {
    storage: Storage,
    dtype: Dtype,
    dims: Vec<u64>,
    start: u64,
}

/// All tensors of a checkpoint by name; each may be taken once.
pub(super) struct Shards {
    tensors: BTreeMap<String, Place>,
    /// Whether every file could be read; if not, what is missing says nothing.
    pub(super) complete: bool,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Shards {
    /// Reads the headers of all files in `folder`.
    pub(super) fn open(folder: &Path, external: &mut External, report: &mut Report) -> Self {
        let mut shards = Self { tensors: BTreeMap::new(), complete: true };
        let index = match folder.join(INDEX).is_file() {
            true => report.take(index(&folder.join(INDEX))),
            false if folder.join(SINGLE).exists() => Some(BTreeMap::new()),
            false => {
                report.push(no_weights(folder));
                None
            }
        };
        let Some(index) = index else { return Self { complete: false, ..shards } };
        let files: BTreeSet<&str> =
            if index.is_empty() { [SINGLE].into() } else { index.values().map(String::as_str).collect() };
        for file in files {
            if report.take(shards.read(file, external)).is_none() {
                shards.complete = false;
            }
        }
        for (name, file) in &index {
            if shards.complete && !shards.tensors.contains_key(name) {
                let what = format!("the index says that '{file}' holds the tensor, but it does not");
                report.push(Diagnostic::error(Code::MissingTensor, what).at("tensor", name));
            }
        }
        shards
    }

    fn read(&mut self, file: &str, external: &mut External) -> Result<(), Diagnostic> {
        let storage = external.file(file)?;
        let (header, metadata) = SafeTensors::read_metadata(storage.bytes()).map_err(|e| match e {
            SafeTensorError::MetadataIncompleteBuffer
            | SafeTensorError::InvalidHeaderLength
            | SafeTensorError::HeaderTooSmall => {
                Diagnostic::error(Code::Truncated, "the file's length is not what its header says")
                    .at("file", file)
                    .help("download it again, completely")
            }
            _ => Diagnostic::error(Code::NotAModel, "the file is damaged, or not a safetensors file").at("file", file),
        })?;
        for (name, info) in metadata.tensors() {
            let place = Place {
                storage: storage.clone(),
                dtype: info.dtype,
                dims: info.shape.iter().map(|&d| d as u64).collect(),
                start: (8 + header + info.data_offsets.0) as u64,
            };
            self.tensors.insert(name, place);
        }
        Ok(())
    }

    /// Whether there is a tensor of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Names of the tensors that have not been taken.
    pub(super) fn rest(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Takes the tensor `name`. `Ok(None)` where a file that could not be read may hold it.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Tensor>, Diagnostic> {
        let error = |code, what: String| Err(Diagnostic::error(code, what).at("tensor", name));
        let Some(place) = self.tensors.remove(name) else {
            return match self.complete {
                true => error(Code::MissingTensor, "the checkpoint has no such tensor".into()),
                false => Ok(None),
            };
        };
        let Some((_, dtype)) = TYPES.iter().find(|row| row.0 == place.dtype) else {
            return error(Code::UnsupportedForm, format!("its element type {:?} is not supported for a weight", place.dtype));
        };
        match Tensor::new(*dtype, place.dims, place.storage, place.start) {
            Ok(tensor) => Ok(Some(tensor)),
            Err(_) => error(Code::DataOutOfFile, "its bytes lie outside their file".into()),
        }
    }
}

fn index(path: &Path) -> Result<BTreeMap<String, String>, Diagnostic> {
    let bad = |what: String| Diagnostic::error(Code::BadConfig, what).at("file", INDEX);
    let storage = files::map(path, INDEX, Code::CannotRead)?;
    let index: Index = serde_json::from_slice(storage.bytes()).map_err(|e| bad(format!("the index cannot be read: {e}")))?;
    if index.weight_map.is_empty() { Err(bad("the index names no tensors".into())) } else { Ok(index.weight_map) }
}

fn no_weights(folder: &Path) -> Diagnostic {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().any(|f| folder.join(f).is_file());
    let help = match pickled {
        true => "its weights are a PyTorch pickle; save it again with safe_serialization=True",
        false => "download the *.safetensors files",
    };
    Diagnostic::error(Code::MissingFile, format!("the folder holds no {SINGLE}")).at("folder", folder.display()).help(help)
}
