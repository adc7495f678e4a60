//! ONNX files.
//!
//! The file is mapped and decoded in place: strings and structure are copied out, tensor data stays behind as ranges of the map. Then
//! [`graph::Builder`] walks the structure once.

mod attr;
mod external;
mod file;
mod frame;
mod graph;
mod names;
mod opsets;
mod proto;
mod tensor;
mod values;

use crate::ModelKind;
use crate::report::Report;
use q35_diag::{Code, Diagnostic, Result};
use q35_graph::source::SourceGraph;
use std::path::Path;

/// Reads the model at `path`.
pub(crate) fn open(path: &Path) -> Result<(SourceGraph, ModelKind)> {
    let (model, storage) = file::decode(path)?;
    let opsets = opsets::imports(&model.opset_import);
    if opsets.is_empty() {
        return Err(Diagnostic::error(Code::Truncated, "the file names no operator set, so its end is probably missing")
            .at("file", path.display())
            .help("download or export it again, completely")
            .into());
    }
    let tensors = tensor::Tensors::new(storage, external::External::new(path));
    let graph = match &model.graph {
        Some(graph) => graph::Builder::new(&model.functions, tensors, Report::default()).build(graph, &opsets)?,
        None => return Err(Diagnostic::error(Code::NotAModel, "the file holds no graph").at("file", path.display()).into()),
    };
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    Ok((graph, ModelKind::Onnx { opsets, producer }))
}
