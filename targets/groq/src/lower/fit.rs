//! Whether a model, or a chip's share of it, fits the chip, and in which form each layer's pairs lie there: counted from shapes, before anything is scheduled.
//!
//! Weights lie in memory a byte per pair of `split` or seven bits, whatever is cheaper (module `linear`), or a byte per weight of `q8`, in
//! tiles of whole vectors; keys and values are f32. Embedding tables stay with the host.

use super::experts;
use super::forecast::{Forecast, forecast};
use super::heads::{Heads, heads};
use super::inputs::{self, Tiles};
use super::layout::{LANES, Layout};
use super::linear::{Form, GUEST};
use super::stages::{self, Rows};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::q35::Op;
use q35_dialects::{Graph, Ty};
use q35_format::Codec;
use q35_graph::NodeId;
use q35_target::Request;
use q35_tsp::geometry::{LANES as LANES_OF_CHIP, PLANES, ROWS, SLICES, Side, Slice};
use q35_tsp::program::Program;
use q35_tsp::timing::Timing;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Slices that weights may take: two sets of sixteen in each hemisphere.
const WEIGHT_SLICES: u64 = 64;
/// Slices that the cache and constants may take: five groups of four.
const CACHE_SLICES: u64 = 20;
/// Cache entries that the 16-bit addresses of one bank hold.
const MOST_ENTRIES: u64 = 4096;

/// Vectors of the slices that the system does not keep.
fn chip_rows() -> u64 {
    let slices = Side::ALL.into_iter().flat_map(|side| (0..SLICES).map(move |n| Slice::new(side, n)));
    slices.filter(|slice| !slice.reserved()).count() as u64 * u64::from(ROWS)
}

/// The diagnostic for a model with a part, named by its first node, that fits no chip.
pub(crate) fn too_large(request: &Request<'_>, part: &str) -> Diagnostic {
    let Size { weights, cache, .. } = Size::of(request, &request.graph.ids().collect(), None);
    let rows = weights.saturating_add(cache);
    let Forecast { chips, tokens_per_second } = forecast(request, &Timing::tsp1());
    let chips = chips.max(2);
    let what = format!(
        "the model takes {rows} vectors of 320 bytes, and a chip has {}: it needs {chips} chips at least, where {tokens_per_second:.0} \
         tokens/s are predicted",
        chip_rows()
    );
    Diagnostic::error(Code::DoesNotFit, what).at("node", part).help(
        "the prediction assumes that the chips of a node share every layer, which this version does not schedule: a layer is on one chip, and the \
         one that begins here fits none; use a smaller model, or a shorter context with --context",
    )
}

/// The diagnostic for what takes more vectors than a chip has, once it has been scheduled.
pub(crate) fn full(rows: u64, chip: u32) -> Diagnostic {
    let what = format!("what is on chip {chip} takes {rows} vectors of 320 bytes, and a chip has {}", chip_rows());
    Diagnostic::error(Code::DoesNotFit, what)
        .help("use more chips with --chips, a shorter context with --context, or a smaller model")
}

/// What a share of a model takes, counted from shapes: everything as dense as it can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Vectors of weights.
    pub(crate) weights: u64,
    /// Vectors of the cache.
    pub(crate) cache: u64,
    /// Cycles in which weights enter the planes, a byte per pair.
    pub(crate) installing: u64,
}

impl Size {
    /// Vectors of weights that a chip has room for.
    pub(crate) const ROOM: u64 = WEIGHT_SLICES * ROWS as u64;

    /// Of some nodes, of one of them some rows.
    pub(crate) fn of(request: &Request<'_>, nodes: &BTreeSet<NodeId>, rows: Option<Rows>) -> Self {
        let choices = choices(request, (nodes, rows), 0);
        let sum = |of: fn(&Choice) -> u64| choices.iter().fold(0u64, |sum, choice| sum.saturating_add(of(choice)));
        Self {
            weights: sum(|choice| choice.cost().rows),
            cache: cache_rows(request, nodes),
            installing: sum(|choice| choice.byte.cycles),
        }
    }

    /// Both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            weights: self.weights.saturating_add(other.weights),
            cache: self.cache.saturating_add(other.cache),
            installing: self.installing.saturating_add(other.installing),
        }
    }

    /// Whether a chip has room for it.
    pub(crate) fn fits(self) -> bool {
        self.weights <= Self::ROOM && self.cache <= CACHE_SLICES * u64::from(ROWS)
    }
}

