//! The configuration of a checkpoint, out of a GGUF file's values.

use super::metadata::Value;
use super::names::Architecture;
use super::reader::File;
use crate::checkpoint::config::{Config, Rope, Same};
use q35_diag::{Code, Diagnostic};

/// Gemmas whose scores are scaled by the width that heads would have if they made up the residual stream: their layers.
const SCALED_BY_WIDTH: &[(&str, u64)] = &[("gemma2", 46), ("gemma3", 62)];

/// The configuration.
pub(super) fn config(file: &File, architecture: &Architecture) -> Result<Config, Diagnostic> {
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let size = |name: &str| file.metadata.size(&key(name));
    let number = |name: &str| file.metadata.number(&key(name));
    let experts = size("expert_count")?.filter(|n| *n > 0);
    let model_type = match (experts, architecture.with_experts) {
        (None, _) => architecture.model_type,
        (Some(_), Some(model_type)) => model_type,
        (Some(n), None) => {
            let what = format!("'{}' is {n}, but the architecture has no experts", key("expert_count"));
            return Err(Diagnostic::error(Code::BadConfig, what));
        }
    };
    let (hidden, heads, blocks) = (size("embedding_length")?, size("attention.head_count")?, size("block_count")?);
    let layers = blocks.map(|n| n.saturating_sub(ahead(file, architecture)));
    let has = |name: &str| file.tensors.contains_key(name);
    let head_dim = size("attention.key_length")?;
    if let (Some(k), Some(v)) = (head_dim, size("attention.value_length")?)
        && k != v
    {
        let what = format!("keys have {k} columns and values {v}, which is not supported for '{}'", architecture.name);
        return Err(Diagnostic::error(Code::UnsupportedForm, what));
    }
    let width = head_dim.or(hidden.zip(heads.filter(|n| *n > 0)).map(|(hidden, heads)| hidden / heads));
    let by_width = layers.is_some_and(|n| SCALED_BY_WIDTH.contains(&(architecture.name, n)));
    let query_scalar = hidden.zip(heads.filter(|n| by_width && *n > 0)).map(|(hidden, heads)| hidden as f64 / heads as f64);
    let partial = size("rope.dimension_count")?.zip(width).map(|(turning, width)| turning as f64 / width as f64);
    let normalize = match file.metadata.get(&key("expert_weights_norm")) {
        Some(Value::Integer(n)) => Some(*n != 0),
        _ => None,
    };
    let scoring = match size("expert_gating_func")? {
        None | Some(0) => None,
        Some(1) => Some("softmax".to_owned()),
        Some(2) => Some("sigmoid".to_owned()),
        Some(other) => Some(format!("number {other}")),
    };
    let vocab = match file.tensors.get("token_embd.weight") {
        Some(Ok(table)) => table.dims().first().copied(),
        _ => None,
    };
    Ok(Config {
        model_type: Some(model_type.to_owned()),
        vocab_size: vocab,
        hidden_size: hidden,
        // Experts may have a width of their own.
        intermediate_size: match size("feed_forward_length")? {
            None | Some(0) => size("expert_feed_forward_length")?,
            own => own,
        },
        num_hidden_layers: layers,
        max_position_embeddings: size("context_length")?,
        rms_norm_eps: number("attention.layer_norm_rms_epsilon")?,
        num_attention_heads: heads,
        num_key_value_heads: size("attention.head_count_kv")?,
        head_dim: width,
        attention_bias: Some(has("blk.0.attn_q.bias")),
        use_bias: Some(has("blk.0.attn_q.bias")),
        mlp_bias: Some(has("blk.0.ffn_up.bias")),
        lm_head_bias: Some(has("output.bias")),
        use_qk_norm: Some(has("blk.0.attn_q_norm.weight")),
        query_pre_attn_scalar: query_scalar,
        attn_logit_softcapping: number("attn_logit_softcapping")?,
        final_logit_softcapping: number("final_logit_softcapping")?,
        sliding_window: size("attention.sliding_window")?,
        partial_rotary_factor: partial,
        rope_theta: number("rope.freq_base")?,
        rope_scaling: Some(rope(file, architecture)?),
        embedding_multiplier: number("embedding_scale")?,
        residual_multiplier: number("residual_scale")?,
        attention_multiplier: number("attention.scale")?,
        logits_scaling: number("logit_scale")?,
        num_experts: experts.map(Same),
        num_experts_per_tok: size("expert_used_count")?,
        moe_intermediate_size: match size("expert_feed_forward_length")? {
            None | Some(0) => size("feed_forward_length")?,
            own => own,
        }
        .map(Same),
        shared_expert_intermediate_size: size("expert_shared_feed_forward_length")?,
        norm_topk_prob: Some(normalize.unwrap_or(architecture.normalize)),
        scoring_func: scoring,
        routed_scaling_factor: number("expert_weights_scale")?.filter(|by| *by != 0.0),
        n_group: size("expert_group_count")?,
        topk_group: size("expert_group_used_count")?,
        n_shared_experts: size("expert_shared_count")?,
        first_k_dense_replace: size("leading_dense_block_count")?,
        moe_layer_start_index: size("leading_dense_block_count")?,
        moe_layer_interval: size("interleave_moe_layer_step")?,
        ..Config::default()
    })
}

/// How many of the blocks, the last, only guess tokens further ahead.
pub(super) fn ahead(file: &File, architecture: &Architecture) -> u64 {
    let key = format!("{}.nextn_predict_layers", architecture.name);
    file.metadata.size(&key).ok().flatten().unwrap_or(0)
}

fn rope(file: &File, architecture: &Architecture) -> Result<Rope, Diagnostic> {
    let key = |name: &str| format!("{}.rope.scaling.{name}", architecture.name);
    let kind = match file.metadata.text(&key("type")) {
        None | Some("none") => "default",
        Some(other) => other,
    };
    Ok(Rope {
        rope_type: Some(kind.to_owned()),
        factor: file.metadata.number(&key("factor"))?,
        original_max_position_embeddings: file.metadata.size(&key("original_context_length"))?,
        attention_factor: file.metadata.number(&key("attn_factor"))?,
        beta_fast: file.metadata.number(&key("yarn_beta_fast"))?,
        beta_slow: file.metadata.number(&key("yarn_beta_slow"))?,
        // The program that runs these files never rounds the ends of the ramp for this one.
        truncate: Some(architecture.name != "gpt-oss"),
        ..Rope::default()
    })
}
