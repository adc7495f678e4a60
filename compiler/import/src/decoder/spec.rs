//! What a decoder is. Sizes are numbers of elements; names are those of modules and tensors in a checkpoint.

/// A decoder.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    /// Tokens in the vocabulary.
    pub(crate) vocab: u64,
    /// Width of the residual stream.
    pub(crate) hidden: u64,
    /// Added to the mean square, or the variance, in every norm.
    pub(crate) eps: f32,
    /// What norms compute.
    pub(crate) norm: NormKind,
    /// Norms around the two parts of a layer.
    pub(crate) norms: LayerNorms,
    /// Whether embeddings are normalized, by the norm behind all layers.
    pub(crate) embedding_norm: bool,
    /// What the two parts of a layer read, and how they are added.
    pub(crate) parts: Parts,
    /// Whether a norm's stored weight is its factor less one.
    pub(crate) unit_offset: bool,
    /// Attention, the same in all layers but for windows and rotations.
    pub(crate) attention: Attention,
    /// The rotations that layers choose from.
    pub(crate) rotations: Vec<Rotation>,
    /// The layers, first to last.
    pub(crate) layers: Vec<Layer>,
    /// Activation of gates in dense parts and in experts without a clamp.
    pub(crate) activation: Activation,
    /// Which linear layers have biases.
    pub(crate) biases: Biases,
    /// Which linear layers of one input are one weight.
    pub(crate) fused: Fused,
    /// Names of modules that families call differently.
    pub(crate) names: Names,
    /// Whether the head's weight is the embedding's.
    pub(crate) tied: bool,
    /// Whether linear weights are stored `[in, out]`, as exporters write them, or `[out, in]`, as checkpoints do.
    pub(crate) transposed: bool,
    /// Constant factors.
    pub(crate) scalars: Scalars,
}

/// What the two parts of a layer read, and how they are added to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// The second reads what the first added.
    InTurn,
    /// Both read the same; the first is added first. A feed-forward part without a norm before it reads what the attention reads.
    Beside,
    /// The same, but their sum is added.
    Summed,
}

/// What norms compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    RootMeanSquare,
    /// The same without a weight.
    Unweighted,
    /// The same of `x - mean(x)`, plus a bias; with or without either vector.
    Layer { weight: bool, bias: bool },
}

