//! The Q35 number format: streams, codecs, tables, encoders.
//!
//! One **container** is 7 bits and holds two weights that are neighbours along K, the input dimension of a linear
//! layer: 3.5 bits per weight. A row (one output channel) is a stream of containers; a *window* of `W = 7 + m` bits,
//! the container and the first `m` bits of the one after it, indexes a table of pairs of small integers, and a float
//! scale per row or column group turns the integers into weights. The wider formats a model needs beside that
//! (`f32`, `f16`, `bf16`, `q8`) are described by the same [`PackedSpec`], so that nobody else has to know how many
//! bytes a weight takes.
//!
//! What enters: rows of finite `f32` weights. What leaves: bytes, and the weights those bytes mean. This crate knows
//! nothing of models, graphs, files or machines; the compiler, the runtime and the tests share it.
//!
//! | module | idea |
//! | --- | --- |
//! | [`codec`] | the codecs and one table of facts about them |
//! | [`group`] | which weights of a row share a scale |
//! | [`stream`] | 7-bit containers in a row of bytes |
//! | [`table`] | window to pair of integers |
//! | [`packed`] | sizes, sections, and bytes that have been checked against them |
//! | [`decode`] | bytes to integers and to weights |
//! | [`trellis`] | the least-error containers of sixteen rows at a time |
//! | [`encode`] | weights to bytes: scales, trellis search, refit |
//! | [`rotate`] | the random-sign block Hadamard transform |
//! | [`activation`] | the int8 rounding of activations |
//! | [`gauss`] | the fixed Gaussian source of the error figures |
//!
//! Invariants, checked where bytes enter ([`packed::PackedView::new`]) and by this crate's tests:
//!
//! 1. A row of K weights takes exactly [`PackedSpec::row_bytes`] bytes; rows follow each other without padding.
//! 2. The bits of a row's last byte beyond its last container are 0.
//! 3. Scales and offsets are finite, `rows * groups` of them in row-major order, in the spec's [`ScaleType`].
//! 4. The same weights and spec give the same bytes, on any machine and any number of threads.

pub mod activation;
pub mod codec;
pub mod decode;
pub mod encode;
mod error;
pub mod gauss;
pub mod group;
pub mod packed;
pub mod rotate;
pub mod stream;
pub mod table;
pub mod trellis;

pub use codec::Codec;
pub use error::FormatError;
pub use group::Group;
pub use packed::{Packed, PackedSpec, PackedView, ScaleType};
