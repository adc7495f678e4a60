//! A small LLaMA, and its program.

use super::{Random, Toy};
use q35_bundle::{Device, TspDevice};
use q35_dialects::q35::*;
use q35_format::Codec;
use q35_graph::{Silent, Value};
use q35_target::{Lowered, Request, Target};
use q35_target_groq::{Groq, PROGRAM};
use q35_tsp::binary;
use q35_tsp::program::Program;

/// Shape of a small LLaMA.
#[derive(Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub ffn: usize,
    pub layers: u32,
    pub vocab: usize,
    pub style: RopeStyle,
    pub head_norm: bool,
    /// Whether the rotation of the residual stream is in the weights already, as in compiled models.
    pub folded: bool,
    /// Whether what heads give is rotated, over as many heads as go.
    pub turned: bool,
    /// Experts of each layer and how many are chosen; none for a plain feed-forward layer.
    pub experts: Option<(usize, u32)>,
}

pub const SMALL: Shape = Shape {
    hidden: 64,
    heads: 4,
    kv_heads: 2,
    dim: 16,
    ffn: 96,
    layers: 2,
    vocab: 70,
    style: RopeStyle::Halves,
    head_norm: false,
    folded: false,
    turned: false,
    experts: None,
};

pub fn llama(shape: Shape, seed: u64) -> Toy {
    build(Toy::default(), shape, seed)
}

/// The shapes of a model, as they are known before any weight is read.
pub fn headers(shape: Shape) -> Toy {
    build(Toy { bare: true, ..Toy::default() }, shape, 0)
}

fn build(mut toy: Toy, shape: Shape, seed: u64) -> Toy {
    let Shape { hidden, heads, kv_heads, dim, ffn, layers, vocab, style, head_norm, folded, turned, experts } = shape;
    let mut random = Random::new(seed);
    let table = toy.matrix("embed", vocab, hidden, Codec::Q8, &mut random);
    let inv_freq = toy.vector("inv_freq", (0..dim / 2).map(|i| 100f32.powf(-2.0 * i as f32 / dim as f32)).collect());
    let tokens = toy.add(Tokens {}, &[]);
    let positions = toy.add(Positions {}, &[]);
    let rotary = toy.add(Rotary { inv_freq, scale: 1.0 }, &[positions]);
    let mut x = toy.add(Embed { table }, &[tokens]);
    let linear = |toy: &mut Toy, random: &mut Random, name: String, x: Value, rows: usize, cols: usize, bias: bool| {
        let weight = toy.matrix(&name, rows, cols, Codec::Split, random);
        let bias = bias.then(|| toy.vector(&format!("{name}.bias"), (0..rows).map(|_| random.float()).collect()));
        toy.add(Linear { weight, bias }, &[x])
    };
    for layer in 0..layers {
        let norm = |toy: &mut Toy, random: &mut Random, name: &str, x: Value, group: usize| {
            let weight = toy.vector(name, (0..group).map(|_| 1.0 + 0.1 * random.float()).collect());
            toy.add(RmsNorm { weight: Some(weight), eps: 1e-5, group: group as u64 }, &[x])
        };
        let mut y = norm(&mut toy, &mut random, &format!("{layer}.norm1"), x, hidden);
        if !folded {
            y = toy.add(Hadamard { block: hidden as u64, seed: 7, inverse: false }, &[y]);
        }
        let y = toy.add(Quantize {}, &[y]);
        let mut q = linear(&mut toy, &mut random, format!("{layer}.q"), y, heads * dim, hidden, true);
        let mut k = linear(&mut toy, &mut random, format!("{layer}.k"), y, kv_heads * dim, hidden, false);
        let v = linear(&mut toy, &mut random, format!("{layer}.v"), y, kv_heads * dim, hidden, false);
        if head_norm {
            q = norm(&mut toy, &mut random, &format!("{layer}.qn"), q, dim);
            k = norm(&mut toy, &mut random, &format!("{layer}.kn"), k, dim);
        }
        let q = toy.add(Rope { head_dim: dim as u64, style }, &[q, rotary]);
        let k = toy.add(Rope { head_dim: dim as u64, style }, &[k, rotary]);
        let cache = toy.add(Append::plain(layer, kv_heads as u64), &[k, v]);
        let scale = 1.0 / (dim as f32).sqrt();
        let attention = Attention { heads: heads as u64, scale, window: None, softcap: None, sinks: None };
        let mut y = toy.add(attention, &[q, cache]);
        if turned {
            y = toy.add(Hadamard { block: 1 << (heads * dim).trailing_zeros(), seed: 5, inverse: false }, &[y]);
        }
        let y = toy.add(Quantize {}, &[y]);
        let y = linear(&mut toy, &mut random, format!("{layer}.o"), y, hidden, heads * dim, false);
        x = toy.add(Add {}, &[x, y]);
        let y = norm(&mut toy, &mut random, &format!("{layer}.norm2"), x, hidden);
        if let Some(experts) = experts {
            let y = mixture(&mut toy, &mut random, layer, y, [hidden, ffn], experts);
            x = toy.add(Add {}, &[x, y]);
            continue;
        }
        let y = toy.add(Quantize {}, &[y]);
        let gate = linear(&mut toy, &mut random, format!("{layer}.gate"), y, ffn, hidden, false);
        let up = linear(&mut toy, &mut random, format!("{layer}.up"), y, ffn, hidden, false);
        let y = toy.add(Glu::plain(Activation::Silu), &[gate, up]);
        let block = 1u64 << ffn.trailing_zeros();
        let y = toy.add(Hadamard { block, seed: 3, inverse: false }, &[y]);
        let y = toy.add(Quantize {}, &[y]);
        let y = linear(&mut toy, &mut random, format!("{layer}.down"), y, hidden, ffn, false);
        x = toy.add(Add {}, &[x, y]);
    }
    let y = toy.add(Select {}, &[x]);
    let y = toy.add(RmsNorm { weight: None, eps: 1e-5, group: hidden as u64 }, &[y]);
    let y = toy.add(Quantize {}, &[y]);
    let weight = toy.matrix("head", vocab, hidden, Codec::Q8, &mut random);
    let y = toy.add(Linear { weight, bias: None }, &[y]);
    toy.graph.outputs.push(("logits".to_owned(), y));
    toy
}

