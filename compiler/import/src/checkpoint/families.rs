//! From a configuration and its family's facts to the decoder they describe.
//!
//! Whatever a configuration asks for that a decoder cannot do is refused here, by its name: a field that is not understood would make another model.

use super::config::Config;
use super::numbers::{divisor, finite, size, wrong};
use super::table::{BiasRule, EpsRule, FAMILIES, Family, Rotates, ScalarRule, missing};
use super::{experts, rope, windows};
use crate::decoder::{
    Activation, Attention, Biases, Decoder, Ffn, Heads, Latent, Layer, Parts, QkNorm, Rotation, Scalars, Turn,
};
use q35_diag::{Code, Diagnostic};

/// No model has more layers.
const MAX_LAYERS: u64 = 1 << 12;

/// Added to the mean square of latents, whatever the configuration says of other norms.
const LATENT_EPS: f32 = 1e-6;

/// Names of activations.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("relu2", Activation::SquaredRelu),
];

/// The decoder that a configuration describes, for a context.
pub(crate) fn decoder(config: &Config, context: Option<u64>) -> Result<Decoder, Diagnostic> {
    let family = family(config)?;
    refuse(config, family)?;
    rope::refuse_late(config, context)?;
    let layers = size("num_hidden_layers", config.num_hidden_layers.or(config.num_layers))?;
    if layers > MAX_LAYERS {
        return Err(wrong(format!("num_hidden_layers is {layers}")));
    }
    let hidden = size("hidden_size", config.hidden_size)?;
    let attention = if family.latent { latent(config, family)? } else { heads(config, family, hidden)? };
    let windows = windows::windows(config, family.window, layers)?;
    let (rotations, choice) = rotations(config, family, &attention, &windows, context)?;
    let layers = windows
        .iter()
        .zip(choice)
        .enumerate()
        .map(|(at, (window, rotation))| Ok(Layer { window: *window, rotation, ffn: ffn(config, family, at as u64)? }))
        .collect::<Result<_, Diagnostic>>()?;
    // Where both parts of a layer read the same, they may be asked to.
    let beside = family.beside.filter(|_| config.use_parallel_residual.unwrap_or(family.parts != Parts::InTurn));
    Ok(Decoder {
        vocab: size("vocab_size", config.vocab_size)?,
        hidden,
        eps: eps(config, family)?,
        norm: family.norm,
        norms: beside.or(family.post_norms.filter(|_| config.use_post_norm.unwrap_or(false))).unwrap_or(family.norms),
        embedding_norm: family.embedding_norm,
        parts: match (family.beside, beside) {
            (Some(_), Some(_)) if family.parts == Parts::InTurn => Parts::Beside,
            (Some(_), None) => Parts::InTurn,
            _ => family.parts,
        },
        unit_offset: family.unit_offset,
        attention,
        rotations,
        layers,
        activation: activation(config, family)?,
        biases: biases(config, family.biases),
        fused: family.fused,
        names: family.names,
        tied: config.tie_word_embeddings.unwrap_or(false),
        transposed: false,
        scalars: scalars(config, family.scalars, hidden)?,
    })
}

/// The family, or what is missing.
pub(super) fn family(config: &Config) -> Result<&'static Family, Diagnostic> {
    if let Some(family) = Family::of(config) {
        return Ok(family);
    }
    let name = config.model_type();
    Err(match missing(name) {
        Some(what) => Diagnostic::error(
            Code::UnknownArchitecture,
            format!("model type '{name}' cannot be compiled: there is no op for {what}"),
        ),
        None => {
            let known: Vec<&str> = FAMILIES.iter().map(|f| f.model_type).collect();
            let what = format!("checkpoints of model type '{name}' are not known; {} are", known.join(", "));
            Diagnostic::error(Code::UnknownArchitecture, what).help("export the model to ONNX and compile that")
        }
    })
}

/// What no decoder here can do.
fn refuse(config: &Config, family: &Family) -> Result<(), Diagnostic> {
    let unsupported = |what: String| Err(Diagnostic::error(Code::UnsupportedForm, what));
    if let Some(limit) = config.clip_qkv {
        return unsupported(format!("clip_qkv is {limit}, but there is no op for bounds of queries, keys and values"));
    }
    if config.use_parallel_residual == Some(true) && family.beside.is_none() && family.parts == Parts::InTurn {
        return unsupported(format!(
            "use_parallel_residual is set, which model type '{}' is not known to have",
            family.model_type
        ));
    }
    if let Some([first, rest @ ..]) = config.layer_rope_theta.as_deref()
        && rest.iter().any(|theta| theta != first)
    {
        return unsupported("layer_rope_theta gives layers different bases, but layers of a kind have one".into());
    }
    if config.use_bidirectional_attention == Some(true) {
        return unsupported("use_bidirectional_attention makes a model that is no decoder".into());
    }
    Ok(())
}

