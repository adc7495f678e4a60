//! The CUDA target: the kernels of [`q35_gpu`] as PTX.
//!
//! What enters: a program in the q35 dialect and the shapes of its parameters. What leaves: steps over a memory plan, one PTX file per
//! feature level, and the arrangement of every weight. LLVM makes the PTX in process, without a CUDA toolkit; the driver on the machine
//! that runs the bundle makes code of it. Nothing here has been measured on a GPU: kernels are proved by executing their final LLVM IR
//! lane by lane (`q35-simt`), and assembled by `ptxas` where that can be had.
//!
//! | module | idea |
//! | --- | --- |
//! | [`level`] | architectures, the PTX versions that know them, the drivers that know those |
//! | [`lower`] | the passes |
//!
//! This crate must not know ONNX, weight data, how a kernel computes, or how steps are executed.

pub mod level;
pub mod lower;

pub use lower::Cuda;
