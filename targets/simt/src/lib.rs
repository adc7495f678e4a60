//! Executes the LLVM IR of GPU kernels lane by lane, and reports what a GPU would not.
//!
//! What enters: the text of a module as LLVM prints it after its last optimisation, buffers, a launch. What leaves: the buffers as
//! the kernel left them, or a [`Fault`]: the first thing that the kernel may not do, with kernel, block, thread and instruction.
//!
//! ```text
//! text ──► parse ──► ir ──► code (registers numbered, blocks ordered) ──► machine: blocks of warps of lanes ──► memory
//! ```
//!
//! | module | idea |
//! | --- | --- |
//! | `lex`, `parse` | LLVM's text to [`ir`] |
//! | [`ir`] | modules, functions, instructions: the part of LLVM IR that kernels use |
//! | `code` | a function with every value at a place of the register file |
//! | `scalar` | arithmetic on one lane |
//! | `collective` | what the lanes of a warp do together: barriers, shuffles |
//! | `fragments` | matrix products, and which lane holds what of them |
//! | `warp` | lanes, where they stand, and which of them go next |
//! | [`machine`] | launches |
//! | [`memory`] | buffers and shared memory, byte by byte with who touched it last |
//!
//! Meaning, where LLVM leaves a choice:
//!
//! 1. Lanes of a warp run on their own; those that stand at the same instruction run together. A collective instruction waits until every
//!    lane of the warp that has not ended stands at it; lanes that never come are a fault.
//! 2. Barriers order the accesses of a block, nothing else does: two accesses of one byte by different threads, one of them a write, are a
//!    race unless a barrier lies between them. Blocks are never ordered.
//! 3. A byte that nothing has written is not to be read. Kernels get memory as it is given to them: a buffer's bytes count as
//!    written where the caller wrote them.
//! 4. An address must lie in a buffer, and be a multiple of the alignment that the instruction states.
//! 5. Floating-point arithmetic is IEEE's, `fmuladd` is fused, and a matrix product adds in f32 in the order of k.
//!
//! The interpreter must not know how kernels are made: it shares nothing with the builder and links no LLVM.

mod code;
mod collective;
mod fault;
mod fragments;
pub mod ir;
mod lex;
pub mod machine;
pub mod memory;
mod parse;
mod scalar;
mod warp;

pub use fault::{Fault, Kind};
pub use machine::{Arg, Launch, Machine};
pub use memory::Buffer;
pub use parse::module as parse;
