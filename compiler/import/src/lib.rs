//! Readers: ONNX files, Hugging Face checkpoints and GGUF files become a source graph.
//!
//! A path enters; a [`SourceGraph`] leaves, with what the model's folder holds beside it. Weights stay in their files: opening a model maps them,
//! checks that every tensor lies inside its file, and reads no weight bytes, so it costs as much as the graph alone, whatever the model's size.
//! Everything wrong with a file is collected and reported together, in the file's own names.
//!
//! This crate must not know what a graph *means*: no shapes are inferred, no patterns recognised, no op refused because it is unknown. It must not
//! know MLIR, targets or number formats either.

mod checkpoint;
mod decoder;
mod encodings;
mod files;
mod gguf;
mod onnx;
mod report;
mod sidecars;
#[cfg(feature = "synth")]
pub mod synth;
#[cfg(test)]
mod testing;

pub use sidecars::Sidecars;

use q35_diag::{Code, Diagnostic, Result};
use q35_graph::source::SourceGraph;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model, opened.
#[derive(Debug)]
pub struct Imported {
    /// The graph, with local functions inlined.
    pub graph: SourceGraph,
    /// What it was read from.
    pub kind: ModelKind,
    /// The folder that holds it.
    pub folder: PathBuf,
    /// Files that belong to the model but not to its graph.
    pub sidecars: Sidecars,
    /// The longest context the model was made for, where the model's own file says so.
    pub context: Option<u64>,
    /// Files by the names that sidecars have, made from what the model's own file says.
    pub own_files: BTreeMap<&'static str, Vec<u8>>,
    /// What of the model is left out, though nothing that its logits depend on, and what is fixed for the context.
    pub warnings: Vec<Diagnostic>,
}

/// Files by name.
pub type Travelling<'m> = BTreeMap<&'static str, Cow<'m, [u8]>>;

impl Imported {
    /// The files that travel with the model, by name: those beside it, and its own where there is none beside it.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn travelling(&self) -> Result<Travelling<'_>> {
        let mut all: Travelling<'_> =
            self.own_files.iter().map(|(name, bytes)| (*name, Cow::Borrowed(bytes.as_slice()))).collect();
        for (name, path) in self.sidecars.travelling() {
            let bytes = std::fs::read(path).map_err(|e| {
                Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", path.display())
            })?;
            all.insert(name, Cow::Owned(bytes));
        }
        Ok(all)
    }
}

/// What a model was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// An ONNX file.
    Onnx {
        /// Version of each operator set it imports; the standard set is `""`.
        opsets: BTreeMap<String, i64>,
        /// Name and version of the program that wrote it, empty if not recorded.
        producer: String,
    },
    /// A folder with `config.json` and safetensors files.
    Checkpoint {
        /// The configuration's `model_type`.
        architecture: String,
    },
    /// A GGUF file.
    Gguf {
        /// Its `general.architecture`.
        architecture: String,
    },
}

/// What a model's files do not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The context that the model is compiled for, where it is not the longest it was made for: some rotations depend on it.
    pub context: Option<u64>,
}

/// Opens a model for the longest context it was made for: an `.onnx` or `.gguf` file, or the folder of a Hugging Face checkpoint.
///
/// # Errors
/// Every problem found in the model's files, as diagnostics.
pub fn open(path: &Path) -> Result<Imported> {
    open_with(path, &Options::default())
}

/// Opens a model.
///
/// # Errors
/// As [`open`].
pub fn open_with(path: &Path, options: &Options) -> Result<Imported> {
    let is_folder = path.is_dir();
    let folder = if is_folder { path.to_owned() } else { files::folder_of(path) };
    let sidecars = Sidecars::beside(&folder);
    let (mut own_files, mut warnings) = (BTreeMap::new(), Vec::new());
    let (graph, kind, context) = if is_folder {
        let (graph, kind, more) = checkpoint::open(path, options)?;
        warnings.extend(more);
        (graph, kind, None)
    } else if gguf::is_gguf(path) {
        let gguf::Opened { graph, kind, context, files } = gguf::open(path, options)?;
        match files {
            Ok(files) => own_files = files,
            Err(_) if sidecars.tokenizer.is_some() => {}
            Err(why) => warnings.push(why),
        }
        (graph, kind, context)
    } else {
        let (graph, kind) = onnx::open(path)?;
        (graph, kind, None)
    };
    Ok(Imported { graph, kind, folder, sidecars, context, own_files, warnings })
}
