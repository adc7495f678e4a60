//! From a program to a schedule, op by op: the groq target's passes.
//!
//! | pass | idea |
//! | --- | --- |
//! | `groq-schedule` | every op as macro-ops, placed in space and time |
//! | `groq-emit` | queues with repeats, as text |
//! | `groq-assemble` | the same as a binary file; a report and a trace |
//!
//! | module | idea |
//! | --- | --- |
//! | `layout` | which element lies in which lane |
//! | `heads` | how heads of queries meet those of keys and values |
//! | `inputs` | rounded activations as tiles of weights meet them |
//! | `support` | what has no lowering |
//! | `fit` | whether a model fits the chip, and in which form its weights lie there |
//! | `stages` | which chip does what |
//! | `forecast` | how many chips a model would take, and how fast it would be |
//! | `linear` | linear layers |
//! | `rows` | sums over lanes, rotations, rounding |
//! | `pointwise` | elementwise ops, norms, rotary embedding |
//! | `attention` | the cache and attention |
//! | `mixture` | routers and mixtures of experts |
//! | `phases` | what each node takes, and at least |
//! | `report` | what the schedule costs, and a picture of it |

mod attention;
mod fit;
mod forecast;
mod heads;
mod inputs;
mod layout;
mod linear;
mod mixture;
mod phases;
mod pointwise;
mod report;
mod rows;
mod stages;
mod support;

use crate::schedule::{Byte, Schedule, Word};
use attention::{Cache, Scores};
use fit::Choice;
use forecast::Forecast;
use heads::{Heads, heads};
use inputs::Inputs;
use layout::Layout;
pub use linear::Form;
use linear::{Experts, GUEST, Layer};
use mixture::Chosen;
use q35_bundle::{CacheDtype, CacheLayer, Device, MemoryPlan, TspDevice, row_stride};
use q35_diag::{Diagnostics, Result};
use q35_dialects::q35::Op;
use q35_dialects::{Activations, Graph, Packed, ParamName, Ty};
use q35_format::{Codec, PackedSpec};
use q35_graph::{NodeId, Observer, Pass, Stage};
use q35_target::{
    Arrangement, Capabilities, Figures, Label, Lowered, Request, Section, Target, WeightTensor, cannot, check_prefix,
};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::Side;
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Image, Input, Output, Place, Program, Quad, TileBytes};
use q35_tsp::timing::Timing;
use q35_tsp::{binary, text};
use rows::{Quant, Row};
use stages::{Counts, Rows, Share};
use std::collections::{BTreeMap, BTreeSet};

/// The path in a bundle of the program of a single chip.
pub const PROGRAM: &str = "groq/program.tsp";
const LISTING: &str = "groq/program.asm";

/// Paths in a bundle, of the binary form and the text form of a chip's program.
fn paths(chip: usize, chips: usize) -> [String; 2] {
    match chips {
        1 => [PROGRAM, LISTING].map(str::to_owned),
        _ => ["tsp", "asm"].map(|form| format!("groq/chip-{chip}/program.{form}")),
    }
}
const REPORT: &str = "groq/report.json";
const TRACE: &str = "groq/trace.json";

const SCHEDULE: Pass = Pass {
    name: "groq-schedule",
    purpose: "Place every op in space and time on a model of the chip",
    from: Stage::Q35,
    to: Stage::Target,
};
const EMIT: Pass =
    Pass { name: "groq-emit", purpose: "Write the instruction queues as text", from: Stage::Target, to: Stage::Asm };
const ASSEMBLE: Pass = Pass {
    name: "groq-assemble",
    purpose: "Write the program's binary form, its report and its trace",
    from: Stage::Asm,
    to: Stage::Bundle,
};

/// A Groq-TSP-style chip.
#[derive(Clone, Copy, Debug)]
pub struct Groq;

