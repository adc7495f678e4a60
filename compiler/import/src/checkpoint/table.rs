//! The decoder families, as a table: what each does that its configuration does not say.

use super::config::Config;
use crate::decoder::{
    Activation, ExpertLayout, Fused, GatedUnit, GroupScore, LayerNorms, Names, NormKind, Parts, QkNorm, Scoring, Turn,
};

/// A family of decoders.
pub(crate) struct Family {
    /// `model_type` of its configurations.
    pub(crate) model_type: &'static str,
    /// What its norms compute.
    pub(crate) norm: NormKind,
    /// The field that says what they add to the mean square.
    pub(crate) eps: EpsRule,
    /// Norms of a layer.
    pub(crate) norms: LayerNorms,
    /// Whether embeddings are normalized, by the norm behind all layers.
    pub(crate) embedding_norm: bool,
    /// What the parts of a layer read, and how they are added.
    pub(crate) parts: Parts,
    /// The same where `use_post_norm` asks for them.
    pub(crate) post_norms: Option<LayerNorms>,
    /// Norms of a layer whose parts read the same, where `use_parallel_residual` chooses; if it is not given, `parts` do.
    pub(crate) beside: Option<LayerNorms>,
    /// Whether dense feed-forward parts have a gate.
    pub(crate) gated: bool,
    /// Names of modules.
    pub(crate) names: Names,
    /// Whether a norm's stored weight is its factor less one.
    pub(crate) unit_offset: bool,
    /// Linear layers with biases.
    pub(crate) biases: BiasRule,
    /// Norms of queries and keys.
    pub(crate) qk_norm: QkNorm,
    /// The same where there are none unless `use_qk_norm` or `qk_layernorm` asks for them.
    pub(crate) qk_norm_asked: QkNorm,
    /// Which linear layers of one input are one weight.
    pub(crate) fused: Fused,
    /// Layers whose attention has a window, where the configuration does not say so layer by layer.
    pub(crate) window: Window,
    /// Layers whose queries and keys rotate.
    pub(crate) rotates: Rotates,
    /// Columns that rotate together.
    pub(crate) turn: Turn,
    /// The share of a head that rotates where the configuration does not say.
    pub(crate) partial: f64,
    /// Activation where the configuration does not say.
    pub(crate) activation: Activation,
    /// Scalars that configurations of this family give.
    pub(crate) scalars: ScalarRule,
    /// Whether attention goes through a latent.
    pub(crate) latent: bool,
    /// Whether each head has a score that belongs to no token.
    pub(crate) sinks: bool,
    /// The layer whose sigmoid what heads give is multiplied with.
    pub(crate) attention_gate: Option<&'static str>,
    /// Its experts, if it has any.
    pub(crate) experts: Option<ExpertFacts>,
}

/// Which field says what norms add to the mean square.
#[derive(Clone, Copy)]
pub(crate) enum EpsRule {
    /// `rms_norm_eps`.
    RmsNorm,
    /// `layer_norm_eps`.
    LayerNorm,
    /// `norm_eps` or `norm_epsilon`.
    Norm,
    /// None: always the same.
    Fixed(f64),
}

/// Which linear layers have biases.
#[derive(Clone, Copy)]
pub(crate) enum BiasRule {
    /// None.
    Never,
    /// q, k and v.
    Qkv,
    /// As `attention_bias` (`attention_out_bias` for the way out), `mlp_bias` and `lm_head_bias` say.
    Configured,
    /// q, k and v, as `attention_bias`, `qkv_bias` or `use_qkv_bias` says; if neither does, as given.
    QkvConfigured(bool),
    /// All but the head or none, as `use_bias` says.
    All,
    /// All but the head.
    AllButHead,
    /// All, the head too.
    Everywhere,
}

/// Which layers' attention has a window.
#[derive(Clone, Copy)]
pub(crate) enum Window {
    /// None.
    Never,
    /// All.
    Always,
    /// From layer `max_window_layers` on, if `use_sliding_window`.
    Switched,
    /// Of each so many layers all but the last; `sliding_window_pattern` says how many, or else the number here.
    AllBut(u64),
}

/// Which layers rotate queries and keys.
#[derive(Clone, Copy)]
pub(crate) enum Rotates {
    /// All, in the same way.
    Always,
    /// Those that `no_rope_layers` marks, or all but every `no_rope_layer_interval`-th.
    Marked,
    /// Those with a window; all, if there is none.
    Windowed,
    /// Those with a window and no others.
    WindowedOnly,
    /// All; those with a window unscaled, by `rope_local_base_freq`.
    ByWindow,
}

