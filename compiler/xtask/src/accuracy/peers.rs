//! llama.cpp's rows, through the scripts in `compiler/xtask/peers`, in a virtual environment of their own.
//!
//! Its importance matrix comes from the calibration sequences that our rows get, and is computed as its own tool does: mean squares of what each matrix product reads.

use super::WINDOW;
use super::model::Model;
use super::report::{Divergence, Outcome};
use super::rows::Peer;
use crate::cache::{Cache, Key};
use crate::shell;
use crate::tools::Tools;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One model in llama.cpp's format.
pub(super) struct Side<'a> {
    python: PathBuf,
    scripts: PathBuf,
    model: &'a Model,
    cache: &'a Cache,
    sequences: usize,
    /// The f32 file.
    source: PathBuf,
    key: Key,
}

/// What `quantize.py` says.
#[derive(Deserialize)]
struct Quantized {
    linear_bits: f64,
    bytes: u64,
    seconds: f64,
}

impl<'a> Side<'a> {
    /// Makes the environment (the first time llama.cpp is built, for some minutes) and the f32 file. The error says why there are no peers.
    pub(super) fn new(
        root: &Path,
        model: &'a Model,
        cache: &'a Cache,
        tools: &Tools,
        sequences: usize,
    ) -> Result<Self, String> {
        let scripts = root.join("compiler/xtask/peers");
        let python = environment(&scripts, cache)?;
        let key = model.key()?.path(&scripts)?.text(&format!("{WINDOW} {sequences}"));
        let checkpoint = if model.checkpoint.is_dir() {
            model.checkpoint.clone()
        } else {
            let key = Key::default().path(&model.checkpoint)?.text("checkpoint");
            cache.file(&key, "hf", "exporting the checkpoint", |out| tools.export(&model.checkpoint, None, out))?
        };
        let source = cache.file(&key.clone().text("convert"), "gguf", "converting the checkpoint to GGUF", |out| {
            shell::run(Command::new(&python).arg(scripts.join("convert.py")).arg(&checkpoint).arg(out)).map(|_| ())
        })?;
        Ok(Self { python, scripts, model, cache, sequences, source, key })
    }

    /// One row.
    pub(super) fn measure(&self, row: &Peer) -> Result<Outcome, String> {
        let key = self.key.clone().text(&format!("{} {}", row.kind, row.importance));
        let importance = if row.importance { self.importance()? } else { "-".into() };
        self.cache.result(&key, &format!("{}: llama.cpp's {}", self.model.name, row.name), || {
            let scratch = tempfile::tempdir_in(self.cache.folder()).map_err(|e| e.to_string())?;
            let file = scratch.path().join("row.gguf");
            let mut quantize = self.script("quantize.py");
            let Quantized { linear_bits, bytes, seconds } =
                shell::json(quantize.arg(&self.source).arg(importance).arg(row.kind).arg(&file))?;
            let mut measure = self.script("measure.py");
            measure.arg(&self.source).arg(&file).arg(&self.model.tokenizer).arg(&self.model.test).arg(WINDOW.to_string());
            let divergence: Divergence = shell::json(&mut measure)?;
            Ok(Outcome { linear_bits, bytes, seconds, divergence })
        })
    }

    fn importance(&self) -> Result<PathBuf, String> {
        self.cache.file(&self.key.clone().text("importance"), "npz", "llama.cpp's importance matrix", |out| {
            let mut command = self.script("importance.py");
            command.arg(&self.source).arg(&self.model.tokenizer).arg(&self.model.calibration);
            shell::run(command.args([WINDOW.to_string(), self.sequences.to_string()]).arg(out)).map(|_| ())
        })
    }

    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(self.scripts.join(name));
        command
    }
}

/// The interpreter of an environment that has what `requirements.txt` names.
fn environment(scripts: &Path, cache: &Cache) -> Result<PathBuf, String> {
    let requirements = scripts.join("requirements.txt");
    let key = Key::default().path(&requirements)?;
    let folder = cache.place(&key, "venv");
    let (python, ready) = (folder.join("bin/python"), folder.join("ready"));
    if !ready.exists() {
        eprintln!("building llama.cpp for its rows (once, some minutes)");
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        // The part that reads images is not needed.
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements).env("CMAKE_ARGS", "-DLLAVA_BUILD=OFF");
        shell::run(&mut install)
            .map_err(|why| format!("the packages of {} cannot be installed ({why})", requirements.display()))?;
        std::fs::write(&ready, "").map_err(|e| e.to_string())?;
    }
    Ok(python)
}
