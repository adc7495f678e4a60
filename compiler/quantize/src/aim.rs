//! What a rounded layer aims at.
//!
//! Before a layer come layers that are rounded already, so what it reads, `X`, is not what the float model's layer reads, `X + D`; nor is the residual stream `R` that its output is added to what it is
//! there, `R + E`. The layer can make up for the part of both that is a linear function of `X`: the weights whose output on `X` is nearest to `(X + D) W^T + E` are
//!
//! ```text
//! W' = W + W G^T + B^T      G = (X^T X + damping)^-1 X^T D,   B = (X^T X + damping)^-1 X^T E
//! ```
//!
//! and these are rounded in place of `W`. Where the text says nothing, damping leaves `W` as it is. (For `D` alone this is the asymmetric calibration of GPTAQ; Li et al., 2025.)

use crate::hessian::{Drift, Factor, Hessian};

/// What calibration has seen of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Of the layer's input, in the basis in which the layer reads it.
    pub hessian: &'a Hessian,
    /// Of the same input: what the float model's has more.
    pub input: Option<&'a Drift>,
    /// Of the value that the layer's output is added to: what the float model's has more.
    pub residual: Option<&'a Drift>,
}

/// The change of weights, ready to be applied to any row.
pub(crate) struct Aim {
    cols: usize,
    /// `G^T`, `[cols, cols]`.
    input: Option<Vec<f32>>,
    /// `B^T`, `[rows, cols]`.
    residual: Option<Vec<f32>>,
}

impl Aim {
    pub(crate) fn new(observed: Observed<'_>, factor: &Factor) -> Self {
        let solve = |drift: Option<&Drift>| drift.map(|drift| factor.solve(drift));
        Self { cols: observed.hessian.cols(), input: solve(observed.input), residual: solve(observed.residual) }
    }

    /// The weights to round in place of `rows`, of which the first is row `first`.
    pub(crate) fn rows(&self, first: usize, rows: &[f32]) -> Vec<f32> {
        let mut out = rows.to_vec();
        for (at, (out, row)) in out.chunks_exact_mut(self.cols).zip(rows.chunks_exact(self.cols)).enumerate() {
            let change = self.input.iter().flat_map(|g| g.chunks_exact(self.cols).zip(row));
            change.for_each(|(g, w)| out.iter_mut().zip(g).for_each(|(out, g)| *out += g * w));
            let own = self.residual.iter().flat_map(|b| &b[(first + at) * self.cols..][..self.cols]);
            out.iter_mut().zip(own).for_each(|(out, b)| *out += b);
        }
        out
    }
}
