//! The CPU target: kernels, lowering and object code.
//!
//! What enters: a program in the q35 dialect and the shapes of its parameters. What leaves: steps over a memory plan, an object with the
//! kernels they name at every feature level, a shared object and a C header of the same, and the arrangement of every weight.
//!
//! | module | idea |
//! | --- | --- |
//! | [`abi`] | how a kernel is called |
//! | [`level`] | what a kernel may use |
//! | `instructions` | those that only some levels have |
//! | [`kernels`] | the kernels that are not matrix products |
//! | [`linear`] | those that are: weights are decoded inside |
//! | [`lower`] | the passes |
//! | `program` | what `model.o` has beside kernels: the executor, and the functions that a program calls |
//!
//! Nothing outside [`level`], `instructions` and the modules under [`linear`] that use them assumes an architecture. This crate must not know ONNX,
//! weight data, or how the runtime executes steps.

pub mod abi;
mod instructions;
pub mod kernels;
pub mod level;
pub mod linear;
pub mod lower;
mod program;

pub use lower::Cpu;
