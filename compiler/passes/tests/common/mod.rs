//! What the tests share: where the graphs are, a decoder to spell, numbers at random.

pub(crate) mod decoder;
pub(crate) mod random;

use std::path::{Path, PathBuf};

/// The corpus of exported graphs, if it is there.
pub(crate) fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no corpus at {}", folder.display());
    None
}

/// A graph of the corpus: its name, its file, and the folder with configuration and stored results.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) graph: PathBuf,
    pub(crate) folder: PathBuf,
}

/// The graphs that travel with the repository, and those of the corpus, if it is there.
pub(crate) fn present() -> Vec<Case> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let mut found = cases(&data);
    let known: Vec<String> = found.iter().map(|case| case.name.clone()).collect();
    found.extend(corpus().iter().flat_map(|folder| cases(folder)).filter(|case| !known.contains(&case.name)));
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Every graph of the corpus, in order of names.
pub(crate) fn cases(folder: &Path) -> Vec<Case> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        for (suffix, graph) in [("", "model.onnx"), ("/dynamo", "dynamo/model.onnx"), ("/hf-cache", "hf-cache/model.onnx")] {
            if path.join(graph).is_file() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned() + suffix;
                found.push(Case { name, graph: path.join(graph), folder: path.clone() });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether a graph of the corpus has no experts.
pub(crate) fn is_dense(name: &str) -> bool {
    const DENSE: &[&str] = &["llama-", "llama3-", "mistral-", "qwen2--", "qwen3--", "phi3-", "rustdoc-llama"];
    DENSE.iter().any(|family| name.starts_with(family))
}
