//! A model on a wafer: compiled to CSL, run on the fabric model, against the interpreter on the same packed weights. A model of the chip,
//! not run on silicon.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use q35_bundle::Bundle;
use q35_dialects::interp::{Session as Interpreter, StepInput};
use q35_graph::Silent;
use q35_runtime::{Chunk, Options, Session, Want};
use q35c::cli::{GroupChoice, Shape};
use q35c::pipeline::{self, Output};
use q35c::settings::Settings;
use q35c::targets;
use q35c::values::PackedValues;
use std::path::Path;
use std::sync::Arc;

fn best(logits: &[f32]) -> u32 {
    let index = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    index.unwrap() as u32
}

/// Compiles a model of the repository and decodes greedily beside the interpreter, which sees what the wafer chose.
fn decodes(model: &str, context: u64, prompt: &[u32], count: usize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(model);
    let target = targets::find("wse").unwrap();
    let shape =
        Shape { codec: "auto".to_owned(), rotate: None, group: GroupChoice::Row, context: Some(context), max_memory: None };
    let settings = Settings::new(&shape, "wse", &target.capabilities()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("model.q35");
    let out = Output::new(target.as_ref(), "", &bundle);
    let model = pipeline::compile(&path, &settings, out, &mut Silent).unwrap().model;
    let bundle = Arc::new(Bundle::open(&bundle).unwrap());

    let values = PackedValues::new(&model);
    let mut interpreter = Interpreter::new(&model.graph, &values);
    let options = Options { capacity: context as usize, ..Options::default() };
    let mut wafer = Session::new(bundle, &options).unwrap();
    assert!(wafer.describe().contains("not run on silicon"));
    let (mut tokens, mut at) = (prompt.to_vec(), 0);
    while at < prompt.len() + count {
        let expected = interpreter.step(&StepInput::sequence(&tokens[at..], at as u32)).unwrap();
        let found = wafer.step(&[Chunk { slot: 0, tokens: &tokens[at..], positions: None, want: Want::All }]).unwrap();
        for (row, found) in found.rows().enumerate() {
            let expected = expected.row(row);
            let size = expected.iter().fold(0f32, |size, x| size.max(x.abs()));
            let error = expected.iter().zip(found).fold(0f32, |error, (a, b)| error.max((a - b).abs()));
            // Values pass through f16 between layers' sums.
            assert!(error <= 0.02 * size, "position {}: off by {error} of {size}", at + row);
        }
        let rows: Vec<&[f32]> = found.rows().collect();
        let (chosen, wanted) = (best(rows[rows.len() - 1]), best(expected.row(rows.len() - 1)));
        assert_eq!(chosen, wanted, "token {} of {tokens:?}", tokens.len());
        at = tokens.len();
        tokens.push(chosen);
    }
}

#[test]
fn the_small_model_decodes_the_tokens_of_the_interpreter() {
    decodes("examples/tiny-llama/model.onnx", 256, &[12, 345, 678, 90], 6);
}

/// Longer than the window of the model that has one.
const PROMPT: [u32; 20] = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19];

#[test]
fn shared_heads_biases_norms_of_heads_and_windows() {
    for model in [
        "llama-mha--dynamo",
        "qwen2--dynamo-bf16",
        "llama3-rope-tied--dynamo-op23",
        "qwen3--dynamo-op24-cache",
        "mistral-sw--hf-cache",
    ] {
        decodes(&format!("tests/data/{model}/model.onnx"), 32, &PROMPT, 3);
    }
}
