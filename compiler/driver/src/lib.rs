//! The `q35c` command as a library: the stages joined into one compile, and the commands around it.
//!
//! What enters is a model's path and options; what leaves is a bundle, a listing or diagnostics. The order of the stages is in
//! [`pipeline`], the table of passes in [`passes`], what the user can type in [`cli`].
//!
//! This crate must not know ONNX spellings, number formats or machine code: it calls the crates that do.

pub mod cli;
pub mod commands;
pub mod memory;
pub mod passes;
pub mod size;
pub mod table;
pub mod watch;
