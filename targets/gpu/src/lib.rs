//! Kernels for GPUs, and how a program becomes launches of them: what the CUDA and the ROCm target share.
//!
//! What enters: a program in the q35 dialect, the shapes of its parameters, and the [`Isa`] of a GPU. What leaves: kernels as an MLIR
//! module, steps over a memory plan, and the arrangement of every weight. Making code of the module, and the files around it, is the
//! target's own business.
//!
//! | module | idea |
//! | --- | --- |
//! | [`isa`] | what differs between GPUs: wave size, lane numbers, barriers, shuffles, matrix instructions |
//! | [`abi`] | how a kernel is called |
//! | `group` | the threads of a group at work: shares of columns, sums |
//! | [`kernels`] | the kernels that are not matrix products |
//! | [`header`] | `kernels.h`: names, argument structures and launch rules, for programs of C |
//! | [`linear`] | those that are: weights are decoded inside |
//! | [`lower`] | ops to launches, launches to steps |
//!
//! This crate must not know ONNX, weight data, how steps are executed, nor any GPU by name outside [`isa`].

pub mod abi;
mod group;
pub mod header;
pub mod isa;
pub mod kernels;
pub mod linear;
pub mod lower;

pub use isa::Isa;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod testing;
