//! What the commands show with: tables, sizes, progress, and the memory that they took.
//!
//! This crate must not know what is shown.

pub mod memory;
#[cfg(feature = "progress")]
mod progress;
pub mod size;
pub mod table;

#[cfg(feature = "progress")]
pub use progress::Progress;
