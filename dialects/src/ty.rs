//! The types of values.
//!
//! Every activation is a matrix, row-major; how many rows it has is known only when a step runs ([`Rows`]).

use crate::attr::words;
use crate::decl::types;
pub use q35_bundle::Rows;
use std::fmt;

words!(Rows { Tokens = "tokens", Logits = "logits" });

types! {
    /// One number per row, i32: token ids or positions.
    Ids = "ids" {
        /// What its rows are.
        rows: Rows,
    }
    /// Activations, f32.
    Act = "act" {
        /// What its rows are.
        rows: Rows,
        /// Columns.
        width: u64,
    }
    /// Activations rounded to int8, with one f32 scale per row.
    Quant = "quant" {
        /// What its rows are.
        rows: Rows,
        /// Columns.
        width: u64,
    }
    /// Per token the cosines of `half` angles, then their sines, f32.
    Rotary = "angles" {
        /// Angles.
        half: u64,
    }
    /// One layer of the KV cache with this step's tokens in it. The bytes live outside the graph: the value says which layer,
    /// how it is laid out, and that whoever reads it comes after the writing.
    Cache = "cache" {
        /// Layer, from 0.
        layer: u32,
        /// Heads of keys and values.
        kv_heads: u64,
        /// Columns of a key of one head.
        key_dim: u64,
        /// Columns of a value of one head.
        value_dim: u64,
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<", self.kind().decl().name)?;
        for (i, field) in self.fields().iter().enumerate() {
            write!(f, "{}{field}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(">")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.decl().name)
    }
}

impl Ty {
    /// Rows and width of activations, plain or rounded.
    pub fn matrix(&self) -> Option<(Rows, u64)> {
        match *self {
            Self::Act { rows, width } | Self::Quant { rows, width } => Some((rows, width)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_type() {
        let types = [
            Ty::Ids { rows: Rows::Tokens },
            Ty::Act { rows: Rows::Logits, width: 7 },
            Ty::Quant { rows: Rows::Tokens, width: 1 << 40 },
            Ty::Rotary { half: 3 },
            Ty::Cache { layer: 1, kv_heads: 2, key_dim: 3, value_dim: 4 },
        ];
        for ty in types {
            assert_eq!(Ty::from_fields(ty.kind(), &ty.fields()), Some(ty));
            assert_eq!(Ty::from_fields(ty.kind(), &ty.fields()[1..]), None);
        }
        assert_eq!(types[1].to_string(), "act<logits, 7>");
        assert_eq!(types.map(|ty| ty.kind()), Kind::ALL);
    }
}
