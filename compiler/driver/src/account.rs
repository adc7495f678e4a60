//! What a model's parameters and cache weigh, before anything is compiled: figures for `check`, for the summary of a compile and for the report.

use q35_dialects::{Model, ParamRole, Ty};
use std::collections::BTreeMap;

/// Weights of one role.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Weights {
    /// How many numbers.
    pub count: u64,
    /// Bytes as stored, scales included.
    pub bytes: u64,
}

impl Weights {
    /// Bits per weight, scales included.
    pub fn effective_bits(&self) -> f64 {
        if self.count == 0 { 0.0 } else { 8.0 * self.bytes as f64 / self.count as f64 }
    }

    /// Bytes if every number were an f32.
    pub fn f32_bytes(&self) -> u64 {
        self.count.saturating_mul(4)
    }

    fn plus(self, other: Self) -> Self {
        Self { count: self.count.saturating_add(other.count), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// Everything that is stored, and what one token costs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Account {
    /// Weights by role.
    pub roles: BTreeMap<&'static str, Weights>,
    /// Bytes of KV cache per token of context, all layers.
    pub cache_bytes_per_token: u64,
    /// The largest parameter as f32, in bytes.
    pub largest_f32_bytes: u64,
}

impl Account {
    /// The account of a model whose codecs are assigned.
    pub fn of(model: &Model) -> Self {
        let mut account = Self { roles: BTreeMap::new(), cache_bytes_per_token: 0, largest_f32_bytes: 0 };
        for param in model.params.values() {
            let packed = param.packed();
            let weights = Weights { count: packed.rows.saturating_mul(packed.cols), bytes: packed.bytes() };
            let role = account.roles.entry(param.role.name()).or_default();
            *role = role.plus(weights);
            account.largest_f32_bytes = account.largest_f32_bytes.max(weights.f32_bytes());
        }
        for id in model.graph.ids() {
            for ty in &model.graph.node(id).results {
                if let Ty::Cache { kv_heads, key_dim, value_dim, dtype, .. } = *ty {
                    account.cache_bytes_per_token += dtype.bytes() * kv_heads * (key_dim + value_dim);
                }
            }
        }
        account
    }

    /// Weights of one role.
    pub fn role(&self, role: ParamRole) -> Weights {
        self.roles.get(role.name()).copied().unwrap_or_default()
    }

    /// All weights.
    pub fn total(&self) -> Weights {
        self.roles.values().fold(Weights::default(), |sum, weights| sum.plus(*weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_what_is_stored() {
        let weights = Weights { count: 2000, bytes: 900 };
        assert_eq!(weights.effective_bits(), 3.6);
        assert_eq!(weights.f32_bytes(), 8000);
        assert_eq!(weights.plus(Weights { count: 1, bytes: 100 }), Weights { count: 2001, bytes: 1000 });
        assert_eq!(Weights::default().effective_bits(), 0.0);
    }
}
