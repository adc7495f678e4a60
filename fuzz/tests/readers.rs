//! Every reader of files from outside, on damaged files.
#![allow(clippy::unwrap_used)] // a test may panic

use q35_fuzz::memory::Counting;
use q35_fuzz::run::{Outcome, fuzz};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of that name or ending in the folders of a folder, in order, that are small enough to be damaged often.
fn seeds(folder: &str, suffix: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut work = vec![repository().join(folder)];
    while let Some(folder) = work.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                work.push(path);
            } else if path.to_string_lossy().ends_with(suffix) && path.metadata().unwrap().len() < 200_000 {
                found.push((path.strip_prefix(repository()).unwrap().display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no *{suffix} in {folder}");
    found
}

/// Opens a path, reads a few elements of every weight, and says whether it could be opened.
fn open(path: &Path) -> bool {
    let Ok(model) = q35_import::open(path) else { return false };
    model.graph.check().unwrap();
    for id in model.graph.ids() {
        if let q35_graph::source::SourceOp::Const(tensor) = &model.graph.node(id).op
            && tensor.count() > 0
        {
            tensor.number(0);
            tensor.number(tensor.count() - 1);
        }
    }
    true
}

fn both(outcome: Outcome, name: &str) {
    println!("{name}: {outcome:?}");
    assert!(outcome.refused > 0, "{name}: nothing was refused");
}

#[test]
fn onnx_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    let seeds = [seeds("tests/data", ".onnx"), seeds("tests/filetests", ".onnx")].concat();
    both(
        fuzz("onnx", &seeds, 60, |bytes| {
            fs::write(&path, bytes).unwrap();
            open(&path)
        }),
        "onnx",
    );
}

#[test]
fn gguf_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    both(
        fuzz("gguf", &seeds("compiler/import/tests/data/gguf", ".gguf"), 400, |bytes| {
            fs::write(&path, bytes).unwrap();
            open(&path)
        }),
        "gguf",
    );
}

/// A checkpoint one of whose files is damaged.
fn checkpoints(name: &str, rounds: usize) {
    for (seed, bytes) in seeds("compiler/import/tests/data/checkpoints", name) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(repository().join(&seed).with_file_name(file), dir.path().join(file)).unwrap();
        }
        let path = dir.path().join(name);
        both(
            fuzz(name, &[(seed.clone(), bytes)], rounds, |bytes| {
                fs::write(&path, bytes).unwrap();
                open(dir.path())
            }),
            &seed,
        );
    }
}

#[test]
fn configurations() {
    checkpoints("config.json", 60);
}

#[test]
fn safetensors_files() {
    checkpoints("model.safetensors", 40);
}

#[test]
fn indexes_of_shards() {
    let dir = tempfile::tempdir().unwrap();
    let source = repository().join("compiler/import/tests/data/checkpoints/smollm3");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(source.join(file), dir.path().join(file)).unwrap();
    }
    let path = dir.path().join("model.safetensors.index.json");
    let index = br#"{"metadata": {"total_size": 1}, "weight_map": {"model.norm.weight": "model.safetensors", "a": "./model.safetensors"}}"#;
    both(
        fuzz("index", &[("index".to_owned(), index.to_vec())], 300, |bytes| {
            fs::write(&path, bytes).unwrap();
            open(dir.path())
        }),
        "index",
    );
}

#[test]
fn bundles() {
    let dir = tempfile::tempdir().unwrap();
    let source = repository().join("fuzz/seeds/bundle");
    let copy = |name: &str| {
        let to = dir.path().join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(source.join(name), to).unwrap();
    };
    let mut files: Vec<String> = seeds("fuzz/seeds/bundle", "").into_iter().map(|seed| seed.0).collect();
    files.iter_mut().for_each(|file| *file = file.trim_start_matches("fuzz/seeds/bundle/").to_owned());
    files.iter().for_each(|file| copy(file));
    for name in ["manifest.json", "weights.safetensors"] {
        let bytes = fs::read(source.join(name)).unwrap();
        let path = dir.path().join(name);
        let outcome = fuzz(name, &[(name.to_owned(), bytes)], 500, |bytes| {
            fs::write(&path, bytes).unwrap();
            if name == "manifest.json" {
                // Else the hash beside it would be all that is looked at.
                let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                fs::write(dir.path().join("manifest.sha256"), format!("{digest}  manifest.json\n")).unwrap();
            }
            q35_bundle::Bundle::open_with(dir.path(), q35_bundle::Verify::SkipWeights).is_ok()
        });
        both(outcome, name);
        copy(name);
    }
}