/// Names of modules that families call differently.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// The embedding, the layers, and the head.
    pub(crate) embedding: &'static str,
    pub(crate) layers: &'static str,
    pub(crate) head: &'static str,
    /// A layer's attention.
    pub(crate) attention: &'static str,
    /// The projection to queries, keys and values, where it is one weight.
    pub(crate) qkv: &'static str,
    /// The projection from the attention.
    pub(crate) attention_out: &'static str,
    /// The norm behind all layers.
    pub(crate) last_norm: &'static str,
    /// A dense feed-forward part.
    pub(crate) ffn: &'static str,
    /// Its gate, what that gates, and the way out.
    pub(crate) gated: [&'static str; 3],
    /// The two linear layers of a feed-forward part that has no gate.
    pub(crate) ungated: [&'static str; 2],
    /// The norms of queries and of keys.
    pub(crate) qk_norms: [&'static str; 2],
}

impl Names {
    /// LLaMA's.
    pub(crate) const LLAMA: Self = Self {
        embedding: "model.embed_tokens",
        layers: "model.layers",
        head: "lm_head",
        attention: "self_attn",
        qkv: "qkv_proj",
        attention_out: "o_proj",
        last_norm: "model.norm",
        ffn: "mlp",
        gated: ["gate_proj", "up_proj", "down_proj"],
        ungated: ["up_proj", "down_proj"],
        qk_norms: ["q_norm", "k_norm"],
    };
}

/// Names of the norms before and after a layer's attention and feed-forward part, where there are any; what comes after is added to the residual
/// stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerNorms {
    pub(crate) attention: [Option<&'static str>; 2],
    pub(crate) ffn: [Option<&'static str>; 2],
}

impl LayerNorms {
    /// Before each part: LLaMA's.
    pub(crate) const PRE: Self =
        Self { attention: [Some("input_layernorm"), None], ffn: [Some("post_attention_layernorm"), None] };
    /// After each part.
    pub(crate) const POST: Self =
        Self { attention: [None, Some("post_attention_layernorm")], ffn: [None, Some("post_feedforward_layernorm")] };
    /// Before and after each part.
    pub(crate) const BOTH: Self = Self {
        attention: [Some("input_layernorm"), Some("post_attention_layernorm")],
        ffn: [Some("pre_feedforward_layernorm"), Some("post_feedforward_layernorm")],
    };
    /// After each part too, under names of their own.
    pub(crate) const NUMBERED: Self = Self {
        attention: [Some("input_layernorm"), Some("post_norm1")],
        ffn: [Some("post_attention_layernorm"), Some("post_norm2")],
    };
    /// One, which both parts read.
    pub(crate) const SHARED: Self = Self { attention: [Some("input_layernorm"), None], ffn: [None, None] };
    /// Before and after each part, under GLM-4's names.
    pub(crate) const GLM: Self = Self {
        attention: [Some("input_layernorm"), Some("post_self_attn_layernorm")],
        ffn: [Some("post_attention_layernorm"), Some("post_mlp_layernorm")],
    };
}

/// How tokens attend.
#[derive(Clone, Debug)]
pub(crate) enum Attention {
    /// Queries, keys and values are projections of the input.
    Heads(Heads),
    /// Keys and values come from a compressed latent (DeepSeek-V2, section 2.1).
    Latent(Latent),
}

/// Attention over heads.
#[derive(Clone, Debug)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) heads: u64,
    /// Key and value heads; divides `heads`.
    pub(crate) kv_heads: u64,
    /// Width of a head.
    pub(crate) head_dim: u64,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Bound of the scores.
    pub(crate) softcap: Option<f32>,
    /// Norms of queries and keys.
    pub(crate) qk_norm: QkNorm,
    /// Whether each head has a score that belongs to no token.
    pub(crate) sinks: bool,
    /// Which columns of a head rotate together.
    pub(crate) turn: Turn,
    /// A linear layer whose sigmoid what heads give is multiplied with, if there is one.
    pub(crate) gate: Option<&'static str>,
}

/// Norms of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    /// None.
    Absent,
    /// Head by head, one weight for all.
    Heads,
    /// Head by head, a layer norm without a bias whose weight is each head's own: rows of one tensor.
    EachHead,
    /// The same, a tensor for each head.
    HeadByHead,
    /// The same, after they rotated.
    Turned,
    /// All heads together.
    Whole,
}

/// Attention over a latent.
#[derive(Clone, Debug)]
pub(crate) struct Latent {
    /// Heads.
    pub(crate) heads: u64,
    /// Width of the latent that queries come from; absent: they come from the input.
    pub(crate) q_rank: Option<u64>,
    /// Width of the latent that keys and values come from.
    pub(crate) kv_rank: u64,
    /// Columns of a query or key that do not rotate.
    pub(crate) still: u64,
    /// Columns that rotate; all heads share those of the keys.
    pub(crate) turning: u64,
    /// Width of a value.
    pub(crate) value: u64,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Added to the mean square of the latents.
    pub(crate) eps: f32,
    /// Which columns rotate together.
    pub(crate) turn: Turn,
}

/// Which columns a rotation pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Column `i` of the first half with column `i` of the second.
    Halves,
    /// The same, the other way round.
    Backwards,
    /// Each with its neighbour.
    Neighbours,
    /// Each with its neighbour; afterwards, the first of all pairs come before the second.
    Apart,
}

/// A rotation by position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotation {
    /// Frequencies, in radians per position; twice as many columns of a head rotate.
    pub(crate) inv_freq: Vec<f32>,
    /// Factor on the cosines and sines.
    pub(crate) scale: f32,
}

/// What differs from layer to layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// How many positions back attention sees, the current one included.
    pub(crate) window: Option<u64>,
    /// Which of the rotations; absent: none.
    pub(crate) rotation: Option<usize>,
    /// The feed-forward part.
    pub(crate) ffn: Ffn,
}

/// A feed-forward part.
#[derive(Clone, Debug)]
pub(crate) enum Ffn {
    /// One gated unit of that width.
    Dense(u64),
    /// A linear layer of that width, an activation and another linear layer.
    Ungated(u64),
    /// Experts.
    Experts(Box<Experts>),
}

