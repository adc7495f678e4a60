//! How numbers are stored where they are not stored as themselves: in blocks that share scales.
//!
//! | module | encoding |
//! | --- | --- |
//! | [`blocks`] | blocks with their scales inside, as GGUF files have them: a table of formats |
//! | [`legacy`], [`superblocks`], [`nonlinear`] | what a block of each format means |
//! | [`scaled`] | 8-bit floats with scales beside them: one, one per row, or one per tile |
//! | [`mxfp4`] | 4-bit floats in blocks of 32 with exponents beside them (OCP Microscaling Formats 1.0) |
//!
//! Each implements [`q35_graph::Decode`]: nothing is decoded before it is asked for. Sizes are checked when a decoder is made, so that reading cannot
//! fail.

pub(crate) mod blocks;
mod legacy;
pub(crate) mod mxfp4;
mod nonlinear;
pub(crate) mod scaled;
mod superblocks;
