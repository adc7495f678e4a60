//! Programs lowered, loaded and executed by the plainest executor, against the reference evaluation: each step on the operands that it
//! really had, and whole programs.

use super::*;
use crate::linear::geometry::quant_stride;
use q35_bundle::{Binding, CacheDtype, CachePart, Input, MemoryPlan, Rows, Step};
use q35_dialects::data::{CacheRef, Data, Matrix, ParamValue, QuantMatrix, Routing};
use q35_dialects::interp::{Env, Session, StepInput};
use q35_dialects::q35::{self, Activation, GroupScore, Op, RopeStyle, Scoring};
use q35_dialects::{Graph, Packed, ParamName, Ty};
use q35_format::{Codec, Group, PackedSpec, encode::encode};
use q35_graph::{Silent, Value};
use q35_launch::layout::routing_stride;
use q35_target::Section;
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// A program under construction.
#[derive(Default)]
struct Maker {
    graph: Graph,
    params: BTreeMap<ParamName, Packed>,
    /// Values that were rounded, and what came out.
    rounded: BTreeMap<Value, Value>,
}

impl Maker {
    fn add(&mut self, name: &str, op: impl Into<Op>, operands: &[Value]) -> Value {
        let op = op.into();
        let types: Vec<Ty> = operands.iter().map(|value| *self.graph.ty(*value)).collect();
        let ty = op.infer(&types, &self.params).unwrap();
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Value { node: self.graph.add(name, op, &operands, vec![ty]), result: 0 }
    }

    fn param(&mut self, name: &str, rows: u64, cols: u64, codec: Codec, group: Group) -> ParamName {
        let name = ParamName::from(name.to_owned());
        self.params.insert(name.clone(), Packed { rows, cols, codec, group });
        name
    }

    fn vector(&mut self, name: &str, len: u64) -> ParamName {
        self.param(name, 1, len, Codec::F32, Group::Row)
    }

    /// A linear layer, whose input is rotated and rounded where the codec wants integers.
    fn linear(&mut self, name: &str, x: Value, outputs: u64, codec: Codec, group: Group, bias: bool) -> Value {
        let (_, inputs) = self.graph.ty(x).matrix().unwrap();
        let weight = self.param(&format!("{name}.weight"), outputs, inputs, codec, group);
        self.linear_of(name, x, weight, bias)
    }

    fn linear_of(&mut self, name: &str, x: Value, weight: ParamName, bias: bool) -> Value {
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), self.params[&weight].rows));
        let x = self.input(name, x, &weight);
        self.add(name, q35::Linear { weight, bias }, &[x])
    }

    /// A linear layer of each expert of a routing.
    fn experts(&mut self, name: &str, x: Value, routing: Value, outputs: u64, (codec, group): Storage, bias: bool) -> Value {
        let (_, inputs) = self.graph.ty(x).matrix().unwrap();
        let rows = outputs * EXPERTS;
        let weight = self.param(&format!("{name}.weight"), rows, inputs, codec, group);
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), rows));
        let x = self.input(name, x, &weight);
        self.add(name, q35::ExpertLinear { weight, bias }, &[x, routing])
    }

    /// What a layer with this weight reads of `x`: rotated and rounded where the codec wants integers.
    fn input(&mut self, name: &str, x: Value, weight: &ParamName) -> Value {
        let Packed { cols: inputs, codec, .. } = self.params[weight];
        match self.rounded.get(&x) {
            _ if !codec.has_scales() => x,
            Some(rounded) => *rounded,
            None => {
                let block = 1 << inputs.trailing_zeros();
                let turned = self.add(name, q35::Hadamard { block, seed: 7, inverse: false }, &[x]);
                let rounded = self.add(name, q35::Quantize {}, &[turned]);
                self.rounded.insert(x, rounded);
                rounded
            }
        }
    }

    /// A mixture of experts: with gate and up apart and one more expert that all rows share, or with both in one weight and biases.
    fn mixture(&mut self, layer: u32, x: Value, storage: Storage) -> Value {
        let name = |what: &str| format!("{layer}.{what}");
        let first = layer == 0;
        let logits = self.linear(&name("router"), x, EXPERTS, Codec::F32, Group::Row, false);
        let route = if first {
            q35::Route { normalize: true, ..q35::Route::plain(Scoring::Softmax, 2) }
        } else {
            let correction = Some(self.vector(&name("correction"), EXPERTS));
            let groups =
                q35::Route { groups: 3, top_groups: 2, group_score: GroupScore::Two, ..q35::Route::plain(Scoring::Sigmoid, 3) };
            q35::Route { correction, scale: 2.5, normalize: true, eps: 1e-20, ..groups }
        };
        let routing = self.add("route", route, &[logits]);
        let swiglu = q35::Glu { activation: Activation::Silu, limit: None, alpha: 1.0, offset: 0.0 };
        let h = if first {
            let gate = self.experts(&name("gates"), x, routing, EXPERT_FFN, storage, false);
            let up = self.experts(&name("ups"), x, routing, EXPERT_FFN, storage, false);
            self.add("glu", swiglu.clone(), &[gate, up])
        } else {
            let both = self.experts(&name("gate_ups"), x, routing, 2 * EXPERT_FFN, storage, true);
            let gate = self.add("gate", q35::Columns { start: 0, len: EXPERT_FFN }, &[both]);
            let up = self.add("up", q35::Columns { start: EXPERT_FFN, len: EXPERT_FFN }, &[both]);
            self.add("glu", swiglu.clone(), &[gate, up])
        };
        let y = self.experts(&name("downs"), h, routing, HIDDEN, storage, !first);
        let y = self.add("sum", q35::Combine {}, &[y, routing]);
        if !first {
            return y;
        }
        let gate = self.linear(&name("shared.gate"), x, EXPERT_FFN, storage.0, storage.1, false);
        let up = self.linear(&name("shared.up"), x, EXPERT_FFN, storage.0, storage.1, false);
        let h = self.add("glu", swiglu, &[gate, up]);
        let shared = self.linear(&name("shared.down"), h, HIDDEN, storage.0, storage.1, false);
        self.add("add", q35::Add {}, &[y, shared])
    }
}

