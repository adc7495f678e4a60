//! Rotation frequencies.
//!
//! Unscaled they are `theta^(-2i/r)` for a head of which `r` columns rotate (Su et al. 2021, RoFormer). Scaled: `linear` divides them (position
//! interpolation, Chen et al. 2023); `llama3` divides those whose wavelength is long and blends in between (Llama 3 release); `yarn` blends by the
//! number of turns within the original context and scales cosines and sines (Peng et al. 2023); `longrope` divides each by a factor of its own
//! (Ding et al. 2024), and cosines and sines by one number or, in Phi-3.5-MoE, by one for each list of factors.
//!
//! Two kinds depend on the length of the text, and a compiled model has one set of frequencies for all texts. `dynamic` changes nothing up to
//! `max_position_embeddings`, and no context is compiled beyond that; one with an `alpha` has another base for all lengths (HunYuan). `longrope` has two lists of factors, for texts within the original context
//! and for longer ones: the context that is compiled for decides, so a model that is compiled for its long context uses the long factors for short
//! texts too.

use super::config::{Config, Rope};
use super::numbers::wrong;
use crate::decoder::Rotation;
use q35_diag::{Code, Diagnostic};
use std::f64::consts::TAU;

/// What frequencies depend on beside the scaling itself.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    /// The configuration.
    pub(super) config: &'a Config,
    /// Columns of a head, or of the part of it that rotates.
    pub(super) head_dim: u64,
    /// The share of them that rotates where the configuration does not say.
    pub(super) partial: f64,
    /// The context that is compiled for.
    pub(super) context: Option<u64>,
}

/// What scaling by one of two lists of factors is called.
const LONGROPE: [&str; 2] = ["longrope", "su"];

/// The context that a scaling starts from.
fn original(rope: &Rope, config: &Config) -> Option<u64> {
    rope.original_max_position_embeddings.or(config.original_max_position_embeddings).or(config.max_position_embeddings)
}

