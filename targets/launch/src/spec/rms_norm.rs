//! Root-mean-square normalization of rows, or of groups of columns such as heads.

use super::{Spec, bits};

/// Which factors follow the normalization, or what is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormWeight {
    /// None.
    None,
    /// As many as a group has columns, the same for all groups.
    Shared,
    /// One per column of the row.
    PerColumn,
}

impl NormWeight {
    /// What it is called in a symbol.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Shared => "shared",
            Self::PerColumn => "columns",
        }
    }
}

/// `y = x / sqrt(mean(x^2) + eps) * weight` per group of columns. Arguments: x, the weight where there is one, y.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Columns.
    pub width: u64,
    /// Columns that are normalized together; divides the width.
    pub group: u64,
    /// Added to the mean square.
    pub eps: f32,
    /// Factors.
    pub weight: NormWeight,
}

impl Spec for RmsNorm {
    fn name(&self) -> String {
        let weight = self.weight.word();
        format!("rms_norm_{}_by_{}_{weight}_{}", self.width, self.group, bits(self.eps))
    }

    fn args(&self) -> usize {
        2 + usize::from(self.weight != NormWeight::None)
    }
}
