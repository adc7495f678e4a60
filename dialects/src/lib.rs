//! The q35 dialect: op tables, models, reference evaluation, and the dialect in MLIR.
//!
//! A *step* of a language model runs over a flattened ragged batch: `M` tokens, each with a slot (row of the batch), a position
//! and an index into the slot's KV cache; `R` of the rows get logits. Every activation is a row-major matrix with `M` or `R`
//! rows. Prefill, decoding and mixtures of both are the same step.
//!
//! Each op is declared once, in a file of its own under [`q35`]: operands, result, attributes and meaning; beside the
//! declaration stand type inference, cost and the reference evaluation. Printing, documentation (`OPS.md`), IRDL and the way to
//! MLIR and back are made from the table of declarations ([`q35::OPS`]) and know no particular op.
//!
//! | module | idea |
//! | --- | --- |
//! | [`attr`] | attribute values |
//! | [`ty`] | types of values |
//! | [`decl`] | declarations of ops and types |
//! | [`semantics`] | what every op defines: inference, cost, evaluation |
//! | [`q35`] | the ops |
//! | [`model`] | a graph of ops with its parameters |
//! | [`verify`] | the numbered invariants of a model |
//! | [`mod@print`] | short stable text |
//! | [`docs`] | the documentation page |
//! | [`data`], [`interp`] | the reference evaluation, and its values |
//! | [`values`] | parameters read from the model file |
//! | [`wse`] | the dialect of wafer-scale programs |
//! | `mlir` | the dialect in MLIR, and programs as MLIR modules; behind the feature of this name, on by default |
//!
//! What enters: models, from the raising passes. What leaves: the same model checked, printed, evaluated, or as an MLIR module
//! and back. This crate must not know ONNX, files, encoders or machines.

pub mod attr;
pub mod data;
pub mod decl;
pub mod docs;
pub mod interp;
#[cfg(feature = "mlir")]
pub mod mlir;
pub mod model;
pub mod print;
pub mod q35;
pub mod semantics;
pub mod ty;
pub mod values;
pub mod verify;
pub mod wse;

pub use attr::ParamName;
pub use model::{Activations, Graph, Model, Param, ParamRole, Program, Transform};
pub use semantics::{Packed, ParamTable};
pub use ty::{Rows, Ty};