/// Codec and group.
type Storage = (Codec, Group);

const EXPERTS: u64 = 6;
/// No multiple of a tile or a block.
const EXPERT_FFN: u64 = 72;
const HIDDEN: u64 = 96;
const VOCAB: u64 = 67;
const FFN: u64 = 200;

/// A decoder with two layers that uses every op but attention over latent vectors. Its head is the embedding table where their codecs are one.
fn decoder(codec: Codec, group: Group, embedding: Codec) -> Maker {
    let mut m = Maker::default();
    let tokens = m.add("ids", q35::Tokens {}, &[]);
    let positions = m.add("pos", q35::Positions {}, &[]);
    let inv_freq = m.vector("inv_freq", 4);
    let rotary = m.add("rotary", q35::Rotary { inv_freq, scale: 1.0 }, &[positions]);
    let table = m.param("embed", VOCAB, HIDDEN, embedding, Group::Row);
    let mut x = m.add("embed", q35::Embed { table: table.clone() }, &[tokens]);
    for layer in 0..2u32 {
        let (heads, kv_heads, dim) = (4, 2, 12);
        let norm = m.vector(&format!("{layer}.norm"), HIDDEN);
        let n = m.add("norm", q35::RmsNorm { weight: Some(norm), eps: 1e-5, group: HIDDEN }, &[x]);
        let q = m.linear(&format!("{layer}.q"), n, heads * dim, codec, group, layer == 0);
        let k = m.linear(&format!("{layer}.k"), n, kv_heads * dim, codec, group, false);
        let v = m.linear(&format!("{layer}.v"), n, kv_heads * dim, codec, group, layer == 1);
        let q_norm = m.vector(&format!("{layer}.q_norm"), dim);
        let q = m.add("q_norm", q35::RmsNorm { weight: Some(q_norm), eps: 1e-5, group: dim }, &[q]);
        let style = if layer == 0 { RopeStyle::Halves } else { RopeStyle::Interleaved };
        let q = m.add("rope", q35::Rope { head_dim: dim, style }, &[q, rotary]);
        let k = m.add("rope", q35::Rope { head_dim: dim, style }, &[k, rotary]);
        let cache = m.add("append", q35::Append::plain(layer, kv_heads), &[k, v]);
        let window = (layer == 1).then_some(3);
        let softcap = (layer == 1).then_some(2.0);
        let sinks = (layer == 0).then(|| m.vector("sinks", heads));
        let a = m.add("attention", q35::Attention { heads, scale: 0.3, window, softcap, sinks }, &[q, cache]);
        let o = m.linear(&format!("{layer}.o"), a, HIDDEN, codec, group, false);
        let o = m.add("scale", q35::Scale { factor: 0.7 }, &[o]);
        x = m.add("add", q35::Add {}, &[x, o]);
        let n = m.add("norm", q35::RmsNorm { weight: None, eps: 1e-5, group: HIDDEN }, &[x]);
        let both = m.linear(&format!("{layer}.gate_up"), n, 2 * FFN, codec, group, false);
        let gate = m.add("gate", q35::Columns { start: 0, len: FFN }, &[both]);
        let up = m.add("up", q35::Columns { start: FFN, len: FFN }, &[both]);
        let h = if layer == 0 {
            m.add("glu", q35::Glu { activation: Activation::Silu, limit: None, alpha: 1.0, offset: 0.0 }, &[gate, up])
        } else {
            let gate = m.add("act", q35::Activate { kind: Activation::GeluTanh }, &[gate]);
            m.add("mul", q35::Mul {}, &[gate, up])
        };
        let d = m.linear(&format!("{layer}.down"), h, HIDDEN, codec, group, false);
        x = m.add("add", q35::Add {}, &[x, d]);
        let n = m.add("norm", q35::RmsNorm { weight: None, eps: 1e-5, group: HIDDEN }, &[x]);
        let y = m.mixture(layer, n, (codec, group));
        x = m.add("add", q35::Add {}, &[x, y]);
    }
    let x = m.add("select", q35::Select {}, &[x]);
    let head = if codec.has_scales() { Codec::Q8 } else { codec };
    let head = if head == embedding { table } else { m.param("head.weight", VOCAB, HIDDEN, head, Group::Row) };
    let logits = m.linear_of("head", x, head, false);
    let logits = m.add("cap", q35::Softcap { cap: 5.0 }, &[logits]);
    m.graph.outputs.push(("logits".to_owned(), logits));
    m
}

