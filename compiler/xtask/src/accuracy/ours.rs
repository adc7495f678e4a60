//! Our rows: `q35c compile`, then `q35 eval --against` the f32 bundle.

use super::WINDOW;
use super::model::Model;
use super::report::{Divergence, Outcome};
use super::rows::{Calibrated, F32, Ours};
use crate::cache::{Cache, Key};
use crate::shell;
use crate::tools::{Summary, Tools};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One model and its f32 bundle.
pub(super) struct Side<'a> {
    tools: &'a Tools,
    model: &'a Model,
    cache: &'a Cache,
    sequences: usize,
    reference: PathBuf,
    key: Key,
}

impl<'a> Side<'a> {
    /// Compiles the f32 bundle, if it is not there. `sequences` are what a calibrated row gets.
    pub(super) fn new(tools: &'a Tools, model: &'a Model, cache: &'a Cache, sequences: usize) -> Result<Self, String> {
        let key = model.key()?.text(&tools.key().name());
        let reference = cache.file(&key.clone().text("f32"), "q35", "compiling f32", |out| {
            tools.compile(&model.checkpoint, &F32, None, out).map(|_| ())
        })?;
        Ok(Self { tools, model, cache, sequences, reference, key })
    }

    /// One row.
    pub(super) fn measure(&self, row: &Ours) -> Result<Outcome, String> {
        let sequences = match row.calibrated {
            Calibrated::No => None,
            Calibrated::Table => Some(self.sequences),
            Calibrated::With(sequences) => Some(sequences),
        };
        let how = format!("{:?} {sequences:?} {} {WINDOW}", row.arguments, row.float_activations);
        let key = self.key.clone().text(&how);
        self.cache.result(&key, &format!("{}: {}", self.model.name, row.name), || {
            let scratch = tempfile::tempdir_in(self.cache.folder()).map_err(|e| e.to_string())?;
            let bundle = scratch.path().join("row.q35");
            let calibration = sequences.map(|sequences| (self.model.calibration.as_path(), sequences));
            let summary = self.tools.compile(&self.model.checkpoint, &row.arguments, calibration, &bundle)?;
            let divergence = if row.float_activations {
                let (decoded, float) = (scratch.path().join("decoded"), scratch.path().join("float.q35"));
                self.tools.export(&self.model.checkpoint, Some(&bundle), &decoded)?;
                self.tools.compile(&decoded, &F32, None, &float)?;
                self.eval(&float)?
            } else {
                self.eval(&bundle)?
            };
            let Summary { linear_bits, packed_bytes, seconds } = summary;
            Ok(Outcome { linear_bits, bytes: packed_bytes, seconds, divergence })
        })
    }

    fn eval(&self, bundle: &Path) -> Result<Divergence, String> {
        let mut command = Command::new(self.tools.q35());
        command.arg("eval").arg(bundle).arg("--against").arg(&self.reference).arg("--text").arg(&self.model.test);
        shell::json(command.args(["--window", &WINDOW.to_string(), "--json"]))
    }
}
