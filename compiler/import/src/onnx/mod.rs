//! ONNX files.
//!
//! The file is mapped and decoded in place: strings and structure are copied out, tensor data stays behind as ranges of the map. Then
//! [`graph::Builder`] walks the structure once.

mod attr;
mod budget;
mod external;
mod file;
mod frame;
mod graph;
mod names;
mod opsets;
pub(crate) mod proto;
mod tensor;
#[cfg(test)]
mod tests;
mod values;

pub(crate) use external::External;

use crate::report::Report;
use crate::{ModelKind, files};
use graph::Builder;
use q35_diag::{Code, Result};
use q35_graph::source::SourceGraph;
use q35_graph::{Storage, Tensor};
use std::collections::BTreeMap;
use std::path::Path;
use tensor::Tensors;

/// Opens the model at `path`.
pub(crate) fn open(path: &Path) -> Result<(SourceGraph, ModelKind)> {
    read(files::map(path, &path.display().to_string(), Code::CannotRead)?, path)
}

/// Reads a model that lies, or might lie, at `path`.
fn read(storage: Storage, path: &Path) -> Result<(SourceGraph, ModelKind)> {
    let model = file::decode(&storage).map_err(|problem| problem.at("file", path.display()))?;
    let opsets = opsets::imports(&model.opset_import);
    let tensors = Tensors::new(storage, External::new(path));
    let graph = Builder::new(&model.functions, tensors, Report::default()).build(&model.graph.unwrap_or_default(), &opsets)?;
    let producer = format!("{} {}", model.producer_name, model.producer_version).trim().to_owned();
    Ok((graph, ModelKind::Onnx { opsets, producer }))
}

/// Imports a graph that [`crate::decoder`] wrote; its weights are `ready`, by name.
pub(crate) fn build(graph: &proto::Graph, ready: BTreeMap<String, Tensor>) -> Result<SourceGraph> {
    let opsets = [(String::new(), crate::decoder::OPSET)].into();
    Builder::new(&[], Tensors::ready(ready), Report::default()).build(graph, &opsets)
}
