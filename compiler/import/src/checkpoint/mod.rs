//! Hugging Face checkpoints: a folder of `config.json` and safetensors files.
//!
//! A checkpoint has no graph. [`config`] is read, [`families`] says which decoder it describes, [`rope`] computes its rotation frequencies,
//! [`shards`] finds its tensors; then [`crate::decoder`] writes the graph, whose initializers are external data in the shards, and from there on
//! it is imported like any ONNX file.

mod config;
mod families;
mod rope;
mod shards;
#[cfg(test)]
mod tests;

use crate::onnx::{self, External};
use crate::report::Report;
use crate::{ModelKind, files};
use q35_diag::{Code, Diagnostic, Result};
use q35_graph::source::SourceGraph;
use shards::Shards;
use std::path::Path;

/// Opens the checkpoint in `folder`.
pub(crate) fn open(folder: &Path) -> Result<(SourceGraph, ModelKind)> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Err(Diagnostic::error(Code::NotAModel, "the folder holds no config.json, so it is no checkpoint")
            .at("folder", folder.display())
            .help("name a folder with config.json and *.safetensors, or an .onnx file")
            .into());
    }
    let name = path.display().to_string();
    let config = files::map(&path, &name, Code::CannotRead)?;
    let config = config::read(config.bytes()).map_err(|problem| problem.at("file", &name))?;
    let decoder = families::decoder(&config).map_err(|problem| problem.at("file", &name))?;
    let (mut external, mut report) = (External::new(&path), Report::default());
    let mut source = Shards::open(folder, &mut external, &mut report).source(&mut report);
    let graph = decoder.graph(&mut source);
    source.finish(decoder.tied);
    report.finish(())?;
    Ok((onnx::build(&graph, external)?, ModelKind::Checkpoint { architecture: config.model_type }))
}