impl Target for Groq {
    fn name(&self) -> &'static str {
        "groq"
    }

    fn description(&self) -> &'static str {
        "a deterministic schedule for a Groq-TSP-style chip"
    }

    fn label(&self) -> Label {
        Label::ModelOfTheChip
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops: support::OPS.to_vec(),
            codecs: vec![Codec::Split, Codec::Q8],
            default_codec: Codec::Split,
            activations: Activations::Int8,
            kv_cache: vec![CacheDtype::F32],
            levels: vec!["tsp1"],
            native: None,
            several_chips: true,
        }
    }

    fn passes(&self) -> Vec<Pass> {
        vec![SCHEDULE, EMIT, ASSEMBLE]
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        let mut found = Diagnostics::new();
        for id in request.graph.ids() {
            if let Some(reason) = support::refusal(request, id) {
                found.push(cannot(self, &request.graph.node(id).name, &reason));
            }
        }
        found.extend(fit::check(request));
        found.into_result(())
    }

    fn outlook(&self, request: &Request<'_>) -> Result<Vec<(&'static str, String)>> {
        self.check(request)?;
        let timing = Timing::tsp1();
        let needed = stages::counts(request).needed.unwrap_or(1);
        let chips = request.chips.map_or(needed, |chips| chips as usize);
        let label = self.label().words();
        // What there is room for on one chip is scheduled here and now, which is no guess; what takes several is.
        let (chips, predicted) = match needed {
            1 => {
                let chips = lower(request)?;
                let cycles = report::latency(&chips).max(1);
                let rate = timing.clock_mhz as f64 * 1e6 / cycles as f64;
                (chips.len(), format!("{rate:.0} tokens/s, {cycles} cycles per token as scheduled; {label}"))
            }
            _ => {
                let Forecast { tokens_per_second, .. } = forecast::pipeline(request, chips, &timing);
                let caution = "from shapes, with vector phases as this version schedules them";
                (chips, format!("{tokens_per_second:.0} tokens/s, {caution}; {label}"))
            }
        };
        Ok(vec![("chips", chips.to_string()), ("predicted", predicted)])
    }

    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
        check_prefix(request.prefix)?;
        observer.before(&SCHEDULE);
        let chips = lower(request)?;
        let print = || -> Vec<String> { chips.iter().map(|chip| text::print(&chip.program)).collect() };
        observer.after(&SCHEDULE, &|| print().concat());

        observer.before(&EMIT);
        let listings = print();
        observer.after(&EMIT, &|| listings.concat());

        observer.before(&ASSEMBLE);
        let (report, schedule) = report::report(request, &chips, &Timing::tsp1());
        let mut files = BTreeMap::from([
            (REPORT.to_owned(), report.clone().into_bytes()),
            (TRACE.to_owned(), report::trace(&chips).into_bytes()),
        ]);
        let mut programs = Vec::new();
        for (number, (chip, listing)) in chips.iter().zip(listings).enumerate() {
            let [program, text] = paths(number, chips.len());
            files.insert(program.clone(), binary::write(&chip.program));
            files.insert(text, listing.into_bytes());
            programs.push(program);
        }
        observer.after(&ASSEMBLE, &|| report.clone());
        Ok(Lowered {
            device: Device::Tsp(TspDevice { programs }),
            plan: plan(request),
            steps: Vec::new(),
            files,
            weights: weights(request.params),
            figures: Figures::from([("schedule", schedule)]),
        })
    }
}

/// Only what a session needs to know: the cache, and how long a row of logits is.
fn plan(request: &Request<'_>) -> MemoryPlan {
    let graph = request.graph;
    let mut cache: BTreeMap<u32, CacheLayer> = BTreeMap::new();
    let mut logits = 0;
    for id in graph.ids() {
        match graph.node(id).results.first() {
            Some(Ty::Cache { layer, kv_heads, key_dim, value_dim, dtype }) => {
                let window = graph.ids().find_map(|user| match &graph.node(user).op {
                    Op::Attention(op) if graph.operand(user, 1).is_some_and(|v| v.node == id) => op.window,
                    _ => None,
                });
                let (kv_heads, key_dim, value_dim) = (*kv_heads, *key_dim, *value_dim);
                cache.insert(*layer, CacheLayer { kv_heads, key_dim, value_dim, window, dtype: *dtype });
            }
            Some(ty) if graph.outputs.iter().any(|(_, value)| value.node == id) => logits = ty.matrix().map_or(0, |(_, w)| w),
            _ => {}
        }
    }
    let bytes_per_logit_row = row_stride(logits).unwrap_or(0);
    MemoryPlan { bytes_per_logit_row, cache: cache.into_values().collect(), ..MemoryPlan::default() }
}

/// Every parameter as it is: the host reads it.
fn weights(params: &BTreeMap<ParamName, Packed>) -> BTreeMap<String, WeightTensor> {
    let mut tensors = BTreeMap::new();
    for (param, packed) in params {
        let Ok(spec) = PackedSpec::new(packed.rows as usize, packed.cols as usize, packed.codec, packed.group) else {
            continue;
        };
        let mut add = |name: String, section, bytes| {
            tensors.insert(name, WeightTensor { param: param.clone(), section, arrangement: Arrangement::plain(bytes) });
        };
        add(param.to_string(), Section::Codes, spec.row_bytes());
        if packed.codec.has_scales() {
            add(format!("{param}.scales"), Section::Scales, spec.groups() * spec.scale().bytes());
        }
    }
    tensors
}

