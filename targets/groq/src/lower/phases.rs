//! What each phase of a schedule, that is, each node of the model, takes, and what it takes at least.
//!
//! A phase's cycles are those by which it makes the step longer: from the last dispatch of all phases before it to its own last one. So the
//! cycles of all phases add up to the whole, and one that runs while others do costs nothing; of layers that take turns the first has nearly all.
//!
//! Its bound is what it would take alone, were its busiest kind of unit at work in every cycle: of a layer, whose weights have to enter the planes
//! whatever the schedule, 20480 bytes of them in a cycle; of anything else, the dispatches of each kind of unit over the units of that kind.
//! A bound of the second sort is that of this lowering, and another lowering may have a lower one.

use super::report::{INSTALL_BYTES, UNITS, dispatches, spans};
use super::{Scheduled, experts, fit};
use q35_dialects::q35::Op;
use q35_graph::NodeId;
use q35_target::Request;
use q35_tsp::geometry::{Queue, Unit};
use serde::Serialize;
use std::collections::BTreeMap;

/// A phase.
#[derive(Serialize)]
pub(crate) struct Phase {
    node: String,
    op: &'static str,
    /// Cycles of its first and its last dispatch, on the clock that all chips count by.
    first: u64,
    last: u64,
    cycles: u64,
    bound: u64,
    /// The kind of unit that the bound is of.
    bound_by: &'static str,
}

/// All phases of an op.
#[derive(Serialize)]
pub(crate) struct Phases {
    op: &'static str,
    count: u64,
    cycles: u64,
    bound: u64,
}

/// Cycles that the weights of a layer take to enter the planes, a pair as two bytes; `piece` of its rows, where it is divided.
fn installing(request: &Request<'_>, id: NodeId, piece: Option<u64>) -> Option<u64> {
    let graph = request.graph;
    let op = &graph.node(id).op;
    let packed = request.params.get(op.layer_weight()?).filter(|packed| packed.codec.has_scales())?;
    let rows = match op {
        Op::ExpertLinear(_) => packed.rows / experts(graph, id).max(1) * fit::rows(graph, id),
        _ => piece.unwrap_or(packed.rows),
    };
    Some(rows.saturating_mul(packed.cols).div_ceil(INSTALL_BYTES))
}

/// The phases of all chips, in the order of their programs.
pub(crate) fn phases(request: &Request<'_>, chips: &[Scheduled]) -> Vec<Phase> {
    let graph = request.graph;
    let units = |unit: Unit| Queue::all().filter(|queue| queue.unit() == unit).count().max(1) as u64;
    let mut phases = Vec::new();
    for Scheduled { program, piece, nodes, .. } in chips {
        let mut given: BTreeMap<(u32, Unit), u64> = BTreeMap::new();
        for (unit, issue) in dispatches(program) {
            let node = program.data.ops.get(issue.op as usize).map_or(0, |op| op.node);
            *given.entry((node, unit)).or_default() += 1;
        }
        let mut own: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for ((node, _), (first, last)) in spans(program) {
            let span = own.entry(node).or_insert((first, last));
            *span = (span.0.min(first), span.1.max(last));
        }
        let mut until = 0;
        for (node, (first, last)) in own {
            let Some(id) = nodes.get(node as usize).copied() else { continue };
            let rows = piece.filter(|piece| piece.of == id).map(|piece| piece.count);
            let spread =
                UNITS.iter().map(|(unit, word)| (given.get(&(node, *unit)).map_or(0, |n| n.div_ceil(units(*unit))), *word));
            let busiest = spread.max_by_key(|(cycles, _)| *cycles).unwrap_or_default();
            let weights = installing(request, id, rows).map(|cycles| (cycles, "MXM weights"));
            let (bound, bound_by) = weights.unwrap_or(busiest);
            let at = |cycle: u32| program.data.start + u64::from(cycle);
            phases.push(Phase {
                node: graph.node(id).name.clone(),
                op: graph.node(id).op.name(),
                first: at(first),
                last: at(last),
                cycles: u64::from((last + 1).saturating_sub(until)),
                bound,
                bound_by,
            });
            until = until.max(last + 1);
        }
    }
    phases
}

/// The phases of each op together, those first that take most.
pub(crate) fn by_op(phases: &[Phase]) -> Vec<Phases> {
    let mut ops: BTreeMap<&'static str, Phases> = BTreeMap::new();
    for phase in phases {
        let all = ops.entry(phase.op).or_insert(Phases { op: phase.op, count: 0, cycles: 0, bound: 0 });
        all.count += 1;
        all.cycles += phase.cycles;
        all.bound += phase.bound;
    }
    let mut ops: Vec<Phases> = ops.into_values().collect();
    ops.sort_by_key(|all| std::cmp::Reverse(all.cycles));
    ops
}
