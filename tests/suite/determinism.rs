//! Same input, options and compiler: same bytes, in another folder, on another number of threads, with another seed of every hash table;
//! for every target. What its report says of each is looked at here too: no bundle is compiled for that alone.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) fn trials() -> Vec<Trial> {
    let target = |name: &'static str, options: &'static [&'static str]| {
        let chips = if options.contains(&"--chips") { "-on-several-chips" } else { "" };
        Trial::test(format!("determinism/two-compiles-give-equal-bytes-{name}{chips}"), move || {
            Ok(two_compiles(name, options)?)
        })
    };
    vec![
        target("cpu", &["--codec", "w8"]),
        target("cuda", &["--codec", "w7"]),
        target("rocm", &["--codec", "w7"]),
        target("groq", &["--codec", "split", "--context", "64"]),
        target("groq", &["--codec", "split", "--context", "64", "--chips", "2"]),
        target("wse", &["--context", "64"]),
        Trial::test("determinism/a-cache-changes-no-byte", || Ok(cached()?)),
    ]
}

/// Every file under a folder, by relative path.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(&current).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(folder).unwrap_or(&entry.path()).display().to_string();
                found.insert(name, std::fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    found
}

/// A small graph of one file.
fn small() -> Result<PathBuf, String> {
    let path = corpus::data().join("llama-mha--dynamo/model.onnx");
    if path.is_file() { Ok(path) } else { Err(format!("{} is not there", path.display())) }
}

/// Compiles in a folder of its own, on so many threads.
fn compile_in(folder: &Path, options: &[&str], jobs: &str) -> Result<BTreeMap<String, Vec<u8>>, String> {
    std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    let model = small()?;
    let source = model.parent().unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(source).map_err(|e| e.to_string())?.flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).map_err(|e| e.to_string())?;
    }
    let output = program::command("q35c")
        .args(["compile", "model.onnx", "--quiet", "-o", "out.q35", "--jobs", jobs])
        .args(options)
        .current_dir(folder)
        .output()
        .map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(files(&folder.join("out.q35"))),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn compare(first: &BTreeMap<String, Vec<u8>>, second: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    if first.is_empty() || !first.keys().eq(second.keys()) {
        return Err(format!("different files: {:?} and {:?}", first.keys(), second.keys()));
    }
    let different: Vec<_> = first.keys().filter(|name| first[*name] != second[*name]).collect();
    if different.is_empty() { Ok(()) } else { Err(format!("different bytes in {different:?}")) }
}

/// Two processes, that is two seeds of every hash table, in two folders, on one and on three threads.
fn two_compiles(target: &str, options: &[&str]) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let options = [&["--target", target], options].concat();
    let first = compile_in(&folder.path().join("here"), &options, "1")?;
    let second = compile_in(&folder.path().join("deeper/elsewhere"), &options, "3")?;
    compare(&first, &second)?;
    reported(target, &first)?;
    let shown = program::run("q35", &["inspect", path(&folder.path().join("here/out.q35"))]).success()?;
    let words = SHOWN.iter().find(|(name, _)| *name == target).map_or("", |(_, words)| words);
    if shown.contains(words) { Ok(()) } else { Err(format!("'{words}' is not in what q35 inspect shows:\n{shown}")) }
}

/// What `q35 inspect` says of a target's own part of the report.
const SHOWN: [(&str, &str); 5] = [
    ("cpu", "working memory during the launch that needs most:"),
    ("cuda", "working memory during the launch that needs most:"),
    ("rocm", "working memory during the launch that needs most:"),
    ("groq", "the schedule, a model of the chip, not run on silicon:"),
    ("wse", " PEs, a model of the chip, not run on silicon; a token takes "),
];

/// The target's own part of a bundle's report: memory over time fits into the plan and fills most of it once, a schedule takes some time, programs
/// have elements.
fn reported(target: &str, files: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    let report: serde_json::Value = serde_json::from_slice(&files["report.json"]).map_err(|e| e.to_string())?;
    let sound = match target {
        "groq" => report["schedule"]["cycles_per_token"].as_u64() > Some(0),
        "wse" => {
            let wafers = report["placement"]["wafers"].as_array().into_iter().flatten();
            let mut programs = wafers.flat_map(|wafer| wafer["programs"].as_array().into_iter().flatten()).peekable();
            let [used, room] = [0, 1].map(|at| move |of: &serde_json::Value| of["bytes_per_pe"][at].as_u64());
            programs.peek().is_some()
                && programs.all(|of| of["pes"].as_u64() > Some(0) && used(of) <= room(of) && used(of) > Some(0))
        }
        _ => {
            let launches = report["memory"].as_array().cloned().unwrap_or_default();
            let of = |launch: &serde_json::Value| launch["bytes_per_token"].as_u64().unwrap_or(u64::MAX);
            let (most, plan) = (launches.iter().map(of).max(), report["plan"]["bytes_per_token"].as_u64());
            most <= plan && 2 * most.unwrap_or(0) > plan.unwrap_or(u64::MAX)
        }
    };
    if sound { Ok(()) } else { Err(format!("the report says {:#}", report)) }
}

/// A cold cache, a warm one, and none at all.
fn cached() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let cache = folder.path().join("cache");
    let options = ["--codec", "w8", "--levels", "base", "--cache", path(&cache)];
    let none = compile_in(&folder.path().join("none"), &options[..4], "2")?;
    let cold = compile_in(&folder.path().join("cold"), &options, "2")?;
    let held = program::run("q35c", &["cache", path(&cache), "--json"]).success()?;
    let warm = compile_in(&folder.path().join("warm"), &options, "2")?;
    compare(&none, &cold)?;
    compare(&none, &warm)?;
    let still = program::run("q35c", &["cache", path(&cache), "--json"]).success()?;
    if held != still || held.contains("\"entries\": 0") {
        return Err(format!("the cache held {held} and then {still}"));
    }
    let cleared = program::run("q35c", &["cache", path(&cache), "--clear"]).success()?;
    let left = program::run("q35c", &["cache", path(&cache)]).success()?;
    if left.contains(" holds 0 packed weights") { Ok(()) } else { Err(format!("{cleared}{left}")) }
}