/// What norms add to the mean square.
fn eps(config: &Config, family: &Family) -> Result<f32, Diagnostic> {
    let (name, given) = match family.eps {
        EpsRule::RmsNorm => ("rms_norm_eps", config.rms_norm_eps.or(config.layer_norm_epsilon)),
        EpsRule::LayerNorm => ("layer_norm_eps", config.layer_norm_eps),
        EpsRule::Norm => ("norm_eps", config.norm_eps.or(config.norm_epsilon)),
        EpsRule::Fixed(eps) => ("", Some(eps)),
    };
    finite(name, given.ok_or_else(|| wrong(format!("{name} is not given")))?)
}

fn activation(config: &Config, family: &Family) -> Result<Activation, Diagnostic> {
    // The first Gemma's configurations say `gelu` in one field and mean the approximation, which the other field says, or nothing.
    let gemma = family.scalars == ScalarRule::Gemma;
    let named = if gemma { config.hidden_activation.as_deref() } else { config.hidden_act.as_deref() };
    let Some(name) = named else { return Ok(family.activation) };
    match ACTIVATIONS.iter().find(|row| row.0 == name) {
        Some((_, activation)) => Ok(*activation),
        None => {
            let what = format!("activation '{name}' is not supported in a checkpoint");
            Err(Diagnostic::error(Code::UnsupportedForm, what))
        }
    }
}

fn biases(config: &Config, rule: BiasRule) -> Biases {
    let attention = config.attention_bias.unwrap_or(false);
    match rule {
        BiasRule::Never => Biases::default(),
        BiasRule::Qkv => Biases { qkv: true, ..Biases::default() },
        BiasRule::Configured => {
            let (output, ffn) = (config.attention_out_bias.unwrap_or(attention), config.mlp_bias.unwrap_or(false));
            Biases { qkv: attention, output, ffn, head: config.lm_head_bias.unwrap_or(false) }
        }
        BiasRule::QkvConfigured(default) => {
            let qkv = config.qkv_bias.or(config.use_qkv_bias).or(config.attention_bias).unwrap_or(default);
            Biases { qkv, ..Biases::default() }
        }
        BiasRule::All => {
            let all = config.use_bias.unwrap_or(false);
            Biases { qkv: all, output: all, ffn: all, head: false }
        }
        BiasRule::AllButHead => Biases { qkv: true, output: true, ffn: true, head: false },
        BiasRule::Everywhere => Biases { qkv: true, output: true, ffn: true, head: true },
    }
}

fn scalars(config: &Config, rule: ScalarRule, hidden: u64) -> Result<Scalars, Diagnostic> {
    Ok(match rule {
        ScalarRule::Plain => Scalars::default(),
        ScalarRule::Mup => {
            let scaled = config.mup_enabled.unwrap_or(false);
            Scalars { embedding: if scaled { (hidden as f32).sqrt() } else { 1.0 }, ..Scalars::default() }
        }
        ScalarRule::Capped => {
            Scalars { softcap: cap("final_logit_softcapping", config.final_logit_softcapping)?, ..Scalars::default() }
        }
        ScalarRule::Gemma => Scalars {
            embedding: (hidden as f32).sqrt(),
            softcap: cap("final_logit_softcapping", config.final_logit_softcapping)?,
            ..Scalars::default()
        },
        ScalarRule::Granite | ScalarRule::HyperClova => Scalars {
            embedding: finite("embedding_multiplier", config.embedding_multiplier.unwrap_or(1.0))?,
            residual: finite("residual_multiplier", config.residual_multiplier.unwrap_or(1.0))?,
            logits: match (divisor("logits_scaling", config.logits_scaling.unwrap_or(1.0))?, rule) {
                (by, ScalarRule::HyperClova) => by as f32,
                (by, _) => (1.0 / by) as f32,
            },
            softcap: None,
        },
        ScalarRule::Cohere => {
            Scalars { logits: finite("logit_scale", config.logit_scale.unwrap_or(0.0625))?, ..Scalars::default() }
        }
    })
}

fn cap(name: &str, value: Option<f64>) -> Result<Option<f32>, Diagnostic> {
    value.map(|cap| divisor(name, cap).map(|cap| cap as f32)).transpose()
}

