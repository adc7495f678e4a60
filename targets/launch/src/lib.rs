//! From a program to launches of kernels: what targets that launch kernels have in common.
//!
//! What enters: a program in the q35 dialect, the shapes of its parameters, and the [`Kernels`] of a target. What leaves: launches as steps
//! over a memory plan, the kernels they name, and the arrangement of every weight. What a kernel computes is said here, by its static
//! facts; how it does so is the target's business.
//!
//! | module | idea |
//! | --- | --- |
//! | [`spec`] | kernels by their static facts: names, arguments, tiles |
//! | [`layout`] | rows of activations and routings in memory |
//! | [`kernels`] | what a target gives |
//! | [`lower`](mod@lower) | the passes |
//!
//! This crate must not know any particular target, ONNX, weight data, or how steps are executed.

pub mod kernels;
pub mod layout;
pub mod lower;
pub mod spec;

pub use kernels::{Choice, Kernels, Operand, Split, Use};
pub use lower::{Program, check, lower, passes};
pub use spec::Spec;
