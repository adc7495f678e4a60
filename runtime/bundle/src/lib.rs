//! The bundle on disk: manifest schema, writer, verified reader.
//!
//! A bundle is a folder `NAME.q35/` (see the repository's design notes): `manifest.json` describes everything else in it, with the
//! SHA-256 of every file. What enters: a finished [`Manifest`] and the files a target made. What leaves: the folder, written under a
//! temporary name and renamed when complete, so that a killed compile leaves no half bundle.
//!
//! This crate must not know how any of it is computed or executed: compiler and runtime meet here and nowhere else.

mod device;
mod interface;
mod manifest;
mod plan;

pub use device::{CpuDevice, Device, Level};
pub use interface::{Interface, Port, PositionRule, Role};
pub use manifest::{FileEntry, Manifest, ModelFacts, SCHEMA, WeightEntry};
pub use plan::{Binding, CacheLayer, CachePart, Dim, Input, MemoryPlan, Rows, Size, Step, Variant};
