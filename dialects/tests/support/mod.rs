//! LLaMA decoders as models, written by hand: from a checkpoint of the corpus, or small ones with invented numbers.

#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::unwrap_used)]

use q35_bundle::{Interface, ModelFacts, PositionRule};
use q35_dialects::interp::StepInput;
use q35_dialects::q35::{
    Activation, Add, Append, Attention, Embed, Glu, Linear, Op, Positions, RmsNorm, Rope, RopeStyle, Rotary, Select, Tokens,
};
use q35_dialects::{Model, Param, ParamName, ParamRole};
use q35_graph::{Axis, DType, Storage, Tensor, Value, WeightView};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Sizes of a decoder.
#[derive(Clone, Copy)]
pub struct Config {
    pub vocab: u64,
    pub hidden: u64,
    pub layers: u32,
    pub heads: u64,
    pub kv_heads: u64,
    pub head_dim: u64,
    pub ffn: u64,
    pub eps: f32,
    pub theta: f64,
    pub tied: bool,
    /// The rotary frequencies were rounded to f16, like everything else in a checkpoint of that type.
    pub f16: bool,
}

pub const SMALL: Config = Config {
    vocab: 11,
    hidden: 8,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 4,
    ffn: 12,
    eps: 1e-5,
    theta: 100.0,
    tied: false,
    f16: false,
};

/// A model under construction.
struct Builder<F> {
    model: Model,
    source: F,
}

impl<F: FnMut(&str, u64, u64) -> WeightView> Builder<F> {
    /// The parameter of a tensor `NAME.weight`.
    fn param(&mut self, name: &str, rows: u64, cols: u64, role: ParamRole) -> ParamName {
        let tensor = format!("{name}.weight");
        self.model.params.insert(name.into(), Param::new((self.source)(&tensor, rows, cols), role, tensor));
        name.into()
    }

    fn op(&mut self, name: &str, op: impl Into<Op>, operands: &[Value]) -> Value {
        self.model.add(name, op, operands).unwrap()
    }

    fn norm(&mut self, name: &str, config: &Config, x: Value) -> Value {
        let weight = Some(self.param(name, 1, config.hidden, ParamRole::Vector));
        self.op(name, RmsNorm { weight, eps: config.eps, group: config.hidden }, &[x])
    }

    fn linear(&mut self, name: &str, rows: u64, cols: u64, x: Value) -> Value {
        let weight = self.param(name, rows, cols, ParamRole::Linear);
        self.op(name, Linear { weight, bias: None }, &[x])
    }
}

/// A model of this architecture; `source` finds tensors by their usual names and has `[rows, cols]` to check or invent.
pub fn decoder(config: &Config, source: impl FnMut(&str, u64, u64) -> WeightView) -> Model {
    let c = *config;
    let facts = ModelFacts {
        name: "decoder".into(),
        vocab: c.vocab,
        hidden: c.hidden,
        layers: c.layers.into(),
        context: 1024,
        parameters: 0,
    };
    let interface = Interface { inputs: vec![], outputs: vec![], positions: PositionRule::Column };
    let mut b = Builder { model: Model { graph: Default::default(), params: BTreeMap::new(), facts, interface }, source };

    let half = c.head_dim / 2;
    let rounded = |f: f32| if c.f16 { half::f16::from_f32(f).to_f32() } else { f };
    let frequency = |i| rounded((1.0 / c.theta.powf(2.0 * i as f64 / c.head_dim as f64)) as f32);
    let frequencies = Tensor::from_f32(vec![half], &(0..half).map(frequency).collect::<Vec<f32>>());
    b.model.params.insert("inv_freq".into(), Param::new(WeightView::vector(frequencies), ParamRole::Vector, "rotary"));

    let tokens = b.op("tokens", Tokens {}, &[]);
    let positions = b.op("positions", Positions {}, &[]);
    let rotary = b.op("rotary", Rotary { inv_freq: "inv_freq".into(), scale: 1.0 }, &[positions]);
    let table = b.param("model.embed_tokens", c.vocab, c.hidden, ParamRole::Embedding);
    let mut x = b.op("embed", Embed { table }, &[tokens]);
    let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    for layer in 0..c.layers {
        let at = |name: &str| format!("model.layers.{layer}.{name}");
        let normed = b.norm(&at("input_layernorm"), config, x);
        let q = b.linear(&at("self_attn.q_proj"), q_width, c.hidden, normed);
        let k = b.linear(&at("self_attn.k_proj"), kv_width, c.hidden, normed);
        let v = b.linear(&at("self_attn.v_proj"), kv_width, c.hidden, normed);
        let rope = Rope { head_dim: c.head_dim, style: RopeStyle::Halves };
        let q = b.op(&at("self_attn.q_rope"), rope.clone(), &[q, rotary]);
        let k = b.op(&at("self_attn.k_rope"), rope, &[k, rotary]);
        let cache = b.op(&at("self_attn.cache"), Append::plain(layer, c.kv_heads), &[k, v]);
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let attention = Attention { heads: c.heads, scale, window: None, softcap: None, sinks: None };
        let y = b.op(&at("self_attn"), attention, &[q, cache]);
        let y = b.linear(&at("self_attn.o_proj"), c.hidden, q_width, y);
        x = b.op(&at("attention_residual"), Add {}, &[x, y]);
        let normed = b.norm(&at("post_attention_layernorm"), config, x);
        let gate = b.linear(&at("mlp.gate_proj"), c.ffn, c.hidden, normed);
        let up = b.linear(&at("mlp.up_proj"), c.ffn, c.hidden, normed);
        let y = b.op(&at("mlp.act"), Glu::plain(Activation::Silu), &[gate, up]);
        let y = b.linear(&at("mlp.down_proj"), c.hidden, c.ffn, y);
        x = b.op(&at("mlp_residual"), Add {}, &[x, y]);
    }
    x = b.op("select", Select {}, &[x]);
    x = b.norm("model.norm", config, x);
    let head = if c.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let head = Param::new((b.source)(head, c.vocab, c.hidden), ParamRole::Head, head);
    b.model.params.insert("lm_head".into(), head);
    x = b.op("lm_head", Linear { weight: "lm_head".into(), bias: None }, &[x]);
    b.model.graph.outputs.push(("logits".into(), x));
    b.model
}

