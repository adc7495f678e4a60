//! What a bundle needs of the machine that runs it.

use crate::{WaferProgram, WseDevice};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// One feature level of a CUDA bundle: all kernels as PTX for an architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaLevel {
    /// Name, e.g. `sm_80`.
    pub name: String,
    /// PTX file in the bundle, relative path.
    pub file: String,
    /// Compute capability that it needs, major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Whether it runs on that capability alone, rather than on later ones too.
    pub exact: bool,
    /// The oldest driver that reads the PTX, by the CUDA version it belongs to: 1000 times the major version plus 10 times the minor.
    pub driver: u32,
}

/// Kernels for NVIDIA GPUs. A kernel's parameters are the addresses of the step's bindings, then the sizes of [`Dim`](crate::Dim) as 64-bit
/// integers; a group of threads computes one tile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaDevice {
    /// Prefix of every symbol.
    pub prefix: String,
    /// Best first; the first that card and driver can run is used.
    pub levels: Vec<CudaLevel>,
    /// Threads of a group, by kernel.
    pub threads: BTreeMap<String, u32>,
}

/// One feature level of a ROCm bundle: all kernels as a code object for an architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RocmLevel {
    /// The architecture, e.g. `gfx942`; code runs on that one alone.
    pub name: String,
    /// Code object in the bundle, relative path.
    pub file: String,
    /// Lanes of a wave.
    pub wave: u32,
    /// Threads of a group, by kernel.
    pub threads: BTreeMap<String, u32>,
}

/// Kernels for AMD GPUs, called as those of [`CudaDevice`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RocmDevice {
    /// Prefix of every symbol.
    pub prefix: String,
    /// The first whose architecture is the card's is used.
    pub levels: Vec<RocmLevel>,
}

/// Programs for Groq-TSP-style chips: a model of the chip, not run on silicon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TspDevice {
    /// The program of each chip in the bundle, relative path, in the order in which a token meets the chips.
    pub programs: Vec<String>,
}

/// The device a bundle was compiled for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Device {
    /// A CPU.
    Cpu(CpuDevice),
    /// An NVIDIA GPU.
    Cuda(CudaDevice),
    /// An AMD GPU.
    Rocm(RocmDevice),
    /// A model of a Groq-TSP-style chip.
    Tsp(TspDevice),
    /// A wafer; what runs it is a model of the chip.
    Wse(WseDevice),
}

impl Device {
    /// The word the command line uses for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Cuda(_) => "cuda",
            Self::Rocm(_) => "rocm",
            Self::Tsp(_) => "groq",
            Self::Wse(_) => "wse",
        }
    }

    /// Names of its feature levels, best first; none where there is but one kind of it.
    pub fn levels(&self) -> Vec<&str> {
        match self {
            Self::Cpu(device) => device.levels.iter().map(|level| level.name.as_str()).collect(),
            Self::Cuda(device) => device.levels.iter().map(|level| level.name.as_str()).collect(),
            Self::Rocm(device) => device.levels.iter().map(|level| level.name.as_str()).collect(),
            Self::Tsp(_) | Self::Wse(_) => vec![],
        }
    }

    /// The files that it loads, as relative paths.
    pub fn objects(&self) -> Vec<String> {
        match self {
            Self::Cpu(device) => vec![device.object.clone()],
            Self::Cuda(device) => device.levels.iter().map(|level| level.file.clone()).collect(),
            Self::Rocm(device) => device.levels.iter().map(|level| level.file.clone()).collect(),
            Self::Tsp(device) => device.programs.clone(),
            Self::Wse(device) => {
                let files = |wafer: &WaferProgram| wafer.files.iter().map(|file| format!("{}/{file}", wafer.folder)).collect();
                device.wafers.iter().flat_map::<Vec<String>, _>(files).collect()
            }
        }
    }

    /// Prefix of its kernels' symbols.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Cpu(device) => &device.prefix,
            Self::Cuda(device) => &device.prefix,
            Self::Rocm(device) => &device.prefix,
            Self::Tsp(_) | Self::Wse(_) => "",
        }
    }
}
