//! `config.json`: the fields that say what a decoder computes, under all the names that families give them.

use q35_diag::{Code, Diagnostic};
use serde::Deserialize;

/// A configuration is a page of text.
const MAX_BYTES: usize = 1 << 20;

/// Declares the configuration: every field is optional, and `null` is the same as absent.
macro_rules! config {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default)]
        pub(crate) struct $name { $(pub(crate) $field: Option<$ty>,)* }
    };
}

config! {
    /// A checkpoint's configuration.
    Config {
        model_type: String,
        vocab_size: u64,
        hidden_size: u64,
        intermediate_size: u64,
        num_hidden_layers: u64,
        num_layers: u64,
        max_position_embeddings: u64,
        original_max_position_embeddings: u64,
        tie_word_embeddings: bool,
        rms_norm_eps: f64,
        layer_norm_eps: f64,
        layer_norm_epsilon: f64,
        norm_eps: f64,
        norm_epsilon: f64,
        hidden_act: String,
        hidden_activation: String,
        // Attention.
        num_attention_heads: u64,
        num_key_value_heads: u64,
        head_dim: u64,
        attention_bias: bool,
        attention_out_bias: bool,
        qkv_bias: bool,
        use_qkv_bias: bool,
        mlp_bias: bool,
        use_bias: bool,
        lm_head_bias: bool,
        use_qk_norm: bool,
        qk_layernorm: bool,
        use_parallel_residual: bool,
        use_post_norm: bool,
        layer_rope_theta: Vec<f64>,
        rotary_pct: f64,
        rotary_emb_base: f64,
        clip_qkv: f64,
        query_pre_attn_scalar: f64,
        attn_logit_softcapping: f64,
        use_bidirectional_attention: bool,
        // Latent attention.
        q_lora_rank: u64,
        kv_lora_rank: u64,
        qk_nope_head_dim: u64,
        qk_rope_head_dim: u64,
        v_head_dim: u64,
        rope_interleave: bool,
        // Windows.
        sliding_window: u64,
        use_sliding_window: bool,
        max_window_layers: u64,
        sliding_window_pattern: serde_json::Value,
        global_attn_every_n_layers: u64,
        layer_types: Vec<String>,
        // Rotations.
        partial_rotary_factor: f64,
        rotary_dim: u64,
        rope_theta: f64,
        rope_local_base_freq: f64,
        rope_scaling: Rope,
        rope_parameters: Rope,
        no_rope_layers: Vec<u64>,
        no_rope_layer_interval: u64,
        // Scalars.
        mup_enabled: bool,
        embedding_multiplier: f64,
        residual_multiplier: f64,
        attention_multiplier: f64,
        logits_scaling: f64,
        logit_scale: f64,
        final_logit_softcapping: f64,
        // Experts.
        num_local_experts: u64,
        num_experts: Same,
        n_routed_experts: u64,
        moe_num_experts: u64,
        num_experts_per_tok: u64,
        moe_k: u64,
        moe_topk: Same,
        moe_intermediate_size: Same,
        shared_expert_intermediate_size: u64,
        shared_intermediate_size: u64,
        n_shared_experts: u64,
        num_shared_experts: u64,
        num_nextn_predict_layers: u64,
        moe_num_shared_experts: u64,
        norm_topk_prob: bool,
        moe_norm_min: f64,
        routed_scaling_factor: f64,
        route_scale: f64,
        scoring_func: String,
        topk_method: String,
        n_group: u64,
        topk_group: u64,
        swiglu_limit: f64,
        swiglu_alpha: f64,
        router_jitter_noise: f64,
        // Layers that have experts.
        mlp_layer_types: Vec<String>,
        mlp_only_layers: Vec<u64>,
        decoder_sparse_step: u64,
        first_k_dense_replace: u64,
        num_dense_layers: u64,
        moe_layer_freq: u64,
        moe_layer_start_index: u64,
        moe_layer_end_index: u64,
        moe_layer_interval: u64,
        // Weights that are quantized already.
        quantization_config: Quantization,
    }
}

config! {
    /// How rotation frequencies are scaled; in some families one for each type of layer.
    Rope {
        rope_type: String,
        r#type: String,
        rope_theta: f64,
        partial_rotary_factor: f64,
        factor: f64,
        alpha: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: u64,
        beta_fast: f64,
        beta_slow: f64,
        attention_factor: f64,
        mscale: f64,
        mscale_all_dim: f64,
        llama_4_scaling_beta: f64,
        truncate: bool,
        short_mscale: f64,
        long_mscale: f64,
        short_factor: Vec<f64>,
        long_factor: Vec<f64>,
        full_attention: Box<Rope>,
        sliding_attention: Box<Rope>,
    }
}

config! {
    /// How weights were quantized.
    Quantization {
        quant_method: String,
        weight_block_size: Vec<u64>,
    }
}

/// A number that is the same in every layer, given once or layer by layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "OnceOrEach")]
pub(crate) struct Same(pub(crate) u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum OnceOrEach {
    Once(u64),
    Each(Vec<u64>),
}

impl TryFrom<OnceOrEach> for Same {
    type Error = String;

    fn try_from(given: OnceOrEach) -> Result<Self, String> {
        match given {
            OnceOrEach::Once(number) => Ok(Self(number)),
            OnceOrEach::Each(list) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|number| number == first) => Ok(Self(*first)),
                _ => Err(format!("{list:?} differs from layer to layer, which is not supported")),
            },
        }
    }
}

impl Config {
    /// The model type, empty if it is not given.
    pub(crate) fn model_type(&self) -> &str {
        self.model_type.as_deref().unwrap_or_default()
    }

    /// The scaling of rotations, in whichever of the two dialects: `rope_scaling` beside `rope_theta`, or `rope_parameters`.
    pub(crate) fn rope(&self) -> Rope {
        self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()).cloned().unwrap_or_default()
    }
}

impl Rope {
    /// The kind of scaling.
    pub(crate) fn kind(&self) -> &str {
        self.rope_type.as_deref().or(self.r#type.as_deref()).unwrap_or("default")
    }
}

/// Reads a configuration.
pub(crate) fn read(bytes: &[u8]) -> Result<Config, Diagnostic> {
    if bytes.len() > MAX_BYTES {
        return Err(Diagnostic::error(Code::AbsurdSize, format!("the file has {} bytes; no configuration has", bytes.len())));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| Diagnostic::error(Code::BadConfig, format!("the configuration cannot be read: {e}")))
}
