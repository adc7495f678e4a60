//! What calibration knows of a linear layer's input: `H = X^T X`, and its factorisation.
//!
//! Rounding `W` to `Q` changes the layer's output on the calibration tokens by `|X (W - Q)^T|^2 = tr(E H E^T)`, `E = W - Q`. To
//! round column by column, `H` is factored from its last column backwards,
//!
//! ```text
//! H = F D F^T,   F unit upper triangular, D diagonal:   e H e^T = sum_k D_k (e_k + sum_{j<k} e_j F_jk)^2
//! ```
//!
//! so that whatever the columns before `k` got wrong is a shift of what column `k` has to hit (the LDL form of GPTQ and
//! LDLQ; Chee et al., "QuIP", 2023, section 3).
//!
//! Sums are f64 in the order of tokens; every number is computed by one thread, so the result does not depend on how many there are.

use q35_diag::{Code, Diagnostic, Result};
use rayon::prelude::*;

/// Share of the mean diagonal that is added to every diagonal element: columns that the text hardly reaches stay bounded.
const DAMPING: f64 = 0.01;
/// How often damping is doubled before a matrix is given up: by then it is thousands of times the mean diagonal.
const DOUBLINGS: u32 = 20;
/// Rows that are eliminated together.
const BLOCK: usize = 64;

/// `H` of one value that linear layers read, in the basis in which they read it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    cols: usize,
    tokens: u64,
    /// `[cols, cols]`, symmetric.
    sums: Vec<f64>,
}

impl Hessian {
    /// Nothing seen yet of an input of `cols` columns.
    pub fn new(cols: usize) -> Self {
        Self { cols, tokens: 0, sums: vec![0.0; cols * cols] }
    }

    /// Columns of the input, K.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Row `k` of `H`.
    pub(crate) fn row(&self, k: usize) -> &[f64] {
        &self.sums[k * self.cols..][..self.cols]
    }

    /// Adds tokens: rows of `cols` numbers.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn add(&mut self, x: &[f32]) {
        assert!(x.len().is_multiple_of(self.cols), "{} numbers in rows of {}", x.len(), self.cols);
        self.sums.par_chunks_mut(self.cols).enumerate().for_each(|(k, sums)| {
            for x in x.chunks_exact(sums.len()) {
                let at = f64::from(x[k]);
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += at * f64::from(*x));
            }
        });
        self.tokens += (x.len() / self.cols) as u64;
    }

    /// Adds a share of the sums of another, and none of its tokens.
    pub(crate) fn add_share(&mut self, other: &Hessian, share: f64) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, other)| *sum += share * other);
    }

    /// The factors of the damped matrix. `origin` is the layer's weight in the model's words.
    ///
    /// Errors: sums that are NaN or infinite; a matrix that no damping makes positive definite.
    pub(crate) fn factor(&self, origin: &str) -> Result<Factor> {
        let bad = |what: String| {
            Diagnostic::error(Code::NotFinite, what)
                .at("tensor", origin)
                .help("this layer's input overflows on the calibration text; compile with --effort fast, or take another text")
        };
        let count = self.sums.iter().filter(|x| !x.is_finite()).count();
        if count > 0 {
            return Err(bad(format!("{count} of the calibration sums of its input are NaN or infinite")).into());
        }
        let mean = (0..self.cols).map(|k| self.row(k)[k]).sum::<f64>() / self.cols as f64;
        // An input that is always 0 tells nothing: all columns count alike.
        let unit = if mean > 0.0 { mean } else { 1.0 };
        (0..=DOUBLINGS)
            .map(|doubling| DAMPING * f64::from(1u32 << doubling))
            .find_map(|damping| Factor::of(self, damping * unit).map(|factor| Factor { damping, ..factor }))
            .ok_or_else(|| bad("the calibration sums of its input cannot be factored".to_owned()).into())
    }
}

/// What the float model has and the rounded one, whose input `X` a Hessian has seen, has not: `X^T D`, `D` the difference of some value of `width`
/// columns, token by token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    width: usize,
    /// `[cols, width]`.
    sums: Vec<f64>,
}

