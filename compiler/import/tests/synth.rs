//! Synthetic models.
#![allow(clippy::unwrap_used)]

use q35_graph::source::SourceOp;
use q35_import::synth::{Checkpoint, Fill, Llama, SHAPES, Stored, write_llama};
use std::collections::BTreeMap;
use std::path::Path;

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

const SMALL: &str = r#"{"model_type": "mixtral", "vocab_size": 96, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "quantization_config": {"quant_method": "awq"}}"#;

/// Standard deviation of every matrix of a checkpoint as the importer reads it, times the square root of its inputs.
fn deviations(folder: &Path) -> Vec<(Vec<u64>, f64)> {
    let graph = q35_import::open(folder).unwrap().graph;
    let matrices = graph.ids().filter_map(|id| match &graph.node(id).op {
        SourceOp::Const(tensor) if tensor.dims().len() > 1 => Some(tensor.clone()),
        _ => None,
    });
    let deviation = |numbers: &[f32]| (numbers.iter().map(|x| f64::from(x * x)).sum::<f64>() / numbers.len() as f64).sqrt();
    matrices
        .map(|tensor| {
            let mut numbers = vec![0.0; tensor.count() as usize];
            tensor.read(0, &mut numbers);
            (tensor.dims().to_vec(), deviation(&numbers) * (*tensor.dims().last().unwrap() as f64).sqrt())
        })
        .collect()
}

/// Every weight arrives as it was meant, however it was stored: in its place, of its type, multiplied by its scale.
#[test]
fn a_synthetic_checkpoint_imports() {
    for stored in [Stored::Bf16, Stored::F16, Stored::Fp8] {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint { config: SMALL, stored, fill: Fill::Seeded(3), shard: 100_000 };
        let mut heard = Vec::new();
        let written = checkpoint.write(dir.path(), |done, total| heard.push((done, total))).unwrap();
        let (attention, expert) = (128 * 128 * 2 + 128 * 64 * 2, 3 * 128 * 192);
        assert_eq!(written.parameters, 2 * 96 * 128 + 128 + 2 * (attention + 4 * expert + 4 * 128 + 2 * 128), "{stored:?}");
        assert!(written.files > 5 && heard.is_sorted() && heard.last().is_some_and(|(done, total)| done == total));
        let deviations = deviations(dir.path());
        assert_eq!(deviations.len(), 2 + 2 * (4 + 3 + 1), "{stored:?}");
        for (dims, deviation) in deviations {
            assert!((deviation - 1.0).abs() < 0.1, "{stored:?} {dims:?}: {deviation}");
        }
    }
}

/// Bytes of every tensor, by name.
fn tensors(layers: u64, shard: u64, seed: u64) -> BTreeMap<String, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let mut config: serde_json::Value = serde_json::from_str(SMALL).unwrap();
    config["num_hidden_layers"] = layers.into();
    let checkpoint = Checkpoint { config: &config.to_string(), stored: Stored::Bf16, fill: Fill::Seeded(seed), shard };
    checkpoint.write(dir.path(), |_, _| ()).unwrap();
    let files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors"));
    files
        .flat_map(|path| {
            let bytes = std::fs::read(path).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn a_tensor_depends_on_its_name_and_the_seed_alone() {
    let whole = tensors(2, 1 << 30, 1);
    assert_eq!(whole, tensors(2, 50_000, 1));
    let one_layer = tensors(1, 1 << 30, 1);
    assert!(one_layer.len() < whole.len() && one_layer.iter().all(|(name, bytes)| &whole[name] == bytes));
    let other = tensors(2, 1 << 30, 2);
    assert!(whole.iter().all(|(name, bytes)| &other[name] != bytes));
    let distinct: std::collections::BTreeSet<_> = whole.values().collect();
    assert_eq!(distinct.len(), whole.len());
}

/// The shapes are those of the published models: their known numbers of parameters, in billions, come out.
#[test]
fn shapes_have_the_sizes_that_their_names_say() {
    let billions = [1.100, 8.030, 30.532, 46.703, 70.554, 405.853, 671.026];
    for ((name, config), billions) in SHAPES.into_iter().zip(billions) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint { config, stored: Stored::Bf16, fill: Fill::Zeros, shard: 5 << 30 };
        let written = checkpoint.write(dir.path(), |_, _| ()).unwrap();
        assert_eq!(format!("{:.3}", written.parameters as f64 / 1e9), format!("{billions:.3}"), "{name}");
    }
}
