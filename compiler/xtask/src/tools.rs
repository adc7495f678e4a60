//! The two commands that are measured.

use crate::cache::Key;
use crate::shell;
use q35_format::Codec;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two commands, built in release mode.
pub(crate) struct Tools {
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
    pub(crate) fn build(root: &Path) -> Result<Self, String> {
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
    pub(crate) fn runs(&self, codec: Codec) -> bool {
        self.codecs.iter().any(|name| name == codec.name())
    }

    /// The built `q35c`.
    pub(crate) fn q35c(&self) -> &Path {
        &self.q35c
    }

    /// The built `q35`.
    pub(crate) fn q35(&self) -> &Path {
        &self.q35
    }

    /// What both programs are.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// The model as a checkpoint in f32, for whoever reads no ONNX.
    pub(crate) fn export(&self, model: &Path, bundle: Option<&Path>, out: &Path) -> Result<(), String> {
        let mut command = Command::new(&self.q35c);
        command.arg("export").arg(model).args(bundle).args(["--to", "hf"]).arg(out);
        shell::run(&mut command).map(|_| ())
    }

    /// A bundle of `model` for this CPU; calibrated with so many sequences of a text, if one is given.
    pub(crate) fn compile(
        &self,
        model: &Path,
        arguments: &[impl AsRef<std::ffi::OsStr>],
        calibration: Option<(&Path, usize)>,
        out: &Path,
    ) -> Result<Summary, String> {
        let mut command = Command::new(&self.q35c);
        command.arg("compile").arg(model).args(arguments).args(["--levels", "native", "--quiet", "--json", "-o"]).arg(out);
        if let Some((text, sequences)) = calibration {
            command.args(["--effort", "best", "--calibrate"]).arg(text).args(["--sequences", &sequences.to_string()]);
        }
        shell::json(&mut command)
    }
}

/// What is used of a compile's summary.
#[derive(Deserialize)]
pub(crate) struct Summary {
    /// Bits per weight of the layers' matrices, scales included.
    pub(crate) linear_bits: f64,
    /// Bytes of all parameters.
    pub(crate) packed_bytes: u64,
    /// Wall time.
    pub(crate) seconds: f64,
}
