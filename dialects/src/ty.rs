//! The types of values.
//!
//! Every activation is a matrix, row-major; how many rows it has is known only when a step runs ([`Rows`]).

use crate::attr::text;
use crate::decl::types;
use q35_bundle::{CacheDtype, Dim, Rows as Section, Size};
use std::fmt;
use std::str::FromStr;

/// What a row of an activation stands for. Routed rows are those of a mixture of experts: with `k` choices, row `r` belongs to row
/// `r / k` of what was routed, and to its choice `r % k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rows {
    /// One row per token of the step.
    Tokens,
    /// One row per wanted logit row.
    Logits,
    /// So many rows per token.
    TokenChoices(u32),
    /// So many rows per wanted logit row.
    LogitChoices(u32),
}

text!(Rows);

/// Between the word for what is routed and the number of its rows.
const TIMES: char = '*';

impl Rows {
    /// What the rows are counted by, and how many there are of each.
    pub fn section(self) -> (Section, u64) {
        match self {
            Self::Tokens => (Section::Tokens, 1),
            Self::Logits => (Section::Logits, 1),
            Self::TokenChoices(choices) => (Section::Tokens, choices.into()),
            Self::LogitChoices(choices) => (Section::Logits, choices.into()),
        }
    }

    /// The rows of `choices` experts for each of these; routed rows are not routed again.
    pub fn routed(self, choices: u32) -> Option<Self> {
        match self {
            Self::Tokens => Some(Self::TokenChoices(choices)),
            Self::Logits => Some(Self::LogitChoices(choices)),
            Self::TokenChoices(_) | Self::LogitChoices(_) => None,
        }
    }

    /// The run-time size that they are counted by.
    pub fn dim(self) -> Dim {
        self.section().0.dim()
    }

    /// `n` for each of these rows.
    pub fn size(self, n: u64) -> Size {
        Size::per(n.saturating_mul(self.section().1), self.dim())
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens => f.write_str("tokens"),
            Self::Logits => f.write_str("logits"),
            Self::TokenChoices(choices) => write!(f, "tokens{TIMES}{choices}"),
            Self::LogitChoices(choices) => write!(f, "logits{TIMES}{choices}"),
        }
    }
}

impl FromStr for Rows {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some((of, choices)) = text.split_once(TIMES) {
            let choices = choices.parse().map_err(|_| ())?;
            return Self::from_str(of)?.routed(choices).ok_or(());
        }
        [Self::Tokens, Self::Logits].into_iter().find(|rows| rows.to_string() == text).ok_or(())
    }
}

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
        /// Type of its elements, to which keys and values are rounded when they are written.
        dtype: CacheDtype,
    }
    /// Which experts each row goes to, i32, and with what weights, f32.
    Routing = "routing" {
        /// What is routed.
        rows: Rows,
        /// Experts to choose from.
        experts: u64,
        /// Experts that each row goes to.
        choices: u32,
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
    fn rows_are_their_text() {
        for rows in [Rows::Tokens, Rows::Logits, Rows::TokenChoices(2), Rows::LogitChoices(17)] {
            assert_eq!(rows.to_string().parse(), Ok(rows));
        }
        for text in ["", "token", "tokens*", "tokens*2*2", "tokens*-1", "*2"] {
            assert_eq!(text.parse::<Rows>(), Err(()), "{text}");
        }
        assert_eq!(Rows::LogitChoices(3).size(5).eval(&[100, 2, 1, 1]), Some(30));
    }

    #[test]
    fn fields_are_the_type() {
        let types = [
            Ty::Ids { rows: Rows::Tokens },
            Ty::Act { rows: Rows::Logits, width: 7 },
            Ty::Quant { rows: Rows::Tokens, width: 1 << 40 },
            Ty::Rotary { half: 3 },
            Ty::Cache { layer: 1, kv_heads: 2, key_dim: 3, value_dim: 4, dtype: CacheDtype::F16 },
            Ty::Routing { rows: Rows::Tokens, experts: 8, choices: 2 },
        ];
        for ty in types {
            assert_eq!(Ty::from_fields(ty.kind(), &ty.fields()), Some(ty));
            assert_eq!(Ty::from_fields(ty.kind(), &ty.fields()[1..]), None);
        }
        assert_eq!(types[1].to_string(), "act<logits, 7>");
        assert_eq!(types.map(|ty| ty.kind()), Kind::ALL);
    }
}