/// Instruction text lies in the slices that the system keeps.
pub(crate) fn check_text(program: &Program) -> Result<()> {
    let all = Side::ALL.into_iter().flat_map(|side| (0..SLICES).map(move |n| Slice::new(side, n)));
    let room = all.filter(|slice| slice.reserved()).count() as u64 * u64::from(ROWS) * LANES_OF_CHIP as u64;
    let instructions: u64 = program.queues.values().map(|issues| issues.len() as u64).sum();
    let bytes = instructions * Timing::tsp1().instruction_bytes as u64;
    if bytes <= room {
        return Ok(());
    }
    let what = format!("a step takes {bytes} bytes of instructions, and the chip keeps {room} for them");
    Err(Diagnostic::error(Code::DoesNotFit, what).help("use a shorter context, --context N, or more chips, --chips N").into())
}

/// What a layer costs in one form.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// Vectors of memory.
    pub(crate) rows: u64,
    /// Cycles in which its bytes go into the planes, if all four take some in every cycle.
    pub(crate) cycles: u64,
}

impl Cost {
    /// The same of so many experts, some of which are chosen.
    fn of_experts(self, count: u64, chosen: u64) -> Self {
        Self { rows: self.rows.saturating_mul(count), cycles: self.cycles.saturating_mul(chosen) }
    }
}

/// Rows that a node has for each token.
pub(crate) fn rows(graph: &Graph, id: NodeId) -> u64 {
    match graph.node(id).results.first() {
        Some(Ty::Act { rows, .. }) => rows.section().1,
        _ => 1,
    }
}

/// A layer's form, and what it costs in both.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Choice {
    pub(crate) tensor: String,
    pub(crate) form: Form,
    pub(crate) byte: Cost,
    pub(crate) dense: Cost,
}

impl Choice {
    pub(crate) fn cost(&self) -> Cost {
        match self.form {
            Form::Byte => self.byte,
            Form::Dense => self.dense,
        }
    }
}

/// The cost of a layer of these outputs, whose columns make these tiles; of pairs each is installed twice, other weights make two tiles.
fn cost(outputs: &Layout, tiles: Tiles, pairs: bool, form: Form) -> Cost {
    let alone = tiles.full + tiles.sharing.min(1);
    let (mut rows, mut loads) = (0u64, 0u64);
    let mut add = |of: u64, tiles: u64, times: u64| {
        rows = rows.saturating_add((of.div_ceil(2) * 32).saturating_mul(tiles));
        loads = loads.saturating_add((of * times).saturating_mul(tiles));
    };
    for side in 0..2 {
        let own: Vec<u64> = (side..outputs.len()).step_by(2).map(|v| outputs.loads(v)).collect();
        let dense = if form == Form::Dense && pairs { own.len() / (GUEST + 1) * (GUEST + 1) } else { 0 };
        let (dense, own) = own.split_at(dense);
        for group in dense.chunks(GUEST + 1) {
            group[..GUEST].iter().for_each(|of| add(*of, alone, 3));
        }
        if !pairs {
            own.iter().for_each(|of| add(*of, 2 * alone, 1));
            continue;
        }
        own.iter().for_each(|of| add(*of, tiles.full, 2));
        if tiles.sharing > 0 {
            own.chunks(tiles.sharing as usize).for_each(|group| add(group.iter().copied().max().unwrap_or(0), 1, 2));
        }
    }
    Cost { rows, cycles: loads / u64::from(PLANES) }
}

/// The tiles of a layer on the activations that it meets.
fn tiles_of(graph: &Graph, heads: &BTreeMap<NodeId, Heads>, id: NodeId, columns: u64) -> Tiles {
    let Some(rounded) = graph.operand(id, 0).map(|value| value.node) else {
        return inputs::tiles(&Layout::natural(columns), false);
    };
    let mut from = graph.operand(rounded, 0).map(|value| value.node);
    while let Some(node) = from.filter(|node| matches!(graph.node(*node).op, Op::Hadamard(_))) {
        from = graph.operand(node, 0).map(|value| value.node);
    }
    let heads = from.and_then(|node| heads.get(&node));
    let layout = heads.map_or_else(|| Layout::natural(columns), |heads| heads.layout(columns));
    inputs::tiles(&layout, may_pack(graph, rounded))
}