/// Which scalars a configuration gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalarRule {
    /// None.
    Plain,
    /// The embedding is multiplied by the square root of its width; scores by `query_pre_attn_scalar`, caps as configured.
    Gemma,
    /// `embedding_multiplier`, `residual_multiplier`, `attention_multiplier`, `logits_scaling`.
    Granite,
    /// The same, but logits are multiplied by `logits_scaling`, and scores by what they are elsewhere unless `attention_multiplier` is given.
    HyperClova,
    /// `logit_scale`.
    Cohere,
    /// `final_logit_softcapping`.
    Capped,
    /// The embedding is multiplied by the square root of its width, if `mup_enabled`.
    Mup,
}

/// What a family's experts do that the configuration does not say.
#[derive(Clone, Copy)]
pub(crate) struct ExpertFacts {
    /// The module that holds router and experts.
    pub(crate) module: &'static str,
    /// The router.
    pub(crate) router: &'static str,
    /// How experts are stored.
    pub(crate) layout: ExpertLayout,
    /// How logits become scores.
    pub(crate) scoring: Scoring,
    /// Tensor that is added to scores for choosing, and its dimensions before the last.
    pub(crate) correction: Option<(&'static str, &'static [u64])>,
    /// Whether weights are divided by their sum.
    pub(crate) normalize: Normalize,
    /// Added to that sum.
    pub(crate) eps: f32,
    /// What weights are divided by at least, where the configuration does not say.
    pub(crate) floor: f32,
    /// What a group is worth, where there are groups.
    pub(crate) groups: Option<GroupScore>,
    /// Experts that all tokens go to.
    pub(crate) shared: Option<SharedFacts>,
    /// Which layers have experts.
    pub(crate) layers: ExpertLayers,
    /// Whether the width inside an expert is `intermediate_size`.
    pub(crate) whole_width: bool,
    /// Whether router and experts have biases and a clamped unit.
    pub(crate) clamped: bool,
}

/// Experts that all tokens go to.
#[derive(Clone, Copy)]
pub(crate) struct SharedFacts {
    /// Their module within the layer.
    pub(crate) module: &'static str,
    /// Their linear layers.
    pub(crate) unit: GatedUnit,
    /// The layer that gates them.
    pub(crate) gate: Option<&'static str>,
    /// How wide they are.
    pub(crate) width: SharedWidth,
}

/// How wide the experts are that all tokens go to.
#[derive(Clone, Copy)]
pub(crate) enum SharedWidth {
    /// `shared_expert_intermediate_size` or `shared_intermediate_size`; where they have no gate, 0 for none.
    Own,
    /// So many times an expert's: `n_shared_experts`, `num_shared_experts` or `moe_num_shared_experts`.
    Several,
    /// `intermediate_size`.
    Dense,
}

/// Whether the weights of chosen experts are divided by their sum.
#[derive(Clone, Copy)]
pub(crate) enum Normalize {
    Always,
    /// As `norm_topk_prob` says; if it does not, as given.
    Configured(bool),
}

/// Which layers have experts.
#[derive(Clone, Copy)]
pub(crate) enum ExpertLayers {
    All,
    /// Every `decoder_sparse_step`-th but those in `mlp_only_layers`.
    Stepped,
    /// From `first_k_dense_replace` on, every `moe_layer_freq`-th.
    AfterDense,
    /// From `moe_layer_start_index` to `moe_layer_end_index`, every `moe_layer_interval`-th.
    Between,
}

const LLAMA: Family = Family {
    model_type: "llama",
    norm: NormKind::RootMeanSquare,
    eps: EpsRule::RmsNorm,
    norms: LayerNorms::PRE,
    embedding_norm: false,
    parts: Parts::InTurn,
    post_norms: None,
    beside: None,
    gated: true,
    names: Names::LLAMA,
    unit_offset: false,
    biases: BiasRule::Configured,
    qk_norm: QkNorm::Absent,
    qk_norm_asked: QkNorm::Heads,
    fused: Fused { qkv: false, woven: false, gate_up: false },
    window: Window::Never,
    rotates: Rotates::Always,
    turn: Turn::Halves,
    partial: 1.0,
    activation: Activation::Silu,
    scalars: ScalarRule::Plain,
    latent: false,
    sinks: false,
    attention_gate: None,
    experts: None,
};