/// Experts of a node that reads a routing.
fn experts(graph: &Graph, id: NodeId) -> u64 {
    let routing = graph.operand(id, 1).map(|value| *graph.ty(value));
    if let Some(Ty::Routing { experts, .. }) = routing { experts } else { 1 }
}

/// Whether a node is a norm of whole rows that nobody reads but those who round it. What it multiplies a row with changes the scale alone.
fn is_only_rounded(graph: &Graph, id: NodeId) -> bool {
    let Op::RmsNorm(op) = &graph.node(id).op else { return false };
    let whole = graph.operand(id, 0).and_then(|x| graph.ty(x).matrix()).is_some_and(|(_, width)| width == op.group);
    let users = graph.users(q35_graph::Value { node: id, result: 0 });
    let rounds = users.iter().all(|(user, _)| matches!(graph.node(*user).op, Op::Quantize(_)));
    whole && rounds && !users.is_empty() && !graph.outputs.iter().any(|(_, value)| value.node == id)
}

/// Nodes whose values a node's macro-ops read.
fn reads(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    let operands = graph.operands(id).into_iter().flatten().map(|value| value.node);
    operands
        .flat_map(|node| if is_only_rounded(graph, node) { [vec![node], reads(graph, node)].concat() } else { vec![node] })
        .collect()
}

/// What follows is for a node.
fn begin(schedule: &mut Schedule, graph: &Graph, id: NodeId) -> u32 {
    schedule.begin(id.index() as u32, &graph.node(id).name)
}

/// What a node of the program leaves, and where it is held.
#[derive(Clone)]
enum Held {
    Act(Vec<Word>, Layout),
    /// Of a norm that only those read who round it.
    Normed(Row, Layout),
    Quant(Quant),
    Rotary(String, f32),
    Cache(Cache, usize),
    Routing(Vec<Chosen>),
    Host,
}

/// A chip's program, how many vectors of memory it takes, in which form its layers lie there, and what the next chip gets.
struct Scheduled {
    program: Program,
    rows: u64,
    choices: Vec<Choice>,
    /// The nodes of the graph, in the order of the program's.
    nodes: Vec<NodeId>,
    /// The rows of the head, where the chip has not all.
    piece: Option<Rows>,
    exit: Option<Entrance>,
}

/// What comes to a chip, as known when the one before is scheduled.
struct Entrance {
    /// The chip's cycle 0 on the common clock.
    start: u64,
    /// Of every vector, when each byte is there.
    cycles: Vec<[i64; 4]>,
    layout: Layout,
}

/// The programs of all chips: so many as asked for, or else the fewest that there is room on. What memory holds beside weights and cache is
/// known only afterwards, so more than one number may have to be tried.
fn lower(request: &Request<'_>) -> Result<Vec<Scheduled>> {
    let Counts { most, needed, .. } = stages::counts(request);
    let fewest = needed.unwrap_or(1);
    let (mut count, last) = request.chips.map_or((fewest, most), |chips| (chips as usize, chips as usize));
    loop {
        match pipeline(request, count) {
            Err(_) if count < last => count = (count + count.div_ceil(4)).min(last),
            lowered => return lowered,
        }
    }
}

/// So many chips, one after the other. Each is in the fastest form that fits, for which there are two tries.
fn pipeline(request: &Request<'_>, count: usize) -> Result<Vec<Scheduled>> {
    let mut chips: Vec<Scheduled> = Vec::new();
    for (chip, share) in (0u32..).zip(stages::stages(request, count)) {
        let entrance = chips.last().and_then(|before| before.exit.as_ref());
        let nodes: BTreeSet<NodeId> = share.nodes.iter().copied().collect();
        let of = (&nodes, share.rows);
        let choices = fit::choices(request, of, fit::weight_rows(request, &nodes));
        let scheduled = match schedule(request, (chip, &share), choices, entrance) {
            Err(_) => schedule(request, (chip, &share), fit::choices(request, of, 0), entrance)?,
            Ok(scheduled) => scheduled,
        };
        chips.push(scheduled);
    }
    Ok(chips)
}

