//! The trained mixture of experts, where the larger collection has it: text from 3.5 bits per weight, and what calibration does for its
//! experts. Random experts cannot show either.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::path::{Path, PathBuf};

/// By how much 3.5 bits may raise the perplexity: about three times what they do (2.8 % to nearest, nothing with calibration).
const NEAREST: f64 = 1.08;
const CALIBRATED: f64 = 1.03;

pub(crate) fn trials() -> Vec<Trial> {
    let Some(folder) = corpus::shared().map(|models| models.join("rustdoc-moe")).filter(|folder| folder.is_dir()) else {
        return vec![];
    };
    let (for_text, for_effort) = (folder.clone(), folder);
    let mut trials = vec![Trial::test("experts/text-from-3.5-bits", move || Ok(text(&for_text)?))];
    if std::env::var_os("Q35_FULL").is_some() {
        trials.push(Trial::test("experts/calibration-reaches-every-expert", move || Ok(effort(&for_effort)?)));
    }
    trials
}

/// The model with its tokenizer beside it, and the beginning of a text.
fn prepared(from: &Path, folder: &Path) -> std::io::Result<[PathBuf; 2]> {
    let [model, text] = ["model.onnx", "text.txt"].map(|name| folder.join(name));
    std::fs::copy(from.join("dynamo/model.onnx"), &model)?;
    std::fs::copy(from.join("hf/tokenizer.json"), folder.join("tokenizer.json"))?;
    let whole = std::fs::read_to_string(from.join("test.txt"))?;
    std::fs::write(&text, whole.chars().take(30_000).collect::<String>())?;
    Ok([model, text])
}

fn compile(model: &Path, options: &[&str]) -> Result<PathBuf, String> {
    let bundle = model.with_file_name(format!("{}.q35", options.join("")));
    let args = ["compile", path(model), "--levels", "native", "--quiet", "-o", path(&bundle)];
    program::run("q35c", &[&args, options].concat()).success()?;
    Ok(bundle)
}

fn perplexity(bundle: &Path, text: &Path) -> Result<f64, String> {
    let found = program::run("q35", &["eval", path(bundle), "--text", path(text), "--json"]).success()?;
    let found: serde_json::Value = serde_json::from_str(&found).map_err(|e| e.to_string())?;
    found["perplexity"].as_f64().ok_or_else(|| format!("no perplexity in {found}"))
}

fn within(what: &str, found: f64, float: f64, allowed: f64) -> Result<(), String> {
    println!("{what}: perplexity {found}, {float} in f32");
    if found <= allowed * float { Ok(()) } else { Err(format!("{what}: perplexity {found}, {float} in f32")) }
}

fn text(from: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let [model, text] = prepared(from, folder.path()).map_err(|e| e.to_string())?;
    let [float, packed] = [compile(&model, &["--codec", "f32"])?, compile(&model, &["--codec", "w8"])?];
    within("w8", perplexity(&packed, &text)?, perplexity(&float, &text)?, NEAREST)?;
    let args = ["run", path(&packed), "--prompt", "The function returns", "-n", "24", "--temperature", "0"];
    let written = program::run("q35", &args).success()?;
    if written.split_whitespace().count() >= 8 { Ok(()) } else { Err(format!("wrote {written:?}")) }
}

fn effort(from: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let [model, text] = prepared(from, folder.path()).map_err(|e| e.to_string())?;
    let calibration = from.join("calibration.txt");
    let best = ["--codec", "w8", "--effort", "best", "--sequences", "24", "--calibrate", path(&calibration)];
    let bundle = folder.path().join("best.q35");
    program::run("q35c", &[&["compile", path(&model), "--quiet", "-o", path(&bundle)], &best[..]].concat()).success()?;
    let float = compile(&model, &["--codec", "f32"])?;
    within("w8 calibrated", perplexity(&bundle, &text)?, perplexity(&float, &text)?, CALIBRATED)?;
    let report = std::fs::read_to_string(bundle.join("report.json")).map_err(|e| e.to_string())?;
    let report: serde_json::Value = serde_json::from_str(&report).map_err(|e| e.to_string())?;
    // Of one layer's experts, training left one almost unused; its inputs are 256.
    let calibrated = &report["tensors"]["layers.2.experts.gate.weight"]["calibrated"];
    let thin = calibrated["thin_experts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said = thin.iter().any(|expert| {
        let number = |name: &str| expert[name].as_u64().unwrap_or(u64::MAX);
        number("expert") == 0 && number("tokens").checked_add(number("lent")) == Some(256)
    });
    if said { Ok(()) } else { Err(format!("the report says {calibrated}")) }
}
