//! How many chips a model of any size would take, and how fast it would be: counted from shapes.
//!
//! Layers form a pipeline over nodes of eight chips; within a node every layer is cut into eight parts (tensor parallel), and twice per layer
//! partial sums are exchanged: reduced over the node, one hop, and gathered again, another. One token at a time:
//!
//! ```text
//! cycles = installing / 8 + layers * (2 * (2 * hop + exchanged bytes per link / bytes per cycle) + vector) + attention / 8
//! ```
//!
//! `installing` is what the weights that a token meets take to enter the planes of one chip, `vector` what norms, rotary embedding and
//! rotations take, `attention` what grows with the context, of which all entries are visited whatever the step; a model that fits one chip exchanges
//! nothing. Memory holds weights in seven bits per pair, a cache of one byte per number for
//! at most [`CONTEXT`] tokens, and is not filled beyond nine tenths. All cycles are those of the timing file; `vector` and
//! `attention` are what layers really take that this compiler schedules. Nodes of eight are not scheduled: that is a pipeline of single chips (module `stages`).

use super::fit::{self, Choice};
use super::heads::heads;
use super::layout::{LANES as LANES_IN_USE, Layout};
use super::stages;
use q35_dialects::Ty;
use q35_dialects::q35::Op;
use q35_graph::NodeId;
use q35_target::Request;
use q35_tsp::geometry::{LANES, Queue, ROWS, Unit};
use q35_tsp::timing::Timing;

/// Chips of a node.
const NODE: u64 = 8;
/// Cache entries that are counted at most.
const CONTEXT: u64 = 8192;
/// Bytes of a partial sum on its way there and, as a half-precision number, back.
const EXCHANGED: u64 = 4 + 2;

/// Bytes of a chip that programs may use.
fn chip_bytes() -> u64 {
    let slices = Queue::all().filter(|queue| queue.unit() == Unit::Mem && !queue.slice().reserved()).count();
    slices as u64 * u64::from(ROWS) * LANES as u64 / 10 * 9
}

/// Cycles of the vector phases of a layer with a residual stream of so many columns, but for attention.
pub(crate) fn vector(width: u64, timing: &Timing) -> u64 {
    timing.vector as u64 + width * timing.vector_column as u64 / 1000
}

/// Cycles of the attention of some nodes.
pub(crate) fn attention(request: &Request<'_>, nodes: impl IntoIterator<Item = NodeId>, timing: &Timing) -> u64 {
    let (graph, heads) = (request.graph, heads(request.graph));
    let pairs = |id: NodeId| {
        let attends = graph.node(id).op.attends();
        let (_, width) = graph.operand(id, 0).filter(|_| attends).and_then(|query| graph.ty(query).matrix())?;
        Some(heads.get(&id).map_or_else(|| Layout::natural(width), |heads| heads.layout(width)).len() as u64 / 2)
    };
    let pairs: u64 = nodes.into_iter().filter_map(pairs).sum();
    pairs.saturating_mul(request.context).saturating_mul(timing.vector_entry as u64)
}

/// A prediction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forecast {
    /// Chips that a model takes.
    pub(crate) chips: u64,
    /// Of one sequence, one after the other.
    pub(crate) tokens_per_second: f64,
}

/// What a pipeline of so many single chips would do (module `stages`): every layer on one chip, and the residual stream on one link from
/// chip to chip.
pub(crate) fn pipeline(request: &Request<'_>, chips: usize, timing: &Timing) -> Forecast {
    let graph = request.graph;
    let stages = stages::stages(request, chips);
    let mut cycles = stages::cycles(request, &stages);
    for leaves in stages.iter().filter_map(|stage| stage.leaves) {
        let width = graph.node(leaves).results.first().and_then(Ty::matrix).map_or(0, |(_, width)| width);
        let vectors = 4 * width.div_ceil(2 * LANES_IN_USE as u64) * 2;
        cycles += timing.hop as u64 + vectors * timing.link as u64;
    }
    Forecast { chips: stages.len() as u64, tokens_per_second: timing.clock_mhz as f64 * 1e6 / cycles.max(1) as f64 }
}

/// Predicts.
pub(crate) fn forecast(request: &Request<'_>, timing: &Timing) -> Forecast {
    let graph = request.graph;
    let choices = fit::choices(request, (&graph.ids().collect(), None), 0);
    let (mut layers, mut hidden, mut cache) = (0u64, 0u64, 0u64);
    for id in graph.ids() {
        layers += u64::from(graph.node(id).op.attends());
        match (&graph.node(id).op, graph.node(id).results.first()) {
            (Op::Embed(_), Some(ty)) => hidden = ty.matrix().map_or(0, |(_, width)| width),
            (_, Some(Ty::Cache { kv_heads, key_dim, value_dim, .. })) => {
                cache = cache.saturating_add(kv_heads.saturating_mul(key_dim.saturating_add(*value_dim)));
            }
            _ => {}
        }
    }
    let weights = choices.iter().fold(0u64, |sum, choice| {
        let rows = choice.dense.rows.min(choice.byte.rows);
        sum.saturating_add(rows.saturating_mul(LANES as u64))
    });
    let bytes = weights.saturating_add(cache.saturating_mul(request.context.min(CONTEXT)));
    let chips = match bytes.div_ceil(chip_bytes()) {
        0 | 1 => 1,
        chips => chips.next_multiple_of(NODE),
    };
    // A part of a layer is worth a whole number of bytes per pair only where memory is left: on several chips layers are dense.
    let cycles = |choice: &Choice| if chips == 1 { choice.byte.cycles } else { choice.dense.cycles.div_ceil(NODE) };
    let installing = choices.iter().fold(0u64, |sum, choice| sum.saturating_add(cycles(choice)));
    let [hop, link] = [timing.hop, timing.link].map(|n| n as u64);
    let exchange = 2 * hop + hidden.div_ceil(NODE) * EXCHANGED * link / LANES as u64;
    let per_layer = vector(hidden, timing) + if chips == 1 { 0 } else { 2 * exchange };
    let attention = attention(request, graph.ids(), timing) / if chips == 1 { 1 } else { NODE };
    let cycles = installing.saturating_add(layers * per_layer).saturating_add(attention).max(1);
    Forecast { chips, tokens_per_second: timing.clock_mhz as f64 * 1e6 / cycles as f64 }
}