/// The rotation that `rope` describes.
pub(super) fn rotation(rope: &Rope, at: Setting<'_>) -> Result<Rotation, Diagnostic> {
    let config = at.config;
    let mut theta = rope.rope_theta.or(config.rope_theta).or(config.rotary_emb_base).unwrap_or(10_000.0);
    if let ("dynamic", Some(alpha)) = (rope.kind(), rope.alpha) {
        // Whatever the length of the text, the base is that of one `alpha` times as long.
        let columns = at.head_dim as f64;
        theta *= positive("alpha", Some(alpha))?.powf(columns / (columns - 2.0));
    }
    let columns = config.rotary_dim.map(|columns| columns as f64 / at.head_dim as f64);
    let partial =
        rope.partial_rotary_factor.or(config.partial_rotary_factor).or(config.rotary_pct).or(columns).unwrap_or(at.partial);
    let half = (at.head_dim as f64 * partial / 2.0) as u64;
    if !(theta > 1.0 && theta.is_finite() && half >= 1 && 2 * half <= at.head_dim) {
        return Err(wrong(format!("rope_theta {theta} with partial_rotary_factor {partial} rotates nothing")));
    }
    let plain: Vec<f64> = (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect();
    let original = original(rope, config);
    let (scaled, factor) = match rope.kind() {
        "default" | "mrope" | "dynamic" => (plain, 1.0),
        "linear" => {
            let factor = positive("factor", rope.factor)?;
            (plain.iter().map(|f| f / factor).collect(), 1.0)
        }
        "llama3" => (llama3(&plain, rope, length(original)?)?, 1.0),
        "yarn" => yarn(&plain, rope, theta, at.config, length(original)?)?,
        kind if LONGROPE.contains(&kind) => longrope(&plain, rope, length(original)?, at)?,
        other => return Err(wrong(format!("rope_type '{other}' is not known"))),
    };
    let inv_freq: Vec<f32> = scaled.into_iter().map(|f| f as f32).collect();
    if !inv_freq.iter().all(|f| f.is_finite()) || !(factor as f32).is_finite() {
        return Err(wrong("the rope's scaling gives frequencies that are not finite".into()));
    }
    Ok(Rotation { inv_freq, scale: factor as f32 })
}

/// The scaling in layers with a window, where those have one of their own.
pub(super) fn local(config: &Config, rope: &Rope) -> Rope {
    match rope.sliding_attention.as_deref() {
        Some(own) => own.clone(),
        None => Rope { rope_theta: config.rope_local_base_freq.or(Some(10_000.0)), ..Rope::default() },
    }
}

fn positive(name: &str, value: Option<f64>) -> Result<f64, Diagnostic> {
    value.filter(|v| *v > 0.0 && v.is_finite()).ok_or_else(|| wrong(format!("the rope's {name} is missing or not positive")))
}

fn length(original: Option<u64>) -> Result<f64, Diagnostic> {
    positive("original_max_position_embeddings", original.map(|n| n as f64))
}

/// How many times longer than the original the longest context is, where the scaling itself does not say.
fn stretch(rope: &Rope, config: &Config, original: f64) -> Result<f64, Diagnostic> {
    positive("factor", rope.factor.or(config.max_position_embeddings.map(|n| n as f64 / original)))
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

/// `0.1 by ln(factor) + 1`: how much sharper scores become when a context is stretched (Peng et al. 2023, section 3.4).
pub(super) fn mscale(factor: f64, by: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
}

fn yarn(plain: &[f64], rope: &Rope, theta: f64, config: &Config, original: f64) -> Result<(Vec<f64>, f64), Diagnostic> {
    let factor = stretch(rope, config, original)?;
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
    let scale = match (rope.attention_factor, rope.mscale.filter(|m| *m != 0.0), rope.mscale_all_dim.filter(|m| *m != 0.0)) {
        (Some(scale), ..) => scale,
        (None, Some(part), Some(all)) => mscale(factor, part) / mscale(factor, all),
        _ => mscale(factor, 1.0),
    };
    Ok((frequencies, scale))
}

/// Whether a context is beyond the original one.
fn is_long(config: &Config, context: Option<u64>, original: f64) -> bool {
    context.or(config.max_position_embeddings).is_some_and(|context| context as f64 > original)
}

/// What the user should know where the length of a text decides and the context is beyond the original one.
pub(super) fn by_length(config: &Config, context: Option<u64>) -> Option<Diagnostic> {
    let rope = config.rope();
    let original = original(&rope, config)?;
    if !LONGROPE.contains(&rope.kind()) || !is_long(config, context, original as f64) {
        return None;
    }
    let what = match context.or(config.max_position_embeddings) {
        Some(context) => format!("those for {context} tokens are used for all"),
        None => "those for long ones are used for all".to_owned(),
    };
    let warning =
        Diagnostic::warning(Code::LengthDependent, format!("frequencies of rotations depend on how long a text is; {what}"));
    Some(warning.help(format!("use --context {original} for the frequencies that texts of up to {original} tokens have")))
}

/// Refuses what changes the scores of late tokens, where the context has such tokens.
pub(super) fn refuse_late(config: &Config, context: Option<u64>) -> Result<(), Diagnostic> {
    let rope = config.rope();
    let Some(original) = rope.llama_4_scaling_beta.filter(|beta| *beta != 0.0).and(original(&rope, config)) else {
        return Ok(());
    };
    if !is_long(config, context, original as f64) {
        return Ok(());
    }
    let what = format!("llama_4_scaling_beta scales queries from position {original} on, but there is no op for that");
    let error = Diagnostic::error(Code::UnsupportedForm, what);
    Err(error.help(format!("use --context {original} or less, where nothing is scaled")))
}

fn longrope(plain: &[f64], rope: &Rope, original: f64, at: Setting<'_>) -> Result<(Vec<f64>, f64), Diagnostic> {
    let (name, factors, own_scale) = match is_long(at.config, at.context, original) {
        true => ("long_factor", &rope.long_factor, rope.long_mscale),
        false => ("short_factor", &rope.short_factor, rope.short_mscale),
    };
    let factors = factors.as_deref().unwrap_or_default();
    if factors.len() != plain.len() || factors.iter().any(|f| !(*f > 0.0 && f.is_finite())) {
        let what = format!("the rope's {name} is not {} positive numbers, one for each frequency", plain.len());
        return Err(wrong(what));
    }
    let scale = match own_scale.or(rope.attention_factor) {
        Some(scale) => scale,
        None => match stretch(rope, at.config, original)? {
            factor if factor > 1.0 => (1.0 + factor.ln() / original.ln()).sqrt(),
            _ => 1.0,
        },
    };
    Ok((plain.iter().zip(factors).map(|(f, by)| f / by).collect(), scale))
}
