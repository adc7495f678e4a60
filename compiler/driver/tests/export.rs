//! Exported checkpoints, read back by the importer.

#![allow(clippy::unwrap_used)]

use q35_dialects::Model;
use q35_dialects::values::read;
use q35_graph::Silent;
use q35c::settings::Settings;
use q35c::{export, pipeline};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// Numbers of all parameters by name. The tables of rotations are computed, here as there, each in its own order.
fn numbers(model: &Model) -> BTreeMap<String, Vec<f32>> {
    let stored = model.params.iter().filter(|(name, _)| !name.to_string().starts_with("rotary."));
    stored.map(|(name, param)| (name.to_string(), read(&param.source).data)).collect()
}

#[test]
fn a_model_comes_back_as_it_was() {
    let model = example("examples/tiny-llama/model.onnx");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("checkpoint");
    let exported = export::run(&model, None, &out).unwrap();
    assert_eq!((exported.tensors, exported.numbers), (56, 5_770_496));
    let [original, read_back] = [&model, &out].map(|path| pipeline::prepare(path, &Settings::float(), &mut Silent).unwrap());
    assert_eq!(numbers(&original.model), numbers(&read_back.model));
    assert!(out.join("tokenizer.json").is_file());
    let config: serde_json::Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((config["dtype"].as_str(), config["model_type"].as_str()), (Some("float32"), Some("llama")));
}

#[test]
fn a_model_without_a_form_as_a_checkpoint_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.onnx");
    fs::copy(example("tests/data/llama-mha--dynamo/model.onnx"), &model).unwrap();
    let refused = || export::run(&model, None, &dir.path().join("out")).unwrap_err().to_string();
    assert_eq!(
        refused(),
        "error[Q35-0209]: the model has no config.json, and a checkpoint is not complete without one\n  \
         help: put the config.json of the original checkpoint beside the model"
    );
    let config = dir.path().join("config.json");
    fs::write(&config, r#"{"model_type": "gpt2"}"#).unwrap();
    assert_eq!(
        refused(),
        format!(
            "error[Q35-0209]: models of type 'gpt2' have no form as a checkpoint here; llama, mistral, qwen2, qwen3, mixtral have\n  \
             at file '{}'",
            config.display()
        )
    );
    fs::write(&config, r#"{"model_type": "mixtral"}"#).unwrap();
    let text = refused();
    assert!(
        text.starts_with("error[Q35-0209]: @layers.0.mlp.down.weight has no place in a checkpoint of type 'mixtral'"),
        "{text}"
    );
    assert!(!dir.path().join("out").exists());
}

/// By the original library, where it is installed.
#[test]
fn the_original_library_loads_it_unchanged() {
    let script = "import sys, torch, transformers\n\
        model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])\n\
        print(model(torch.tensor([[5, 6, 7, 8]])).logits[0, -1].argmax().item())";
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("checkpoint");
    export::run(&example("examples/tiny-llama/model.onnx"), None, &out).unwrap();
    let python = |program: &str| std::process::Command::new("python3").args(["-c", program]).arg(&out).output();
    if !python("import torch, transformers").is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: transformers and torch are not installed, so the original library has not loaded the checkpoint");
        return;
    }
    let output = python(script).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let model = pipeline::prepare(&out, &Settings::float(), &mut Silent).unwrap().model;
    let values = q35_dialects::values::SourceValues::new(&model);
    let step = q35_dialects::interp::StepInput::sequence(&[5, 6, 7, 8], 0);
    let logits = q35_dialects::interp::Session::new(&model.graph, &values).step(&step).unwrap();
    let last = logits.row(3);
    let best = (1..last.len()).fold(0, |best, at| if last[at] > last[best] { at } else { best });
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), best.to_string());
}
