//! What a schedule costs, and a picture of it.
//!
//! `report.json`: cycles, how busy each kind of unit is, memory, and the distance to the lower bound: every byte of weights enters a plane
//! of the MXM, 20480 in a cycle of a chip; of every phase the same (module `phases`). Of several chips also what each of them takes and what goes over their links. `trace.json`: which node
//! keeps which kind of unit busy from when to when, in the trace-event format that Perfetto opens; a microsecond there is a cycle here, and
//! a process is a chip. Cycles are those of the clock that all chips count by.

use super::Scheduled;
use super::fit::Choice;
use super::phases::{self, Phase, Phases};
use q35_target::Request;
use q35_tsp::geometry::{LANES, NODE, Queue, ROWS, SUPERLANE, Unit};
use q35_tsp::isa::Instr;
use q35_tsp::program::{Issue, Program, expand};
use q35_tsp::timing::Timing;
use serde::Serialize;
use std::collections::BTreeMap;

/// Bytes of weights that all planes of a chip together can take in a cycle.
pub(crate) const INSTALL_BYTES: u64 = (4 * SUPERLANE * LANES) as u64;

/// Kinds of units, by the name they have in reports.
pub(crate) const UNITS: [(Unit, &str); 8] = [
    (Unit::Mem, "MEM"),
    (Unit::Alu, "VXM"),
    (Unit::Permute, "SXM permute"),
    (Unit::Transpose, "SXM transpose"),
    (Unit::Weights, "MXM weights"),
    (Unit::Activations, "MXM activations"),
    (Unit::Results, "MXM results"),
    (Unit::Link, "C2C"),
];

/// The whole file.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    schedule: Schedule,
    /// Each node of the model, in the order of the programs.
    nodes: Vec<Phase>,
    /// How each layer's weights lie in memory, and what both forms cost: vectors of memory, and cycles of installing.
    weights: Vec<&'a Choice>,
}

/// The schedule as a whole, which the bundle's own `report.json` has too.
#[derive(Serialize)]
struct Schedule {
    label: &'static str,
    chips: usize,
    /// From the first dispatch of the first chip to the last write of the last one.
    cycles_per_token: u64,
    /// Of one sequence, one token after the other.
    tokens_per_second: f64,
    clock_mhz: i64,
    /// Cycles that installing all weights takes at least.
    install_bound: u64,
    /// Where the cycles go, by op.
    phases: Vec<Phases>,
    /// Dispatches per queue and cycle of a chip's program.
    utilisation: BTreeMap<&'static str, f64>,
    instructions: usize,
    instruction_bytes: u64,
    /// Vectors of 320 bytes in use, and on the chips.
    memory_rows: [u64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<Pipeline>,
}

/// What there is to say of several chips.
#[derive(Serialize)]
struct Pipeline {
    /// Cycles, once, until the counters of all chips stand alike: so many epochs for every hop from the first chip to the farthest.
    aligning: u64,
    /// Cycles from one token to the next where several are on their way at once: the slowest chip's, in whole epochs.
    cycles_between_tokens: u64,
    /// The throughput that this would be.
    tokens_per_second_full: f64,
    chips: Vec<Chip>,
    links: Vec<Traffic>,
}

/// A chip's share.
#[derive(Serialize)]
struct Chip {
    /// Where its cycle 0 is.
    start: u64,
    cycles: u32,
    install_bound: u64,
    instructions: usize,
    memory_rows: u64,
}

/// What goes from a chip to another in a step.
#[derive(Serialize)]
struct Traffic {
    from: u32,
    to: u32,
    link: u8,
    vectors: u64,
    bytes: u64,
    /// First and last send.
    sends: [u64; 2],
    /// Share of the slots between these that are taken.
    slots: f64,
}

/// Every dispatch, with the kind of its unit.
pub(crate) fn dispatches(program: &Program) -> impl Iterator<Item = (Unit, Issue)> + '_ {
    program.queues.iter().flat_map(|(queue, issues)| {
        let all = expand(*queue, issues).unwrap_or_else(|what| unreachable!("the program was just made: {what}"));
        all.into_iter().map(|issue| (queue.unit(), issue))
    })
}

/// From when to when each node keeps each kind of unit busy, in the chip's cycles.
pub(crate) fn spans(program: &Program) -> BTreeMap<(u32, Unit), (u32, u32)> {
    let mut spans = BTreeMap::new();
    for (unit, issue) in dispatches(program) {
        // It stands where an epoch begins, long before what it is for.
        if matches!(issue.instr, Instr::Deskew {}) {
            continue;
        }
        let node = program.data.ops.get(issue.op as usize).map_or(0, |op| op.node);
        let span = spans.entry((node, unit)).or_insert((issue.cycle, issue.cycle));
        *span = (span.0.min(issue.cycle), span.1.max(issue.cycle));
    }
    spans
}

/// From the first dispatch of the first chip to the last write of the last one.
pub(crate) fn latency(chips: &[Scheduled]) -> u64 {
    chips.iter().map(|chip| chip.program.data.start + u64::from(chip.program.data.cycles)).max().unwrap_or(0)
}

/// Cycles in which the weights of some loads enter the planes.
fn install_bound(loads: u64) -> u64 {
    (loads * (SUPERLANE * LANES) as u64).div_ceil(INSTALL_BYTES)
}

fn instructions(program: &Program) -> usize {
    program.queues.values().map(Vec::len).sum()
}

