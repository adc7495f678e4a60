//! `--effort best`: a compile that was killed goes on where it was, and its bundle has the bytes of one that was not, on any number of threads. `--bits-budget`: what is taken
//! stays below it, and the error falls. And what a report says of a source that was quantized already.

use crate::determinism::files;
use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Rounded parameters after which the compile is killed.
const KEPT: usize = 3;
/// How long the compile may take to get there.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("calibration/a-killed-compile-goes-on", || Ok(killed()?)),
        Trial::test("calibration/a-budget-is-kept", || Ok(budget()?)),
        Trial::test("calibration/a-source-of-few-bits-is-said", || Ok(source()?)),
    ]
}

fn compile(bundle: &Path, threads: &str) -> Command {
    let example = corpus::tiny_llama();
    let mut command = program::command("q35c");
    command.args(["compile", path(&example.model), "--codec", "w8", "--levels", "base", "--quiet", "-o", path(bundle)]);
    command.args(["--effort", "best", "--sequences", "2", "--calibrate", path(&example.folder.join("calibration.txt"))]);
    command.env("RAYON_NUM_THREADS", threads).stdout(Stdio::null());
    command
}

/// The rounded parameters in a work folder, with the time of their last change.
fn rounded(work: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = entries.filter(|path| path.extension().is_some_and(|extension| extension == "rounded"));
    ours.filter_map(|path| Some((path.clone(), path.metadata().ok()?.modified().ok()?))).collect()
}

fn finish(mut command: Command) -> Result<(), String> {
    let status = command.status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("the compile ended with {status}")) }
}

fn killed() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let [whole, stopped] = ["whole.q35", "stopped.q35"].map(|name| folder.path().join(name));
    let work = folder.path().join("stopped.q35.work");
    finish(compile(&whole, "2"))?;
    let mut child = compile(&stopped, "1").spawn().map_err(|e| e.to_string())?;
    let started = Instant::now();
    while rounded(&work).len() < KEPT {
        if started.elapsed() > PATIENCE || child.try_wait().map_err(|e| e.to_string())?.is_some() {
            return Err(format!("the compile left {} parameters", rounded(&work).len()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
    let kept = rounded(&work);
    if stopped.exists() {
        return Err("there is a bundle before the compile is through".to_owned());
    }
    let mut again = compile(&stopped, "3").spawn().map_err(|e| e.to_string())?;
    // What was kept is not rounded again.
    let mut rewritten = false;
    while again.try_wait().map_err(|e| e.to_string())?.is_none() {
        let now = rounded(&work);
        rewritten |= kept.iter().any(|(path, time)| now.iter().any(|(other, changed)| path == other && time != changed));
        std::thread::sleep(Duration::from_millis(5));
    }
    if rewritten || !again.wait().map_err(|e| e.to_string())?.success() || work.exists() {
        return Err(format!("rounded twice: {rewritten}; the work folder is still there: {}", work.exists()));
    }
    let (whole, stopped) = (files(&whole), files(&stopped));
    let different: Vec<_> = whole.keys().filter(|name| whole.get(*name) != stopped.get(*name)).collect();
    if different.is_empty() && whole.len() == stopped.len() { Ok(()) } else { Err(format!("different bytes in {different:?}")) }
}

/// Runs a program that prints JSON.
fn json(program: &str, args: &[&str]) -> Result<serde_json::Value, String> {
    serde_json::from_str(&program::run(program, args).success()?).map_err(|e| e.to_string())
}

/// Bits that the linear layers of a bundle may take, and those that they take in w8.
const BUDGET: f64 = 4.6;
const UNIFORM: f64 = 3.6;

fn budget() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let [mixed, uniform, again] = ["mixed.q35", "uniform.q35", "again.q35"].map(|name| folder.path().join(name));
    let example = corpus::tiny_llama();
    let text = example.folder.join("calibration.txt");
    let compile = |bundle: &Path, more: &[&str]| {
        json(
            "q35c",
            &[
                &[
                    "compile",
                    path(&example.model),
                    "--codec",
                    "w8",
                    "--levels",
                    "base",
                    "--quiet",
                    "--json",
                    "-o",
                    path(bundle),
                ],
                more,
            ]
            .concat(),
        )
    };
    let limit = BUDGET.to_string();
    let spend = ["--bits-budget", &limit, "--calibrate", path(&text)];
    let summary = compile(&mixed, &spend)?;
    compile(&uniform, &[])?;
    compile(&again, &[&spend[..], &["--jobs", "1"]].concat())?;
    if files(&mixed) != files(&again) {
        return Err("another number of threads gives other bytes".to_owned());
    }
    let bits = summary["linear_bits"].as_f64().unwrap_or(f64::NAN);
    if !(UNIFORM..=BUDGET).contains(&bits) || summary["allocation"]["bits"].as_f64() != Some(bits) {
        return Err(format!("{bits} bits of {BUDGET}: {}", summary["allocation"]));
    }
    let inspected = json("q35", &["inspect", path(&mixed), "--json"])?;
    for group in summary["allocation"]["layers"].as_array().into_iter().flatten() {
        for name in group["params"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            let stored = &inspected["manifest"]["weights"][name]["codec"];
            if stored != &group["codec"] {
                return Err(format!("{name} is stored in {stored}, and {} was said", group["codec"]));
            }
        }
    }
    // The error falls, and the bundle's own codecs are what the comparison goes by.
    let error = |bundle: &Path| {
        let found = json("q35c", &["compare", path(&example.model), path(bundle), "--json"])?;
        let logits = found["layers"].as_array().and_then(|rows| rows.last()).cloned().unwrap_or_default();
        match [&logits["quantization"], &logits["code_generation"]].map(serde_json::Value::as_f64) {
            [Some(quantization), Some(code)] if code < 0.02 => Ok(quantization),
            _ => Err(format!("the comparison says {logits}")),
        }
    };
    let [mixed, uniform] = [error(&mixed)?, error(&uniform)?];
    if mixed < uniform { Ok(()) } else { Err(format!("more bits: an error of {mixed}; all layers alike: {uniform}")) }
}

fn source() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bundle = folder.path().join("small.q35");
    let [coarse, float] =
        ["llama3-rope-tied--genai-int4", "llama-mha--dynamo"].map(|name| corpus::data().join(name).join("model.onnx"));
    let said =
        program::run("q35c", &["compile", path(&coarse), "--levels", "base", "--quiet", "-o", path(&bundle)]).success()?;
    let inspected = program::run("q35", &["inspect", path(&bundle)]).success()?;
    let report = json("q35", &["inspect", path(&bundle), "--json"])?;
    let records = report["records"].as_object().cloned().unwrap_or_default();
    let (q, norm) =
        (records.iter().find(|(name, _)| name.contains("attention.q")), records.iter().find(|(name, _)| name.contains("norm")));
    let sources = [q, norm].map(|record| record.map(|(_, record)| record["source"].clone()));
    if sources != [Some("u4".into()), Some(serde_json::Value::Null)] {
        return Err(format!("the records say {sources:?} of {:?}", records.keys()));
    }
    if !said.contains("quantized already, ") || !inspected.contains("from") {
        return Err(format!("nobody is told: {said}{inspected}"));
    }
    let said = program::run(
        "q35c",
        &["compile", path(&float), "--levels", "base", "--quiet", "-o", path(&bundle.with_extension("f"))],
    )
    .success()?;
    if said.contains("quantized already") { Err(said) } else { Ok(()) }
}
