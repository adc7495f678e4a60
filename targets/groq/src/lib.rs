//! The groq target: a whole decode step as one deterministic schedule for a Groq-TSP-style chip. A model of the chip, not run on silicon.
//!
//! What enters: a program in the q35 dialect and the shapes of its parameters. What leaves: a program of the tsp dialect, and the
//! parameters' tensors as they are: the program says which bytes of memory they become.
//!
//! | module | idea |
//! | --- | --- |
//! | `schedule` | when and where: macro-ops, reservation tables, memory |
//! | `lower` | ops as macro-ops |
//!
//! One step decodes one token over a cache of a fixed number of entries, the context. Nothing in a step's time depends on data.
//! This crate must not know ONNX, weight data, or how programs are executed.

mod lower;
mod schedule;

pub use lower::{Groq, LinearProgram, PROGRAM, schedule_linear};
