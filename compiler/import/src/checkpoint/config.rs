//! `config.json`: the fields that say what a decoder computes, in both dialects (`rope_scaling` beside `rope_theta`, or `rope_parameters`).

use q35_diag::{Code, Diagnostic};
use serde::Deserialize;

/// A configuration is a page of text.
const MAX_BYTES: usize = 1 << 20;

/// A checkpoint's configuration. A field that is absent or `null` is `None`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) model_type: String,
    pub(super) vocab_size: Option<u64>,
    pub(super) hidden_size: Option<u64>,
    pub(super) intermediate_size: Option<u64>,
    pub(super) num_hidden_layers: Option<u64>,
    pub(super) num_attention_heads: Option<u64>,
    pub(super) num_key_value_heads: Option<u64>,
    pub(super) head_dim: Option<u64>,
    pub(super) rms_norm_eps: Option<f64>,
    pub(super) hidden_act: Option<String>,
    pub(super) tie_word_embeddings: Option<bool>,
    pub(super) attention_bias: Option<bool>,
    pub(super) mlp_bias: Option<bool>,
    pub(super) sliding_window: Option<u64>,
    pub(super) use_sliding_window: Option<bool>,
    pub(super) max_window_layers: Option<u64>,
    pub(super) layer_types: Option<Vec<String>>,
    pub(super) max_position_embeddings: Option<u64>,
    pub(super) original_max_position_embeddings: Option<u64>,
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_scaling: Option<Rope>,
    pub(super) rope_parameters: Option<Rope>,
    pub(super) quantization_config: Option<serde_json::Value>,
}

/// How rotation frequencies are scaled.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rope {
    #[serde(alias = "type")]
    pub(super) rope_type: Option<String>,
    pub(super) rope_theta: Option<f64>,
    pub(super) partial_rotary_factor: Option<f64>,
    pub(super) factor: Option<f64>,
    pub(super) low_freq_factor: Option<f64>,
    pub(super) high_freq_factor: Option<f64>,
    pub(super) original_max_position_embeddings: Option<u64>,
    pub(super) beta_fast: Option<f64>,
    pub(super) beta_slow: Option<f64>,
    pub(super) attention_factor: Option<f64>,
    pub(super) mscale: Option<f64>,
    pub(super) mscale_all_dim: Option<f64>,
    pub(super) truncate: Option<bool>,
}

/// Reads a configuration.
pub(super) fn read(bytes: &[u8]) -> Result<Config, Diagnostic> {
    if bytes.len() > MAX_BYTES {
        return Err(Diagnostic::error(Code::AbsurdSize, format!("the file has {} bytes; no configuration has", bytes.len())));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| Diagnostic::error(Code::BadConfig, format!("the configuration cannot be read: {e}")))
}
