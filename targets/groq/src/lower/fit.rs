//! Whether a model fits the chip: counted from shapes, before anything is scheduled.
//!
//! Weights lie in memory a byte per pair of `split`, or per weight of `q8`, in tiles of whole vectors; keys and values are f32. Embedding
//! tables stay with the host.

use super::layout::LANES;
use super::{attention_heads, copies};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::Ty;
use q35_dialects::q35::Op;
use q35_format::Codec;
use q35_target::Request;
use q35_tsp::geometry::{LANES as LANES_OF_CHIP, ROWS, SLICES, Side, Slice};
use q35_tsp::program::Program;
use q35_tsp::timing::Timing;

/// Vectors that weights may take: two sets of sixteen slices in each hemisphere.
const WEIGHT_ROWS: u64 = 64 * ROWS as u64;
/// Vectors that the cache and constants may take: five groups of four slices.
const CACHE_ROWS: u64 = 20 * ROWS as u64;
/// Cache entries that the 16-bit addresses of one bank hold.
const MOST_ENTRIES: u64 = 4096;

/// Vectors of the slices that the system does not keep.
fn chip_rows() -> u64 {
    let slices = Side::ALL.into_iter().flat_map(|side| (0..SLICES).map(move |n| Slice::new(side, n)));
    slices.filter(|slice| !slice.reserved()).count() as u64 * u64::from(ROWS)
}

/// The diagnostic for a model of so many vectors.
pub(crate) fn too_large(rows: u64) -> Diagnostic {
    let chips = rows.div_ceil(chip_rows()).max(2);
    let what =
        format!("the model takes {rows} vectors of 320 bytes, and a chip has {}: it needs {chips} chips at least", chip_rows());
    Diagnostic::error(Code::DoesNotFit, what)
        .help("this version schedules one chip; use a smaller model, or a shorter context with --context")
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
    Err(Diagnostic::error(Code::DoesNotFit, what).help("use a shorter context, --context N").into())
}

/// Everything that does not fit.
pub(crate) fn check(request: &Request<'_>) -> Diagnostics {
    let mut found = Diagnostics::new();
    if request.context > MOST_ENTRIES {
        let what = format!("a cache of {} entries: the largest bucket of this target is {MOST_ENTRIES}", request.context);
        found.push(Diagnostic::error(Code::DoesNotFit, what).help(format!("use --context {MOST_ENTRIES} or less")));
    }
    let graph = request.graph;
    let copied = copies(graph);
    let (mut weights, mut cache) = (0u64, 0u64);
    for id in graph.ids() {
        match &graph.node(id).op {
            Op::Linear(op) => {
                let Some(packed) = request.params.get(&op.weight) else { continue };
                let copies = copied.get(&id).map_or(1, |(_, copies)| *copies);
                let loads = packed.rows.saturating_mul(copies).div_ceil(32);
                let tiles = packed.cols.div_ceil(2 * LANES as u64) * if packed.codec == Codec::Split { 1 } else { 2 };
                weights = weights.saturating_add(loads.saturating_mul(tiles).saturating_mul(32));
            }
            Op::Append(op) => {
                let heads = attention_heads(graph, id).unwrap_or(op.kv_heads);
                if let Some(Ty::Cache { key_dim, .. }) = graph.node(id).results.first() {
                    let vectors = heads.saturating_mul(*key_dim).div_ceil(2 * LANES as u64).saturating_mul(2);
                    cache = cache.saturating_add(vectors.saturating_mul(2 * 4).saturating_mul(request.context));
                }
            }
            _ => {}
        }
    }
    if weights > WEIGHT_ROWS || cache > CACHE_ROWS {
        found.push(too_large(weights.saturating_add(cache)));
    }
    found
}
