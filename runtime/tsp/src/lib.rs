//! Executes programs of the tsp dialect, cycle by cycle, from the program alone. A model of the chip, not run on silicon.
//!
//! The simulator obeys and reports; it decides nothing. A vector is read from a stream register only in the cycle in which it stands
//! there, and a register that nobody drove, two drivers of one register, a read of memory that nobody wrote, an ALU operand a cycle too
//! late, weights that are not installed yet, a vector that is received before it is there: each is a [`Fault`] with chip, cycle, queue and
//! node.
//!
//! | module | idea |
//! | --- | --- |
//! | `memory` | 88 slices of 8192 vectors |
//! | `streams` | moving vectors, one place per diagonal: nothing is copied as it moves |
//! | `mxm` | a plane: weight buffer, array, accumulators |
//! | `vxm` | the ALUs |
//! | [`chip`] | dispatch |
//! | `link` | a chip's ends of its links, and what waits there |
//! | [`system`] | several chips in lock step |
//! | [`host`] | what the host does before the first step, before and after every step |
//!
//! What enters: a program, parameters, a token. What leaves: logits, or a fault. This crate must not know how programs are made.

pub mod chip;
pub mod host;
mod link;
mod memory;
mod mxm;
mod streams;
pub mod system;
mod vxm;

pub use chip::{Chip, Fault};
pub use system::{Latency, System};

/// A vector: a byte per lane.
pub type Vector = [u8; q35_tsp::geometry::LANES];
/// A word per lane.
pub type Words = [u32; q35_tsp::geometry::LANES];
