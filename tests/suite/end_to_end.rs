//! Every example, compiled with `--codec f32`, against the logits and tokens that other people's software computed.

use crate::page::{self, Outcome};
use crate::program;
use libtest_mimic::{Failed, Trial};
use q35_tests::corpus::{self, Example};
use q35_tests::tensors;
use std::path::{Path, PathBuf};

pub(crate) fn trials() -> Vec<Trial> {
    let trial =
        |example: Example| Trial::test(format!("end-to-end/{}", example.name), move || run(&example).map_err(Failed::from));
    let all: Vec<Example> = corpus::dense().into_iter().chain(corpus::experts()).collect();
    let page = Trial::test("end-to-end/page", {
        let all = all.clone();
        move || page::is_complete(&all).map_err(Failed::from)
    });
    all.into_iter().map(trial).chain([page]).collect()
}

/// Compiles an example for this machine into `folder` with further options, and gives the bundle.
pub(crate) fn compile(example: &Example, folder: &Path, name: &str, options: &[&str]) -> Result<PathBuf, String> {
    let bundle = folder.join(name);
    let mut args =
        vec!["compile", path(&example.model), "--target", "cpu", "--levels", "native", "--quiet", "-o", path(&bundle)];
    args.extend(options);
    program::run("q35c", &args).success()?;
    Ok(bundle)
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("the tests' own paths are UTF-8"))
}

fn run(example: &Example) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bundle = compile(example, folder.path(), "f32.q35", &["--codec", "f32"])?;
    let mut wrong = Vec::new();
    let cases = example.cases();
    for case in &cases {
        let outputs = folder.path().join("out.safetensors");
        program::run("q35", &["run", path(&bundle), "--inputs", path(&case.path), "--outputs", path(&outputs)]).success()?;
        let logits = &tensors::read(&outputs)["logits"];
        let (distance, row, position) = case.distance(&logits.values);
        if distance > example.tolerance() {
            let name = case.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            wrong.push(format!(
                "{name}: off by {distance} at row {row}, position {position}; {} is allowed",
                example.tolerance()
            ));
        }
    }
    let greedy = example.greedy();
    let outcome = Outcome { cases: cases.len(), tokens: greedy.as_ref().map(|(_, tokens)| tokens.len()) };
    if let Some((prompt, expected)) = greedy {
        let list = |tokens: &[i64]| tokens.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
        let count = expected.len().to_string();
        let args = ["run", path(&bundle), "--tokens", &list(&prompt), "-n", &count, "--temperature", "0"];
        let tokens = program::run("q35", &args).success()?;
        if tokens.trim() != list(&expected) {
            wrong.push(format!("greedy tokens are {}, not {}", tokens.trim(), list(&expected)));
        }
    }
    if wrong.is_empty() { page::record(example, &outcome) } else { Err(wrong.join("\n")) }
}
