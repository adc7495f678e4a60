//! Graph passes: a source graph is raised to a model, and the model's weights get their storage.
//!
//! | module | idea |
//! | --- | --- |
//! | [`sym`] | expressions in a normal form in which all spellings of one formula coincide |
//! | [`eval`] | shapes and elements of source values, as such expressions |
//! | [`raise`] | recognition on the normal form: a source graph becomes a model |
//! | [`names`] | names of parameters by what they do |
//! | [`model`] | passes over the model: codecs, rotations, rounding of activations |
//!
//! What enters: a source graph of any exporter. What leaves: a verified model, ready for a target. This crate must not know file formats,
//! MLIR or targets.

pub mod eval;
pub mod model;
pub mod names;
pub mod raise;
pub mod sym;
