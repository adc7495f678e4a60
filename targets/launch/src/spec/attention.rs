//! The KV cache and causal attention over it, plain or of latent vectors.

use super::{Spec, Table, bits};
use q35_bundle::{CacheDtype, Size};
use q35_dialects::Rows;

/// Writes token `m`'s key and value as entry `index[m]` of slot `slots[m]`. A cache half is `[slot][head][capacity][columns]` without gaps,
/// numbers rounded to its element type as the q35 op says.
/// Arguments: key, value, slots (i32), index (i32), the layer's keys, the layer's values. A tile is a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Columns of a key.
    pub key_dim: u64,
    /// Columns of a value.
    pub value_dim: u64,
    /// Element type of the cache.
    pub dtype: CacheDtype,
}

/// An element type's part of a symbol, which is the end of it: that of a cache in f32 does not say so.
fn of_cache(dtype: CacheDtype) -> &'static str {
    match dtype {
        CacheDtype::F32 => "",
        CacheDtype::F16 => "_cached_f16",
    }
}

impl Spec for Append {
    fn name(&self) -> String {
        format!("append_{}_heads_of_{}_{}{}", self.kv_heads, self.key_dim, self.value_dim, of_cache(self.dtype))
    }

    fn args(&self) -> usize {
        6
    }
}

/// What makes scores of dot products, and which entries have one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Factor of the dot products.
    pub scale: f32,
    /// Entries a token sees, itself included.
    pub window: Option<u64>,
    /// Bound of the scores.
    pub softcap: Option<f32>,
}

impl Scores {
    /// Its part of a symbol.
    fn name(&self) -> String {
        let mut name = bits(self.scale);
        if let Some(window) = self.window {
            name += &format!("_window_{window}");
        }
        if let Some(cap) = self.softcap {
            name += &format!("_softcap_{}", bits(cap));
        }
        name
    }
}

/// Token `m` sees the entries `j` of its slot with `j <= index[m]` and, with a window, `j > index[m] - window`; see the q35 op.
/// Arguments: query, slots (i32), index (i32), the layer's keys, the layer's values, the sinks where there are any, y. A tile is one head of
/// one token.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Heads of the query.
    pub heads: u64,
    /// Heads of the cache; divides `heads`.
    pub kv_heads: u64,
    /// Columns of a key.
    pub key_dim: u64,
    /// Columns of a value.
    pub value_dim: u64,
    /// Element type of the cache.
    pub dtype: CacheDtype,
    /// Scores of entries.
    pub scores: Scores,
    /// Whether every head has a score that takes part in the softmax only.
    pub sinks: bool,
}

impl Spec for Attention {
    fn name(&self) -> String {
        let mut name = format!("attention_{}_on_{}_heads_of_{}", self.heads, self.kv_heads, self.key_dim);
        name += &format!("_{}_{}", self.value_dim, self.scores.name());
        if self.sinks {
            name += "_sinks";
        }
        name + of_cache(self.dtype)
    }

    fn args(&self) -> usize {
        6 + usize::from(self.sinks)
    }

    fn tiles(&self, rows: Rows) -> Size {
        rows.size(self.heads)
    }
}

/// See the q35 op. Arguments: query, slots (i32), index (i32), the layer's latent vectors, the layer's rotated parts, the matrix of the keys
/// (for [`Table::Q8`] with its scales), that of the values (likewise), y. A tile is one head of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentAttention {
    /// Heads of the query.
    pub heads: u64,
    /// Columns of a latent vector.
    pub latent: u64,
    /// Columns of a rotated part.
    pub rotated: u64,
    /// Element type of the cache.
    pub dtype: CacheDtype,
    /// Columns of a head's query, and rows of its keys' matrix, besides the rotated part.
    pub key_dim: u64,
    /// Columns of a head's result, and rows of its values' matrix.
    pub value_dim: u64,
    /// The matrix of the keys.
    pub keys: Table,
    /// The matrix of the values.
    pub values: Table,
    /// Scores of entries.
    pub scores: Scores,
}

impl Spec for LatentAttention {
    fn name(&self) -> String {
        let sizes = format!("{}_heads_of_{}_{}_{}", self.heads, self.rotated, self.key_dim, self.value_dim);
        let tables = format!("{}_{}", self.keys.name(), self.values.name());
        format!("latent_attention_{sizes}_on_{}_by_{tables}_{}{}", self.latent, self.scores.name(), of_cache(self.dtype))
    }

    fn args(&self) -> usize {
        6 + self.keys.args() + self.values.args()
    }

    fn tiles(&self, rows: Rows) -> Size {
        rows.size(self.heads)
    }
}