fn heads(config: &Config, family: &Family, hidden: u64) -> Result<Attention, Diagnostic> {
    let heads = size("num_attention_heads", config.num_attention_heads)?;
    let kv_heads = config.num_key_value_heads.filter(|_| !family.fused.woven).or(Some(heads));
    let kv_heads = size("num_key_value_heads", kv_heads)?;
    let head_dim = size("head_dim", config.head_dim.or(Some(hidden / heads)))?;
    if heads % kv_heads != 0 || head_dim % 2 != 0 {
        let what = format!("{heads} heads of {head_dim} columns and {kv_heads} key heads are no attention");
        return Err(wrong(what));
    }
    let width = match family.scalars {
        ScalarRule::Gemma => config.query_pre_attn_scalar.unwrap_or(head_dim as f64),
        _ => head_dim as f64,
    };
    let scale = match (family.scalars, config.attention_multiplier) {
        (ScalarRule::Granite | ScalarRule::HyperClova, Some(scale)) => finite("attention_multiplier", scale)?,
        (ScalarRule::Granite, None) => 1.0,
        _ => (divisor("query_pre_attn_scalar", width)? as f32).sqrt().recip(),
    };
    let qk_norm = match (family.qk_norm, config.use_qk_norm.or(config.qk_layernorm)) {
        (QkNorm::Absent, Some(true)) => family.qk_norm_asked,
        (QkNorm::Heads, _) if config.qk_layernorm == Some(false) => QkNorm::Absent,
        (always, _) => always,
    };
    Ok(Attention::Heads(Heads {
        heads,
        kv_heads,
        head_dim,
        scale,
        softcap: match family.scalars {
            ScalarRule::Gemma => cap("attn_logit_softcapping", config.attn_logit_softcapping)?,
            _ => None,
        },
        qk_norm,
        sinks: family.sinks,
        turn: family.turn,
        gate: family.attention_gate,
    }))
}

fn latent(config: &Config, family: &Family) -> Result<Attention, Diagnostic> {
    let heads = size("num_attention_heads", config.num_attention_heads)?;
    let still = size("qk_nope_head_dim", config.qk_nope_head_dim)?;
    let turning = size("qk_rope_head_dim", config.qk_rope_head_dim)?;
    if turning % 2 != 0 || config.num_key_value_heads.is_some_and(|n| n != heads) {
        let what = format!("{heads} heads with {turning} rotating columns are no attention over a latent");
        return Err(wrong(what));
    }
    let rope = config.rope();
    // Scores grow by the square of what `mscale` gives, once for queries and once for keys.
    let sharper = match (rope.kind(), rope.mscale_all_dim) {
        ("yarn", Some(by)) if by != 0.0 => rope::mscale(rope.factor.unwrap_or(1.0), by).powi(2),
        _ => 1.0,
    };
    Ok(Attention::Latent(Latent {
        heads,
        q_rank: config.q_lora_rank.map(|rank| size("q_lora_rank", Some(rank))).transpose()?,
        kv_rank: size("kv_lora_rank", config.kv_lora_rank)?,
        still,
        turning,
        value: size("v_head_dim", config.v_head_dim)?,
        scale: finite("mscale_all_dim", sharper / ((still + turning) as f64).sqrt())?,
        eps: LATENT_EPS,
        turn: if config.rope_interleave == Some(false) { Turn::Halves } else { family.turn },
    }))
}

/// The rotations, and which of them each layer has.
fn rotations(
    config: &Config,
    family: &Family,
    attention: &Attention,
    windows: &[Option<u64>],
    context: Option<u64>,
) -> Result<(Vec<Rotation>, Vec<Option<usize>>), Diagnostic> {
    let head_dim = match attention {
        Attention::Heads(heads) => heads.head_dim,
        Attention::Latent(latent) => latent.turning,
    };
    let setting = rope::Setting { config, head_dim, partial: family.partial, context };
    let rope = config.rope();
    let main = rope.full_attention.as_deref().unwrap_or(&rope);
    let mut rotations = vec![rope::rotation(main, setting)?];
    let windowed = windows.iter().any(Option::is_some);
    let choice = match family.rotates {
        Rotates::Always => vec![Some(0); windows.len()],
        Rotates::Windowed => windows.iter().map(|w| (!windowed || w.is_some()).then_some(0)).collect(),
        Rotates::WindowedOnly => windows.iter().map(|w| w.map(|_| 0)).collect(),
        Rotates::Marked => windows::rotating(config, windows.len())?.into_iter().map(|on| on.then_some(0)).collect(),
        Rotates::ByWindow => {
            let local = rope::local(config, &rope);
            rotations.push(rope::rotation(&local, setting)?);
            windows.iter().map(|w| Some(usize::from(w.is_some()))).collect()
        }
    };
    Ok((rotations, choice))
}

fn ffn(config: &Config, family: &Family, layer: u64) -> Result<Ffn, Diagnostic> {
    match &family.experts {
        Some(facts) if experts::has_experts(config, facts, layer)? => {
            experts::experts(config, facts).map(|experts| Ffn::Experts(Box::new(experts)))
        }
        _ => {
            let width = size("intermediate_size", config.intermediate_size)?;
            Ok(if family.gated { Ffn::Dense(width) } else { Ffn::Ungated(width) })
        }
    }
}
