//! The program: a list of steps over a static memory plan.
//!
//! `step(tokens, positions, cache) -> logits` runs over a flattened ragged batch: `M` tokens, each with its slot (batch row), its
//! position and its index in the slot's cache; logits are computed for `R` chosen rows. Every buffer is so many bytes per row, so one
//! plan holds for any `M` and `R`: a buffer's address is `base + rows * offset_per_row`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The sizes only known at run time, in the order in which kernels get them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dim {
    /// `M`: tokens of this step, over all slots.
    Tokens,
    /// `R`: rows whose logits are wanted.
    LogitRows,
    /// `B`: slots of the cache.
    Slots,
    /// `C`: cache entries per slot.
    Capacity,
}

impl Dim {
    /// Every dimension, in kernel order: `dims[Dim::X as usize]`.
    pub const ALL: [Dim; 4] = [Dim::Tokens, Dim::LogitRows, Dim::Slots, Dim::Capacity];
}

/// What a row of an activation stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rows {
    /// One row per token of the step.
    Tokens,
    /// One row per wanted logit row.
    Logits,
}

impl Rows {
    /// The run-time size that counts these rows.
    pub fn dim(self) -> Dim {
        match self {
            Self::Tokens => Dim::Tokens,
            Self::Logits => Dim::LogitRows,
        }
    }
}

/// A size as a sum of products: `coefficient * dims[0] * dims[1] * ...`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Size(pub Vec<(u64, Vec<Dim>)>);

impl Size {
    /// A number.
    pub fn constant(n: u64) -> Self {
        Self(vec![(n, vec![])])
    }

    /// `n` per unit of `dim`.
    pub fn per(n: u64, dim: Dim) -> Self {
        Self(vec![(n, vec![dim])])
    }

    /// The value for given dimensions (indexed by [`Dim`]); `None` on overflow.
    pub fn eval(&self, dims: &[u64; 4]) -> Option<u64> {
        self.0.iter().try_fold(0u64, |sum, (n, by)| {
            sum.checked_add(by.iter().try_fold(*n, |product, dim| product.checked_mul(dims[*dim as usize]))?)
        })
    }
}

/// Arrays that the caller of a step provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// `i32[M]`: token ids.
    Tokens,
    /// `i32[M]`: positions, as RoPE counts them.
    Positions,
    /// `i32[M]`: which slot of the cache.
    Slots,
    /// `i32[M]`: which entry of the slot's cache this token becomes.
    Index,
    /// `i32[R]`: rows of the step whose logits are wanted.
    LogitRows,
}

/// The two halves of a cache layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePart {
    /// Keys.
    Key,
    /// Values.
    Value,
}

/// What one kernel argument is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// A buffer of the arena, at `rows * offset_per_row` bytes from the start of its section.
    Arena {
        /// The section.
        rows: Rows,
        /// Bytes per row that come before it; a multiple of 64.
        offset_per_row: u64,
    },
    /// A tensor of the weights file.
    Weight(String),
    /// One half of a layer's cache.
    Cache {
        /// Index into [`MemoryPlan::cache`].
        layer: u32,
        /// Which half.
        part: CachePart,
    },
    /// An array the caller provides.
    Input(Input),
}

/// A kernel that serves a step up to some number of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// The largest number of rows it is meant for; `None` for no limit.
    pub max_rows: Option<u64>,
    /// Symbol, without prefix and feature-level suffix.
    pub kernel: String,
    /// Independent tiles; the executor hands out ranges of them.
    pub tiles: Size,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The node of the user's model that it stems from.
    pub node: String,
    /// The q35 op it implements, or part of one.
    pub op: String,
    /// What its rows are.
    pub rows: Rows,
    /// The first whose `max_rows` is not below the number of rows is taken; the last one has none.
    pub variants: Vec<Variant>,
    /// Kernel arguments, in order.
    pub args: Vec<Binding>,
}

/// The element type of the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheDtype {
    /// Single precision.
    #[default]
    F32,
    /// Half precision: a number becomes the nearest one, the even one of two; what is larger than [`Self::F16_MAX`] becomes that, so that no
    /// number becomes infinite.
    F16,
}

impl CacheDtype {
    /// Every element type.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// The largest number of half precision.
    pub const F16_MAX: f32 = 65504.0;

    /// Bytes of an element.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Its name, as options and types spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }
}

impl fmt::Display for CacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for CacheDtype {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == text).ok_or(())
    }
}

