//! How long it takes to make the files that are compared: our compiler beside llama.cpp's quantizer, from one checkpoint.
//!
//! What enters: the programs, the checkpoint and its GGUF form. What leaves: wall seconds, round by round, kept until a program changes. Files are
//! made anew, in a scratch folder beside the kept ones, and thrown away. Where our side calibrates, it reads a text and needs a tokenizer, which
//! checkpoints of random weights lack: they get the example model's.

use super::contender::Engine;
use super::programs::Peers;
use crate::cache::{Cache, Key};
use crate::shell;
use crate::tools::Tools;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// One way to make one file.
pub(super) struct Encoder {
    pub(super) engine: Engine,
    pub(super) format: String,
    program: PathBuf,
    source: PathBuf,
    /// A folder with the text to calibrate with, and a tokenizer.
    calibration: Option<PathBuf>,
    key: String,
}

/// What is behind the name of a codec that is to be calibrated.
const BEST: &str = ":best";

/// One file made once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Making {
    key: String,
    threads: usize,
    seconds: f64,
}

/// All of one model, in a file.
pub(super) struct Makings {
    path: PathBuf,
    all: Vec<Making>,
}

impl Encoder {
    /// Our compiler; `format` is a codec, with [`BEST`] behind it where it is to calibrate with the text of the model in `example`.
    pub(super) fn ours(tools: &Tools, checkpoint: &Path, format: &str, example: &Path) -> Self {
        let key = Key::default().text(&tools.key().name()).text(&checkpoint.to_string_lossy()).text(format).name();
        let calibration = format.ends_with(BEST).then(|| example.to_owned());
        let (program, source) = (tools.q35c().to_owned(), checkpoint.to_owned());
        Self { engine: Engine::Ours, format: format.to_owned(), program, source, calibration, key }
    }

    /// llama.cpp's quantizer, without an importance matrix.
    pub(super) fn peer(peers: &Peers, checkpoint: &Path, kind: &str, cache: &Cache) -> Result<Self, String> {
        let (program, source) = (peers.quantizer(), peers.source(checkpoint, cache)?.0);
        let key = Key::default().path(&program)?.text(&source.to_string_lossy()).text(kind).name();
        Ok(Self { engine: Engine::Llama, format: kind.to_owned(), program, source, calibration: None, key })
    }

    pub(super) fn name(&self) -> String {
        format!("{} {}", self.engine.name(), self.format)
    }

    /// Makes the file with so many threads.
    pub(super) fn make(&self, threads: usize, folder: &Path) -> Result<Making, String> {
        let scratch = tempfile::tempdir_in(folder).map_err(|e| e.to_string())?;
        let out = scratch.path().join("file");
        let (mut command, jobs) = (Command::new(&self.program), threads.to_string());
        match self.engine {
            Engine::Ours => {
                let codec = self.format.strip_suffix(BEST).unwrap_or(&self.format);
                command.args(["compile", "--levels", "native", "--quiet", "--jobs", &jobs, "--codec", codec, "-o"]).arg(&out);
                match &self.calibration {
                    Some(example) => {
                        let source = with_tokenizer(&self.source, example, scratch.path())?;
                        command.args(["--effort", "best", "--calibrate"]).arg(example.join("calibration.txt")).arg(source)
                    }
                    None => command.arg(&self.source),
                }
            }
            _ => command.arg(&self.source).arg(&out).args([&self.format, &jobs]),
        };
        let begun = Instant::now();
        shell::run(&mut command)?;
        Ok(Making { key: self.key.clone(), threads, seconds: begun.elapsed().as_secs_f64() })
    }
}

/// The checkpoint, with a tokenizer beside it; one that has none is linked into `folder` beside that of `example`.
fn with_tokenizer(checkpoint: &Path, example: &Path, folder: &Path) -> Result<PathBuf, String> {
    const TOKENIZER: &str = "tokenizer.json";
    if checkpoint.join(TOKENIZER).exists() {
        return Ok(checkpoint.to_owned());
    }
    let linked = folder.join("checkpoint");
    let link = || {
        fs::create_dir(&linked)?;
        fs::copy(example.join(TOKENIZER), linked.join(TOKENIZER))?;
        for file in fs::read_dir(checkpoint)? {
            let file = file?;
            fs::hard_link(file.path(), linked.join(file.file_name()))?;
        }
        std::io::Result::Ok(())
    };
    link().map_err(|e| format!("{} cannot be linked: {e}", checkpoint.display()))?;
    Ok(linked)
}

impl Makings {
    /// Those in a file, if it is there.
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let all = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| format!("{}: {e}", path.display()))?,
            Err(_) => Vec::new(),
        };
        Ok(Self { path, all })
    }

    /// Adds one, and keeps it.
    pub(super) fn add(&mut self, making: Making) -> Result<(), String> {
        self.all.push(making);
        let text = serde_json::to_string(&self.all).map_err(|e| e.to_string())?;
        fs::write(&self.path, text).map_err(|e| format!("{} cannot be written: {e}", self.path.display()))
    }

    /// Seconds of an encoder, with so many threads.
    pub(super) fn seconds(&self, encoder: &Encoder, threads: usize) -> Vec<f64> {
        let its = self.all.iter().filter(|making| making.key == encoder.key && making.threads == threads);
        its.map(|making| making.seconds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_without_a_tokenizer_get_one() {
        let [dir, example, folder] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        for (at, name) in [(&dir, "config.json"), (&example, "tokenizer.json"), (&example, "config.json")] {
            fs::write(at.path().join(name), at.path().to_string_lossy().as_bytes()).unwrap();
        }
        let linked = with_tokenizer(dir.path(), example.path(), folder.path()).unwrap();
        let whose = |name: &str| fs::read_to_string(linked.join(name)).unwrap();
        assert_eq!(whose("config.json"), dir.path().to_string_lossy());
        assert_eq!(whose("tokenizer.json"), example.path().to_string_lossy());
        assert_eq!(with_tokenizer(example.path(), dir.path(), folder.path()).unwrap(), example.path());
    }

    #[test]
    fn what_another_program_took_is_not_this_ones() {
        let dir = tempfile::tempdir().unwrap();
        let encoder = |key: &str| Encoder {
            engine: Engine::Llama,
            format: "Q4_0".into(),
            program: "true".into(),
            source: "model".into(),
            calibration: None,
            key: key.into(),
        };
        let mut makings = Makings::open(dir.path().join("m.json")).unwrap();
        makings.add(encoder("a").make(2, dir.path()).unwrap()).unwrap();
        let again = Makings::open(dir.path().join("m.json")).unwrap();
        assert_eq!(again.all, makings.all);
        let counts = [("a", 2), ("a", 1), ("b", 2)].map(|(key, threads)| again.seconds(&encoder(key), threads).len());
        assert_eq!(counts, [1, 0, 0]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }
}
