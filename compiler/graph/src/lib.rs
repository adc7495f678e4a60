//! The graph container, tensors and memory-mapped storage shared by every compiler stage.
//!
//! * [`Graph`] is one petgraph container used twice: with [`source::SourceOp`] by the importers, and with the q35 dialect's ops after
//!   raising. Both keep each node's name in the user's model as provenance.
//! * [`Tensor`] is a typed, checked range of a [`Storage`]: weights stay in the memory-mapped file until they are packed.
//! * [`Decode`] gives numbers that are stored in some other way the face of such a tensor.
//! * [`WeightView`] is a logical matrix over a tensor, whatever way the exporter laid it out.
//! * [`Pass`] is one row of the pass table.
//!
//! This crate must not know ONNX spellings, quantization, MLIR or targets.

mod container;
mod decoded;
mod dtype;
mod elements;
mod joined;
mod pass;
mod print;
pub mod source;
mod storage;
mod tensor;
mod view;

pub use container::{Graph, Node, NodeId, Value};
pub use decoded::{Decode, Stack};
pub use dtype::DType;
pub use elements::{Dequantized, Elements};
pub use pass::{Observer, Pass, Silent, Stage};
pub use print::PrintOp;
pub use storage::Storage;
pub use tensor::{Tensor, TensorError};
pub use view::{Axis, BlockQuantized, Identity, WeightView};