impl Drift {
    /// Nothing seen yet of an input of `cols` columns and a difference of `width`.
    pub fn new(cols: usize, width: usize) -> Self {
        Self { width, sums: vec![0.0; cols * width] }
    }

    /// Adds tokens: `x` as the Hessian saw them, and the value of which the difference is meant in both models.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn add(&mut self, x: &[f32], float: &[f32], rounded: &[f32]) {
        let (width, cols) = (self.width, self.sums.len() / self.width);
        assert!(float.len() == rounded.len() && x.len() * width == float.len() * cols, "one difference per token");
        let differences: Vec<f32> = float.iter().zip(rounded).map(|(float, rounded)| float - rounded).collect();
        self.sums.par_chunks_mut(width).enumerate().for_each(|(k, sums)| {
            for (x, difference) in x.chunks_exact(cols).zip(differences.chunks_exact(width)) {
                let at = f64::from(x[k]);
                sums.iter_mut().zip(difference).for_each(|(sum, d)| *sum += at * f64::from(*d));
            }
        });
    }
}

/// `F` and `D`, padded to an even number of columns: a column of padding has `D = 0` and touches no other.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    /// Columns with padding.
    cols: usize,
    /// `[cols, cols]`: row `k` holds `F_jk` for `j < k`, and 0 beyond.
    feedback: Vec<f32>,
    weights: Vec<f32>,
    /// What the elements of `D` were divided by.
    unit: f64,
    /// Share of the mean diagonal that was added.
    pub(crate) damping: f64,
}

impl Factor {
    fn of(hessian: &Hessian, added: f64) -> Option<Self> {
        let n = hessian.cols;
        let mut a = hessian.sums.clone();
        (0..n).for_each(|k| a[k * n + k] += added);
        let mut end = n;
        while end > 0 {
            let start = end.saturating_sub(BLOCK);
            let (before, block) = a.split_at_mut(start * n);
            for k in (start..end).rev() {
                let (above, row) = block.split_at_mut((k - start) * n);
                let d = row[k];
                if !(d > 0.0 && d.is_finite()) {
                    return None;
                }
                row[..k].iter_mut().for_each(|x| *x /= d);
                above.chunks_exact_mut(n).enumerate().for_each(|(i, above)| eliminate(above, start + i, row, d));
            }
            before.par_chunks_mut(n).enumerate().for_each(|(i, above)| {
                for (k, row) in block.chunks_exact(n).enumerate().take(end - start).rev() {
                    eliminate(above, i, row, row[start + k]);
                }
            });
            end = start;
        }
        let cols = n.next_multiple_of(2);
        let mut factor = Factor { cols, feedback: vec![0.0; cols * cols], weights: vec![0.0; cols], unit: 0.0, damping: 0.0 };
        // One common factor keeps f32 far from its limits, and changes no decision.
        let largest = (0..n).map(|k| a[k * n + k]).fold(0.0, f64::max);
        factor.unit = largest;
        for k in 0..n {
            factor.weights[k] = (a[k * n + k] / largest) as f32;
            let feedback = &mut factor.feedback[k * cols..][..k];
            feedback.iter_mut().zip(&a[k * n..]).for_each(|(out, f)| *out = *f as f32);
        }
        Some(factor)
    }

    /// Columns with padding.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// `(H + damping)^-1 X^T D`, `[width, cols]`: row `n` holds the weights that predict column `n` of the difference from the layer's input.
    pub(crate) fn solve(&self, drift: &Drift) -> Vec<f32> {
        let (n, width) = (drift.sums.len() / drift.width, drift.width);
        let mut out = vec![0.0; width * n];
        out.par_chunks_mut(n).enumerate().for_each(|(column, out)| {
            let mut z: Vec<f64> = drift.sums[column..].iter().step_by(width).copied().collect();
            for k in (0..n).rev() {
                let at = z[k];
                z.iter_mut().zip(&self.feedback(k)[..k]).for_each(|(z, f)| *z -= f64::from(*f) * at);
            }
            for k in 0..n {
                let before: f64 = z.iter().zip(&self.feedback(k)[..k]).map(|(z, f)| f64::from(*f) * z).sum();
                z[k] = z[k] / (f64::from(self.weights[k]) * self.unit) - before;
            }
            out.iter_mut().zip(z).for_each(|(out, z)| *out = z as f32);
        });
        out
    }

