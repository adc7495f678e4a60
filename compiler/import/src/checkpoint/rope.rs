//! Rotation frequencies.
//!
//! Unscaled they are `theta^(-2i/r)` for a head of which `r` columns rotate (Su et al. 2021, RoFormer). Scaled: `linear` divides them (position
//! interpolation, Chen et al. 2023); `llama3` divides those whose wavelength is long and blends in between (Llama 3 release); `yarn` blends by the
//! number of turns within the original context and scales cosines and sines (Peng et al. 2023).
//!
//! `dynamic` and `longrope` frequencies depend on the length of the text, which no ahead-of-time constant can; they are refused.

use super::config::{Config, Rope};
use super::families::wrong;
use q35_diag::{Code, Diagnostic};
use std::f64::consts::TAU;

/// Frequencies in radians per position, and the factor on cosines and sines.
pub(super) fn frequencies(config: &Config, head_dim: u64) -> Result<(Vec<f32>, f32), Diagnostic> {
    let rope = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref()).cloned().unwrap_or_default();
    let theta = rope.rope_theta.or(config.rope_theta).unwrap_or(10_000.0);
    let partial = rope.partial_rotary_factor.or(config.partial_rotary_factor).unwrap_or(1.0);
    let half = (head_dim as f64 * partial / 2.0) as u64;
    if !(theta > 1.0 && theta.is_finite() && half >= 1 && 2 * half <= head_dim) {
        return Err(wrong(format!("rope_theta {theta} with partial_rotary_factor {partial} rotates nothing")));
    }
    let plain: Vec<f64> = (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect();
    let original =
        rope.original_max_position_embeddings.or(config.original_max_position_embeddings).or(config.max_position_embeddings);
    let (scaled, factor) = match rope.rope_type.as_deref().unwrap_or("default") {
        "default" => (plain, 1.0),
        "linear" => {
            let factor = positive("factor", rope.factor)?;
            (plain.iter().map(|f| f / factor).collect(), 1.0)
        }
        "llama3" => (llama3(&plain, &rope, length(original)?)?, 1.0),
        "yarn" => yarn(&plain, &rope, theta, length(original)?)?,
        kind @ ("dynamic" | "longrope" | "su") => {
            let what =
                format!("rope_type '{kind}' has frequencies that depend on the length of the text, which is not supported");
            return Err(
                Diagnostic::error(Code::UnsupportedForm, what).help("export the model to ONNX for one length and compile that")
            );
        }
        other => return Err(wrong(format!("rope_type '{other}' is not known"))),
    };
    Ok((scaled.into_iter().map(|f| f as f32).collect(), factor as f32))
}

fn positive(name: &str, value: Option<f64>) -> Result<f64, Diagnostic> {
    value.filter(|v| *v > 0.0 && v.is_finite()).ok_or_else(|| wrong(format!("the rope's {name} is missing or not positive")))
}

fn length(original: Option<u64>) -> Result<f64, Diagnostic> {
    positive("original_max_position_embeddings", original.map(|n| n as f64))
}

fn llama3(plain: &[f64], rope: &Rope, original: f64) -> Result<Vec<f64>, Diagnostic> {
    let factor = positive("factor", rope.factor)?;
    let (low, high) =
        (positive("low_freq_factor", rope.low_freq_factor)?, positive("high_freq_factor", rope.high_freq_factor)?);
    if high <= low {
        return Err(wrong(format!("the rope's high_freq_factor {high} is not above its low_freq_factor {low}")));
    }
    // Turns within the original context decide: above `high` a frequency stays, below `low` it is divided.
    let blend = |f: f64| ((original * f / TAU - low) / (high - low)).clamp(0.0, 1.0);
    Ok(plain.iter().map(|&f| f * (blend(f) + (1.0 - blend(f)) / factor)).collect())
}

fn yarn(plain: &[f64], rope: &Rope, theta: f64, original: f64) -> Result<(Vec<f64>, f64), Diagnostic> {
    let factor = positive("factor", rope.factor)?;
    let half = plain.len() as f64;
    // The (fractional) index of the frequency that makes `turns` turns within the original context.
    let index = |turns: f64| half * (original / (turns * TAU)).ln() / theta.ln();
    let (mut low, mut high) = (index(rope.beta_fast.unwrap_or(32.0)), index(rope.beta_slow.unwrap_or(1.0)));
    if rope.truncate.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(2.0 * half - 1.0));
    let width = if high == low { 0.001 } else { high - low };
    let divided = |i: usize| ((i as f64 - low) / width).clamp(0.0, 1.0);
    let frequencies = plain.iter().enumerate().map(|(i, f)| f * (1.0 - divided(i) + divided(i) / factor)).collect();
    let grow = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let scale = match (rope.attention_factor, rope.mscale.filter(|m| *m != 0.0), rope.mscale_all_dim.filter(|m| *m != 0.0)) {
        (Some(scale), ..) => scale,
        (None, Some(part), Some(all)) => grow(part) / grow(all),
        _ => grow(1.0),
    };
    Ok((frequencies, scale))
}
