//! Kernels by their static facts: what is computed, under which name, from which arguments. How is the target's business.
//!
//! Conventions that hold for all of them:
//!
//! 1. Arguments are the op's operands in order (ids, then parameters where the op has them), then the result.
//! 2. A tile is one row of the result, whatever the rows are, unless [`Spec::tiles`] says otherwise.
//! 3. A row of activations is f32 and lies as [`layout`](crate::layout) says; the bytes after the row are neither read nor written.
//! 4. Rows are independent: the result does not depend on which other rows there are. Where a target has several kernels for an op that is no linear
//!    layer, and the number of rows chooses between them, they differ in rounding.

mod attention;
mod chain;
mod columns;
mod embed;
mod hadamard;
mod layer_norm;
mod linear;
mod pointwise;
mod rms_norm;
mod rope;
mod route;

pub use attention::{Append, Attention, LatentAttention, Scores};
pub use chain::Chain;
pub use columns::{Columns, Select};
pub use embed::{Embed, Table};
pub use hadamard::{Hadamard, butterfly};
pub use layer_norm::LayerNorm;
pub use linear::{Experts, Linear};
pub use pointwise::{Operation, Pointwise};
pub use rms_norm::{NormWeight, RmsNorm};
pub use rope::{Rope, Rotary};
pub use route::{Combine, Divisor, Groups, Route, SortByExpert};

use q35_bundle::Size;
use q35_dialects::Rows;
use q35_dialects::attr::{Attr, Attribute};

/// A kernel by all its static facts.
pub trait Spec {
    /// Symbol without prefix and suffix: a C identifier, the same exactly for equal specs.
    fn name(&self) -> String;

    /// How many arguments it takes.
    fn args(&self) -> usize;

    /// How many tiles a step over `rows` has.
    fn tiles(&self, rows: Rows) -> Size {
        rows.size(1)
    }
}

/// Any kernel that an op asks for, linear layers apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Any {
    /// Keys and values into the cache.
    Append(Append),
    /// Attention over the cache.
    Attention(Attention),
    /// Columns of rows.
    Columns(Columns),
    /// The sum of what experts gave.
    Combine(Combine),
    /// Rows of a table.
    Embed(Embed),
    /// Rotation.
    Hadamard(Hadamard),
    /// Attention over latent vectors.
    LatentAttention(LatentAttention),
    /// Normalization about the mean.
    LayerNorm(LayerNorm),
    /// Everything that treats elements one by one.
    Pointwise(Pointwise),
    /// Normalization.
    RmsNorm(RmsNorm),
    /// Rotary embedding.
    Rope(Rope),
    /// Its cosines and sines.
    Rotary(Rotary),
    /// Choice of experts.
    Route(Route),
    /// Rows whose logits are wanted.
    Select(Select),
    /// Routed rows by expert.
    SortByExpert(SortByExpert),
}

/// A float as part of a symbol: its bits in hexadecimal.
fn bits(value: f32) -> String {
    format!("{:08x}", value.to_bits())
}

/// The word in q35 text for one of a few.
fn word(kind: impl Attribute) -> String {
    match kind.to_attr() {
        Some(Attr::Word(word)) => word,
        other => unreachable!("one of a few is a word, not {other:?}"),
    }
}