/// One layer of the KV cache: keys `[slot][kv_head][capacity][key_dim]`, values alike, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayer {
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Columns of a key.
    pub key_dim: u64,
    /// Columns of a value.
    pub value_dim: u64,
    /// Tokens that a token sees, itself included; `None` for all.
    pub window: Option<u64>,
    /// Type of an element; a manifest that does not say it means f32.
    #[serde(default)]
    pub dtype: CacheDtype,
}

impl CacheLayer {
    /// Columns of a key or a value.
    pub fn columns(&self, part: CachePart) -> u64 {
        match part {
            CachePart::Key => self.key_dim,
            CachePart::Value => self.value_dim,
        }
    }

    /// Bytes of one half of an entry, all heads.
    pub fn half_bytes(&self, part: CachePart) -> u64 {
        self.dtype.bytes().saturating_mul(self.kv_heads).saturating_mul(self.columns(part))
    }

    /// Bytes of an entry, all heads.
    pub fn entry_bytes(&self) -> u64 {
        self.half_bytes(CachePart::Key).saturating_add(self.half_bytes(CachePart::Value))
    }
}

/// Where everything lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Bytes of arena per token.
    pub bytes_per_token: u64,
    /// Bytes of arena per logit row.
    pub bytes_per_logit_row: u64,
    /// The layers of the KV cache.
    pub cache: Vec<CacheLayer>,
    /// Bytes per logit row that come before the logits in the [`Rows::Logits`] section; a row of logits is f32, and like every
    /// activation it starts at a multiple of 64 bytes: see [`row_stride`].
    pub logits_offset_per_row: u64,
    /// Where the last step chooses tokens, bytes per logit row that come before them in the [`Rows::Logits`] section: the column of the
    /// largest logit, i32, at the start of every 64 bytes. That step is launched only for callers who ask for tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_offset_per_row: Option<u64>,
}

/// Bytes from one row of `width` f32 numbers to the next, in every activation; `None` on overflow.
pub fn row_stride(width: u64) -> Option<u64> {
    width.checked_mul(4)?.checked_next_multiple_of(64)
}

impl MemoryPlan {
    /// Bytes that an entry takes in all layers of the cache.
    pub fn cache_entry_bytes(&self) -> u64 {
        self.cache.iter().fold(0, |sum, layer| sum.saturating_add(layer.entry_bytes()))
    }

    /// Bytes of arena for a step of `tokens` tokens and `logit_rows` wanted rows; `None` on overflow.
    pub fn arena_bytes(&self, tokens: u64, logit_rows: u64) -> Option<u64> {
        tokens.checked_mul(self.bytes_per_token)?.checked_add(logit_rows.checked_mul(self.bytes_per_logit_row)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_sums_of_products() {
        let size = Size(vec![(3, vec![Dim::Tokens]), (1, vec![Dim::Slots, Dim::Capacity])]);
        assert_eq!(size.eval(&[2, 0, 5, 7]), Some(41));
        assert_eq!(Size::per(u64::MAX, Dim::Tokens).eval(&[2, 0, 0, 0]), None);
        assert_eq!(serde_json::to_string(&size).unwrap(), r#"[[3,["tokens"]],[1,["slots","capacity"]]]"#);
    }

    #[test]
    fn a_layer_of_the_cache_is_counted_in_its_element_type() {
        let layer = |dtype| CacheLayer { kv_heads: 2, key_dim: 3, value_dim: 5, window: None, dtype };
        let plan = MemoryPlan { cache: CacheDtype::ALL.map(layer).to_vec(), ..MemoryPlan::default() };
        assert_eq!(plan.cache[0].half_bytes(CachePart::Value), 40);
        assert_eq!(plan.cache[1].half_bytes(CachePart::Key), 12);
        assert_eq!(plan.cache_entry_bytes(), 64 + 32);
        let text = serde_json::to_string(&plan.cache[1]).unwrap();
        assert_eq!(text, r#"{"kv_heads":2,"key_dim":3,"value_dim":5,"window":null,"dtype":"f16"}"#);
        let old: CacheLayer = serde_json::from_str(&text.replace(r#","dtype":"f16""#, "")).unwrap();
        assert_eq!(old, plan.cache[0]);
        assert_eq!(CacheDtype::ALL.map(|dtype| dtype.name().parse()), CacheDtype::ALL.map(Ok));
    }
}