/// A decoder with one layer, attention over latent vectors, whose matrices are stored as the embedding table is.
fn latent_decoder(codec: Codec, group: Group, table: Codec) -> Maker {
    let (heads, latent, rotated, key_dim, value_dim) = (3, 40, 8, 5, 18);
    let mut m = Maker::default();
    let tokens = m.add("ids", q35::Tokens {}, &[]);
    let positions = m.add("pos", q35::Positions {}, &[]);
    let inv_freq = m.vector("inv_freq", 4);
    let rotary = m.add("rotary", q35::Rotary { inv_freq, scale: 1.0 }, &[positions]);
    let embed = m.param("embed", VOCAB, HIDDEN, table, Group::Row);
    let x = m.add("embed", q35::Embed { table: embed }, &[tokens]);
    let q = m.linear("q", x, heads * (rotated + key_dim), codec, group, false);
    let c = m.linear("c", x, latent, codec, group, false);
    let c = m.add("norm", q35::RmsNorm { weight: None, eps: 1e-5, group: latent }, &[c]);
    let r = m.linear("r", x, rotated, codec, group, false);
    let style = RopeStyle::Interleaved;
    let q = m.add("rope", q35::Rope { head_dim: rotated + key_dim, style }, &[q, rotary]);
    let r = m.add("rope", q35::Rope { head_dim: rotated, style }, &[r, rotary]);
    let cache = m.add("append", q35::Append::plain(0, 1), &[c, r]);
    let keys = m.param("keys", heads * key_dim, latent, table, Group::Row);
    let values = m.param("values", heads * value_dim, latent, table, Group::Row);
    let op = q35::LatentAttention { keys, values, heads, scale: 0.3, window: Some(4), softcap: None };
    let a = m.add("attention", op, &[q, cache]);
    let o = m.linear("o", a, HIDDEN, codec, group, false);
    let x = m.add("add", q35::Add {}, &[x, o]);
    let x = m.add("select", q35::Select {}, &[x]);
    let logits = m.linear("head", x, VOCAB, codec, group, false);
    m.graph.outputs.push(("logits".to_owned(), logits));
    m
}

/// Packed parameters with numbers that look random, as canonical bytes and as values.
struct Values {
    packed: BTreeMap<ParamName, q35_format::Packed>,
    values: BTreeMap<ParamName, Arc<ParamValue>>,
}

