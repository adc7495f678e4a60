//! For build.rs: links the object of a `cpu` bundle into a Rust program, and writes a safe module around it.
//!
//! ```no_run
//! // build.rs
//! q35_build::compile("model.onnx", &["--codec", "w8"]).and_then(|bundle| q35_build::link(bundle)).unwrap();
//! ```
//!
//! ```ignore
//! // main.rs
//! mod model {
//!     include!(concat!(env!("OUT_DIR"), "/q35_model.rs"));
//! }
//! ```
//!
//! The module is named after the prefix that the bundle was compiled with, so that several models can be linked. What it says is in its own
//! documentation; it has no dependencies. This crate must not know what is in a bundle beside its manifest, object and header.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MODULE: &str = include_str!("model.rs.in");

/// The schema of the manifests that this version reads.
const SCHEMA: u64 = 1;

/// Why a build script cannot go on, in a sentence.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Compiles a model for the CPU with `q35c`, which the variable `Q35C` names or the `PATH` has, and gives the bundle, in cargo's output folder.
///
/// # Errors
/// If `q35c` is not there, or says why the model cannot be compiled.
pub fn compile(model: impl AsRef<Path>, options: &[&str]) -> Result<PathBuf, Error> {
    let model = model.as_ref();
    let name = model.file_stem().unwrap_or_default();
    let bundle = out_dir()?.join(name).with_added_extension("q35");
    let program = std::env::var_os("Q35C").unwrap_or_else(|| "q35c".into());
    println!("cargo::rerun-if-env-changed=Q35C");
    println!("cargo::rerun-if-changed={}", model.display());
    let run = Command::new(&program)
        .arg("compile")
        .arg(model)
        .args(["--target", "cpu", "--quiet", "-o"])
        .arg(&bundle)
        .args(options)
        .output()
        .map_err(|e| Error(format!("{} cannot be started: {e}", program.display())))?;
    if run.status.success() {
        return Ok(bundle);
    }
    Err(Error(format!("{} cannot be compiled:\n{}", model.display(), String::from_utf8_lossy(&run.stderr))))
}

/// Links the object of a bundle into the package, and writes the module around it to `OUT_DIR/PREFIXmodel.rs`.
///
/// # Errors
/// If the folder is no bundle for a CPU, or of another schema.
pub fn link(bundle: impl AsRef<Path>) -> Result<(), Error> {
    let bundle = bundle.as_ref();
    println!("cargo::rerun-if-changed={}", bundle.display());
    let prefix = prefix(&read(&bundle.join("manifest.json"))?)?;
    let module = module(&prefix, &read(&bundle.join("cpu/model.h"))?)?;
    let to = out_dir()?.join(format!("{prefix}model.rs"));
    fs::write(&to, module).map_err(|e| Error(format!("{} cannot be written: {e}", to.display())))?;
    cc::Build::new().object(bundle.join("cpu/model.o")).compile(&format!("{prefix}model"));
    Ok(())
}

fn out_dir() -> Result<PathBuf, Error> {
    std::env::var_os("OUT_DIR").map(PathBuf::from).ok_or_else(|| Error("OUT_DIR is not set: is this a build script?".into()))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|e| Error(format!("{} cannot be read: {e}", path.display())))
}

/// The prefix of a manifest's functions.
fn prefix(manifest: &str) -> Result<String, Error> {
    let manifest: serde_json::Value =
        serde_json::from_str(manifest).map_err(|e| Error(format!("manifest.json is malformed: {e}")))?;
    if manifest["schema"] != SCHEMA {
        return Err(Error(format!(
            "the bundle has schema version {}, and this crate reads version {SCHEMA}",
            manifest["schema"]
        )));
    }
    match (manifest["device"]["kind"].as_str(), manifest["device"]["prefix"].as_str()) {
        (Some("cpu"), Some("")) => Ok("model_".to_owned()),
        (Some("cpu"), Some(prefix)) => Ok(prefix.to_owned()),
        (kind, _) => Err(Error(format!("the bundle is for '{}', and only those for 'cpu' can be linked", kind.unwrap_or("?")))),
    }
}

/// The module of a prefix and a header.
fn module(prefix: &str, header: &str) -> Result<String, Error> {
    let tie = header
        .lines()
        .find_map(|line| line.strip_prefix("extern const int32_t ")?.strip_suffix(';'))
        .ok_or_else(|| Error("model.h names no symbol that ties it to its object".into()))?;
    Ok(MODULE.replace("@p@", prefix).replace("@tie@", tie))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_linked_is_told() {
        let text = |manifest: &str| prefix(manifest).unwrap_err().to_string();
        assert_eq!(
            text(r#"{"schema": 1, "device": {"kind": "wse"}}"#),
            "the bundle is for 'wse', and only those for 'cpu' can be linked"
        );
        assert_eq!(text(r#"{"schema": 7}"#), "the bundle has schema version 7, and this crate reads version 1");
        assert!(text("{").starts_with("manifest.json is malformed: "));
        assert_eq!(prefix(r#"{"schema": 1, "device": {"kind": "cpu", "prefix": "tiny_"}}"#).unwrap(), "tiny_");
        assert_eq!(prefix(r#"{"schema": 1, "device": {"kind": "cpu", "prefix": ""}}"#).unwrap(), "model_");
        let folder = tempfile::tempdir().unwrap();
        assert!(link(folder.path().join("none.q35")).unwrap_err().to_string().contains("manifest.json cannot be read"));
    }

    #[test]
    fn a_module_has_every_mark_replaced() {
        let module = module("tiny_", "/* */\nextern const int32_t tiny_tie;\n").unwrap();
        assert!(module.contains("fn tiny_step(") && module.contains("static tiny_tie: i32"));
        assert!(!module.contains('@'));
    }
}
