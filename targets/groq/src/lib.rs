//! The groq target: a whole decode step as one deterministic schedule for a Groq-TSP-style chip. A model of the chip, not run on silicon.
//!
//! What enters: a program in the q35 dialect and the shapes of its parameters. What leaves: a program of the tsp dialect for each chip, and the
//! parameters' tensors as they are: the programs say which bytes of memory they become.
//!
//! | module | idea |
//! | --- | --- |
//! | `schedule` | when and where: macro-ops, reservation tables, memory |
//! | `lower` | ops as macro-ops |
//!
//! One step decodes one token over a cache of a fixed number of entries, the context. Nothing in a step's time depends on data.
//!
//! Simpler than the chip allows, and so never better than it:
//!
//! * A slice is read or written once per cycle; the chip can do both, in different banks.
//! * Queues hold a step's whole text. That it fits the slices the system keeps is checked; the cycles that fetching it takes are not counted.
//! * Weights of experts are gathered at less than full rate: addresses take streams, and come from slices that weights lie in as well.
//! * Keys and values are f32.
//! * Embedding rows, angles and masks are the host's; a step has one row, of one sequence.
//! * Several chips are a pipeline over layers, with the head on as many as it takes: a layer is on one chip, and one token is on its way at a time.
//!
//! This crate must not know ONNX, weight data, or how programs are executed.

mod lower;
mod schedule;

pub use lower::{Form, Groq, LinearProgram, PROGRAM, schedule_linear};
