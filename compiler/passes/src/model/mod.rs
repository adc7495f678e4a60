//! Passes over the model graph: from raised float ops to ops that say how every weight is stored.
//!
//! What enters: a verified [`Model`] whose linear layers are in floating point. What leaves: the same function, its weights with
//! codecs, rotations inserted and folded, activations rounded where integers multiply. These passes must not know where the graph came
//! from or which target comes next.

mod assign_codecs;
mod assign_kv_cache;
mod drop_dead;
mod fold_rotations;
mod quantize_activations;
mod rotate;
#[cfg(test)]
mod testing;

use q35_bundle::CacheDtype;
use q35_dialects::{Activations, Model, verify};
use q35_format::{Codec, Group};
use q35_graph::{Observer, Pass, Stage};

/// The seed of every rotation: with one seed, rotations of one block meet and cancel wherever they come from.
pub const ROTATION_SEED: u64 = 0x5133_355f_726f_7461;

/// How weights and the KV cache are stored, and what weights meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightOptions {
    /// Codec of the linear layers.
    pub codec: Codec,
    /// Which columns share a scale.
    pub group: Group,
    /// Whether to rotate the inputs of layers in a pair codec.
    pub rotate: bool,
    /// What layers in an integer codec multiply their weights with.
    pub activations: Activations,
    /// Element type of the KV cache.
    pub kv_cache: CacheDtype,
}

/// A pass over the model graph.
pub struct ModelPass {
    /// Its row of the pass table.
    pub pass: Pass,
    /// What it does.
    pub run: fn(&mut Model, &WeightOptions),
}

const fn row(name: &'static str, purpose: &'static str, run: fn(&mut Model, &WeightOptions)) -> ModelPass {
    ModelPass { pass: Pass { name, purpose, from: Stage::Graph, to: Stage::Graph }, run }
}

/// The passes, in the order in which they run.
pub const PASSES: &[ModelPass] = &[
    row("assign-codecs", "Give every parameter its codec and group", assign_codecs::run),
    row("assign-kv-cache", "Give every layer of the KV cache its element type", assign_kv_cache::run),
    row("rotate", "Rotate the inputs of layers in a pair codec, and their weights against them", rotate::run),
    row("fold-rotations", "Merge rotations into neighbouring weights and norms", fold_rotations::run),
    row("quantize-activations", "Round the inputs of integer layers once per value", quantize_activations::run),
    row("drop-dead", "Remove nodes and parameters nothing depends on", drop_dead::run),
];

/// Runs every pass, verifying the model after each.
///
/// # Panics
/// If a pass leaves a model that violates an invariant: a compiler bug.
pub fn run(model: &mut Model, options: &WeightOptions, observer: &mut dyn Observer) {
    for pass in PASSES {
        observer.before(&pass.pass);
        (pass.run)(model, options);
        if let Err(text) = verify::verify(model) {
            panic!("pass '{}' left an invalid model:\n{text}", pass.pass.name);
        }
        observer.after(&pass.pass, &|| q35_dialects::print::model(model));
    }
}
