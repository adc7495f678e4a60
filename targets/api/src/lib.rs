//! What a target is: the Target trait, its capability table and the memory planner.

mod arrangement;
pub mod plan;

pub use arrangement::{Arrangement, Place};
