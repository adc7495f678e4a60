//! What a target is: the [`Target`] trait, its capability table, and what all targets share.
//!
//! What enters a target: a program in the q35 dialect and the shapes of its parameters, never their data. What leaves: steps over a
//! static memory plan, files with code, and for each tensor of the weights file the [`Arrangement`] of its bytes.
//!
//! | module | idea |
//! | --- | --- |
//! | `target` | the trait and what passes through it |
//! | `arrangement` | canonical bytes of a parameter to those that kernels read |
//! | [`c`] | pieces of C headers |
//! | [`plan`] | where values lie while they live, and a checker of that |
//!
//! This crate must not know any particular target, nor where models come from.

mod arrangement;
pub mod c;
pub mod plan;
mod target;

pub use arrangement::{Arrangement, Place, Weave};
pub use target::{
    Capabilities, Figures, Label, Levels, Lowered, Request, Section, Target, WeightTensor, WeightsFile, cannot, check_prefix,
    file_order, layer_input,
};