/// A router and its experts.
#[derive(Clone, Debug)]
pub(crate) struct Experts {
    /// The module they are in.
    pub(crate) module: &'static str,
    /// The router within it, a linear layer.
    pub(crate) router: &'static str,
    /// Experts.
    pub(crate) count: u64,
    /// Width inside an expert.
    pub(crate) width: u64,
    /// How experts are chosen.
    pub(crate) choice: Choice,
    /// How their weights are stored.
    pub(crate) layout: ExpertLayout,
    /// Whether router and experts have biases.
    pub(crate) biases: bool,
    /// Bounds and shift of the gated unit, where it is not the plain one.
    pub(crate) clamp: Option<Clamp>,
    /// An expert that every token goes to.
    pub(crate) shared: Option<SharedExpert>,
}

/// How experts are chosen and weighed.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// Experts per token.
    pub(crate) count: u64,
    /// How logits become scores.
    pub(crate) scoring: Scoring,
    /// A tensor added to the scores for choosing, and its dimensions but the last, which is the experts'.
    pub(crate) correction: Option<(&'static str, &'static [u64])>,
    /// Groups of experts that are chosen first.
    pub(crate) groups: Option<Groups>,
    /// Whether the weights are divided by their sum.
    pub(crate) normalize: bool,
    /// Added to that sum.
    pub(crate) eps: f32,
    /// What weights are divided by at least.
    pub(crate) floor: f32,
    /// How far below a chosen logit others share with it, relative to the larger of the two: for a mixer.
    pub(crate) margin: f32,
    /// Factor of the weights.
    pub(crate) scale: f32,
}

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scoring {
    /// Softmax over all experts; divided by their sum it is the softmax over those that were chosen.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
    /// A softmax for each choice, over what is left and near the chosen logit.
    Mixer,
}

/// Groups of neighbouring experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    /// Groups.
    pub(crate) count: u64,
    /// Groups that may be chosen from.
    pub(crate) top: u64,
    /// What a group is worth.
    pub(crate) score: GroupScore,
}

/// What a group of experts is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupScore {
    /// Its best score.
    Best,
    /// The sum of its two best.
    Two,
}

/// How the weights of experts are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExpertLayout {
    /// `experts.E.NAME.weight` for gate, up and down, each `[out, in]`.
    Apart([&'static str; 3]),
    /// Stacks `[experts, out, in]` of those names for gate, up and down, with biases beside them where there are any.
    Stacks([&'static str; 3]),
    /// Stacks `[experts, out, in]`, gates above what they gate: both, and down.
    Joined([&'static str; 2]),
    /// Stacks `[experts, in, out]`, gates and what they gate in turn: both, and down; biases beside them.
    Woven([&'static str; 2]),
    /// The same, but `[experts, out, in]`.
    WovenRows([&'static str; 2]),
}

/// `y = min(g, limit) sigmoid(alpha min(g, limit)) (clamp(u, -limit, limit) + 1)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clamp {
    pub(crate) limit: f32,
    pub(crate) alpha: f32,
}

/// The linear layers of a gated unit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GatedUnit {
    /// Gate, what it gates, and the way out.
    Apart([&'static str; 3]),
    /// Gates above what they gate, and the way out.
    Joined([&'static str; 2]),
}

/// An expert that every token goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedExpert {
    /// Its module within the layer.
    pub(crate) module: &'static str,
    /// Its width.
    pub(crate) width: u64,
    /// Its linear layers.
    pub(crate) unit: GatedUnit,
    /// A linear layer with one output, within the layer too, whose sigmoid it is multiplied with.
    pub(crate) gate: Option<&'static str>,
}

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// `x/2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)^2`.
    SquaredRelu,
}

/// Which linear layers of one input are one weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fused {
    /// q, k and v, one after the other.
    pub(crate) qkv: bool,
    /// q, k and v of each head, head after head.
    pub(crate) woven: bool,
    /// Gate and up of a dense part.
    pub(crate) gate_up: bool,
}

/// Which linear layers have biases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Biases {
    /// The projections to q, k and v, or to latents.
    pub(crate) qkv: bool,
    /// The projection from the attention.
    pub(crate) output: bool,
    /// All of a dense feed-forward part.
    pub(crate) ffn: bool,
    /// The head.
    pub(crate) head: bool,
}

/// Constant factors, 1 where there is none, and the bound of the logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scalars {
    /// Of the embeddings.
    pub(crate) embedding: f32,
    /// Of what a layer's parts add to the residual stream.
    pub(crate) residual: f32,
    /// Of the logits.
    pub(crate) logits: f32,
    /// Bound of the logits.
    pub(crate) softcap: Option<f32>,
}

impl Default for Scalars {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, logits: 1.0, softcap: None }
    }
}
