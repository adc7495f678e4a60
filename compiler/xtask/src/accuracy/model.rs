//! A model and its texts: a folder that holds a checkpoint (`model.onnx`, or `config.json` with safetensors, here or in `hf/`), `tokenizer.json` beside it,
//! `test.txt` to measure on and `calibration.txt` to calibrate with.

use crate::cache::{Cache, Key};
use std::fs;
use std::path::{Path, PathBuf};

/// A model and its texts.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// The folder's name.
    pub(super) name: String,
    /// What `q35c` opens.
    pub(super) checkpoint: PathBuf,
    /// Its tokenizer.
    pub(super) tokenizer: PathBuf,
    /// The text to measure on.
    pub(super) test: PathBuf,
    /// The text to calibrate with.
    pub(super) calibration: PathBuf,
}

impl Model {
    /// The model in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let missing = |what: &str| format!("{} holds no {what}", folder.display());
        let home = if folder.join("hf").is_dir() { folder.join("hf") } else { folder.to_owned() };
        let onnx = home.join("model.onnx");
        let checkpoint = if onnx.is_file() { onnx } else { home.clone() };
        if checkpoint == home && !home.join("config.json").is_file() {
            return Err(missing("model.onnx and no config.json"));
        }
        let file = |at: &Path, name: &str| Some(at.join(name)).filter(|path| path.is_file()).ok_or_else(|| missing(name));
        Ok(Self {
            name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            tokenizer: file(&home, "tokenizer.json")?,
            test: file(folder, "test.txt")?,
            calibration: file(folder, "calibration.txt")?,
            checkpoint,
        })
    }

    /// The same with the first `bytes` bytes of its test text.
    pub(super) fn shortened(self, bytes: usize, cache: &Cache) -> Result<Self, String> {
        let text = fs::read_to_string(&self.test).map_err(|e| format!("{} cannot be read: {e}", self.test.display()))?;
        let text = &text[..text.floor_char_boundary(bytes)];
        let write = |path: &Path| fs::write(path, text).map_err(|e| e.to_string());
        let test = cache.file(&Key::default().text(text), "txt", "cutting the test text", write)?;
        Ok(Self { test, ..self })
    }

    /// The hash of all of it.
    pub(super) fn key(&self) -> Result<Key, String> {
        [&self.checkpoint, &self.tokenizer, &self.test, &self.calibration]
            .into_iter()
            .try_fold(Key::default(), |key, path| key.path(path))
    }
}
