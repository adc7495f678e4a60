//! Damaged models never panic: bits flipped and ends cut off by a seeded generator.

use super::*;
use crate::testing::Random;

/// A model with one of everything.
fn everything() -> Model {
    let body = graph(&["i"], vec![node("Add", "add", &["i", "x"], &["o"])], &["o"]);
    let inner = Node {
        attribute: vec![Attribute { ref_attr_name: "k".into(), ..Attribute::of_kind("k", kind::INT) }],
        ..node("Op", "op", &["a"], &["r"])
    };
    let attributes = vec![
        graph_attribute("body", body),
        Attribute::ints("axes", &[1, 2, 3]),
        Attribute { floats: vec![1.0], ..Attribute::of_kind("scales", kind::FLOATS) },
        Attribute { strings: vec!["s".into()], ..Attribute::of_kind("modes", kind::STRINGS) },
        Attribute { t: Some(Box::new(Tensor::raw("", 1, &[1], vec![0; 4]))), ..Attribute::of_kind("value", kind::TENSOR) },
    ];
    let nodes = vec![
        Node { attribute: vec![Attribute::int("k", 3)], ..call("f", "c", &["x"], &["y"]) },
        Node { attribute: attributes, ..node("Loop", "loop", &["y", "", "w"], &["z", "", "zz"]) },
    ];
    let mut graph = graph(&[], nodes, &["z"]);
    graph.input = vec![ValueInfo::tensor("x", FLOAT, &["batch", "3"])];
    graph.value_info = vec![ValueInfo::tensor("y", FLOAT, &["batch", "3"])];
    graph.initializer = vec![
        Tensor::raw("w", 7, &[2], vec![0; 16]),
        external("e", &[2], &[("location", "e.bin"), ("offset", "4"), ("length", "8")]),
    ];
    Model { functions: vec![function("f", &["a"], vec![inner], &["r"])], ..model(graph) }
}

#[test]
fn damaged_models_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("e.bin"), [0; 12]).unwrap();
    let mut originals = vec![everything().encode_to_vec()];
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    for name in ["llama-mha--dynamo", "llama-gqa--genai-int4", "llama-mha--ts"] {
        match std::fs::read(corpus.join(name).join("model.onnx")) {
            Ok(bytes) => originals.push(bytes),
            Err(_) => println!("skipped: {name} is not there"),
        }
    }
    let path = dir.path().join("model.onnx");
    let mut random = Random(7);
    let (mut opened, mut refused) = (0, 0);
    for (which, original) in originals.iter().enumerate() {
        for _ in 0..if which == 0 { 6000 } else { 200 } {
            let bytes = random.damage(original);
            match super::super::read(bytes.into(), &path) {
                Ok((graph, _)) => {
                    graph.check().unwrap();
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(opened > 500 && refused > 500, "{opened} opened, {refused} refused");
}
