//! Programs of C: with what a compile leaves, and with the runtime as a library; all of them under watch. What else an object promises is
//! tested where it is made (`targets/cpu/tests/object.rs`).

use crate::end_to_end::path;
use crate::{library, program};
use libtest_mimic::{Failed, Trial};
use q35_tests::corpus;
use q35_tests::prepare::prepare;
use q35_tests::watched::{self, Watched};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) fn trials() -> Vec<Trial> {
    type Row = (&'static str, fn() -> Result<(), String>);
    let table: [Row; 2] =
        [("a-c-program-says-what-the-runtime-says", same_tokens), ("the-runtime-refuses-every-wrong-call", wrong_calls)];
    table.into_iter().map(|(name, run)| Trial::test(format!("link/{name}"), move || run().map_err(Failed::from))).collect()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Words that the tokenizer of [`compiled`] has: `w0` to `w319` are the tokens 0 to 319.
fn tokenizer() -> String {
    let words: serde_json::Map<String, serde_json::Value> = (0..320).map(|id| (format!("w{id}"), id.into())).collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "WhitespaceSplit" },
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "w0" },
    })
    .to_string()
}

/// A small graph with that tokenizer beside it, as a bundle: compiled once for all tests here.
fn compiled() -> Result<&'static Path, String> {
    static COMPILED: OnceLock<Result<(tempfile::TempDir, PathBuf), String>> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().map_err(text)?;
        let (model, bundle) = (folder.path().join("model.onnx"), folder.path().join("good.q35"));
        fs::copy(corpus::data().join("llama-mha--dynamo/model.onnx"), &model).map_err(text)?;
        fs::write(folder.path().join("tokenizer.json"), tokenizer()).map_err(text)?;
        let args = ["compile", path(&model), "--target", "cpu", "--codec", "w8", "--quiet", "-o", path(&bundle)];
        program::run("q35c", &args).success()?;
        Ok((folder, bundle))
    };
    COMPILED.get_or_init(make).as_ref().map(|(_, bundle)| &**bundle).map_err(String::clone)
}

/// The linked object against the runtime: the same tokens, each time.
fn same_tokens() -> Result<(), String> {
    let (folder, bundle) = (tempfile::tempdir().map_err(text)?, compiled()?);
    let (object, include) = (bundle.join("cpu/model.o"), format!("-I{}", bundle.join("cpu").display()));
    let source = corpus::root().join("examples/c/generate.c");
    let linked = Watched::build(&folder.path().join("generate"), &[path(&source), path(&object), &include])?;
    let weights = bundle.join("weights.safetensors");
    // A prompt longer than the steps that the program asks for.
    let prompt: Vec<String> = (0..70).map(|n| (n * 37 % 319 + 1).to_string()).collect();
    let words: Vec<&str> = prompt.iter().map(String::as_str).collect();
    let all = linked.run(&[&[path(&weights), "12"], &words[..]].concat(), "")?;
    let expected = program::run("q35", &["run", path(bundle), "--tokens", &prompt.join(","), "-n", "12"]).success()?;
    match all.iter().find(|said| **said != expected) {
        None => Ok(()),
        Some(said) => Err(format!("the program says {said}, the runtime {expected}")),
    }
}

/// Writes a bundle's manifest anew, with the hash that it then has.
fn rewrite(bundle: &Path, edit: impl FnOnce(&mut serde_json::Value)) -> Result<(), String> {
    let manifest = bundle.join("manifest.json");
    let mut json = serde_json::from_slice(&fs::read(&manifest).map_err(text)?).map_err(text)?;
    edit(&mut json);
    fs::write(&manifest, json.to_string()).map_err(text)?;
    let hash = watched::run("sh", &["-c", "cd \"$0\" && sha256sum manifest.json", path(bundle)])?;
    fs::write(bundle.join("manifest.sha256"), hash).map_err(text)
}

/// In `folder`: the bundle, the same without its tokenizer, copies in which something is wrong; and tokenizers.
fn bundles(folder: &Path) -> Result<(), String> {
    fs::write(folder.join("tokenizer.json"), tokenizer()).map_err(text)?;
    fs::write(folder.join("wrong.json"), "{\"model\": 3}").map_err(text)?;
    let names = ["good", "silent", "arch", "schema", "damaged", "object"].map(|name| folder.join(format!("{name}.q35")));
    names.iter().try_for_each(|bundle| watched::run("cp", &["-r", path(compiled()?), path(bundle)]).map(drop))?;
    let [_, silent, arch, ..] = &names;
    rewrite(silent, |manifest| drop(manifest["files"].as_object_mut().map(|files| files.remove("tokenizer.json"))))?;
    rewrite(arch, |manifest| manifest["device"]["arch"] = "mips64".into())?;
    let wrong = [
        "poke schema.q35/manifest.json 14 39",
        "flip damaged.q35/weights.safetensors end-5000",
        "flip object.q35/cpu/model.so 5000",
    ];
    wrong.iter().try_for_each(|line| prepare(folder, folder, line))
}

fn wrong_calls() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    bundles(folder.path())?;
    let source = corpus::root().join("tests/suite/link/runtime.c");
    let include = format!("-I{}", corpus::root().join("runtime/capi/include").display());
    let library = library::folder()?;
    let (from, at_run_time) = (format!("-L{}", library.display()), format!("-Wl,-rpath,{}", library.display()));
    let program = folder.path().join("runtime");
    let program = Watched::build(&program, &[path(&source), &include, &from, &at_run_time, "-lq35rt"])?;
    program.run(&[path(folder.path())], "").map(drop)
}
