//! What calibration takes of memory, told before it begins.

use super::{operands, rounded};
use crate::limit::Limit;
use q35_console::size;
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::{Model, ParamName, Ty};
use q35_graph::{NodeId, Value};
use std::collections::BTreeMap;

/// Bytes of a value for `tokens` tokens, in the float model and in the rounded one together.
fn bytes(ty: &Ty, tokens: u64) -> u64 {
    let per_token = match *ty {
        // The float model's activations stay in f32.
        Ty::Quant { rows, width } => rows.section().1.saturating_mul(5 * width),
        Ty::Act { rows, width } => rows.section().1.saturating_mul(8 * width),
        Ty::Ids { rows } => rows.section().1.saturating_mul(8),
        Ty::Rotary { half } => half.saturating_mul(16),
        Ty::Cache { kv_heads, key_dim, value_dim, .. } => (kv_heads.saturating_mul(key_dim + value_dim)).saturating_mul(8),
        Ty::Routing { choices, .. } => u64::from(choices) * 16,
    };
    per_token.saturating_mul(tokens)
}

/// Bytes beside the streams while a layer of `rows` outputs and `cols` inputs is rounded.
fn rounding(rows: u64, cols: u64) -> u64 {
    // In f64: H, both halves of it, the input's drift, and the factorisation or a solution at work; in f32: the factor and a solution. Of the residual stream:
    // its drift, twice while it is solved for, and the solution.
    let square = cols.saturating_mul(cols).saturating_mul(4 * 8 + 2 * 4);
    let residual = cols.saturating_mul(rows).saturating_mul(2 * 8 + 4);
    // And blocks of rows at work.
    square.saturating_add(residual).saturating_add(40 * q35_quantize::BLOCK_NUMBERS as u64)
}

/// The most that any op takes.
pub(super) fn needed(model: &Model, order: &[NodeId], tokens: u64) -> u64 {
    let mut uses: BTreeMap<NodeId, usize> = BTreeMap::new();
    operands(model, order).for_each(|id| *uses.entry(id).or_default() += 1);
    let size = |id: NodeId| bytes(model.graph.ty(Value { node: id, result: 0 }), tokens);
    let (mut live, mut most) = (0u64, 0u64);
    for &id in order {
        live = live.saturating_add(size(id));
        let layer = rounded(model, id).map_or(0, |name| {
            let source = &model.params[name].source;
            rounding(source.rows(), source.cols())
        });
        // Parameters as floats and as integers.
        let numbers = |name: &ParamName| model.params[name].source.rows().saturating_mul(model.params[name].source.cols());
        let params: u64 = model.graph.node(id).op.params().into_iter().map(|name| numbers(&name).saturating_mul(6)).sum();
        most = most.max(live.saturating_add(layer).saturating_add(params));
        for read in operands(model, &[id]) {
            let left = uses.entry(read).or_default();
            *left -= 1;
            if *left == 0 {
                live = live.saturating_sub(size(read));
            }
        }
    }
    most
}

/// Whether the limit leaves room for these sequences.
///
/// # Errors
/// [`Code::MemoryLimit`] if not, with how many there is room for.
pub(super) fn check(model: &Model, order: &[NodeId], sequences: &[Vec<u32>], limit: Limit) -> Result<()> {
    let length = sequences.first().map_or(0, Vec::len) as u64;
    let with = |count: usize| needed(model, order, count as u64 * length);
    if limit.check_plan(with(sequences.len())).is_ok() {
        return Ok(());
    }
    let fits = (1..sequences.len()).rev().find(|count| limit.check_plan(with(*count)).is_ok());
    let what = format!(
        "calibration with {} sequences needs {} beside what is in memory already",
        sequences.len(),
        size::show(with(sequences.len()))
    );
    let help = match fits {
        Some(count) => format!("--sequences {count} or less fits; or allow more"),
        None => "not even one sequence fits: allow more, or compile with --effort fast".to_owned(),
    };
    Err(Diagnostic::error(Code::MemoryLimit, what).at("option", "--max-memory").help(help).into())
}
