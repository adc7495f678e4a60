//! Perplexity of a text: windows of equal length, each starting from an empty cache, the first token of each not scored; what is left
//! over at the end is not scored either, unless it is all there is.

use crate::{Chunk, Session, Want};
use q35_diag::{Code, Diagnostic, Result};
use serde::Serialize;

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Mean negative log-likelihood in nats.
    pub nats: f64,
    /// Tokens that were predicted.
    pub scored: u64,
    /// Tokens per window.
    pub window: usize,
}

/// Negative log-likelihood of `token` in nats: log(sum(exp(logits))) - logit, in f64.
pub fn surprise(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| libm::exp(f64::from(l - largest))).sum();
    libm::log(sum) + f64::from(largest) - f64::from(logits[token as usize])
}

/// Windows that a text of so many tokens is cut into, and their length.
pub fn windows(tokens: usize, window: usize) -> (usize, usize) {
    let window = window.min(tokens);
    (tokens.checked_div(window).unwrap_or(0), window)
}

/// Scores `tokens` in slot 0. `progress` hears the number of windows done.
pub fn perplexity(session: &mut Session, tokens: &[u32], window: usize, mut progress: impl FnMut(usize)) -> Result<Perplexity> {
    let (count, window) = windows(tokens.len(), window);
    if window < 2 {
        return Err(
            Diagnostic::error(Code::BadText, "nothing can be scored: it takes at least two tokens to predict one").into()
        );
    }
    let mut total = 0.0;
    for (n, tokens) in tokens.chunks_exact(window).enumerate() {
        session.truncate(0, 0);
        let logits = session.step(&[Chunk { slot: 0, tokens: &tokens[..window - 1], positions: None, want: Want::All }])?;
        total += logits.rows().zip(&tokens[1..]).map(|(row, next)| surprise(row, *next)).sum::<f64>();
        progress(n + 1);
    }
    session.truncate(0, 0);
    let scored = (count * (window - 1)) as u64;
    let nats = total / scored as f64;
    Ok(Perplexity { perplexity: libm::exp(nats), nats, scored, window })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surprise_of_known_distributions() {
        assert!((surprise(&[0.0; 8], 3) - 8f64.ln()).abs() < 1e-12);
        assert!((surprise(&[1000.0, 1000.0 + 3f32.ln()], 0) - 4f64.ln()).abs() < 1e-4);
        assert!((surprise(&[f32::NEG_INFINITY, 0.0], 1)).abs() < 1e-12);
    }

    #[test]
    fn texts_are_cut_into_whole_windows() {
        assert_eq!(windows(65_100, 256), (254, 256));
        assert_eq!(windows(100, 256), (1, 100));
        assert_eq!(windows(0, 256), (0, 0));
    }
}
