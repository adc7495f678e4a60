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

use crate::dense::{Part, View, add_product};
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

impl<'a> Observed<'a> {
    /// Where nothing is known of the float model.
    pub fn alone(hessian: &'a Hessian) -> Self {
        Self { hessian, input: None, residual: None }
    }
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
        if let Some(g) = &self.input {
            add_product(&mut out, self.cols, 1.0f32, View::matrix(rows, self.cols), View::matrix(g, self.cols), Part::Whole);
        }
        if let Some(b) = &self.residual {
            out.iter_mut().zip(&b[first * self.cols..]).for_each(|(out, b)| *out += b);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::gauss::Gauss;

    const TOKENS: usize = 400;
    const COLS: usize = 12;
    const ROWS: usize = 5;

    fn gauss(seed: u64, count: usize) -> Vec<f32> {
        Gauss::new(seed).take(count).collect()
    }

    /// `X M^T`, `M` of `rows` rows.
    fn times(x: &[f32], m: &[f32], rows: usize) -> Vec<f32> {
        let row = |x: &[f32], m: &[f32]| x.iter().zip(m).map(|(x, m)| f64::from(*x) * f64::from(*m)).sum::<f64>() as f32;
        let cols = m.len() / rows;
        x.chunks_exact(cols).flat_map(|x| m.chunks_exact(cols).map(move |m| row(x, m))).collect()
    }

    fn distance(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    }

    fn plus(a: &[f32], b: &[f32], share: f32) -> Vec<f32> {
        a.iter().zip(b).map(|(a, b)| a + share * b).collect()
    }

    /// Inputs and residuals whose drift is a linear function of the input, but for a little noise: the aim's output is the float model's, up to noise and damping.
    #[test]
    fn a_linear_drift_is_made_up_for() {
        let (x, w) = (gauss(1, TOKENS * COLS), gauss(2, ROWS * COLS));
        let float_x = plus(&plus(&x, &times(&x, &gauss(3, COLS * COLS), COLS), 0.1), &gauss(4, TOKENS * COLS), 0.01);
        let residual = gauss(5, TOKENS * ROWS);
        let float_residual = plus(&residual, &times(&x, &gauss(6, ROWS * COLS), ROWS), 0.2);
        let mut hessian = Hessian::new(COLS);
        hessian.add(&x);
        let (mut input, mut stream) = (Drift::new(COLS, COLS), Drift::new(COLS, ROWS));
        input.add(&x, &float_x, &x);
        stream.add(&x, &float_residual, &residual);
        let wanted = plus(&times(&float_x, &w, ROWS), &float_residual, 1.0);
        let left = |input, stream| {
            let observed = Observed { hessian: &hessian, input, residual: stream };
            let aim = Aim::new(observed, &hessian.factor("w").unwrap());
            // In two pieces, as blocks of rows come.
            let aimed = [aim.rows(0, &w[..2 * COLS]), aim.rows(2, &w[2 * COLS..])].concat();
            distance(&plus(&times(&x, &aimed, ROWS), &residual, 1.0), &wanted)
        };
        let (none, both) = (left(None, None), left(Some(&input), Some(&stream)));
        assert!(both < 0.05 * none, "{both} of {none}");
        assert!(left(Some(&input), None) < none && left(None, Some(&stream)) < none);
        assert_eq!(left(None, None), distance(&plus(&times(&x, &w, ROWS), &residual, 1.0), &wanted));
    }

    #[test]
    fn without_drift_weights_stay() {
        let (x, w) = (gauss(1, TOKENS * COLS), gauss(2, ROWS * COLS));
        let mut hessian = Hessian::new(COLS);
        hessian.add(&x);
        let mut input = Drift::new(COLS, COLS);
        input.add(&x, &x, &x);
        let observed = Observed { hessian: &hessian, input: Some(&input), residual: None };
        assert_eq!(Aim::new(observed, &hessian.factor("w").unwrap()).rows(0, &w), w);
    }
}