fn schedule(
    request: &Request<'_>,
    (chip, share): (u32, &Share),
    choices: Vec<Choice>,
    entrance: Option<&Entrance>,
) -> Result<Scheduled> {
    let graph = request.graph;
    let mut schedule = Schedule::new(Timing::tsp1());
    schedule.data.chip = chip;
    schedule.data.capacity = request.context as u32;
    // Not beside the values: an entry and what it is the address of are read in one cycle.
    let place = schedule.memory.far(Side::East);
    if share.nodes.iter().any(|id| matches!(graph.node(*id).op, Op::Append(_))) {
        schedule.data.inputs.push(Input::Entry { place });
    }
    let entry = Byte { place, ready: 0 };
    schedule.memory.expect(choices.iter().map(|choice| choice.cost().rows).sum());
    let (heads, mut values) = (heads(graph), BTreeMap::new());
    if let (Some(enters), Some(Entrance { start, cycles, layout })) = (share.enters, entrance) {
        schedule.data.start = *start;
        begin(&mut schedule, graph, enters);
        let link = schedule.open_link(chip - 1);
        let receive = |(v, cycles): (usize, &[i64; 4])| schedule.receive(link, *cycles, layout.lanes(v, |e| e));
        let words = cycles.iter().enumerate().map(receive).collect();
        values.insert(enters, vec![Held::Act(words, layout.clone())]);
    }
    let (ahead, rows) = (BTreeMap::new(), share.rows);
    let mut lowering = Lowering { request, schedule, entry, heads, rows, values, ahead, row: 0, choices };
    let mut uses: BTreeMap<NodeId, usize> = BTreeMap::new();
    let outside = graph.outputs.iter().map(|(_, value)| value.node).chain(share.leaves);
    for node in share.nodes.iter().flat_map(|id| reads(graph, *id)).chain(outside) {
        *uses.entry(node).or_default() += 1;
    }
    // What leaves does so at once: what follows here would be in its way.
    let mut exit = share.leaves.filter(|leaves| share.enters == Some(*leaves)).and_then(|leaves| lowering.leave(leaves));
    for id in share.nodes.iter().copied() {
        begin(&mut lowering.schedule, graph, id);
        let rows = lowering.rows(id);
        lowering.values.insert(id, rows);
        if share.leaves == Some(id) {
            exit = lowering.leave(id);
        }
        for node in reads(graph, id) {
            let left = uses.get_mut(&node).map_or(0, |uses| {
                *uses -= 1;
                *uses
            });
            if left == 0 {
                lowering.release(node);
            }
        }
    }
    lowering.finish(exit)
}

struct Lowering<'a> {
    request: &'a Request<'a>,
    schedule: Schedule,
    entry: Byte,
    heads: BTreeMap<NodeId, Heads>,
    /// The rows of the head that are computed here, where they are not all.
    rows: Option<Rows>,
    /// What nodes left: one value, or one for each row that a token is routed to.
    values: BTreeMap<NodeId, Vec<Held>>,
    /// What was computed together with a node before, by node and row.
    ahead: BTreeMap<(NodeId, usize), Held>,
    /// The row that is lowered.
    row: usize,
    choices: Vec<Choice>,
}

