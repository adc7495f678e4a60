//! The decoder families, as a table: what each does that its configuration does not say.

use super::config::Config;
use super::rope;
use crate::decoder::{Biases, Decoder};
use q35_diag::{Code, Diagnostic};

/// No model has more layers, nor any size larger than [`MAX_SIZE`].
const MAX_LAYERS: u64 = 1 << 12;
const MAX_SIZE: u64 = 1 << 24;

/// When a layer's attention has a window, if the configuration does not say so layer by layer.
enum Window {
    Never,
    Always,
    /// From layer `max_window_layers` on, if `use_sliding_window`.
    Switched,
}

struct Family {
    model_type: &'static str,
    biases: fn(&Config) -> Biases,
    qk_norm: bool,
    fused: bool,
    window: Window,
}

const FAMILIES: &[Family] = &[
    Family { model_type: "llama", biases: configured, qk_norm: false, fused: false, window: Window::Never },
    Family { model_type: "mistral", biases: none, qk_norm: false, fused: false, window: Window::Always },
    Family { model_type: "phi3", biases: none, qk_norm: false, fused: true, window: Window::Always },
    Family { model_type: "qwen2", biases: qkv_only, qk_norm: false, fused: false, window: Window::Switched },
    Family { model_type: "qwen3", biases: configured, qk_norm: true, fused: false, window: Window::Switched },
];

fn none(_: &Config) -> Biases {
    Biases::default()
}

fn qkv_only(_: &Config) -> Biases {
    Biases { qkv: true, ..Biases::default() }
}

fn configured(config: &Config) -> Biases {
    let attention = config.attention_bias.unwrap_or(false);
    Biases { qkv: attention, output: attention, ffn: config.mlp_bias.unwrap_or(false) }
}

/// The decoder that a configuration describes.
pub(super) fn decoder(config: &Config) -> Result<Decoder, Diagnostic> {
    let Some(family) = FAMILIES.iter().find(|f| f.model_type == config.model_type) else {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.model_type).collect();
        let what = format!("checkpoints of model type '{}' are not known; {} are", config.model_type, known.join(", "));
        return Err(Diagnostic::error(Code::UnknownArchitecture, what).help("export the model to ONNX and compile that"));
    };
    if config.quantization_config.is_some() {
        let what = "the checkpoint's weights are quantized already";
        return Err(Diagnostic::error(Code::UnsupportedForm, what).help("use the checkpoint it was made from"));
    }
    if let Some(act) = config.hidden_act.as_deref().filter(|act| *act != "silu" && *act != "swish") {
        return Err(Diagnostic::error(Code::UnsupportedForm, format!("activation '{act}' is not supported in a checkpoint")));
    }
    let size = |name: &str, value: Option<u64>| match value {
        Some(n) if (1..=MAX_SIZE).contains(&n) => Ok(n),
        Some(n) => Err(wrong(format!("{name} is {n}"))),
        None => Err(wrong(format!("{name} is not given"))),
    };
    let hidden = size("hidden_size", config.hidden_size)?;
    let heads = size("num_attention_heads", config.num_attention_heads)?;
    let kv_heads = size("num_key_value_heads", config.num_key_value_heads.or(Some(heads)))?;
    let head_dim = size("head_dim", config.head_dim.or(Some(hidden / heads)))?;
    let layers = size("num_hidden_layers", config.num_hidden_layers)?;
    if heads % kv_heads != 0 || head_dim % 2 != 0 || layers > MAX_LAYERS {
        let what = format!("{layers} layers of {heads} heads of {head_dim} columns and {kv_heads} key heads are no decoder");
        return Err(wrong(what));
    }
    let (inv_freq, rope_scale) = rope::frequencies(config, head_dim)?;
    Ok(Decoder {
        vocab: size("vocab_size", config.vocab_size)?,
        hidden,
        ffn: size("intermediate_size", config.intermediate_size)?,
        heads,
        kv_heads,
        head_dim,
        eps: config.rms_norm_eps.unwrap_or(1e-6) as f32,
        inv_freq,
        rope_scale,
        windows: windows(config, &family.window, layers)?,
        qk_norm: family.qk_norm,
        biases: (family.biases)(config),
        fused: family.fused,
        tied: config.tie_word_embeddings.unwrap_or(false),
        transposed: false,
    })
}

/// The window of each layer.
fn windows(config: &Config, rule: &Window, layers: u64) -> Result<Vec<Option<u64>>, Diagnostic> {
    let switched_off = matches!(rule, Window::Switched) && !config.use_sliding_window.unwrap_or(false);
    let width = config.sliding_window.filter(|w| *w > 0 && !switched_off);
    if let Some(types) = &config.layer_types {
        if types.len() as u64 != layers {
            return Err(wrong(format!("layer_types has {} entries for {layers} layers", types.len())));
        }
        return types
            .iter()
            .map(|ty| match (ty.as_str(), width) {
                ("full_attention", _) => Ok(None),
                ("sliding_attention", Some(width)) => Ok(Some(width)),
                ("sliding_attention", None) => {
                    Err(wrong("layer_types has a layer with a window, but sliding_window is not given".into()))
                }
                (other, _) => Err(wrong(format!("layer type '{other}' is not known"))),
            })
            .collect();
    }
    let first = match rule {
        Window::Never => layers,
        Window::Always => 0,
        Window::Switched => config.max_window_layers.unwrap_or(layers),
    };
    Ok((0..layers).map(|layer| width.filter(|_| layer >= first)).collect())
}

pub(super) fn wrong(what: String) -> Diagnostic {
    Diagnostic::error(Code::BadConfig, what)
}