fn loads(program: &Program) -> u64 {
    dispatches(program).filter(|(_, issue)| matches!(issue.instr, Instr::Load { .. } | Instr::Install { .. })).count() as u64
}

/// `report.json`, and the part of it that says how the schedule is as a whole.
pub(crate) fn report(request: &Request<'_>, chips: &[Scheduled], timing: &Timing) -> (String, serde_json::Value) {
    let programs = || chips.iter().map(|chip| &chip.program);
    let cycles = latency(chips).max(1);
    let mut busy: BTreeMap<Unit, u64> = BTreeMap::new();
    for (unit, _) in programs().flat_map(dispatches) {
        *busy.entry(unit).or_default() += 1;
    }
    let running: u64 = programs().map(|program| u64::from(program.data.cycles.max(1))).sum();
    let queues = |unit| Queue::all().filter(|queue| queue.unit() == unit).count() as f64;
    let share = |unit| busy.get(&unit).map_or(0.0, |n| *n as f64 / queues(unit) / running as f64);
    // One chip has no traffic to speak of.
    let units = UNITS.iter().filter(|(unit, _)| chips.len() > 1 || *unit != Unit::Link);
    let nodes = phases::phases(request, chips);
    let instructions = programs().map(instructions).sum();
    let rows = Queue::all().filter(|q| q.unit() == Unit::Mem && !q.slice().reserved()).count() as u64 * u64::from(ROWS);
    let schedule = Schedule {
        label: "a model of the chip, not run on silicon",
        chips: chips.len(),
        cycles_per_token: cycles,
        tokens_per_second: per_second(cycles, timing),
        clock_mhz: timing.clock_mhz,
        install_bound: install_bound(programs().map(loads).sum()),
        phases: phases::by_op(&nodes),
        utilisation: units.map(|(unit, word)| (*word, share(*unit))).collect(),
        instructions,
        instruction_bytes: instructions as u64 * timing.instruction_bytes as u64,
        memory_rows: [chips.iter().map(|chip| chip.rows).sum(), chips.len() as u64 * rows],
        pipeline: (chips.len() > 1).then(|| pipeline(chips, timing)),
    };
    let summary = serde_json::to_value(&schedule).unwrap_or_default();
    let weights = chips.iter().flat_map(|chip| &chip.choices).collect();
    (serde_json::to_string_pretty(&Report { schedule, nodes, weights }).unwrap_or_default() + "\n", summary)
}

fn per_second(cycles: u64, timing: &Timing) -> f64 {
    timing.clock_mhz as f64 * 1e6 / cycles as f64
}

fn pipeline(chips: &[Scheduled], timing: &Timing) -> Pipeline {
    let epoch = timing.epoch as u64;
    let slowest = chips.iter().map(|chip| u64::from(chip.program.data.cycles)).max().unwrap_or(0).max(1);
    let between = slowest.next_multiple_of(epoch);
    // From node to node there are two hops, one of them within the node, and one within the last.
    let hops = |chip: u32| 2 * u64::from(chip / NODE) + u64::from(!chip.is_multiple_of(NODE));
    let farthest = (0..chips.len() as u32).map(hops).max().unwrap_or(0);
    Pipeline {
        aligning: (timing.latency_max as u64 / epoch + 1) * farthest * epoch,
        cycles_between_tokens: between,
        tokens_per_second_full: per_second(between, timing),
        chips: chips.iter().map(share).collect(),
        links: chips.iter().filter_map(|chip| traffic(&chip.program, timing)).collect(),
    }
}

fn share(Scheduled { program, rows, .. }: &Scheduled) -> Chip {
    Chip {
        start: program.data.start,
        cycles: program.data.cycles,
        install_bound: install_bound(loads(program)),
        instructions: instructions(program),
        memory_rows: *rows,
    }
}

/// What a chip sends to the next one.
fn traffic(program: &Program, timing: &Timing) -> Option<Traffic> {
    let sends = dispatches(program).filter(|(_, issue)| matches!(issue.instr, Instr::Send { .. }));
    let cycles: Vec<u64> = sends.map(|(_, issue)| u64::from(issue.cycle)).collect();
    let (first, last) = (*cycles.first()?, *cycles.last()?);
    let end = program.data.links.iter().find(|end| end.chip > program.data.chip)?;
    let vectors = cycles.len() as u64;
    Some(Traffic {
        from: program.data.chip,
        to: end.chip,
        link: end.link,
        vectors,
        bytes: vectors * LANES as u64,
        sends: [first, last].map(|cycle| program.data.start + cycle),
        slots: vectors as f64 * timing.link as f64 / (last - first + timing.link as u64) as f64,
    })
}

/// An event of the trace-event format.
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    ph: &'static str,
    ts: u64,
    dur: u32,
    pid: u32,
    tid: &'static str,
}

/// `trace.json`.
pub(crate) fn trace(chips: &[Scheduled]) -> String {
    let mut events: Vec<Event<'_>> = Vec::new();
    for Scheduled { program, .. } in chips {
        let event = |((node, unit), (first, last)): ((u32, Unit), (u32, u32))| Event {
            name: program.data.nodes.get(node as usize).map_or("", String::as_str),
            ph: "X",
            ts: program.data.start + u64::from(first),
            dur: last - first + 1,
            pid: program.data.chip + 1,
            tid: UNITS.iter().find(|(of, _)| *of == unit).map_or("", |(_, word)| word),
        };
        events.extend(spans(program).into_iter().map(event));
    }
    serde_json::to_string(&serde_json::json!({ "traceEvents": events })).unwrap_or_default() + "\n"
}