const QWEN2: Family = Family { model_type: "qwen2", biases: BiasRule::Qkv, window: Window::Switched, ..LLAMA };
const QWEN3: Family = Family { model_type: "qwen3", qk_norm: QkNorm::Heads, window: Window::Switched, ..LLAMA };
const MISTRAL: Family = Family { model_type: "mistral", biases: BiasRule::Never, window: Window::Always, ..LLAMA };
const GEMMA: Family =
    Family { model_type: "gemma", unit_offset: true, activation: Activation::GeluTanh, scalars: ScalarRule::Gemma, ..LLAMA };
const GEMMA2: Family = Family { model_type: "gemma2", norms: LayerNorms::BOTH, window: Window::AllBut(2), ..GEMMA };
const GRANITE: Family = Family { model_type: "granite", scalars: ScalarRule::Granite, ..LLAMA };
const OLMO2: Family = Family { model_type: "olmo2", norms: LayerNorms::POST, qk_norm: QkNorm::Whole, ..LLAMA };
const LAYER_NORM: NormKind = NormKind::Layer { weight: true, bias: true };
const COHERE: Family = Family {
    model_type: "cohere",
    norm: NormKind::Layer { weight: true, bias: false },
    eps: EpsRule::LayerNorm,
    norms: LayerNorms::SHARED,
    parts: Parts::Beside,
    qk_norm_asked: QkNorm::EachHead,
    turn: Turn::Neighbours,
    scalars: ScalarRule::Cohere,
    ..LLAMA
};
const DEEPSEEK_V2: Family =
    Family { model_type: "deepseek_v2", latent: true, turn: Turn::Apart, experts: Some(DEEPSEEK_V2_EXPERTS), ..LLAMA };

const EXAONE4: Family = Family {
    model_type: "exaone4",
    norms: LayerNorms::POST,
    biases: BiasRule::Never,
    qk_norm: QkNorm::Heads,
    window: Window::AllBut(4),
    rotates: Rotates::Windowed,
    ..LLAMA
};
const HUNYUAN: Family = Family {
    model_type: "hunyuan_v1_dense",
    qk_norm: QkNorm::Turned,
    names: Names { qk_norms: ["query_layernorm", "key_layernorm"], ..Names::LLAMA },
    ..LLAMA
};

const PERSIMMON: Family = Family {
    model_type: "persimmon",
    norm: LAYER_NORM,
    eps: EpsRule::LayerNorm,
    gated: false,
    names: Names {
        attention_out: "dense",
        last_norm: "model.final_layernorm",
        ungated: ["dense_h_to_4h", "dense_4h_to_h"],
        qk_norms: ["q_layernorm", "k_layernorm"],
        ..Names::LLAMA
    },
    biases: BiasRule::AllButHead,
    qk_norm: QkNorm::Heads,
    fused: Fused { woven: true, ..LLAMA.fused },
    partial: 0.5,
    activation: Activation::SquaredRelu,
    ..LLAMA
};

/// The names of experts' layers that most families use.
const GATE_UP_DOWN: ExpertLayout = ExpertLayout::Apart(["gate_proj", "up_proj", "down_proj"]);

/// Several experts that all tokens go to as one.
const SHARED_EXPERTS: SharedFacts = SharedFacts {
    module: "mlp.shared_experts",
    unit: GatedUnit::Apart(Names::LLAMA.gated),
    gate: None,
    width: SharedWidth::Several,
};

