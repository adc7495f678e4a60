//! The safetensors files of a checkpoint: which tensor lies where. Only headers are read.

use crate::decoder::Weights;
use crate::files;
use crate::onnx::External;
use crate::onnx::proto::Tensor;
use crate::onnx::proto::build::{BF16, F16, FLOAT};
use crate::report::Report;
use q35_diag::{Code, Diagnostic};
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The file of a checkpoint that has one file, and the index of one that has several.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Element types a weight may have.
const FLOATS: &[(Dtype, i32)] = &[(Dtype::F32, FLOAT), (Dtype::F16, F16), (Dtype::BF16, BF16)];

/// Tensors that some checkpoints carry although they follow from the configuration.
const REDUNDANT: &[&str] = &["rotary_emb.inv_freq"];

/// Where one tensor lies.
struct Place {
    file: String,
    dtype: Dtype,
    dims: Vec<u64>,
    start: u64,
    length: u64,
}

/// All tensors of a checkpoint by name.
pub(super) struct Shards {
    tensors: BTreeMap<String, Place>,
    /// Whether every file could be read; if not, what is missing says nothing.
    complete: bool,
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
        let bytes = storage.bytes();
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| match e {
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
            let (start, end) = info.data_offsets;
            let place = Place {
                file: file.to_owned(),
                dtype: info.dtype,
                dims: info.shape.iter().map(|&d| d as u64).collect(),
                start: (8 + header + start) as u64,
                length: (end - start) as u64,
            };
            self.tensors.insert(name, place);
        }
        Ok(())
    }

    /// Hands the tensors out to a graph.
    pub(super) fn source<'r>(self, report: &'r mut Report) -> Source<'r> {
        Source { shards: self, report }
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

/// Tensors on their way into a graph; each may be taken once.
pub(super) struct Source<'r> {
    shards: Shards,
    report: &'r mut Report,
}

impl Weights for Source<'_> {
    fn tensor(&mut self, name: &str, dims: &[u64]) -> Tensor {
        self.report.take(self.shards.take(name, dims)).flatten().unwrap_or_default()
    }
}

impl Shards {
    /// `Ok(None)` where a file that could not be read may hold it.
    fn take(&mut self, name: &str, dims: &[u64]) -> Result<Option<Tensor>, Diagnostic> {
        let error = |code, what: String| Err(Diagnostic::error(code, what).at("tensor", name));
        let Some(place) = self.tensors.remove(name) else {
            return if self.complete {
                error(Code::MissingTensor, "the checkpoint has no such tensor".into())
            } else {
                Ok(None)
            };
        };
        if place.dims != dims {
            return error(Code::BadConfig, format!("the tensor is {:?}, but the configuration makes it {dims:?}", place.dims));
        }
        let Some((_, data_type)) = FLOATS.iter().find(|row| row.0 == place.dtype) else {
            return error(Code::UnsupportedForm, format!("its element type {:?} is not supported for a weight", place.dtype));
        };
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let entries =
            [("location", place.file.as_str()), ("offset", &place.start.to_string()), ("length", &place.length.to_string())];
        Ok(Some(Tensor::external(name, *data_type, &dims, &entries)))
    }
}

impl Source<'_> {
    /// Reports the tensors that the graph had no use for: a model that is computed without some of its weights is another model.
    pub(super) fn finish(self, tied: bool) {
        for name in self.shards.tensors.keys() {
            let redundant = REDUNDANT.iter().any(|suffix| name.ends_with(suffix)) || tied && name == "lm_head.weight";
            if !redundant && self.shards.complete {
                self.report
                    .push(Diagnostic::error(Code::ExtraTensor, "the tensor has no place in the model").at("tensor", name));
            }
        }
    }
}