    /// `F_jk` for all `j`, 0 from `k` on.
    pub(crate) fn feedback(&self, k: usize) -> &[f32] {
        &self.feedback[k * self.cols..][..self.cols]
    }

    /// `D_k`, in units of the largest.
    pub(crate) fn weight(&self, k: usize) -> f32 {
        self.weights[k]
    }
}

/// Takes row and column of pivot `d` out of row `i`; `pivot` is its row divided by `d`.
fn eliminate(row: &mut [f64], i: usize, pivot: &[f64], d: f64) {
    let by = d * pivot[i];
    row[..=i].iter_mut().zip(pivot).for_each(|(x, f)| *x -= by * f);
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::gauss::Gauss;

    fn seen(tokens: usize, cols: usize) -> (Vec<f32>, Hessian) {
        let x: Vec<f32> = Gauss::new(7).take(tokens * cols).collect();
        let mut hessian = Hessian::new(cols);
        hessian.add(&x[..cols]);
        hessian.add(&x[cols..]);
        (x, hessian)
    }

    #[test]
    fn sums_are_products_over_tokens() {
        let (x, hessian) = seen(9, 5);
        assert_eq!(hessian.tokens(), 9);
        for i in 0..5 {
            for j in 0..5 {
                let exact: f64 = (0..9).map(|t| f64::from(x[5 * t + i]) * f64::from(x[5 * t + j])).sum();
                assert!((hessian.row(i)[j] - exact).abs() < 1e-12);
            }
        }
    }

    /// `F D F^T`, multiplied out, is the damped matrix; sizes on both sides of a block.
    #[test]
    fn factors_multiply_to_the_damped_matrix() {
        for cols in [1, 7, 64, 150] {
            let (_, hessian) = seen(2 * cols, cols);
            let factor = hessian.factor("w").unwrap();
            assert_eq!((factor.cols(), factor.damping), (cols.next_multiple_of(2), DAMPING));
            let f = |j: usize, k: usize| if j == k { 1.0 } else { f64::from(factor.feedback(k)[j]) };
            let product =
                |i: usize, j: usize| -> f64 { (0..cols).map(|k| f(i, k) * f64::from(factor.weight(k)) * f(j, k)).sum() };
            let mean = (0..cols).map(|k| hessian.row(k)[k]).sum::<f64>() / cols as f64;
            let damped = |i: usize, j: usize| hessian.row(i)[j] + if i == j { DAMPING * mean } else { 0.0 };
            let unit = damped(0, 0) / product(0, 0);
            for i in 0..cols {
                for j in 0..cols {
                    assert!((unit * product(i, j) - damped(i, j)).abs() < 1e-5 * mean, "{cols}: {i} {j}");
                }
            }
        }
    }

    #[test]
    fn a_rank_of_one_and_a_silent_input_are_damped() {
        let (_, one) = seen(1, 30);
        assert_eq!(one.factor("w").unwrap().damping, DAMPING);
        let silent = Hessian::new(3).factor("w").unwrap();
        assert!(silent.feedback(2).iter().all(|f| *f == 0.0) && silent.weight(0) == silent.weight(2));
    }

    #[test]
    fn what_is_not_finite_names_the_layer() {
        let mut hessian = Hessian::new(2);
        hessian.add(&[1.0, f32::INFINITY]);
        let text = hessian.factor("model.layers.0.q_proj.weight").unwrap_err().to_string();
        assert_eq!(
            text,
            "error[Q35-0301]: 3 of the calibration sums of its input are NaN or infinite\n  at tensor 'model.layers.0.q_proj.weight'\n  \
             help: this layer's input overflows on the calibration text; compile with --effort fast, or take another text"
        );
    }
}
