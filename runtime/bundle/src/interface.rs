//! How the named inputs and outputs of the user's own graph map onto `step()`, so that a file of graph inputs can be run as it is.

use serde::{Deserialize, Serialize};

/// What a named tensor of the user's graph is to the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `int [B, S]`: token ids.
    TokenIds,
    /// `int [B, P+S]` or `[B, S]`: 1 where a position of the cache, then of the input, is not padding.
    AttentionMask,
    /// `int [B, S]`: positions.
    PositionIds,
    /// `float [B, kv_heads, P, dim]`: keys of earlier tokens of a layer.
    PastKey(u32),
    /// `float [B, kv_heads, P, dim]`: values of earlier tokens of a layer.
    PastValue(u32),
    /// `float [B, S, V]`.
    Logits,
    /// `float [B, kv_heads, P+S, dim]`: keys of earlier and new tokens of a layer.
    PresentKey(u32),
    /// `float [B, kv_heads, P+S, dim]`: values of earlier and new tokens of a layer.
    PresentValue(u32),
    /// An input that has no influence on the result, or an output that hands such an input (named here) back.
    Passive(Option<String>),
}

/// A named input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the user's graph.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Element type the graph declares, e.g. `i64`, `f16`.
    pub dtype: String,
}

/// How the user's graph counts the positions that RoPE sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionRule {
    /// Given by the [`Role::PositionIds`] input.
    Given,
    /// Past length plus column: padding counts.
    Column,
    /// Number of unmasked positions before: padding does not count. Fused attention ops of this kind see only how many ones a row of
    /// the mask has, so with a cache a row of ones followed by zeros means a shorter past, not padding among the new tokens.
    Unmasked,
}

/// The interface of the user's graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Inputs, in the graph's order.
    pub inputs: Vec<Port>,
    /// Outputs, in the graph's order.
    pub outputs: Vec<Port>,
    /// Where positions come from.
    pub positions: PositionRule,
}
