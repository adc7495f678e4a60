//! Same input, options and compiler: same bytes, in another folder, under another name, on another number of threads.

use crate::end_to_end::{compile, path};
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("determinism/two-compiles-give-equal-bytes", || Ok(two_compiles()?))]
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

fn two_compiles() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let example = corpus::tiny_llama();
    let first = compile(&example, folder.path(), "first.q35", &["--codec", "w8"])?;
    let copy = folder.path().join("deeper/elsewhere");
    std::fs::create_dir_all(&copy).map_err(|e| e.to_string())?;
    for file in ["model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(example.folder.join(file), copy.join(file)).map_err(|e| e.to_string())?;
    }
    let second = copy.join("second.q35");
    let output = program::command("q35c")
        .args(["compile", "model.onnx", "--codec", "w8", "-o", path(&second)])
        .current_dir(&copy)
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let (first, second) = (files(&first), files(&second));
    if first.is_empty() || !first.keys().eq(second.keys()) {
        return Err(format!("different files: {:?} and {:?}", first.keys(), second.keys()));
    }
    let different: Vec<_> = first.keys().filter(|name| first[*name] != second[*name]).collect();
    if different.is_empty() { Ok(()) } else { Err(format!("different bytes in {different:?}")) }
}
