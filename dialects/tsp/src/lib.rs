//! The tsp dialect: what a Groq-TSP-style chip is, as tables. A model of the chip, not run on silicon; encodings are this project's own.
//!
//! The chip is a row of functional slices, from west to east: MXM, SXM, 44 MEM, VXM, 44 MEM, SXM, MXM. Each is 20 superlanes of 16 lanes high.
//! Data moves along the row on 32 eastward and 32 westward *streams*, one vector of 320 bytes each, one stream register per cycle; nothing
//! waits for anything. An instruction enters a slice at its southern end and climbs one superlane per cycle, and data is staggered in
//! the same way: superlane `k` does at cycle `t + k` what superlane 0 does at `t`. All times here are those of superlane 0. That is exact
//! for every instruction that keeps to its superlane; those that mix superlanes have a latency that covers the skew (a test of [`timing`]).
//!
//! | module | idea |
//! | --- | --- |
//! | [`geometry`] | slices, positions, streams, queues |
//! | [`timing`] | cycles, each with its source |
//! | [`alu`] | the ops of a vector ALU, with their exact meaning |
//! | [`isa`] | the instructions: one declaration each |
//! | [`lanes`] | which element of an array lies in which lane |
//! | [`flow`] | what a macro-op computes, as a number |
//! | [`program`] | a whole program: queues, memory images, input and output |
//! | [`text`], [`binary`] | its two forms on disk |
//!
//! What enters: nothing. What leaves: the description that an emitter, a simulator and a checker share. This crate must not know models,
//! schedules, or how anything is executed.

pub mod alu;
pub mod binary;
pub mod flow;
pub mod geometry;
pub mod isa;
pub mod lanes;
pub mod program;
pub mod text;
pub mod timing;
