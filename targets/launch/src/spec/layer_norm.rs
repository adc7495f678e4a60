//! Layer normalization of rows, or of groups of columns such as heads.

use super::{NormWeight, Spec, bits};

/// `y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias` per group of columns. Arguments: x, the weight where there is
/// one, the bias where there is one, y.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Columns.
    pub width: u64,
    /// Columns that are normalized together; divides the width.
    pub group: u64,
    /// Added to the variance.
    pub eps: f32,
    /// Factors.
    pub weight: NormWeight,
    /// What is added at the end.
    pub bias: NormWeight,
}

impl Spec for LayerNorm {
    fn name(&self) -> String {
        let (weight, bias) = (self.weight.word(), self.bias.word());
        format!("layer_norm_{}_by_{}_{weight}_{bias}_{}", self.width, self.group, bits(self.eps))
    }

    fn args(&self) -> usize {
        2 + [self.weight, self.bias].into_iter().filter(|vector| *vector != NormWeight::None).count()
    }
}
