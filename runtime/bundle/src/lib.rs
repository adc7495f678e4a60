//! The bundle on disk: manifest schema, writer, verified reader.
//!
//! A bundle is a folder `NAME.q35/` (see the repository's design notes): `manifest.json` describes everything else in it, with the
//! SHA-256 of every file, and `manifest.sha256` holds the manifest's own, as `sha256sum` writes it. What enters: a finished [`Manifest`] and the files a target made. What leaves: the folder, written under a
//! temporary name and renamed when complete, so that a killed compile leaves no half bundle.
//!
//! This crate must not know how any of it is computed or executed: compiler and runtime meet here and nowhere else.

mod check;
mod device;
pub mod hash;
mod interface;
mod manifest;
mod mapped;
mod path;
mod plan;
mod reader;
mod tensors;
mod writer;
mod wse;

pub use device::{CpuDevice, CudaDevice, CudaLevel, Device, Level, RocmDevice, RocmLevel, TspDevice};
pub use interface::{Interface, Port, PositionRule, Role};
pub use manifest::{FileEntry, Manifest, ModelFacts, SCHEMA, WeightEntry};
pub use mapped::Tensor;
pub use plan::{Binding, CacheDtype, CacheLayer, CachePart, Dim, Input, MemoryPlan, Rows, Size, Step, Variant, row_stride};
pub use reader::{Bundle, Verify};
pub use safetensors::tensor::Dtype;
pub use tensors::{ALIGN, TensorSpec, WeightsLayout};
pub use writer::{BundleWriter, WeightsWriter, cannot_write};
pub use wse::{Array, HostInput, Piece, WaferCache, WaferProgram, WaferRegion, WseDevice};