impl Lowering<'_> {
    fn operand(&self, id: NodeId, at: usize) -> Held {
        let rows = self.request.graph.operand(id, at).and_then(|value| self.values.get(&value.node));
        let value = rows.and_then(|rows| rows.get(self.row).or(rows.first()));
        value.cloned().unwrap_or_else(|| unreachable!("operands come first"))
    }

    /// A node's values.
    fn rows(&mut self, id: NodeId) -> Vec<Held> {
        let rows = match self.request.graph.node(id).results.first() {
            Some(Ty::Act { rows, .. } | Ty::Quant { rows, .. }) => rows.section().1 as usize,
            _ => 1,
        };
        let lower = |row| {
            self.row = row;
            self.op(id)
        };
        (0..rows).map(lower).collect()
    }

    fn act(&self, id: NodeId, at: usize) -> (Vec<Word>, Layout) {
        match self.operand(id, at) {
            Held::Act(words, layout) => (words, layout),
            _ => unreachable!("the types say activations"),
        }
    }

    fn width(&self, id: NodeId, at: usize) -> u64 {
        let value = self.request.graph.operand(id, at).map(|value| *self.request.graph.ty(value));
        value.and_then(|ty| ty.matrix()).map_or(0, |(_, width)| width)
    }

    fn release(&mut self, id: NodeId) {
        for value in self.values.get(&id).into_iter().flatten() {
            match value {
                Held::Act(words, _) => words.iter().for_each(|word| self.schedule.memory.release(*word)),
                Held::Normed(row, _) => row.factor.into_iter().for_each(|word| self.schedule.memory.release(word)),
                Held::Quant(quant) => {
                    self.schedule.memory.release(quant.scale);
                    quant.corrections.into_iter().flatten().for_each(|word| self.schedule.memory.release(word));
                }
                Held::Routing(chosen) => chosen.iter().for_each(|chosen| self.schedule.memory.release(chosen.weight)),
                _ => {}
            }
        }
    }

    /// The layout of what a node computes.
    fn result_layout(&self, id: NodeId, width: u64) -> Layout {
        match (self.rows, self.heads.get(&id)) {
            (Some(rows), _) if rows.of == id => rows.layout(),
            (_, Some(heads)) => heads.layout(width),
            _ => Layout::natural(width),
        }
    }

    /// What the layers of codec `split` that read these rounded activations need to know of them.
    fn corrections(&self, id: NodeId) -> [bool; 2] {
        let graph = self.request.graph;
        let mut needed = [false; 2];
        for (user, _) in graph.users(q35_graph::Value { node: id, result: 0 }) {
            let Some(weight) = graph.node(user).op.layer_weight() else { continue };
            let Some(packed) = self.request.params.get(weight).filter(|packed| packed.codec == Codec::Split) else { continue };
            let of = self.form(weight).corrections(self.result_layout(user, packed.rows).len());
            needed = [0, 1].map(|i| needed[i] || of[i]);
        }
        needed
    }

    /// Vectors of outputs in a hemisphere that share tiles, of the layers that read these rounded activations: at most; `None` if they are not packed.
    fn sharing(&self, id: NodeId) -> Option<usize> {
        let graph = self.request.graph;
        if !fit::may_pack(graph, id) {
            return None;
        }
        let users = graph.users(q35_graph::Value { node: id, result: 0 }).into_iter();
        let of = |(user, _): (NodeId, usize)| {
            let weight = graph.node(user).op.layer_weight()?;
            let packed = self.request.params.get(weight).filter(|packed| packed.codec == Codec::Split)?;
            let own = self.result_layout(user, packed.rows).len() / 2;
            Some(if self.form(weight) == Form::Dense { own % (GUEST + 1) } else { own })
        };
        Some(users.filter_map(of).max().unwrap_or(0))
    }

    /// How a layer's pairs lie in memory.
    fn form(&self, weight: &ParamName) -> Form {
        let choice = self.choices.iter().find(|choice| choice.tensor == weight.as_str());
        choice.map_or(Form::Byte, |choice| choice.form)
    }

    fn op(&mut self, id: NodeId) -> Held {
        let graph = self.request.graph;
        match &graph.node(id).op {
            Op::Tokens(_) | Op::Positions(_) => Held::Host,
            Op::Embed(op) => {
                let width = self.request.params.get(&op.table).map_or(0, |packed| packed.cols);
                let layout = Layout::natural(width);
                let words = (0..layout.len()).map(|v| {
                    let quad = self.schedule.memory.constant(1);
                    let lanes = layout.lanes(v, |e| e);
                    self.schedule.data.inputs.push(Input::Embedding { quad, param: op.table.to_string(), lanes });
                    Word { quad, ready: 0 }
                });
                Held::Act(words.collect(), layout)
            }
            Op::RmsNorm(op) => {
                let (x, layout) = self.act(id, 0);
                let weight = op.weight.as_ref();
                let weight = weight.map(|w| (w.as_str(), self.request.params.get(w).map_or(1, |packed| packed.cols as u32)));
                if is_only_rounded(graph, id) {
                    return Held::Normed(self.schedule.norm_of_row(&x, &layout, weight, op.eps, op.group), layout);
                }
                Held::Act(self.schedule.rms_norm(&x, &layout, weight, op.eps, op.group, self.width(id, 0)), layout)
            }
            Op::Hadamard(op) => {
                let (x, layout) = self.act(id, 0);
                Held::Act(self.schedule.hadamard(&x, &layout, (op.block, op.seed), op.inverse), layout)
            }
            Op::Quantize(_) => {
                let (row, layout) = match self.operand(id, 0) {
                    Held::Normed(row, layout) => (row, layout),
                    _ => {
                        let (words, layout) = self.act(id, 0);
                        (Row { words, weights: None, factor: None }, layout)
                    }
                };
                let mut quant = self.schedule.quantize(&row, &layout, self.sharing(id));
                let needed = self.corrections(id);
                if needed.contains(&true) {
                    quant.corrections = self.schedule.corrections(&quant.inputs, needed);
                }
                Held::Quant(quant)
            }
            Op::Linear(op) => {
                let packed = self.packed(&op.weight);
                if let Held::Act(x, inputs) = self.operand(id, 0) {
                    let outputs = Layout::periodic(packed.rows);
                    let (param, bias) = (op.weight.as_str(), op.bias.as_ref().map(ParamName::as_str));
                    let words = self.schedule.router(&x, &inputs, param, bias, &outputs, packed.rows);
                    return Held::Act(words, outputs);
                }
                self.layers(id)
            }
            Op::Route(op) => {
                let (logits, layout) = self.act(id, 0);
                Held::Routing(self.schedule.route(op, &logits, &layout, self.width(id, 0)))
            }
            Op::ExpertLinear(_) => self.layers(id),
            Op::Combine(_) => {
                let Held::Routing(chosen) = self.operand(id, 1) else { unreachable!("the types say a routing") };
                let rows: Vec<(Vec<Word>, Layout)> = (0..chosen.len())
                    .map(|row| {
                        self.row = row;
                        self.act(id, 0)
                    })
                    .collect();
                let (words, layouts): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
                Held::Act(self.schedule.combine(&words, &chosen), layouts[0].clone())
            }
            Op::Rotary(op) => Held::Rotary(op.inv_freq.to_string(), op.scale),
            Op::Rope(op) => {
                let (x, layout) = self.act(id, 0);
                let Held::Rotary(param, scale) = self.operand(id, 1) else { unreachable!("the types say angles") };
                Held::Act(self.schedule.rope(&x, &layout, (&param, scale), op.head_dim as u32, op.style), layout)
            }
            Op::Append(op) => {
                let ((keys, layout), (values, _)) = (self.act(id, 0), self.act(id, 1));
                let head_lanes = (self.width(id, 0) / op.kv_heads / 2) as usize;
                Held::Cache(self.schedule.append_entry([&keys, &values], &layout, self.entry, head_lanes), head_lanes)
            }
            Op::Attention(op) => {
                let (query, layout) = self.act(id, 0);
                let Held::Cache(cache, head_lanes) = self.operand(id, 1) else { unreachable!("the types say a cache") };
                let scores = Scores {
                    scale: op.scale,
                    softcap: op.softcap,
                    window: op.window.and_then(|window| u32::try_from(window).ok()),
                    sinks: op.sinks.as_ref().map(ParamName::to_string),
                };
                Held::Act(self.schedule.attention(&query, &layout, &cache, head_lanes, &scores), layout)
            }
            Op::Glu(op) => {
                let ((gate, layout), (up, _)) = (self.act(id, 0), self.act(id, 1));
                Held::Act(self.schedule.glu(op, &gate, &up), layout)
            }
            Op::Activate(op) => self.map(id, |schedule, x| schedule.activate(op.kind, x)),
            Op::Add(_) => self.zip(id, AluOp::AddF),
            Op::Mul(_) => self.zip(id, AluOp::MulF),
            Op::Scale(op) => self.map(id, |schedule, x| {
                schedule.map(x, |expr, x| {
                    let factor = expr.float(op.factor);
                    expr.op(AluOp::MulF, x, factor)
                })
            }),
            Op::Softcap(op) => self.map(id, |schedule, x| {
                schedule.map(x, |expr, x| {
                    let (inverse, cap) = (expr.float(1.0 / op.cap), expr.float(op.cap));
                    let y = expr.op(AluOp::MulF, x, inverse);
                    let y = expr.unary(AluOp::Tanh, y);
                    expr.op(AluOp::MulF, y, cap)
                })
            }),
            // A step has one row, and it is the one whose logits are wanted.
            Op::Select(_) => self.map(id, |schedule, x| x.iter().map(|word| schedule.copy(*word)).collect()),
            other => unreachable!("'{}' was refused by the check", other.name()),
        }
    }

    fn packed(&self, param: &ParamName) -> Packed {
        let packed = self.request.params.get(param).copied();
        packed.unwrap_or_else(|| unreachable!("a verified program has its parameters"))
    }

    /// A layer on rounded activations, and with it the one that the same node needs of the same activations: both halves of a gated unit.
    fn layers(&mut self, id: NodeId) -> Held {
        if let Some(held) = self.ahead.remove(&(id, self.row)) {
            return held;
        }
        let Held::Quant(x) = self.operand(id, 0) else { unreachable!("refused by the check") };
        let ids: Vec<NodeId> = [id].into_iter().chain(self.other_half(id)).collect();
        let outputs: Vec<(Layout, Option<Experts>)> = ids.iter().map(|id| self.outputs(*id)).collect();
        let graph = self.request.graph;
        let layer = |(id, (outputs, experts)): (&NodeId, &'_ (Layout, Option<Experts>))| {
            let (weight, bias) = match &graph.node(*id).op {
                Op::Linear(op) => (&op.weight, &op.bias),
                Op::ExpertLinear(op) => (&op.weight, &op.bias),
                other => unreachable!("'{}' is no layer", other.name()),
            };
            let (packed, form) = (self.packed(weight), self.form(weight));
            let bytes = if packed.codec == Codec::Split { TileBytes::Pair } else { TileBytes::Integer };
            let (param, bias, columns) = (weight.as_str(), bias.as_ref().map(ParamName::as_str), packed.cols);
            Layer { param, bias, bytes, columns, form, outputs: outputs.clone(), experts: *experts }
        };
        let layers: Vec<Layer<'_>> = ids.iter().zip(&outputs).map(layer).collect();
        let nodes: Vec<u32> = ids.iter().map(|id| begin(&mut self.schedule, graph, *id)).collect();
        let words = self.schedule.linears(&x, &nodes.into_iter().zip(&layers).collect::<Vec<_>>());
        begin(&mut self.schedule, graph, id);
        let held = words.into_iter().zip(outputs).map(|(words, (outputs, _))| Held::Act(words, outputs));
        let mut held: Vec<(NodeId, Held)> = ids.into_iter().zip(held).collect();
        let (_, first) = held.remove(0);
        self.ahead.extend(held.into_iter().map(|(id, held)| ((id, self.row), held)));
        first
    }

    /// The layout of a layer's outputs, and the expert that was chosen.
    fn outputs(&self, id: NodeId) -> (Layout, Option<Experts>) {
        let graph = self.request.graph;
        let rows = graph.node(id).op.layer_weight().map_or(0, |weight| self.packed(weight).rows);
        if !matches!(graph.node(id).op, Op::ExpertLinear(_)) {
            return (self.result_layout(id, rows), None);
        }
        let Held::Routing(chosen) = self.operand(id, 1) else { unreachable!("the types say a routing") };
        let count = experts(graph, id);
        let rows = rows / count.max(1);
        (Layout::natural(rows), Some(Experts { count: count as u16, rows: rows as u32, map: chosen[self.row].map }))
    }

    /// The layer on the same activations whose outputs meet this one's in a gated unit.
    fn other_half(&self, id: NodeId) -> Option<NodeId> {
        let graph = self.request.graph;
        let users = graph.users(q35_graph::Value { node: id, result: 0 });
        let [(unit, 0)] = users[..] else { return None };
        let other = graph.operand(unit, 1).filter(|_| matches!(graph.node(unit).op, Op::Glu(_)))?.node;
        let same = |at: usize| graph.operand(id, at) == graph.operand(other, at);
        let alike = std::mem::discriminant(&graph.node(id).op) == std::mem::discriminant(&graph.node(other).op);
        (other != id && alike && same(0) && same(1)).then_some(other)
    }

    fn map(&mut self, id: NodeId, f: impl FnOnce(&mut Schedule, &[Word]) -> Vec<Word>) -> Held {
        let (x, layout) = self.act(id, 0);
        Held::Act(f(&mut self.schedule, &x), layout)
    }

    fn zip(&mut self, id: NodeId, op: AluOp) -> Held {
        let ((a, layout), (b, _)) = (self.act(id, 0), self.act(id, 1));
        Held::Act(self.schedule.zip(op, &a, &b), layout)
    }

    /// Sends what leaves to the next chip.
    fn leave(&mut self, leaves: NodeId) -> Option<Entrance> {
        let Some([Held::Act(words, layout)]) = self.values.get(&leaves).map(Vec::as_slice) else { return None };
        let (words, layout) = (words.clone(), layout.clone());
        begin(&mut self.schedule, self.request.graph, leaves);
        let link = self.schedule.open_link(self.schedule.data.chip + 1);
        let send = |(v, word): (usize, &Word)| self.schedule.send(link, *word, layout.lanes(v, |e| e));
        let sent: Vec<[i64; 4]> = words.iter().enumerate().map(send).collect();
        let Timing { hop, epoch, .. } = self.schedule.timing;
        let arrives = |cycle: i64| self.schedule.data.start as i64 + cycle + hop;
        let first = sent.as_flattened().iter().copied().min().map_or(0, arrives);
        // The queue's first cycle is its deskew's.
        let start = (first - 1) / epoch * epoch;
        let cycles = sent.iter().map(|bytes| bytes.map(|cycle| arrives(cycle) - start)).collect();
        Some(Entrance { start: start as u64, cycles, layout })
    }

    fn finish(mut self, exit: Option<Entrance>) -> Result<Scheduled> {
        for (_, value) in &self.request.graph.outputs {
            if let Some([Held::Act(words, layout)]) = self.values.get(&value.node).map(Vec::as_slice) {
                let outputs = words.iter().enumerate();
                let outputs = outputs.map(|(v, word)| Output { quad: word.quad, lanes: layout.lanes(v, |e| e) });
                self.schedule.data.outputs.extend(outputs);
            }
        }
        if self.schedule.memory.missing > 0 {
            let (missing, used) = (self.schedule.memory.missing, self.schedule.memory.used());
            return Err(fit::full(used + missing, self.schedule.data.chip).into());
        }
        let rows = self.schedule.memory.used();
        let nodes = self.schedule.keys.iter().map(|key| NodeId::new(*key as usize)).collect();
        let program = self.schedule.finish();
        fit::check_text(&program)?;
        Ok(Scheduled { program, rows, nodes, choices: self.choices, piece: self.rows, exit })
    }
}