fn values(params: &BTreeMap<ParamName, Packed>) -> Values {
    let mut state = 5u64;
    let mut number = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let packed = params.iter().map(|(name, p)| {
        let spec = PackedSpec::new(p.rows as usize, p.cols as usize, p.codec, p.group).unwrap();
        let (size, shift) = if p.rows == 1 { (0.3, 1.0) } else { (2.0 / (p.cols as f32).sqrt(), 0.0) };
        let weights: Vec<f32> = (0..p.rows * p.cols).map(|_| shift + size * number()).collect();
        (name.clone(), encode(spec, &weights).unwrap())
    });
    let packed: BTreeMap<_, _> = packed.collect();
    let values = packed.iter().map(|(name, p)| (name.clone(), Arc::new(ParamValue::decode(&p.view().unwrap()))));
    Values { values: values.collect(), packed }
}

fn lower(m: &Maker) -> Lowered {
    let request = Request::new(&m.graph, &m.params, "t_", 64);
    Cpu.lower(&request, &mut Silent).unwrap()
}

/// Memory aligned as the executor aligns it.
struct Memory(Vec<[u8; 64]>);

impl Memory {
    fn new(bytes: usize) -> Self {
        Self(vec![[0xff; 64]; bytes.div_ceil(64)])
    }

    fn of(bytes: &[u8]) -> Self {
        let mut memory = Self::new(bytes.len());
        memory.0.as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
        memory
    }

    fn address(&mut self, offset: usize) -> *mut c_void {
        self.0.as_flattened_mut()[offset..].as_mut_ptr().cast()
    }

