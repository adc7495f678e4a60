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
//! Sums over tokens are f32 chains of at most 256 that are added in f64, in the order of tokens ([`crate::dense`]); the factorisation is f64. Neither depends on the machine or the number of
//! threads.

use crate::dense::{Part, View, add_product};
use q35_diag::{Code, Diagnostic, Result};
use rayon::prelude::*;

/// Share of the mean diagonal that is added to every diagonal element: columns that the text hardly reaches stay bounded.
const DAMPING: f64 = 0.01;
/// How often damping is doubled before a matrix is given up: by then it is thousands of times the mean diagonal.
const DOUBLINGS: u32 = 20;
/// Rows that are eliminated, or solved for, together.
const BLOCK: usize = 128;

/// `H` of one value that linear layers read, in the basis in which they read it.
#[derive(Clone, Debug, PartialEq)]
pub struct Hessian {
    cols: usize,
    tokens: u64,
    /// `[cols, cols]`: what counts is on and below the diagonal.
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

    /// Element of `H`.
    pub(crate) fn at(&self, i: usize, j: usize) -> f64 {
        self.sums[i.max(j) * self.cols + i.min(j)]
    }

    /// All of `H`.
    pub(crate) fn whole(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.cols * self.cols];
        out.par_chunks_mut(self.cols).enumerate().for_each(|(i, row)| {
            row.iter_mut().enumerate().for_each(|(j, out)| *out = self.at(i, j));
        });
        out
    }

    /// Adds tokens: rows of `cols` numbers.
    ///
    /// # Panics
    /// If `x` is no whole number of rows.
    pub fn add(&mut self, x: &[f32]) {
        assert!(x.len().is_multiple_of(self.cols), "{} numbers in rows of {}", x.len(), self.cols);
        let x = View::matrix(x, self.cols);
        add_product(&mut self.sums, self.cols, 1.0f32, x.transposed(), x, Part::Lower);
        self.tokens += x.count() as u64;
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
        let bad_in = |i: usize| (0..self.cols).filter(|j| !self.at(i, *j).is_finite()).count();
        let count: usize = (0..self.cols).into_par_iter().map(bad_in).sum();
        if count > 0 {
            return Err(bad(format!("{count} of the calibration sums of its input are NaN or infinite")).into());
        }
        let mean = (0..self.cols).map(|k| self.at(k, k)).sum::<f64>() / self.cols as f64;
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
        let (x, differences) = (View::matrix(x, cols), View::matrix(&differences, width));
        add_product(&mut self.sums, width, 1.0f32, x.transposed(), differences, Part::Whole);
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
            let block = &block[..(end - start) * n];
            let scaled: Vec<f64> =
                block.chunks_exact(n).enumerate().flat_map(|(k, row)| scaled(&row[..start], row[start + k])).collect();
            let scaled = View::rows(&scaled, end - start, start, start).transposed();
            add_product(before, n, -1.0f64, scaled, View::rows(block, end - start, start, n), Part::Lower);
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
        let mut z = drift.sums.clone();
        let feedback = |k: usize, j: usize| f64::from(self.feedback(k)[j]);
        // F y = X^T D, from the last row; what a block of rows is goes into all rows before it at once.
        for end in (1..=n.div_ceil(BLOCK)).rev().map(|block| (block * BLOCK).min(n)) {
            let start = (end - 1) / BLOCK * BLOCK;
            for k in (start..end).rev() {
                let (before, row) = z[start * width..].split_at_mut((k - start) * width);
                subtract(before, &row[..width], |j| feedback(k, start + j));
            }
            let (before, block) = z.split_at_mut(start * width);
            let into = View::rows(&self.feedback[start * self.cols..], end - start, start, self.cols).transposed();
            add_product(before, width, -1.0f64, into, View::rows(block, end - start, width, width), Part::Whole);
        }
        z.par_chunks_mut(width).enumerate().for_each(|(k, z)| {
            let d = f64::from(self.weights[k]) * self.unit;
            z.iter_mut().for_each(|z| *z /= d);
        });
        // F^T x = y / D, from the first.
        for start in (0..n).step_by(BLOCK) {
            let end = (start + BLOCK).min(n);
            for j in start..end {
                let (row, after) = z[j * width..end * width].split_at_mut(width);
                subtract(after, row, |k| feedback(j + 1 + k, j));
            }
            let (block, after) = z.split_at_mut(end * width);
            let from = View::rows(
                &self.feedback[(end * self.cols + start).min(self.feedback.len())..],
                n - end,
                end - start,
                self.cols,
            );
            add_product(
                after,
                width,
                -1.0f64,
                from,
                View::rows(&block[start * width..], end - start, width, width),
                Part::Whole,
            );
        }
        let mut out = vec![0.0; width * n];
        out.par_chunks_mut(n).enumerate().for_each(|(column, out)| {
            out.iter_mut().zip(z[column..].iter().step_by(width)).for_each(|(out, z)| *out = *z as f32);
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

/// Takes a row out of rows of its length, as often as `by` says of each.
fn subtract(rows: &mut [f64], row: &[f64], by: impl Fn(usize) -> f64 + Sync) {
    rows.par_chunks_mut(row.len()).enumerate().for_each(|(at, out)| {
        let by = by(at);
        out.iter_mut().zip(row).for_each(|(out, x)| *out -= by * x);
    });
}

fn scaled(row: &[f64], by: f64) -> impl Iterator<Item = f64> {
    row.iter().map(move |x| by * x)
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
                // Nine products in an f32 chain.
                assert!((hessian.at(i, j) - exact).abs() < 1e-5);
                assert_eq!(hessian.at(i, j), hessian.at(j, i));
                assert_eq!(hessian.whole()[5 * i + j], hessian.at(i, j));
            }
        }
    }

    /// `F D F^T`, multiplied out, is the damped matrix; sizes on both sides of a block.
    #[test]
    fn factors_multiply_to_the_damped_matrix() {
        for cols in [1, 7, 128, 300] {
            let (_, hessian) = seen(2 * cols, cols);
            let factor = hessian.factor("w").unwrap();
            assert_eq!((factor.cols(), factor.damping), (cols.next_multiple_of(2), DAMPING));
            let f = |j: usize, k: usize| if j == k { 1.0 } else { f64::from(factor.feedback(k)[j]) };
            let product =
                |i: usize, j: usize| -> f64 { (0..cols).map(|k| f(i, k) * f64::from(factor.weight(k)) * f(j, k)).sum() };
            let mean = (0..cols).map(|k| hessian.at(k, k)).sum::<f64>() / cols as f64;
            let damped = |i: usize, j: usize| hessian.at(i, j) + if i == j { DAMPING * mean } else { 0.0 };
            let unit = damped(0, 0) / product(0, 0);
            for i in 0..cols {
                for j in 0..cols {
                    assert!((unit * product(i, j) - damped(i, j)).abs() < 1e-5 * mean, "{cols}: {i} {j}");
                }
            }
        }
    }

    /// The damped matrix times the solution is what was to be solved for.
    #[test]
    fn solutions_solve() {
        let (cols, width, tokens) = (300, 7, 900);
        let (x, hessian) = seen(tokens, cols);
        let float: Vec<f32> = Gauss::new(9).take(tokens * width).collect();
        let mut drift = Drift::new(cols, width);
        drift.add(&x, &float, &vec![0.0; float.len()]);
        let found = hessian.factor("w").unwrap().solve(&drift);
        let mean = (0..cols).map(|k| hessian.at(k, k)).sum::<f64>() / cols as f64;
        for n in 0..width {
            for i in 0..cols {
                let damped = |j: usize| hessian.at(i, j) + if i == j { DAMPING * mean } else { 0.0 };
                let product: f64 = (0..cols).map(|j| damped(j) * f64::from(found[n * cols + j])).sum();
                let wanted: f64 = (0..tokens).map(|t| f64::from(x[t * cols + i]) * f64::from(float[t * width + n])).sum();
                assert!((product - wanted).abs() < 1e-5 * mean, "{n} {i}: {product} {wanted}");
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