/// A linear layer of codec `split` by itself, for measuring; its parameter is called `weight`.
#[derive(Clone, Debug)]
pub struct LinearProgram {
    /// The program; its outputs are the layer's.
    pub program: Program,
    /// Vectors of rounded activations, each at several places: lanes to pairs of columns, places of the even columns, and of the odd ones.
    pub inputs: Vec<(Lanes, [[Place; 2]; 2])>,
    /// Where the scale of the activations goes, in every lane.
    pub scale: Quad,
    /// Where `8 sum x_e - 128 sum x_o` and `8 sum x_e - 112 sum x_o` go, in every lane.
    pub corrections: [Quad; 2],
}

/// Schedules a layer `[outputs, inputs]` whose pairs lie in memory in a form.
///
/// # Errors
/// [`q35_diag::Code::DoesNotFit`].
pub fn schedule_linear(outputs: u64, inputs: u64, form: Form) -> Result<LinearProgram> {
    let mut schedule = Schedule::new(Timing::tsp1());
    schedule.begin(0, "linear");
    let x = Inputs::dense(inputs, |side| Byte { place: schedule.memory.bytes(side), ready: 0 });
    let places: Vec<_> = x.all().map(|chunk| (chunk.lanes.clone(), chunk.bytes.map(|sides| sides.map(|b| b.place)))).collect();
    let [scale, one, other] = [(); 3].map(|()| schedule.memory.constant(1));
    let layout = Layout::dense(outputs);
    let needed = form.corrections(layout.len());
    let corrections = [one, other].into_iter().zip(needed).filter(|(_, needed)| *needed).map(|(quad, _)| quad);
    schedule.data.images.extend([scale].into_iter().chain(corrections).map(|quad| Image::Words { quad, runs: vec![(0, 0)] }));
    let word = |quad| Word { quad, ready: 0 };
    let x = Quant { inputs: x, scale: word(scale), corrections: [one, other].map(|quad| Some(word(quad))) };
    let layer = Layer {
        param: "weight",
        bias: None,
        bytes: TileBytes::Pair,
        columns: inputs,
        form,
        outputs: layout.clone(),
        experts: None,
    };
    let words = schedule.linear(&x, &layer);
    let outputs = words.iter().enumerate().map(|(v, word)| Output { quad: word.quad, lanes: layout.lanes(v, |e| e) });
    schedule.data.outputs.extend(outputs);
    for place in places.iter().flat_map(|(_, places)| places.as_flattened()) {
        if schedule.tables.last_touch(*place) >= 0 {
            schedule.data.images.push(Image::Bytes { place: *place, runs: vec![(0, 0)] });
        }
    }
    let missing = schedule.memory.missing;
    if missing > 0 {
        return Err(fit::full(schedule.memory.used() + missing, 0).into());
    }
    Ok(LinearProgram { program: schedule.finish(), inputs: places, scale, corrections: [one, other] })
}
