//! A program in C that links what a compile leaves, beside the runtime. What else an object promises is tested where it is made
//! (`targets/cpu/tests/object.rs`).

use crate::end_to_end::{compile, path};
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::ffi::OsStr;
use std::process::Command;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("link/a-c-program-says-what-the-runtime-says", || Ok(same_tokens()?))]
}

/// Runs a program to its end: what it printed, or everything it said.
fn run(program: impl AsRef<OsStr>, args: &[&str]) -> Result<String, String> {
    let name = program.as_ref().display().to_string();
    let output = Command::new(&program).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{name} ended with {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))),
    }
}

fn same_tokens() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bundle = compile(&corpus::tiny_llama(), folder.path(), "tiny.q35", &["--codec", "w8"])?;
    let (object, include) = (bundle.join("cpu/model.o"), format!("-I{}", bundle.join("cpu").display()));
    let (source, linked) = (corpus::root().join("examples/c/generate.c"), folder.path().join("generate"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let args = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", path(&source), path(&object), &include, "-lm", "-lpthread", "-o"];
    run(compiler, &[&args[..], &[path(&linked)]].concat())?;
    let weights = bundle.join("weights.safetensors");
    // A prompt longer than the steps that the program asks for.
    let prompt: Vec<String> = (0..70).map(|n| (n * 37 % 4000 + 1).to_string()).collect();
    let words: Vec<&str> = prompt.iter().map(String::as_str).collect();
    let said = run(&linked, &[&[path(&weights), "12"], &words[..]].concat())?;
    let expected = program::run("q35", &["run", path(&bundle), "--tokens", &prompt.join(","), "-n", "12"]).success()?;
    if said == expected { Ok(()) } else { Err(format!("the program says {said}, the runtime {expected}")) }
}