/// A row-major matrix of invented numbers between -0.5 and 0.5 that depend on the name.
pub fn invented(name: &str, rows: u64, cols: u64) -> WeightView {
    let mut state = name.bytes().fold(0x9E37_79B9_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3));
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    matrix(Tensor::from_f32(vec![rows, cols], &(0..rows * cols).map(|_| next()).collect::<Vec<_>>()), rows, cols)
}

/// A row-major tensor as a matrix.
pub fn matrix(tensor: Tensor, rows: u64, cols: u64) -> WeightView {
    WeightView::dense(tensor, 0, Axis { len: rows, stride: cols as i64 }, Axis { len: cols, stride: 1 }).unwrap()
}

/// A folder of the corpus, where it is.
pub fn corpus(folder: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/models").join(folder);
    if path.is_dir() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

/// The tensors of a safetensors file.
pub struct TensorFile(Vec<u8>);

impl TensorFile {
    pub fn open(path: PathBuf) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    /// Whether the case continues from a cache.
    pub fn has_past(&self) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().names().iter().any(|name| name.starts_with("past"))
    }

    pub fn tensor(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let dtype = match view.dtype() {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::I64 => DType::I64,
            safetensors::Dtype::U8 => DType::U8,
            other => panic!("{other:?}"),
        };
        let dims = view.shape().iter().map(|d| *d as u64).collect();
        Tensor::new(dtype, dims, Storage::from(view.data().to_vec()), 0).unwrap()
    }
}

/// A LLaMA checkpoint of the corpus.
pub fn checkpoint(folder: &std::path::Path) -> Model {
    let text = std::fs::read_to_string(folder.join("hf/config.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let int = |key: &str| json[key].as_u64().unwrap();
    let config = Config {
        vocab: int("vocab_size"),
        hidden: int("hidden_size"),
        layers: int("num_hidden_layers") as u32,
        heads: int("num_attention_heads"),
        kv_heads: int("num_key_value_heads"),
        head_dim: int("head_dim"),
        ffn: int("intermediate_size"),
        eps: json["rms_norm_eps"].as_f64().unwrap() as f32,
        theta: json["rope_parameters"]["rope_theta"].as_f64().unwrap(),
        tied: json["tie_word_embeddings"].as_bool().unwrap(),
        f16: json["dtype"] == "float16",
    };
    let tensors = TensorFile::open(folder.join("hf/model.safetensors"));
    decoder(&config, |name, rows, cols| matrix(tensors.tensor(name), rows, cols))
}

/// The valid tokens of a batch `[rows, len]`, each row in a slot of its own, with logits for all of them.
pub fn batch(ids: &Tensor, valid: &Tensor) -> (StepInput, Vec<u64>) {
    let (mut input, mut places) = (StepInput::default(), Vec::new());
    let len = ids.dims()[1];
    for at in (0..ids.count()).filter(|at| valid.integer(*at) == 1) {
        let slot = (at / len) as u32;
        let index = input.slots.iter().filter(|s| **s == slot).count() as u32;
        input.tokens.push(ids.integer(at) as u32);
        input.positions.push(index);
        input.slots.push(slot);
        input.index.push(index);
        input.logit_rows.push(places.len() as u32);
        places.push(at);
    }
    (input, places)
}
