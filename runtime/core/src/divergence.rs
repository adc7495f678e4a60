//! How far one bundle's predictions are from another's on a text: mean Kullback-Leibler divergence, and how often both would choose
//! the same token.
//!
//! The text is cut into windows as for perplexity ([`crate::perplexity`]). Neighbouring tokens are not independent, whole windows nearly are:
//! the standard error is that of the mean over windows.

use crate::perplexity::{surprise, windows};
use crate::{Chunk, Session, Want};
use q35_diag::{Code, Diagnostic, Result};
use serde::Serialize;

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean of `KL(reference, other)` over tokens, in thousandths of a nat.
    pub kl_x1000: f64,
    /// Its standard error over windows; absent for a single one.
    pub standard_error_x1000: Option<f64>,
    /// Share of tokens whose most probable successor is the same.
    pub agreement: f64,
    /// Perplexity of the other bundle.
    pub perplexity: f64,
    /// Perplexity of the reference.
    pub reference_perplexity: f64,
    /// Tokens that were predicted.
    pub scored: u64,
    /// Tokens per window.
    pub window: usize,
}

/// `sum p (log p - log q)` in nats, p and q being the distributions of two rows of logits. In f64, in order.
pub fn kl(reference: &[f32], other: &[f32]) -> f64 {
    let log_sum = |logits: &[f32]| {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        largest + libm::log(logits.iter().map(|l| libm::exp(f64::from(*l) - largest)).sum())
    };
    let (p_sum, q_sum) = (log_sum(reference), log_sum(other));
    let term = |(p, q): (&f32, &f32)| {
        let log_p = f64::from(*p) - p_sum;
        let p = libm::exp(log_p);
        if p == 0.0 { 0.0 } else { p * (log_p - (f64::from(*q) - q_sum)) }
    };
    reference.iter().zip(other).map(term).sum()
}

/// Index of the largest, the first of equals.
fn top(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best })
}

/// Compares `other` with `reference` in slot 0 of both. `progress` hears the number of windows done.
///
/// # Errors
/// [`Code::BadText`] for a text of less than two tokens; [`Code::ModelMismatch`] for bundles of different vocabularies.
pub fn divergence(
    reference: &mut Session,
    other: &mut Session,
    tokens: &[u32],
    window: usize,
    mut progress: impl FnMut(usize),
) -> Result<Divergence> {
    let (count, window) = windows(tokens.len(), window);
    if window < 2 {
        return Err(Diagnostic::error(Code::BadText, "nothing can be compared: it takes at least two tokens").into());
    }
    let [vocab, others] = [&*reference, &*other].map(|session| session.bundle().manifest().model.vocab);
    if vocab != others {
        let what = format!("the bundles know different tokens: one has a vocabulary of {vocab}, the other of {others}");
        return Err(Diagnostic::error(Code::ModelMismatch, what).into());
    }
    let (mut means, mut same, mut surprises) = (Vec::with_capacity(count), 0u64, [0.0; 2]);
    let scored = window - 1;
    for (n, tokens) in tokens.chunks_exact(window).enumerate() {
        let logits = |session: &mut Session| {
            session.truncate(0, 0);
            session.step(&[Chunk { slot: 0, tokens: &tokens[..scored], positions: None, want: Want::All }])
        };
        let (reference, other) = (logits(reference)?, logits(other)?);
        let mut sum = 0.0;
        for ((reference, other), next) in reference.rows().zip(other.rows()).zip(&tokens[1..]) {
            sum += kl(reference, other);
            same += u64::from(top(reference) == top(other));
            surprises.iter_mut().zip([reference, other]).for_each(|(sum, logits)| *sum += surprise(logits, *next));
        }
        means.push(sum / scored as f64);
        progress(n + 1);
    }
    let (mean, error) = mean_and_error(&means);
    let scored = (count * scored) as u64;
    let [reference_perplexity, perplexity] = surprises.map(|nats| libm::exp(nats / scored as f64));
    Ok(Divergence {
        kl_x1000: 1000.0 * mean,
        standard_error_x1000: error.map(|error| 1000.0 * error),
        agreement: same as f64 / scored as f64,
        perplexity,
        reference_perplexity,
        scored,
        window,
    })
}

/// Mean, and the standard error of the mean where there are two values or more.
fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, (values.len() > 1).then(|| libm::sqrt(squares / (n - 1.0) / n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_known_distributions() {
        assert_eq!(kl(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]), 0.0);
        // A constant added to logits changes nothing; (1/2, 1/2) against (1/4, 3/4) is ln(2 / sqrt(3)).
        assert!((kl(&[5.0, 5.0], &[0.0, 3f32.ln()]) - (2.0 / 3f64.sqrt()).ln()).abs() < 1e-7);
        // What has no probability adds nothing.
        assert!(kl(&[f32::NEG_INFINITY, 0.0], &[0.0, 100.0]).abs() < 1e-12);
    }

    #[test]
    fn errors_of_means() {
        assert_eq!(mean_and_error(&[3.0]), (3.0, None));
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(mean, 3.0);
        // Sample variance 14/3 over 4.
        assert!((error.unwrap() - (14.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_first_of_equals_is_on_top() {
        assert_eq!([top(&[1.0, 7.0, 7.0]), top(&[0.0])], [1, 0]);
    }
}
