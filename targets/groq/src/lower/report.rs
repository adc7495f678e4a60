//! What a schedule costs, and a picture of it.
//!
//! `report.json`: cycles, how busy each kind of unit is, memory, and the distance to the lower bound: every byte of weights enters a plane
//! of the MXM, 20480 in a cycle. `trace.json`: which node keeps which kind of unit busy from when to when, in the trace-event format that
//! Perfetto opens; a microsecond there is a cycle here.

use super::fit::Choice;
use q35_tsp::geometry::{LANES, Queue, ROWS, SUPERLANE, Unit};
use q35_tsp::isa::Instr;
use q35_tsp::program::{Issue, Program, expand};
use q35_tsp::timing::Timing;
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of weights that all planes together can take in a cycle.
const INSTALL_BYTES: u64 = (4 * SUPERLANE * LANES) as u64;

/// Kinds of units, by the name they have in reports.
const UNITS: [(Unit, &str); 7] = [
    (Unit::Mem, "MEM"),
    (Unit::Alu, "VXM"),
    (Unit::Permute, "SXM permute"),
    (Unit::Transpose, "SXM transpose"),
    (Unit::Weights, "MXM weights"),
    (Unit::Activations, "MXM activations"),
    (Unit::Results, "MXM results"),
];

/// The whole file.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    schedule: Schedule,
    /// First and last cycle of each node of the model, in the order of the program.
    nodes: Vec<(String, u32, u32)>,
    /// How each layer's weights lie in memory, and what both forms cost: vectors of memory, and cycles of installing.
    weights: Vec<Choice>,
}

/// The schedule as a whole, which the bundle's own `report.json` has too.
#[derive(Serialize)]
struct Schedule {
    label: &'static str,
    cycles_per_token: u32,
    tokens_per_second: f64,
    clock_mhz: i64,
    /// Cycles that installing all weights takes at least.
    install_bound: u64,
    /// Dispatches per queue and cycle.
    utilisation: BTreeMap<&'static str, f64>,
    instructions: usize,
    instruction_bytes: u64,
    /// Vectors of 320 bytes in use, and on the chip.
    memory_rows: [u64; 2],
}

/// Every dispatch, with the kind of its unit.
fn dispatches(program: &Program) -> impl Iterator<Item = (Unit, Issue)> + '_ {
    program.queues.iter().flat_map(|(queue, issues)| {
        let all = expand(*queue, issues).unwrap_or_else(|what| unreachable!("the program was just made: {what}"));
        all.into_iter().map(|issue| (queue.unit(), issue))
    })
}

/// From when to when each node keeps each kind of unit busy.
fn spans(program: &Program) -> BTreeMap<(u32, Unit), (u32, u32)> {
    let mut spans = BTreeMap::new();
    for (unit, issue) in dispatches(program) {
        let node = program.data.ops.get(issue.op as usize).map_or(0, |op| op.node);
        let span = spans.entry((node, unit)).or_insert((issue.cycle, issue.cycle));
        *span = (span.0.min(issue.cycle), span.1.max(issue.cycle));
    }
    spans
}

/// `report.json`, and the part of it that says how the schedule is as a whole.
pub(crate) fn report(program: &Program, rows: u64, weights: Vec<Choice>, timing: &Timing) -> (String, serde_json::Value) {
    let cycles = program.data.cycles.max(1);
    let mut busy: BTreeMap<Unit, u64> = BTreeMap::new();
    let mut loads = 0;
    for (unit, issue) in dispatches(program) {
        *busy.entry(unit).or_default() += 1;
        loads += u64::from(matches!(issue.instr, Instr::Load { .. } | Instr::Install { .. }));
    }
    let queues = |unit| Queue::all().filter(|queue| queue.unit() == unit).count() as f64;
    let share = |unit| busy.get(&unit).map_or(0.0, |n| *n as f64 / queues(unit) / f64::from(cycles));
    let mut nodes: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for ((node, _), (first, last)) in spans(program) {
        let span = nodes.entry(node).or_insert((first, last));
        *span = (span.0.min(first), span.1.max(last));
    }
    let name = |node: u32| program.data.nodes.get(node as usize).cloned().unwrap_or_default();
    let instructions = program.queues.values().map(Vec::len).sum();
    let schedule = Schedule {
        label: "a model of the chip, not run on silicon",
        cycles_per_token: cycles,
        tokens_per_second: timing.clock_mhz as f64 * 1e6 / f64::from(cycles),
        clock_mhz: timing.clock_mhz,
        install_bound: (loads * (SUPERLANE * LANES) as u64).div_ceil(INSTALL_BYTES),
        utilisation: UNITS.iter().map(|(unit, word)| (*word, share(*unit))).collect(),
        instructions,
        instruction_bytes: instructions as u64 * timing.instruction_bytes as u64,
        memory_rows: [
            rows,
            Queue::all().filter(|q| q.unit() == Unit::Mem && !q.slice().reserved()).count() as u64 * u64::from(ROWS),
        ],
    };
    let summary = serde_json::to_value(&schedule).unwrap_or_default();
    let nodes = nodes.into_iter().map(|(node, (first, last))| (name(node), first, last)).collect();
    (serde_json::to_string_pretty(&Report { schedule, nodes, weights }).unwrap_or_default() + "\n", summary)
}

/// An event of the trace-event format.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    ph: &'static str,
    ts: u32,
    dur: u32,
    pid: u32,
    tid: &'static str,
}

/// `trace.json`.
pub(crate) fn trace(program: &Program) -> String {
    let event = |((node, unit), (first, last)): ((u32, Unit), (u32, u32))| Event {
        name: program.data.nodes.get(node as usize).map_or("", String::as_str),
        ph: "X",
        ts: first,
        dur: last - first + 1,
        pid: 1,
        tid: UNITS.iter().find(|(of, _)| *of == unit).map_or("", |(_, word)| word),
    };
    let events: Vec<Event<'_>> = spans(program).into_iter().map(event).collect();
    serde_json::to_string(&serde_json::json!({ "traceEvents": events })).unwrap_or_default() + "\n"
}
