//! The runtime as a library for C, `libq35rt`: bundles, text, sampling, threads.
//!
//! What enters are pointers of a program that nobody has checked; what leaves is a status. [`status`] is the frame around every
//! function: NULL, two threads at once and panics become numbers there. The header `include/q35rt.h` is written by cbindgen from this
//! crate, and a test compares them.
//!
//! This crate must not know how anything is computed: it is `q35-runtime` in C's words.

mod model;
mod pool;
mod sampler;
mod status;
mod text;

pub use model::*;
pub use pool::*;
pub use sampler::*;
pub use status::{Failure, Status, q35rt_error_free, q35rt_error_text, q35rt_status_text, q35rt_version};
pub use text::*;