const QWEN_EXPERTS: ExpertFacts = ExpertFacts {
    module: "mlp",
    router: "gate",
    layout: GATE_UP_DOWN,
    scoring: Scoring::Softmax,
    correction: None,
    normalize: Normalize::Configured(false),
    eps: 0.0,
    floor: 0.0,
    groups: None,
    shared: None,
    layers: ExpertLayers::Stepped,
    whole_width: false,
    clamped: false,
};
const MIXTRAL_EXPERTS: ExpertFacts = ExpertFacts {
    module: "block_sparse_moe",
    layout: ExpertLayout::Apart(["w1", "w3", "w2"]),
    normalize: Normalize::Always,
    layers: ExpertLayers::All,
    whole_width: true,
    ..QWEN_EXPERTS
};
const GRANITE_EXPERTS: ExpertFacts = ExpertFacts {
    router: "router.layer",
    layout: ExpertLayout::Joined(["input_linear.weight", "output_linear.weight"]),
    ..MIXTRAL_EXPERTS
};
const GPT_OSS_EXPERTS: ExpertFacts = ExpertFacts {
    module: "mlp",
    router: "router",
    layout: ExpertLayout::Woven(["experts.gate_up_proj", "experts.down_proj"]),
    clamped: true,
    ..GRANITE_EXPERTS
};
const DEEPSEEK_V2_EXPERTS: ExpertFacts = ExpertFacts {
    groups: Some(GroupScore::Best),
    shared: Some(SHARED_EXPERTS),
    layers: ExpertLayers::AfterDense,
    ..QWEN_EXPERTS
};
const DEEPSEEK_V3_EXPERTS: ExpertFacts = ExpertFacts {
    scoring: Scoring::Sigmoid,
    correction: Some(("gate.e_score_correction_bias", &[])),
    normalize: Normalize::Configured(true),
    eps: 1e-20,
    groups: Some(GroupScore::Two),
    ..DEEPSEEK_V2_EXPERTS
};
const AFMOE_EXPERTS: ExpertFacts = ExpertFacts {
    router: "router.gate",
    correction: Some(("expert_bias", &[])),
    normalize: Normalize::Always,
    groups: None,
    ..DEEPSEEK_V3_EXPERTS
};
const HUNYUAN_EXPERTS: ExpertFacts = ExpertFacts {
    router: "gate.wg",
    normalize: Normalize::Always,
    shared: Some(SharedFacts { module: "mlp.shared_mlp", width: SharedWidth::Dense, ..SHARED_EXPERTS }),
    layers: ExpertLayers::All,
    whole_width: true,
    ..QWEN_EXPERTS
};
const PHI_EXPERTS: ExpertFacts =
    ExpertFacts { scoring: Scoring::Mixer, normalize: Normalize::Configured(false), ..MIXTRAL_EXPERTS };
const ERNIE_EXPERTS: ExpertFacts = ExpertFacts {
    correction: Some(("moe_statics.e_score_correction_bias", &[1])),
    normalize: Normalize::Always,
    floor: 1e-12,
    shared: Some(SHARED_EXPERTS),
    layers: ExpertLayers::Between,
    ..QWEN_EXPERTS
};
const LFM2_EXPERTS: ExpertFacts = ExpertFacts {
    module: "feed_forward",
    layout: ExpertLayout::Apart(["w1", "w3", "w2"]),
    scoring: Scoring::Sigmoid,
    correction: Some(("expert_bias", &[])),
    normalize: Normalize::Configured(true),
    eps: 1e-6,
    layers: ExpertLayers::AfterDense,
    ..QWEN_EXPERTS
};
const MINIMAX_EXPERTS: ExpertFacts =
    ExpertFacts { scoring: Scoring::Sigmoid, correction: Some(("e_score_correction_bias", &[])), ..MIXTRAL_EXPERTS };

