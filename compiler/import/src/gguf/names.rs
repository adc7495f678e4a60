//! What architectures and tensors of checkpoints are called in GGUF files.

use super::metadata::Metadata;
use crate::decoder::Turn;
use q35_diag::{Code, Diagnostic};

/// An architecture.
pub(super) struct Architecture {
    /// Its name in GGUF files, which its keys begin with.
    pub(super) name: &'static str,
    /// `model_type` of the checkpoints it is made from.
    pub(super) model_type: &'static str,
    /// The same where there are experts; absent: there are none.
    pub(super) with_experts: Option<&'static str>,
    /// Columns that rotate together: the converter reorders rows of q and k of some architectures.
    pub(super) turn: Turn,
    /// Whether the weights of experts are divided by their sum.
    pub(super) normalize: bool,
    /// Name of the norm that checkpoints call `post_attention_layernorm`.
    pub(super) second_norm: &'static str,
}

const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    with_experts: Some("mixtral"),
    turn: Turn::Neighbours,
    normalize: true,
    second_norm: "ffn_norm",
};
const QWEN2: Architecture =
    Architecture { name: "qwen2", model_type: "qwen2", with_experts: None, turn: Turn::Halves, ..LLAMA };

const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "dots1", model_type: "dots1", with_experts: Some("dots1"), ..QWEN2 },
    Architecture { name: "ernie4_5-moe", model_type: "ernie4_5_moe", with_experts: Some("ernie4_5_moe"), ..LLAMA },
    Architecture { name: "gemma", model_type: "gemma", ..QWEN2 },
    Architecture { name: "gemma2", model_type: "gemma2", second_norm: "post_attention_norm", ..QWEN2 },
    Architecture { name: "gemma3", model_type: "gemma3_text", second_norm: "post_attention_norm", ..QWEN2 },
    Architecture {
        name: "glm4moe",
        model_type: "glm4_moe",
        with_experts: Some("glm4_moe"),
        second_norm: "post_attention_norm",
        ..QWEN2
    },
    Architecture {
        name: "gpt-oss",
        model_type: "gpt_oss",
        with_experts: Some("gpt_oss"),
        second_norm: "post_attention_norm",
        ..QWEN2
    },
    Architecture { name: "granite", model_type: "granite", with_experts: None, ..LLAMA },
    Architecture { name: "granitemoe", model_type: "granitemoe", with_experts: Some("granitemoe"), ..LLAMA },
    LLAMA,
    Architecture { name: "minimax-m2", model_type: "minimax_m2", with_experts: Some("minimax_m2"), ..QWEN2 },
    Architecture { name: "olmo2", model_type: "olmo2", second_norm: "post_attention_norm", ..QWEN2 },
    Architecture { name: "olmoe", model_type: "olmoe", with_experts: Some("olmoe"), normalize: false, ..QWEN2 },
    Architecture { name: "phi3", model_type: "phi3", ..QWEN2 },
    Architecture { name: "phimoe", model_type: "phimoe", with_experts: Some("phimoe"), normalize: false, ..QWEN2 },
    QWEN2,
    Architecture { name: "qwen2moe", model_type: "qwen2_moe", with_experts: Some("qwen2_moe"), normalize: false, ..QWEN2 },
    Architecture { name: "qwen3", model_type: "qwen3", ..QWEN2 },
    Architecture { name: "qwen3moe", model_type: "qwen3_moe", with_experts: Some("qwen3_moe"), ..QWEN2 },
    Architecture { name: "smollm3", model_type: "smollm3", with_experts: None, ..LLAMA },
];

/// The architecture of a file.
pub(super) fn architecture(metadata: &Metadata) -> Result<&'static Architecture, Diagnostic> {
    let Some(name) = metadata.text("general.architecture") else {
        return Err(Diagnostic::error(Code::BadConfig, "'general.architecture' is not given"));
    };
    ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        let what = format!("GGUF files of architecture '{name}' are not known; {} are", known.join(", "));
        Diagnostic::error(Code::UnknownArchitecture, what).help("compile the checkpoint that it was made from")
    })
}

/// Tensors outside the layers.
const WHOLE: &[(&str, &str)] = &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];

/// Tensors of a layer.
const OF_LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("block_sparse_moe.router.layer", "ffn_gate_inp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("experts.gate_proj", "ffn_gate_exps"),
    ("experts.up_proj", "ffn_up_exps"),
    ("experts.down_proj", "ffn_down_exps"),
];

/// The name that a checkpoint's tensor has in a file of this architecture.
pub(super) fn translate(architecture: &Architecture, name: &str) -> String {
    let find = |table: &[(&str, &'static str)], part: &str| table.iter().find(|row| row.0 == part).map(|row| row.1);
    let (stem, kind) = match name.rsplit_once('.') {
        Some((stem, kind @ ("weight" | "bias"))) => (stem, kind),
        // Sinks are a parameter of their own, not one of a layer's.
        _ => (name, "weight"),
    };
    let inside = stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    match inside {
        None => format!("{}.{kind}", find(WHOLE, stem).unwrap_or(stem)),
        Some((layer, part)) => {
            let expert = part.split_once('.').map_or(part, |(_, inner)| inner);
            let ours = match part {
                "post_attention_layernorm" => architecture.second_norm,
                "self_attn.sinks" => "attn_sinks",
                correction if correction.ends_with("e_score_correction_bias") => {
                    return format!("blk.{layer}.exp_probs_b.bias");
                }
                _ => find(OF_LAYER, part).or_else(|| find(OF_LAYER, expert)).unwrap_or(part),
            };
            format!("blk.{layer}.{ours}.{kind}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_part_by_part() {
        let named =
            |architecture: &str, name: &str| translate(ARCHITECTURES.iter().find(|a| a.name == architecture).unwrap(), name);
        assert_eq!(named("llama", "model.embed_tokens.weight"), "token_embd.weight");
        assert_eq!(named("llama", "model.layers.3.self_attn.q_proj.bias"), "blk.3.attn_q.bias");
        assert_eq!(named("llama", "model.layers.3.post_attention_layernorm.weight"), "blk.3.ffn_norm.weight");
        assert_eq!(named("gemma2", "model.layers.3.post_attention_layernorm.weight"), "blk.3.post_attention_norm.weight");
        assert_eq!(named("llama", "model.layers.3.block_sparse_moe.experts.up_proj.weight"), "blk.3.ffn_up_exps.weight");
        assert_eq!(named("gpt-oss", "model.layers.3.self_attn.sinks"), "blk.3.attn_sinks.weight");
        assert!(ARCHITECTURES.iter().map(|a| a.name).is_sorted());
    }
}
