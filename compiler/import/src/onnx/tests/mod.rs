//! Models written message by message, and what becomes of them.

mod bad_input;
mod mutation;
mod structure;

use super::proto::build::FLOAT;
use super::proto::{Attribute, Function, Graph, Model, Node, OperatorSet, Tensor, ValueInfo, kind};
use crate::Imported;
use prost::Message;
use q35_diag::Result;
use std::path::Path;

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|s| (*s).to_owned()).collect()
}

fn node(op: &str, name: &str, input: &[&str], output: &[&str]) -> Node {
    Node { op_type: op.into(), name: name.into(), input: strings(input), output: strings(output), ..Node::default() }
}

fn graph_attribute(name: &str, graph: Graph) -> Attribute {
    Attribute { g: Some(Box::new(graph)), ..Attribute::of_kind(name, kind::GRAPH) }
}

/// A tensor of type `f32[dims]` in another file.
fn external(name: &str, dims: &[i64], entries: &[(&str, &str)]) -> Tensor {
    Tensor::external(name, FLOAT, dims, entries)
}

fn graph(input: &[&str], node: Vec<Node>, output: &[&str]) -> Graph {
    let values = |names: &[&str]| names.iter().map(|n| ValueInfo { name: (*n).to_owned(), r#type: None }).collect();
    Graph { node, input: values(input), output: values(output), ..Graph::default() }
}

fn opset(domain: &str, version: i64) -> OperatorSet {
    OperatorSet { domain: domain.into(), version }
}

fn model(graph: Graph) -> Model {
    Model { ir_version: 10, opset_import: vec![opset("", 20)], graph: Some(graph), ..Model::default() }
}

fn function(name: &str, input: &[&str], node: Vec<Node>, output: &[&str]) -> Function {
    Function {
        name: name.into(),
        domain: "local".into(),
        input: strings(input),
        output: strings(output),
        node,
        opset_import: vec![opset("", 20)],
        ..Function::default()
    }
}

fn call(function: &str, name: &str, input: &[&str], output: &[&str]) -> Node {
    Node { domain: "local".into(), ..node(function, name, input, output) }
}

/// Writes `model` into `folder` and opens it.
fn open_in(folder: &Path, model: &Model) -> Result<Imported> {
    let path = folder.join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    crate::open(&path)
}

fn open(model: &Model) -> Result<Imported> {
    open_in(tempfile::tempdir().unwrap().path(), model)
}

/// The printed graph of a model that opens.
fn printed(model: &Model) -> String {
    open(model).map(|m| m.graph.to_string()).unwrap_or_else(|e| panic!("{e}"))
}

/// The diagnostics of a model that does not.
fn refused(model: &Model) -> String {
    open(model).map(|m| m.graph.to_string()).unwrap_err().to_string()
}