    fn floats(&self, offset: usize, count: usize) -> Vec<f32> {
        let bytes = &self.0.as_flattened()[offset..offset + 4 * count];
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// Executes lowered programs in the simplest way.
struct Machine {
    plan: MemoryPlan,
    steps: Vec<Step>,
    weights: BTreeMap<String, Memory>,
    cache: Vec<[Memory; 2]>,
    library: libloading::Library,
    slots: u64,
    capacity: u64,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn new(lowered: Lowered, values: &Values, slots: u64, capacity: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.so");
        std::fs::write(&path, &lowered.files["cpu/model.so"]).unwrap();
        // SAFETY: the library is ours and has no initialisers.
        let library = unsafe { libloading::Library::new(&path) }.unwrap();
        let weights = lowered.weights.into_iter().map(|(name, tensor)| {
            let packed = &values.packed[&tensor.param];
            let section = match tensor.section {
                Section::Codes => &packed.codes,
                Section::Scales => &packed.scales,
                Section::Offsets => &packed.offsets,
            };
            (name, Memory::of(&tensor.arrangement.arrange_all(section)))
        });
        let cache = lowered.plan.cache.iter().map(|layer| {
            [CachePart::Key, CachePart::Value].map(|part| Memory::new((slots * capacity * layer.half_bytes(part)) as usize))
        });
        Self {
            weights: weights.collect(),
            cache: cache.collect(),
            plan: lowered.plan,
            steps: lowered.steps,
            library,
            slots,
            capacity,
            _folder: folder,
        }
    }

    /// Runs a step at a level; `watch` sees the arena after each launch. Returns the logits' offset and the arena.
    fn step(&mut self, level: Level, input: &StepInput, mut watch: impl FnMut(&Step, &Memory)) -> (usize, Memory) {
        type Function = unsafe extern "C" fn(*const *mut c_void, *const i64, i64, i64);
        let (tokens, rows) = (input.tokens.len() as u64, input.logit_rows.len() as u64);
        let dims = [tokens, rows, self.slots, self.capacity];
        let mut arena = Memory::new(self.plan.arena_bytes(tokens, rows).unwrap() as usize);
        let mut inputs: BTreeMap<Input, Vec<u32>> = BTreeMap::from([
            (Input::Tokens, input.tokens.clone()),
            (Input::Positions, input.positions.clone()),
            (Input::Slots, input.slots.clone()),
            (Input::Index, input.index.clone()),
            (Input::LogitRows, input.logit_rows.clone()),
        ]);
        for step in &self.steps {
            let count = dims[step.rows.dim() as usize];
            let variant = step.variants.iter().find(|v| v.max_rows.is_none_or(|most| count <= most)).unwrap();
            let args: Vec<*mut c_void> = step
                .args
                .iter()
                .map(|binding| match binding {
                    Binding::Arena { .. } => arena.address(place(&self.plan, binding, tokens, rows)),
                    Binding::Weight(name) => self.weights.get_mut(name).unwrap().address(0),
                    Binding::Cache { layer, part } => {
                        self.cache[*layer as usize][usize::from(*part == CachePart::Value)].address(0)
                    }
                    Binding::Input(input) => inputs.get_mut(input).unwrap().as_mut_ptr().cast(),
                })
                .collect();
            let tiles = variant.tiles.eval(&dims).unwrap() as i64;
            let symbol = CString::new(format!("t_{}", abi::symbol(&variant.kernel, level))).unwrap();
            // SAFETY: the library defines its kernels with this signature, and the plan says how large the arguments are.
            unsafe {
                let kernel: libloading::Symbol<'_, Function> = self.library.get(symbol.as_bytes_with_nul()).unwrap();
                let dims = dims.map(|dim| dim as i64);
                kernel(args.as_ptr(), dims.as_ptr(), tiles / 2, tiles);
                kernel(args.as_ptr(), dims.as_ptr(), 0, tiles / 2);
            }
            watch(step, &arena);
        }
        let logits = Binding::Arena { rows: Rows::Logits, offset_per_row: self.plan.logits_offset_per_row };
        (place(&self.plan, &logits, tokens, rows), arena)
    }
}

fn place(plan: &MemoryPlan, binding: &Binding, tokens: u64, logit_rows: u64) -> usize {
    let &Binding::Arena { rows, offset_per_row } = binding else { panic!("{binding:?} is not in the arena") };
    let at = match rows {
        Rows::Tokens => tokens * offset_per_row,
        Rows::Logits => tokens * plan.bytes_per_token + logit_rows * offset_per_row,
    };
    at as usize
}

/// The value of a type at a place.
fn data(arena: &Memory, offset: usize, ty: &Ty, counts: (usize, usize)) -> Data {
    let floats = |width: usize, count: usize| {
        let stride = (4 * width).next_multiple_of(64);
        let rows = (0..count).flat_map(|row| arena.floats(offset + row * stride, width));
        Matrix::new(width, rows.collect())
    };
    let count = |rows: q35_dialects::Rows| match rows.section() {
        (Rows::Tokens, each) => counts.0 * each as usize,
        (Rows::Logits, each) => counts.1 * each as usize,
    };
    match *ty {
        Ty::Act { rows, width } => Data::Act(floats(width as usize, count(rows))),
        Ty::Rotary { half } => Data::Rotary(floats(2 * half as usize, counts.0)),
        Ty::Quant { rows, width } => {
            let width = width as usize;
            let stride = quant_stride(width);
            let row = |row: usize| offset + row * stride;
            let bytes = arena.0.as_flattened();
            // Per block of 64 columns the even ones and the odd ones; of either, number `8 b + v` is byte `b` of quad `v`.
            let place = |k: usize| 64 + k / 64 * 64 + k % 2 * 32 + k % 64 / 2 % 8 * 4 + k % 64 / 16;
            let q = (0..count(rows)).flat_map(|r| (0..width).map(move |k| row(r) + place(k)));
            let scales = (0..count(rows)).map(|r| arena.floats(row(r), 1)[0]).collect();
            Data::Quant(QuantMatrix { width, data: q.map(|at| bytes[at] as i8).collect(), scales })
        }
        Ty::Routing { rows, experts, choices } => {
            let (experts, choices) = (experts as usize, choices as usize);
            let row = |row: usize| arena.floats(offset + row * routing_stride(choices), 2 * choices);
            let all: Vec<Vec<f32>> = (0..count(rows)).map(row).collect();
            let chosen = all.iter().flat_map(|row| row[..choices].iter().map(|number| number.to_bits())).collect();
            let weights = all.iter().flat_map(|row| &row[choices..]).copied().collect();
            Data::Routing(Routing { experts, choices, chosen, weights })
        }
        Ty::Ids { .. } | Ty::Cache { .. } => panic!("{ty} is not in the arena"),
    }
}

/// Steps that meet prefill, decoding, several slots, and rows without logits.
fn batches() -> Vec<StepInput> {
    let step = |tokens: &[u32], slots: &[u32], index: &[u32], logit_rows: &[u32]| StepInput {
        tokens: tokens.to_vec(),
        positions: index.to_vec(),
        slots: slots.to_vec(),
        index: index.to_vec(),
        logit_rows: logit_rows.to_vec(),
    };
    vec![
        step(&[1, 5, 9, 66, 3, 0, 7, 7, 2], &[0, 0, 0, 0, 0, 0, 1, 1, 1], &[0, 1, 2, 3, 4, 5, 0, 1, 2], &[5, 8]),
        step(&[4], &[0], &[6], &[0]),
        step(&[8, 9, 10], &[1, 1, 0], &[3, 4, 7], &[0, 1, 2]),
    ]
}

/// Whether an op's results are defined to the bit.
fn is_exact(op: &Op, operands: &[&Data]) -> bool {
    match op {
        Op::Linear(_) | Op::ExpertLinear(_) => matches!(operands[0], Data::Quant(_)),
        Op::Quantize(_) | Op::Hadamard(_) | Op::Select(_) | Op::Columns(_) | Op::Embed(_) => true,
        Op::Add(_) | Op::Mul(_) | Op::Scale(_) => true,
        _ => false,
    }
}

/// Every op on the operands that it really had.
fn check_steps(m: &Maker, lowered: Lowered, level: Level) {
    let values = values(&m.params);
    let mut machine = Machine::new(lowered, &values, 2, 10);
    let request = Request::new(&m.graph, &m.params, "", 64);
    let arg_counts = launch::argument_counts(&Cpu, &CpuKernels, &request).unwrap();
    let launches = |id| match m.graph.node(id).op {
        Op::Tokens(_) | Op::Positions(_) => vec![],
        Op::Route(_) => vec![id; 2],
        _ => vec![id],
    };
    let launched: Vec<_> = m.graph.topological().unwrap().into_iter().flat_map(launches).collect();
    let plan = machine.plan.clone();
    let mut caches = (0..2).map(|layer| (layer, Default::default())).collect();
    for input in batches() {
        let counts = (input.tokens.len(), input.logit_rows.len());
        let at = |binding: &Binding| place(&plan, binding, counts.0 as u64, counts.1 as u64);
        let mut places: BTreeMap<Value, usize> = BTreeMap::new();
        let mut seen: Vec<(Op, Vec<Data>, Data)> = Vec::new();
        let mut parts = launched.iter().zip(&arg_counts);
        machine.step(level, &input, |step, arena| {
            let mut last_arg = 0;
            for (part, op) in step.op.split('+').enumerate() {
                let (&id, args) = parts.next().unwrap();
                // Joined layers have one x, and one routing.
                last_arg += match op {
                    "linear" if part > 0 => args - 1,
                    "expert_linear" if part > 0 => args - 3,
                    _ => *args,
                };
                let node = m.graph.node(id);
                if op == "sort" {
                    continue;
                }
                assert!(op == node.op.name() && step.node.contains(&node.name), "{op} {}", node.name);
                let operand = |value: Value| match m.graph.node(value.node).op {
                    Op::Tokens(_) => Data::Ids(input.tokens.clone()),
                    Op::Positions(_) => Data::Ids(input.positions.clone()),
                    _ => match *m.graph.ty(value) {
                        Ty::Cache { layer, kv_heads, key_dim, value_dim, .. } => Data::Cache(CacheRef {
                            layer,
                            kv_heads: kv_heads as usize,
                            key_dim: key_dim as usize,
                            value_dim: value_dim as usize,
                        }),
                        ref ty => data(arena, places[&value], ty, counts),
                    },
                };
                let operands: Vec<Data> = m.graph.operands(id).into_iter().flatten().map(operand).collect();
                let value = Value { node: id, result: 0 };
                let found = match m.graph.ty(value) {
                    Ty::Cache { .. } => operand(value),
                    ty => {
                        places.insert(value, at(&step.args[last_arg - 1]));
                        data(arena, places[&value], ty, counts)
                    }
                };
                seen.push((node.op.clone(), operands, found));
            }
        });
        assert!(parts.next().is_none());
        for (op, operands, found) in seen {
            let operands: Vec<&Data> = operands.iter().collect();
            let mut env = Env { input: &input, params: &values.values, caches: &mut caches };
            let expected = op.eval(&operands, &mut env).unwrap();
            match (&expected, &found) {
                (Data::Act(expected), Data::Act(found)) | (Data::Rotary(expected), Data::Rotary(found)) => {
                    let largest = expected.data.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                    // Sums of up to 200 products, and elementary functions good to a few ulps.
                    let tolerance = if is_exact(&op, &operands) { 0.0 } else { 4e-6 * largest };
                    for (x, y) in expected.data.iter().zip(&found.data) {
                        assert!((x - y).abs() <= tolerance, "{} at {}: {y}, not {x}", op.name(), level.name());
                    }
                    assert_eq!(expected.data.len(), found.data.len());
                }
                (Data::Routing(expected), Data::Routing(found)) => {
                    assert_eq!(expected.chosen, found.chosen, "{}", level.name());
                    for (x, y) in expected.weights.iter().zip(&found.weights) {
                        assert!((x - y).abs() <= 1.2e-7 * x.abs(), "{}: {y}, not {x}", level.name());
                    }
                }
                _ => assert_eq!(expected, found, "{} at {}", op.name(), level.name()),
            }
        }
    }
}

fn levels_here() -> impl Iterator<Item = Level> {
    Level::of(ARCH).filter(|level| level.is_here())
}

#[test]
fn each_step_computes_its_op() {
    for (codec, group) in [(Codec::F32, Group::Row), (Codec::W8, Group::Row), (Codec::Split, Group::Columns(64))] {
        let embedding = if codec == Codec::W8 { Codec::Q8 } else { Codec::F16 };
        let dtype = if codec == Codec::W8 { CacheDtype::F16 } else { CacheDtype::F32 };
        for mut m in [decoder(codec, group, embedding), latent_decoder(codec, group, embedding)] {
            q35::assign_cache_dtype(&mut m.graph, dtype);
            let lowered = lower(&m);
            levels_here().for_each(|level| check_steps(&m, lowered.clone(), level));
        }
    }
}

#[test]
fn whole_programs_agree_with_the_interpreter() {
    // A number near the middle between two of half precision may be rounded to either: a 2048th of it.
    for (dtype, tolerance) in [(CacheDtype::F32, 2e-5), (CacheDtype::F16, 4e-4)] {
        for program in [decoder, latent_decoder] {
            let mut m = program(Codec::F32, Group::Row, Codec::F32);
            q35::assign_cache_dtype(&mut m.graph, dtype);
            agrees_with_the_interpreter(&m, tolerance);
        }
    }
}

fn agrees_with_the_interpreter(m: &Maker, tolerance: f32) {
    let values = values(&m.params);
    let lowered = lower(m);
    for level in levels_here() {
        let mut machine = Machine::new(lowered.clone(), &values, 2, 10);
        let mut session = Session::new(&m.graph, &values.values);
        for input in batches() {
            let expected = session.step(&input).unwrap();
            let (at, arena) = machine.step(level, &input, |_, _| ());
            let ty = Ty::Act { rows: q35_dialects::Rows::Logits, width: VOCAB };
            let found = data(&arena, at, &ty, (input.tokens.len(), input.logit_rows.len()));
            for (x, y) in expected.data.iter().zip(&found.act().data) {
                assert!((x - y).abs() <= tolerance, "{}: {y}, not {x}", level.name());
            }
        }
    }
}

#[test]
fn equal_layers_share_kernels_and_bytes_repeat() {
    let m = decoder(Codec::W8, Group::Row, Codec::Q8);
    let (first, second) = (lower(&m), lower(&m));
    assert!(first.files == second.files);
    assert_eq!((&first.plan, &first.steps), (&second.plan, &second.steps));
    let kernels: std::collections::BTreeSet<&str> =
        first.steps.iter().flat_map(|step| &step.variants).map(|variant| variant.kernel.as_str()).collect();
    let downs: Vec<&Step> = first
        .steps
        .iter()
        .filter(|step| ["0.down", "1.down"].contains(&step.node.as_str()))
        .filter(|step| step.op == "linear")
        .collect();
    assert_eq!((downs.len(), &downs[0].variants), (2, &downs[1].variants));
    // Of q, k and v, the first layer's q and the second one's v have a bias.
    assert!(kernels.contains("linear_w8_row_24_24x96") && kernels.contains("linear_w8_row_48_24x96"), "{kernels:?}");
    let launches: usize = first.steps.iter().map(|step| step.variants.len()).sum();
    assert!(kernels.len() < launches);
    let header = String::from_utf8(first.files["cpu/model.h"].clone()).unwrap();
    for kernel in kernels {
        for level in Level::of(ARCH) {
            assert!(header.contains(&format!("void t_{}(", abi::symbol(kernel, level))), "{kernel}");
        }
    }
}

#[test]
fn the_plan_holds_no_decoded_weight() {
    // One buffer per value and no other: the arena of a token is smaller than any weight would be with a byte per element.
    let mut m = Maker::default();
    let ids = m.add("ids", q35::Tokens {}, &[]);
    let table = m.param("embed", 1000, 512, Codec::Q8, Group::Row);
    let mut x = m.add("embed", q35::Embed { table }, &[ids]);
    for layer in 0..6 {
        x = m.linear(&format!("{layer}"), x, 512, Codec::W8, Group::Row, false);
    }
    let x = m.add("select", q35::Select {}, &[x]);
    let logits = m.linear("head", x, 1000, Codec::Q8, Group::Row, false);
    m.graph.outputs.push(("logits".to_owned(), logits));
    let lowered = lower(&m);
    let smallest = 512 * 512;
    let values = lowered.steps.len() as u64;
    assert!(lowered.plan.bytes_per_token < smallest && lowered.plan.bytes_per_logit_row < smallest);
    // Values that do not live together share memory: three of 2 KiB at most, not one per step.
    assert!(lowered.plan.bytes_per_token <= 3 * 2048, "{} for {values} values", lowered.plan.bytes_per_token);
}

#[test]
fn every_op_without_a_kernel_is_reported() {
    let mut m = decoder(Codec::F32, Group::Row, Codec::F16);
    for (name, codec) in [("embed", Codec::W8), ("0.o.weight", Codec::W11), ("1.down.weight", Codec::W8)] {
        m.params.get_mut(&ParamName::from(name.to_owned())).unwrap().codec = codec;
    }
    let request = Request::new(&m.graph, &m.params, "", 64);
    let cpu = Cpu;
    let errors = cpu.check(&request).unwrap_err();
    let found: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
    assert_eq!(
        found,
        [
            "error[Q35-0402]: target 'cpu' cannot run this: an embedding table in codec w8 has no kernel on the CPU\n  at node 'embed'",
            "error[Q35-0402]: target 'cpu' cannot run this: codec w11 has no kernel on the CPU\n  at node '0.o'",
            "error[Q35-0402]: target 'cpu' cannot run this: a weight in codec w8 takes rounded activations, and these are f32\n  at node '1.down'",
        ]
    );
    let bad = Request { prefix: "9", ..request };
    assert!(cpu.lower(&bad, &mut Silent).is_err());
    assert_eq!(cpu.capabilities().codecs.len(), 10);
}

#[test]
fn passes_connect_and_are_observed() {
    #[derive(Default)]
    struct Watch(Vec<(Pass, usize)>, Vec<&'static str>);
    impl Observer for Watch {
        fn before(&mut self, pass: &Pass) {
            self.1.push(pass.name);
        }
        fn after(&mut self, pass: &Pass, print: &dyn Fn() -> String) {
            self.0.push((*pass, print().len()));
        }
        fn progress(&mut self, _: u64, _: u64, _: &str) {}
    }
    let m = decoder(Codec::F32, Group::Row, Codec::F32);
    let mut watch = Watch::default();
    let request = Request::new(&m.graph, &m.params, "", 64);
    let passes = Cpu.passes();
    Cpu.lower(&request, &mut watch).unwrap();
    let seen: Vec<Pass> = watch.0.iter().map(|(pass, _)| *pass).collect();
    assert_eq!(seen, passes);
    assert_eq!(watch.1, passes.iter().map(|pass| pass.name).collect::<Vec<_>>());
    assert!(watch.0.iter().all(|(_, printed)| *printed > 0));
    assert!(passes.windows(2).all(|pair| pair[0].to == pair[1].from));
}

#[test]
fn levels_say_the_architecture() {
    let place = |name: &str| Level::all().position(|level| level.name() == name).unwrap();
    let of = |names: &[&str]| chosen(Levels::of(names.iter().map(|name| place(name))));
    let names =
        |names: &[&str]| of(names).map(|(arch, levels)| (arch, levels.into_iter().map(Level::name).collect::<Vec<_>>()));
    assert_eq!(names(&["dotprod"]).unwrap(), ("aarch64", vec!["dotprod", "base"]));
    assert_eq!(names(&["avx2", "base"]).unwrap(), ("x86_64", vec!["avx2", "base"]));
    assert_eq!(names(&["base"]).unwrap(), (ARCH, vec!["base"]));
    assert_eq!(chosen(Levels::ALL).unwrap(), (ARCH, Level::of(ARCH).collect()));
    assert_eq!(
        of(&["avx2", "dotprod"]).unwrap_err().to_string().trim(),
        "error[Q35-0303]: levels of different architectures are in one bundle: x86_64, aarch64\n  at option '--levels'\n  help: make a bundle for each"
    );
}
