//! The ROCm target: the kernels of [`q35_gpu`] as AMD code objects.
//!
//! What enters: a program in the q35 dialect and the shapes of its parameters. What leaves: steps over a memory plan, one code object per
//! architecture, the arrangement of every weight, and a HIP program part that launches the steps. LLVM makes the code in process, its
//! linker the objects; no ROCm is needed, and no library of it is called. Nothing here has been measured on a GPU: kernels are proved by
//! executing their final LLVM IR lane by lane (`q35-simt`), and by reading the finished objects.
//!
//! | module | idea |
//! | --- | --- |
//! | [`host`] | a HIP program part that launches the steps, for applications |
//! | [`level`] | architectures, and the instructions of each |
//! | `report` | that, kernel by kernel, as a file of the bundle |
//! | [`object`] | what a code object says of its kernels, and that it is what the host passes |
//! | [`model`] | what bounds a kernel, by its instructions and published peaks: modelled, not measured |
//! | [`lower`] | the passes |
//!
//! This crate must not know ONNX, weight data, how a kernel computes, or how steps are executed.

pub mod host;
pub mod level;
pub mod lower;
pub mod model;
pub mod object;
mod report;

pub use lower::Rocm;
