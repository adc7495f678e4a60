//! Every ONNX graph of the corpus imports, and agrees with what its `meta.json` (written by other programs) says about it.
#![allow(clippy::unwrap_used)]

use q35_graph::source::{Dim, SourceGraph, SourceOp, SourceType};
use q35_graph::{DType, Value};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn corpus() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if !path.is_dir() {
        println!("skipped: no corpus at {}", path.display());
    }
    path.is_dir().then_some(path)
}

fn json(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Folders of the corpus with the sub-folders that hold graphs and the JSON object with each graph's op counts.
fn graphs(corpus: &Path) -> Vec<(PathBuf, Json)> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(corpus).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    let mut found = Vec::new();
    for folder in folders {
        let meta = json(&folder.join("meta.json"));
        if let Some(graphs) = meta["graphs"].as_object() {
            found.extend(graphs.iter().map(|(name, ops)| (folder.join(name), serde_json::json!({ "op_histogram": ops }))));
        } else {
            found.push((folder, meta["graph"].clone()));
        }
    }
    found
}

fn op_counts(graph: &SourceGraph) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for id in graph.ids() {
        if let SourceOp::Call(call) = &graph.node(id).op {
            let name = if call.domain.is_empty() { call.op.clone() } else { format!("{}.{}", call.domain, call.op) };
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// A type in the words of `meta.json`.
fn spelled(ty: &SourceType) -> (String, Vec<String>) {
    let dtype = match ty.dtype {
        Some(DType::F32) => "FLOAT",
        Some(DType::F16) => "FLOAT16",
        Some(DType::Bf16) => "BFLOAT16",
        Some(DType::I64) => "INT64",
        other => panic!("type {other:?} of an input or output"),
    };
    let dims = ty.dims.as_ref().unwrap().iter().map(|d| match d {
        Dim::Fixed(n) => n.to_string(),
        Dim::Named(name) => name.clone(),
        Dim::Unknown => "?".into(),
    });
    (dtype.to_owned(), dims.collect())
}

fn recorded(value: &Json) -> (String, Vec<String>) {
    let dims = value["shape"].as_array().unwrap().iter().map(|d| d.as_str().map_or_else(|| d.to_string(), str::to_owned));
    (value["dtype"].as_str().unwrap().to_owned(), dims.collect())
}

#[test]
fn every_graph_imports_as_recorded() {
    let Some(corpus) = corpus() else { return };
    let graphs = graphs(&corpus);
    assert!(graphs.len() >= 40, "only {} graphs", graphs.len());
    for (folder, meta) in graphs {
        let imported = q35_import::open(&folder.join("model.onnx")).unwrap_or_else(|e| panic!("{}:\n{e}", folder.display()));
        let graph = &imported.graph;
        graph.check().unwrap();
        let mut expected: BTreeMap<String, u64> =
            meta["op_histogram"].as_object().unwrap().iter().map(|(op, n)| (op.clone(), n.as_u64().unwrap())).collect();
        let constants = expected.remove("Constant").unwrap_or(0);
        assert_eq!(op_counts(graph), expected, "{}", folder.display());
        if meta["initializers"].is_null() {
            continue;
        }
        let count = |want: fn(&SourceOp) -> bool| graph.ids().filter(|&id| want(&graph.node(id).op)).count() as u64;
        assert_eq!(count(|op| matches!(op, SourceOp::Const(_))), constants + meta["initializers"].as_u64().unwrap());
        let inputs: Vec<_> = graph.ids().filter(|&id| matches!(graph.node(id).op, SourceOp::Input)).collect();
        let expected = meta["inputs"].as_array().unwrap();
        assert_eq!(inputs.iter().map(|&id| graph.node(id).name.as_str()).collect::<Vec<_>>(), names(expected));
        for (&id, expected) in inputs.iter().zip(expected) {
            assert_eq!(spelled(graph.ty(Value { node: id, result: 0 })), recorded(expected), "{}", folder.display());
        }
        let expected = meta["outputs"].as_array().unwrap();
        assert_eq!(graph.outputs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), names(expected));
        for ((_, value), expected) in graph.outputs.iter().zip(expected) {
            assert_eq!(spelled(graph.ty(*value)), recorded(expected), "{}", folder.display());
        }
    }
}

fn names(values: &[Json]) -> Vec<&str> {
    values.iter().map(|v| v["name"].as_str().unwrap()).collect()
}

/// A constant that keeps its checkpoint name holds the checkpoint's bytes.
#[test]
fn named_weights_are_the_checkpoint_s() {
    let Some(corpus) = corpus() else { return };
    let mut compared = 0;
    for (folder, _) in graphs(&corpus) {
        let hf = [folder.join("hf/model.safetensors"), folder.join("../hf/model.safetensors")]
            .into_iter()
            .find(|p| p.is_file())
            .unwrap();
        let bytes = std::fs::read(hf).unwrap();
        let checkpoint = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let graph = q35_import::open(&folder.join("model.onnx")).unwrap().graph;
        for id in graph.ids() {
            let node = graph.node(id);
            let SourceOp::Const(tensor) = &node.op else { continue };
            let Some(name) = checkpoint.names().into_iter().find(|n| node.name == **n || node.name.ends_with(&format!(".{n}")))
            else {
                continue;
            };
            let stored = checkpoint.tensor(name).unwrap();
            let same_type = matches!(
                (stored.dtype(), tensor.dtype()),
                (safetensors::Dtype::F32, DType::F32)
                    | (safetensors::Dtype::F16, DType::F16)
                    | (safetensors::Dtype::BF16, DType::Bf16)
            );
            if same_type && stored.shape().iter().map(|&d| d as u64).eq(tensor.dims().iter().copied()) {
                assert!(stored.data() == tensor.bytes(), "{} of {}", node.name, folder.display());
                compared += 1;
            }
        }
    }
    assert!(compared > 150, "only {compared} tensors could be compared");
}

/// Checkpoint and export of one model agree on what can be compared without running them: the rotation frequencies, the number of products with
/// weights, and the weights' bytes.
#[test]
fn checkpoints_import_like_their_exports() {
    let Some(corpus) = corpus() else { return };
    let dense = ["llama-", "llama3-", "mistral-", "phi3-", "qwen2-", "qwen3-", "rustdoc-llama"];
    let (mut opened, mut frequencies, mut spelled_out) = (0, 0, 0);
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        if !folder.join("hf").is_dir() {
            continue;
        }
        let checkpoint = q35_import::open(&folder.join("hf"));
        if !dense.iter().any(|d| name.starts_with(d)) {
            match checkpoint {
                Ok(checkpoint) => checkpoint.graph.check().unwrap(),
                Err(e) => assert!(name.starts_with("lfm2") && e.to_string().starts_with("error[Q35-0208]"), "{name}:\n{e}"),
            }
            continue;
        }
        let checkpoint = checkpoint.unwrap_or_else(|e| panic!("{name}:\n{e}")).graph;
        checkpoint.check().unwrap();
        opened += 1;
        let config = json(&folder.join("hf/config.json"));
        let layers = config["num_hidden_layers"].as_u64().unwrap();
        let per_layer = if name.starts_with("phi3") { 4 } else { 7 };
        assert_eq!(op_counts(&checkpoint)["MatMul"], layers * (per_layer + 2) + 1, "{name}");
        let Ok(export) = q35_import::open(&folder.join("model.onnx")) else { continue };
        let (ours, theirs) = (op_counts(&checkpoint), op_counts(&export.graph));
        // The exporters that spell everything out in the same ops, shapes and masks apart.
        if ["Reciprocal", "Softmax", "Cos"].iter().all(|op| theirs.contains_key(*op)) {
            let ops = ["MatMul", "Sigmoid", "Softmax", "Sqrt", "Reciprocal", "Pow", "ReduceMean", "Cos", "Sin"];
            ops.iter().for_each(|op| assert_eq!(ours[*op], theirs[*op], "{op} of {name}"));
            spelled_out += 1;
        }
        let find = |graph: &SourceGraph| {
            graph.ids().find_map(|id| match &graph.node(id).op {
                SourceOp::Const(t) if graph.node(id).name.ends_with("inv_freq") => Some(t.clone()),
                _ => None,
            })
        };
        if let (Some(a), Some(b)) = (find(&checkpoint), find(&export.graph)) {
            assert_eq!(a.count(), b.count());
            (0..a.count()).for_each(|i| assert!((a.number(i) / b.number(i) - 1.0).abs() < 5e-7, "{name}: frequency {i}"));
            frequencies += 1;
        }
    }
    assert!(opened >= 26 && frequencies >= 8 && spelled_out >= 10, "{opened} {frequencies} {spelled_out}");
}