/// Whether rounded activations may be packed: no experts read them.
pub(crate) fn may_pack(graph: &Graph, rounded: NodeId) -> bool {
    let users = graph.users(q35_graph::Value { node: rounded, result: 0 });
    !users.iter().any(|(user, _)| matches!(graph.node(*user).op, Op::ExpertLinear(_)))
}

/// Every layer among some nodes, or some rows of it, in bytes as far as they fit in so many vectors: then the layers that save most become dense.
pub(crate) fn choices(request: &Request<'_>, (nodes, part): (&BTreeSet<NodeId>, Option<Rows>), room: u64) -> Vec<Choice> {
    let heads = heads(request.graph);
    let mut choices = Vec::new();
    for id in request.graph.ids().filter(|id| nodes.contains(id)) {
        let op = &request.graph.node(id).op;
        let Some((weight, packed)) = op.layer_weight().and_then(|w| Some((w, request.params.get(w)?))) else { continue };
        if !packed.codec.has_scales() {
            continue;
        }
        let (count, chosen) = match op {
            Op::ExpertLinear(_) => (experts(request.graph, id), rows(request.graph, id)),
            _ => (1, 1),
        };
        let outputs = match (part, heads.get(&id)) {
            (Some(part), _) if part.of == id => part.layout(),
            (_, Some(heads)) => heads.layout(packed.rows),
            _ => Layout::natural(packed.rows / count),
        };
        let pairs = packed.codec == Codec::Split;
        let tiles = tiles_of(request.graph, &heads, id, packed.cols);
        // Experts are gathered as they lie: they are not packed further.
        let forms = [Form::Byte, if count > 1 { Form::Byte } else { Form::Dense }];
        let [byte, dense] = forms.map(|form| cost(&outputs, tiles, pairs, form).of_experts(count, chosen));
        choices.push(Choice { tensor: weight.to_string(), form: Form::Byte, byte, dense });
    }
    let mut order: Vec<usize> = (0..choices.len()).collect();
    // What is left over after full tiles is shared in bytes alone: there a dense layer may be the larger one.
    let saved = |choice: &Choice| choice.byte.rows.saturating_sub(choice.dense.rows);
    order.sort_by_key(|at| (std::cmp::Reverse(saved(&choices[*at])), *at));
    let mut rows: u64 = choices.iter().map(|choice| choice.byte.rows).sum();
    for at in order {
        if rows > room && saved(&choices[at]) > 0 {
            rows -= saved(&choices[at]);
            choices[at].form = Form::Dense;
        }
    }
    choices
}

/// Vectors of the cache of some nodes.
fn cache_rows(request: &Request<'_>, nodes: &BTreeSet<NodeId>) -> u64 {
    let graph = request.graph;
    let heads = heads(graph);
    let mut rows = 0u64;
    for id in nodes.iter().copied() {
        let Op::Append(op) = &graph.node(id).op else { continue };
        let copies = match graph.operand(id, 0).and_then(|keys| heads.get(&keys.node)) {
            Some(Heads::Cached { copies, .. }) => *copies,
            _ => 1,
        };
        if let Some(Ty::Cache { key_dim, .. }) = graph.node(id).results.first() {
            let vectors =
                op.kv_heads.saturating_mul(copies).saturating_mul(*key_dim).div_ceil(2 * LANES as u64).saturating_mul(2);
            rows = rows.saturating_add(vectors.saturating_mul(2 * 4).saturating_mul(request.context));
        }
    }
    rows
}

/// Vectors for weights in slices that the cache, which lies above them, takes a part of.
pub(crate) fn weight_rows(request: &Request<'_>, nodes: &BTreeSet<NodeId>) -> u64 {
    let taken = cache_rows(request, nodes) / CACHE_SLICES;
    WEIGHT_SLICES * u64::from(ROWS).saturating_sub(taken)
}

/// Everything that does not fit.
pub(crate) fn check(request: &Request<'_>) -> Diagnostics {
    let mut found = Diagnostics::new();
    if request.context > MOST_ENTRIES {
        let what = format!("a cache of {} entries: the largest bucket of this target is {MOST_ENTRIES}", request.context);
        found.push(Diagnostic::error(Code::DoesNotFit, what).help(format!("use --context {MOST_ENTRIES} or less")));
    }
    found.extend(stages::refusal(request));
    found
}
