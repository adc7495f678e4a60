//! What a bundle needs of the machine that runs it.

use crate::WseDevice;
use serde::{Deserialize, Serialize};

/// One feature level of a CPU bundle: every kernel exists once per level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Name, e.g. `avx512`; kernel symbols end in `__` and this name.
    pub name: String,
    /// CPU features it needs, as the instruction set's manuals spell them in lower case without separators (`avx512vbmi`).
    pub requires: Vec<String>,
}

/// Native code for a CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuDevice {
    /// Architecture, as Rust spells it (`x86_64`, `aarch64`).
    pub arch: String,
    /// Shared object in the bundle, relative path.
    pub object: String,
    /// Prefix of every symbol.
    pub prefix: String,
    /// Best first; the first whose requirements this machine meets is used.
    pub levels: Vec<Level>,
}

/// The device a bundle was compiled for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Device {
    /// A CPU.
    Cpu(CpuDevice),
    /// A wafer; what runs it is a model of the chip.
    Wse(WseDevice),
}

impl Device {
    /// The word the command line uses for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Wse(_) => "wse",
        }
    }
}
