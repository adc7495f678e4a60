//! The page of the book that lists every compiled graph with its result: `docs/src/graphs.md`.
//!
//! Each test of a graph makes its own row and looks for it in the page; `Q35C_BLESS=1` puts it there. What depends on a machine, such as the
//! digits of an error, is no part of a row.

use q35_tests::corpus::{self, Example};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Tests run side by side; the page is written by one at a time.
static PAGE: Mutex<()> = Mutex::new(());

const HEAD: &str = "\
# Every graph, compiled

Made by `tests/suite/end_to_end.rs` from its own run: `Q35C_BLESS=1 cargo test -p q35-tests -- end-to-end/` refreshes it, and every run checks
the rows of the graphs that are there.

Every graph is compiled with `--codec f32 --target cpu`, and the bundle is run on stored inputs: with padding, with a cache, several sequences at
once. The logits of all valid positions are within the stored allowance of what the original library gave (for weights in 4 bits: on those weights,
decoded; for graphs that were spelled out: ONNX Runtime). Greedy decoding from a stored prompt gives the original library's tokens.

| model | exporter | opset | weights | inputs | logits | greedy tokens |
| --- | --- | --- | --- | --- | --- | --- |
";

/// What became of a graph.
pub(crate) struct Outcome {
    /// Stored inputs, all of which gave the right logits.
    pub(crate) cases: usize,
    /// Tokens that greedy decoding gave as stored, if any are.
    pub(crate) tokens: Option<usize>,
}

fn path() -> PathBuf {
    corpus::root().join("docs/src/graphs.md")
}

/// The cells that say which graph a row is about.
fn key(example: &Example) -> String {
    let (model, exporter) = example.name.split_once("--").unwrap_or((&example.name, ""));
    format!("| {model} | {exporter} |")
}

fn row(example: &Example, outcome: &Outcome) -> String {
    let facts = example.facts();
    let tokens = outcome.tokens.map_or("none stored".to_owned(), |count| format!("{count} equal"));
    let opset = facts.opset.map_or("not recorded".to_owned(), |version| version.to_string());
    let logits = format!("all within {:e}", example.tolerance());
    format!("{} {} | {} | {} | {logits} | {tokens} |", key(example), opset, facts.weights, outcome.cases)
}

fn rows(page: &str) -> impl Iterator<Item = &str> {
    page.strip_prefix(HEAD).unwrap_or_default().lines()
}

/// Looks a graph's row up, or puts it there.
pub(crate) fn record(example: &Example, outcome: &Outcome) -> Result<(), String> {
    let (row, key) = (row(example, outcome), key(example));
    let _guard = PAGE.lock().unwrap_or_else(PoisonError::into_inner);
    let page = std::fs::read_to_string(path()).unwrap_or_default();
    if rows(&page).any(|line| line == row) {
        return Ok(());
    }
    if std::env::var_os("Q35C_BLESS").is_none() {
        return Err(format!("{} has no row '{row}'; Q35C_BLESS=1 refreshes it", path().display()));
    }
    let mut all: BTreeSet<&str> = rows(&page).filter(|line| !line.starts_with(&key)).collect();
    all.insert(&row);
    let text = all.into_iter().fold(HEAD.to_owned(), |text, row| text + row + "\n");
    std::fs::write(path(), text).map_err(|e| e.to_string())
}

/// No row is about a graph that is not there any more, where all of them are.
pub(crate) fn is_complete(examples: &[Example]) -> Result<(), String> {
    if corpus::shared().is_none() {
        return Ok(());
    }
    let page = std::fs::read_to_string(path()).map_err(|e| e.to_string())?;
    let keys: Vec<String> = examples.iter().map(key).collect();
    match rows(&page).find(|line| !keys.iter().any(|key| line.starts_with(key))) {
        Some(line) => Err(format!("there is no graph for the row '{line}'")),
        None => Ok(()),
    }
}
