//! Rotary position embedding: cosines and sines once per step, then queries and keys of every layer.

use super::{Spec, bits};
use q35_dialects::q35::RopeStyle;

/// Per token `half` cosines, then as many sines, of `f32(position) * inv_freq[i]`, times `scale`. The angle is rounded to f32, its
/// sine and cosine are good to an ulp at any position. Arguments: positions (i32), inv_freq, y of `2 * half` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Angles.
    pub half: u64,
    /// Factor of cosines and sines.
    pub scale: f32,
}

impl Spec for Rotary {
    fn name(&self) -> String {
        format!("rotary_{}_{}", self.half, bits(self.scale))
    }

    fn args(&self) -> usize {
        3
    }
}

/// Turns the pairs of the first `2 * half` columns of every head; the others pass. Arguments: x, rotary (`2 * half` columns), y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rope {
    /// Columns of x.
    pub width: u64,
    /// Columns of a head; divides the width.
    pub head_dim: u64,
    /// Pairs that are turned; at most half a head.
    pub half: u64,
    /// Which columns form a pair.
    pub style: RopeStyle,
}

impl Spec for Rope {
    fn name(&self) -> String {
        let style = match self.style {
            RopeStyle::Halves => "halves",
            RopeStyle::Interleaved => "interleaved",
        };
        format!("rope_{style}_{}_by_{}_half_{}", self.width, self.head_dim, self.half)
    }

    fn args(&self) -> usize {
        3
    }
}