/// Every family there is, in alphabetical order.
pub(crate) const FAMILIES: &[Family] = &[
    Family {
        model_type: "afmoe",
        norms: LayerNorms {
            attention: LayerNorms::BOTH.attention,
            ffn: [Some("pre_mlp_layernorm"), Some("post_mlp_layernorm")],
        },
        qk_norm: QkNorm::Heads,
        window: Window::AllBut(4),
        rotates: Rotates::WindowedOnly,
        scalars: ScalarRule::Mup,
        attention_gate: Some("gate_proj"),
        experts: Some(AFMOE_EXPERTS),
        ..LLAMA
    },
    Family { model_type: "arcee", gated: false, activation: Activation::SquaredRelu, ..LLAMA },
    COHERE,
    Family { model_type: "cohere2", window: Window::AllBut(4), rotates: Rotates::Windowed, ..COHERE },
    Family { model_type: "cwm", biases: BiasRule::Never, ..LLAMA },
    DEEPSEEK_V2,
    Family { model_type: "deepseek_v3", experts: Some(DEEPSEEK_V3_EXPERTS), ..DEEPSEEK_V2 },
    Family { model_type: "dots1", experts: Some(DEEPSEEK_V3_EXPERTS), window: Window::AllBut(2), ..QWEN3 },
    Family { model_type: "ernie4_5", biases: BiasRule::All, turn: Turn::Neighbours, ..LLAMA },
    Family { model_type: "ernie4_5_moe", biases: BiasRule::All, turn: Turn::Neighbours, experts: Some(ERNIE_EXPERTS), ..LLAMA },
    Family {
        model_type: "exaone",
        norms: LayerNorms { attention: [Some("ln_1"), None], ffn: [Some("ln_2"), None] },
        biases: BiasRule::Never,
        names: Names {
            embedding: "transformer.wte",
            layers: "transformer.h",
            attention: "attn.attention",
            attention_out: "out_proj",
            last_norm: "transformer.ln_f",
            gated: ["c_fc_0", "c_fc_1", "c_proj"],
            ..Names::LLAMA
        },
        ..LLAMA
    },
    EXAONE4,
    Family {
        model_type: "exaone_moe",
        norms: LayerNorms::PRE,
        experts: Some(ExpertFacts { correction: Some(("e_score_correction_bias", &[])), ..DEEPSEEK_V3_EXPERTS }),
        ..EXAONE4
    },
    Family {
        model_type: "flex_olmo",
        experts: Some(ExpertFacts { whole_width: true, layers: ExpertLayers::All, ..QWEN_EXPERTS }),
        ..OLMO2
    },
    GEMMA,
    GEMMA2,
    Family {
        model_type: "gemma3_text",
        qk_norm: QkNorm::Heads,
        window: Window::AllBut(6),
        rotates: Rotates::ByWindow,
        ..GEMMA2
    },
    Family {
        model_type: "glm",
        biases: BiasRule::QkvConfigured(false),
        fused: Fused { gate_up: true, ..LLAMA.fused },
        turn: Turn::Neighbours,
        partial: 0.5,
        ..LLAMA
    },
    Family {
        model_type: "glm4",
        norms: LayerNorms::GLM,
        biases: BiasRule::QkvConfigured(false),
        fused: Fused { gate_up: true, ..LLAMA.fused },
        turn: Turn::Neighbours,
        partial: 0.5,
        ..LLAMA
    },
    Family {
        model_type: "glm4_moe",
        biases: BiasRule::QkvConfigured(false),
        partial: 0.5,
        experts: Some(DEEPSEEK_V3_EXPERTS),
        ..LLAMA
    },
    Family { model_type: "glm4_moe_lite", experts: Some(DEEPSEEK_V3_EXPERTS), ..DEEPSEEK_V2 },
    Family {
        model_type: "gpt_neox",
        parts: Parts::Summed,
        beside: Some(LayerNorms::PRE),
        names: Names {
            embedding: "gpt_neox.embed_in",
            layers: "gpt_neox.layers",
            head: "embed_out",
            attention: "attention",
            last_norm: "gpt_neox.final_layer_norm",
            ..PERSIMMON.names
        },
        qk_norm: QkNorm::Absent,
        partial: 0.25,
        activation: Activation::Gelu,
        ..PERSIMMON
    },
    Family {
        model_type: "gpt_oss",
        biases: BiasRule::Configured,
        window: Window::AllBut(2),
        sinks: true,
        experts: Some(GPT_OSS_EXPERTS),
        ..LLAMA
    },
    GRANITE,
    Family { model_type: "granite_swa", sinks: true, window: Window::Never, ..GRANITE },
    Family { model_type: "granitemoe", experts: Some(GRANITE_EXPERTS), ..GRANITE },
    Family {
        model_type: "granitemoeshared",
        experts: Some(ExpertFacts {
            shared: Some(SharedFacts {
                module: "shared_mlp",
                unit: GatedUnit::Joined(["input_linear", "output_linear"]),
                gate: None,
                width: SharedWidth::Own,
            }),
            ..GRANITE_EXPERTS
        }),
        ..GRANITE
    },
    Family { model_type: "helium", turn: Turn::Neighbours, ..LLAMA },
    HUNYUAN,
    Family { model_type: "hunyuan_v1_moe", experts: Some(HUNYUAN_EXPERTS), ..HUNYUAN },
    Family { model_type: "hyperclovax", post_norms: Some(LayerNorms::NUMBERED), scalars: ScalarRule::HyperClova, ..GRANITE },
    Family { model_type: "internlm3", ..LLAMA },
    Family { model_type: "iquestcoder", ..LLAMA },
    Family {
        model_type: "jais2",
        norm: LAYER_NORM,
        eps: EpsRule::LayerNorm,
        gated: false,
        activation: Activation::SquaredRelu,
        ..LLAMA
    },
    Family {
        model_type: "lfm2_moe",
        eps: EpsRule::Norm,
        norms: LayerNorms { attention: [Some("operator_norm"), None], ffn: [Some("ffn_norm"), None] },
        biases: BiasRule::Never,
        qk_norm: QkNorm::Heads,
        names: Names {
            attention_out: "out_proj",
            last_norm: "model.embedding_norm",
            ffn: "feed_forward",
            gated: ["w1", "w3", "w2"],
            qk_norms: ["q_layernorm", "k_layernorm"],
            ..Names::LLAMA
        },
        experts: Some(LFM2_EXPERTS),
        ..LLAMA
    },
    LLAMA,
    Family {
        model_type: "mellum",
        qk_norm: QkNorm::Heads,
        rotates: Rotates::ByWindow,
        experts: Some(ExpertFacts { normalize: Normalize::Configured(true), layers: ExpertLayers::All, ..QWEN_EXPERTS }),
        ..LLAMA
    },
    Family {
        model_type: "minimax_m2",
        biases: BiasRule::Never,
        qk_norm: QkNorm::Whole,
        experts: Some(MINIMAX_EXPERTS),
        ..LLAMA
    },
    Family { model_type: "ministral", ..MISTRAL },
    Family { model_type: "ministral3", ..MISTRAL },
    MISTRAL,
    Family { model_type: "mixtral", experts: Some(MIXTRAL_EXPERTS), ..MISTRAL },
    Family {
        model_type: "nanochat",
        norm: NormKind::Unweighted,
        embedding_norm: true,
        gated: false,
        names: Names { ungated: ["fc1", "fc2"], ..Names::LLAMA },
        qk_norm: QkNorm::Turned,
        turn: Turn::Backwards,
        activation: Activation::SquaredRelu,
        scalars: ScalarRule::Capped,
        ..LLAMA
    },
    Family {
        model_type: "nemotron",
        norm: LAYER_NORM,
        eps: EpsRule::Norm,
        unit_offset: true,
        gated: false,
        activation: Activation::SquaredRelu,
        partial: 0.5,
        ..LLAMA
    },
    Family { model_type: "olmo", norm: NormKind::Layer { weight: false, bias: false }, eps: EpsRule::Fixed(1e-5), ..LLAMA },
    OLMO2,
    Family { model_type: "olmo3", window: Window::AllBut(4), ..OLMO2 },
    Family {
        model_type: "olmoe",
        norms: LayerNorms::PRE,
        experts: Some(ExpertFacts { whole_width: true, layers: ExpertLayers::All, ..QWEN_EXPERTS }),
        ..OLMO2
    },
    PERSIMMON,
    Family {
        model_type: "phi",
        norm: LAYER_NORM,
        eps: EpsRule::LayerNorm,
        norms: LayerNorms::SHARED,
        parts: Parts::Summed,
        gated: false,
        activation: Activation::GeluTanh,
        partial: 0.5,
        biases: BiasRule::Everywhere,
        names: Names { ungated: ["fc1", "fc2"], ..PERSIMMON.names },
        ..LLAMA
    },
    Family { model_type: "phi3", biases: BiasRule::Never, fused: Fused { qkv: true, gate_up: true, ..LLAMA.fused }, ..MISTRAL },
    Family { model_type: "phimoe", norm: LAYER_NORM, biases: BiasRule::Configured, experts: Some(PHI_EXPERTS), ..MISTRAL },
    QWEN2,
    Family {
        model_type: "qwen2_moe",
        biases: BiasRule::QkvConfigured(true),
        experts: Some(ExpertFacts {
            shared: Some(SharedFacts {
                module: "mlp.shared_expert",
                gate: Some("mlp.shared_expert_gate"),
                width: SharedWidth::Own,
                ..SHARED_EXPERTS
            }),
            ..QWEN_EXPERTS
        }),
        ..QWEN2
    },
    QWEN3,
    Family { model_type: "qwen3_moe", experts: Some(QWEN_EXPERTS), ..QWEN3 },
    Family {
        model_type: "sarvam_moe",
        biases: BiasRule::QkvConfigured(false),
        names: Names {
            embedding: "model.word_embeddings",
            attention: "attention",
            qkv: "query_key_value",
            attention_out: "dense",
            qk_norms: ["query_layernorm", "key_layernorm"],
            ..Names::LLAMA
        },
        fused: Fused { qkv: true, ..LLAMA.fused },
        experts: Some(ExpertFacts { correction: Some(("gate.expert_bias", &[])), ..DEEPSEEK_V3_EXPERTS }),
        ..LLAMA
    },
    Family { model_type: "seed_oss", ..LLAMA },
    Family { model_type: "smollm3", window: Window::Switched, rotates: Rotates::Marked, ..LLAMA },
    Family {
        model_type: "solar_open",
        experts: Some(ExpertFacts { layers: ExpertLayers::All, ..DEEPSEEK_V3_EXPERTS }),
        ..LLAMA
    },
    Family {
        model_type: "stablelm",
        norm: LAYER_NORM,
        eps: EpsRule::LayerNorm,
        beside: Some(LayerNorms::SHARED),
        biases: BiasRule::QkvConfigured(false),
        qk_norm_asked: QkNorm::HeadByHead,
        names: Names { qk_norms: ["q_layernorm", "k_layernorm"], ..Names::LLAMA },
        partial: 0.25,
        ..LLAMA
    },
    Family {
        model_type: "starcoder2",
        norm: LAYER_NORM,
        eps: EpsRule::Norm,
        gated: false,
        activation: Activation::GeluTanh,
        window: Window::Always,
        biases: BiasRule::All,
        names: Names { ungated: ["c_fc", "c_proj"], ..Names::LLAMA },
        ..LLAMA
    },
    Family {
        model_type: "vaultgemma",
        norms: LayerNorms { attention: [Some("input_layernorm"), None], ffn: [Some("pre_feedforward_layernorm"), None] },
        ..GEMMA2
    },
    Family { model_type: "youtu", experts: None, ..DEEPSEEK_V2 },
];

