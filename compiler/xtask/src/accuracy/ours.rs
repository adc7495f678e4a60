//! Our rows: `q35c compile`, then `q35 eval --against` the f32 bundle.

use super::WINDOW;
use super::cache::{Cache, Key};
use super::model::Model;
use super::report::{Divergence, Outcome};
use super::rows::{Calibrated, F32, Ours};
use super::shell;
use q35_format::Codec;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two commands, built in release mode.
pub(super) struct Tools {
    q35c: PathBuf,
    q35: PathBuf,
    key: Key,
    /// Those that the CPU target has kernels for.
    codecs: Vec<String>,
}

/// What is used of the list of targets.
#[derive(Deserialize)]
struct Target {
    name: String,
    codecs: Vec<String>,
}

impl Tools {
    /// Builds them.
    pub(super) fn build(root: &Path) -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let packages = ["build", "--release", "--quiet", "-p", "q35c", "-p", "q35"];
        shell::run(Command::new(cargo).current_dir(root).args(packages))?;
        let [q35c, q35] = ["q35c", "q35"].map(|name| root.join("target/release").join(name));
        let key = Key::default().path(&q35c)?.path(&q35)?;
        let targets: Vec<Target> = shell::json(Command::new(&q35c).args(["targets", "--json"]))?;
        let codecs = targets.into_iter().find(|target| target.name == "cpu").map(|target| target.codecs).unwrap_or_default();
        Ok(Self { q35c, q35, key, codecs })
    }

    /// Whether there are kernels for a codec.
    pub(super) fn runs(&self, codec: Codec) -> bool {
        self.codecs.iter().any(|name| name == codec.name())
    }

    /// The model as a checkpoint in f32, for whoever reads no ONNX.
    pub(super) fn export(&self, model: &Path, bundle: Option<&Path>, out: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.q35c);
        command.arg("export").arg(model).args(bundle).args(["--to", "hf"]).arg(out);
        shell::run(&mut command).map(|_| ())
    }

    fn compile(
        &self,
        model: &Path,
        arguments: &[impl AsRef<std::ffi::OsStr>],
        calibration: Option<(&Path, usize)>,
        out: &Path,
    ) -> Result<Summary, String> {
        let mut command = Command::new(&self.q35c);
        command.arg("compile").arg(model).args(arguments).args(["--quiet", "--json", "-o"]).arg(out);
        if let Some((text, sequences)) = calibration {
            command.args(["--effort", "best", "--calibrate"]).arg(text).args(["--sequences", &sequences.to_string()]);
        }
        shell::json(&mut command)
    }
}

/// What is used of a compile's summary.
#[derive(Deserialize)]
struct Summary {
    linear_bits: f64,
    packed_bytes: u64,
    seconds: f64,
}

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
        let key = model.key()?.text(&tools.key.name());
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
        let mut command = Command::new(&self.tools.q35);
        command.arg("eval").arg(bundle).arg("--against").arg(&self.reference).arg("--text").arg(&self.model.test);
        shell::json(command.args(["--window", &WINDOW.to_string(), "--json"]))
    }
}