/// A router and its experts. Even layers score by softmax and normalize, odd ones by sigmoid with a correction.
fn mixture(
    toy: &mut Toy,
    random: &mut Random,
    layer: u32,
    x: Value,
    [hidden, ffn]: [usize; 2],
    (experts, choices): (usize, u32),
) -> Value {
    let router = toy.numbers(&format!("{layer}.router"), experts, hidden, random);
    let logits = toy.add(Linear { weight: router, bias: None }, &[x]);
    let route = if layer.is_multiple_of(2) {
        Route { normalize: true, scale: 1.5, ..Route::plain(Scoring::Softmax, choices) }
    } else {
        let correction = toy.vector(&format!("{layer}.correction"), (0..experts).map(|_| 0.3 * random.float()).collect());
        Route { correction: Some(correction), ..Route::plain(Scoring::Sigmoid, choices) }
    };
    let routing = toy.add(route, &[logits]);
    let y = toy.add(Quantize {}, &[x]);
    let [gate, up] = ["gate", "up"].map(|name| {
        let weight = toy.matrix(&format!("{layer}.{name}"), experts * ffn, hidden, Codec::Split, random);
        let bias = toy.vector(&format!("{layer}.{name}.bias"), (0..experts * ffn).map(|_| 0.2 * random.float()).collect());
        toy.add(ExpertLinear { weight, bias: Some(bias) }, &[y, routing])
    });
    let y = toy.add(Glu::plain(Activation::Silu), &[gate, up]);
    let y = toy.add(Quantize {}, &[y]);
    let weight = toy.matrix(&format!("{layer}.down"), experts * hidden, ffn, Codec::Split, random);
    let y = toy.add(ExpertLinear { weight, bias: None }, &[y, routing]);
    toy.add(Combine {}, &[y, routing])
}

pub fn compile(toy: &Toy, context: u64) -> Program {
    let program = compile_for(toy, context, None).pop().unwrap();
    assert!(program.data.links.is_empty(), "one chip has no use for links");
    program
}

/// The programs for so many chips, or for as many as it takes.
pub fn compile_for(toy: &Toy, context: u64, chips: Option<u32>) -> Vec<Program> {
    let lowered = lower(toy, context, chips);
    let Device::Tsp(TspDevice { programs }) = lowered.device else { panic!("{:?}", lowered.device) };
    assert_eq!(programs.len() == 1, programs[0] == PROGRAM);
    let program = |path: String| {
        let program = binary::read(&lowered.files[&path]).unwrap();
        let listing = String::from_utf8(lowered.files[&path.replace(".tsp", ".asm")].clone()).unwrap();
        assert_eq!(q35_tsp::text::parse(&listing).unwrap(), program, "both forms say the same");
        program.data.check().unwrap();
        program
    };
    programs.into_iter().map(program).collect()
}

pub fn lower(toy: &Toy, context: u64, chips: Option<u32>) -> Lowered {
    let request = Request { chips, ..Request::new(&toy.graph, &toy.params, "", context) };
    Groq.check(&request).unwrap();
    Groq.lower(&request, &mut Silent).unwrap()
}