/// Architectures that are known, and what of them cannot be computed.
pub(crate) const MISSING: &[(&str, &str)] = &[
    ("apertus", "the activation xIELU"),
    ("bamba", "state space layers"),
    ("bloom", "ALiBi"),
    ("codegen", "weights of q, k and v woven by blocks"),
    ("dbrx", "weights of q, k and v as one, clipped"),
    ("diffllama", "differential attention"),
    ("doge", "masks that depend on values"),
    ("falcon", "weights of q, k and v woven by head"),
    ("falcon_h1", "state space layers"),
    ("gemma3", "images; its text part alone is 'gemma3_text'"),
    ("gemma3n", "per-layer embeddings"),
    ("gpt2", "learned positions"),
    ("gpt_bigcode", "learned positions"),
    ("gptj", "feed-forward parts beside the attention, under its names"),
    ("granitemoehybrid", "state space layers"),
    ("jamba", "state space layers"),
    ("jetmoe", "mixtures of attention heads"),
    ("kimi_linear", "linear attention"),
    ("lfm2", "short convolutions"),
    ("llama4", "images"),
    ("llama4_text", "chunked attention"),
    ("longcat_flash", "experts that change nothing"),
    ("mamba", "state space layers"),
    ("mamba2", "state space layers"),
    ("minimax", "linear attention"),
    ("mpt", "ALiBi"),
    ("nemotron_h", "state space layers"),
    ("opt", "learned positions"),
    ("qwen3_next", "linear attention"),
    ("recurrent_gemma", "recurrent layers"),
    ("xglm", "sinusoidal positions"),
];

/// What of a known architecture is missing.
pub(crate) fn missing(model_type: &str) -> Option<&'static str> {
    MISSING.iter().find(|(name, _)| *name == model_type).map(|(_, what)| *what)
}

impl Family {
    /// The family of a configuration.
    pub(crate) fn of(config: &Config) -> Option<&'static Self> {
        FAMILIES.iter().find(|f| f.model_type == config.model_type())
    }
}

#[cfg(test)]
mod tests {
    use super::{FAMILIES, MISSING};

    #[test]
    fn the_tables_are_in_order_and_apart() {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.model_type).collect();
        let missing: Vec<&str> = MISSING.iter().map(|(name, _)| *name).collect();
        assert!(known.is_sorted() && missing.is_sorted() && known.iter().all(|name| !missing.contains(name)));
    }
}
