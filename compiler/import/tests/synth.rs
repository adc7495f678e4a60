//! Synthetic models.
#![allow(clippy::unwrap_used)]

use q35_graph::source::SourceOp;
use q35_import::synth::{Fill, Llama, write_llama};

fn sizes() -> Llama {
    Llama { vocab: 50, hidden: 16, ffn: 24, layers: 2, heads: 4, kv_heads: 2, head_dim: 8, tied: false, fill: Fill::Seeded(1) }
}

#[test]
fn a_synthetic_model_imports() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_llama(&sizes(), dir.path()).unwrap();
    let graph = q35_import::open(&path).unwrap().graph;
    graph.check().unwrap();
    let stored: u64 = graph
        .ids()
        .map(|id| match &graph.node(id).op {
            SourceOp::Const(t) if t.dims().len() == 2 => t.count(),
            _ => 0,
        })
        .sum();
    let (attention, ffn) = (16 * 32 * 2 + 16 * 16 * 2, 3 * 16 * 24);
    assert_eq!(stored, 2 * 50 * 16 + 2 * (attention + ffn));
}

/// Opening costs what the graph costs: a terabyte of weights opens at once, from a file that takes no disk.
#[test]
fn weights_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = Llama {
        vocab: 1 << 20,
        hidden: 1 << 14,
        ffn: 1 << 16,
        layers: 16,
        heads: 128,
        kv_heads: 8,
        head_dim: 128,
        tied: true,
        fill: Fill::Zeros,
    };
    let path = write_llama(&model, dir.path()).unwrap();
    assert!(std::fs::metadata(dir.path().join("model.onnx.data")).unwrap().len() > 200 << 30);
    let graph = q35_import::open(&path).unwrap().graph;
    assert!(graph.len() > 1000);
}
