//! Proves that a program of the tsp dialect is sound, from the emitted file alone. It shares no code with the scheduler, and executes
//! nothing: all rules speak of who is where when.
//!
//! Times are those of superlane 0: data and instructions are staggered alike, so what holds there holds on every superlane; what mixes
//! superlanes covers the skew by its latency (a test of the timing file).
//!
//! | rule | | module |
//! | --- | --- | --- |
//! | Q1 | the cycles of a queue increase, repeats say what they do, instructions stand in queues of their unit | `lib` |
//! | S1 | no register is driven twice in one cycle; groups of streams are aligned | `streams` |
//! | S2 | every operand stands where and when it is used | `streams` |
//! | S3 | every vector that is driven is used before it is overwritten or leaves the chip | `streams` |
//! | S4 | a stream leads from an instruction to one of the same macro-op; a load may swallow what another one's multiplication takes there | `streams` |
//! | S5 | addresses of a gather are read from memory | `streams` |
//! | M1 | addresses exist, outside the slices that the system keeps; blocks of a tile share no lane | `memory` |
//! | M2 | what is read was written before, or is an image or an input | `memory` |
//! | M3 | what is written is read, or an output, before it is overwritten; images are never overwritten | `memory` |
//! | M4 | images and inputs are read, the rows of one tile of weights equally often | `memory` |
//! | M5 | a scatter keeps to one zeroed region, whatever the address, and the region is read after it only | `memory` |
//! | M6 | a macro-op reads what it claims to read, and finds what the macro-op has written that it names | `memory` |
//! | V1 | an ALU's operand from another ALU is ready in exactly this cycle, and the two are linked | `units` |
//! | V2 | every result of an ALU is used | `units` |
//! | F1 | what a macro-op writes is computed, of what it reads, as it claims | `flow` |
//! | P1 | a permutor has its map, and every map is used | `units` |
//! | X1 | loads fill a buffer no further than it holds, and all of them are installed | `units` |
//! | X2 | a multiplication meets installed weights, which stay until it is through; installed weights are used | `units` |
//! | X3 | an accumulator is set, gains, and is emitted once all is through; there is one of that number | `units` |
//! | N1 | no accumulator can leave 32 bits, whatever the weights and activations | `units` |
//! | L1 | a link is deskewed once, in cycle 0, where an epoch begins | `links` |
//! | L2 | no two vectors are in one slot of a link | `links` |
//! | L3 | every send has one receive at the other end of its link, as many cycles later as a hop takes, and every receive a send | `links` |
//! | L4 | a byte that is sent is the same byte, of the same elements, where it is kept; all that a chip should send is sent | `links` |
//! | L5 | what waits at the end of a link is there when it is received, and has room until then, whatever the latency | `links` |
//! | L6 | chips send to later chips: what waits for nothing cannot wait in a circle | `links` |
//!
//! Integer sums on the VXM are the layers' own, bounded before scheduling by the number of columns.

mod flow;
mod links;
mod memory;
mod streams;
mod units;

use q35_tsp::geometry::Queue;
use q35_tsp::program::{Issue, Program, expand};
use q35_tsp::timing::Timing;
use std::fmt;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name in the table.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// A dispatch.
#[derive(Clone, Copy)]
pub(crate) struct Event {
    pub(crate) cycle: i64,
    pub(crate) queue: Queue,
    pub(crate) issue: Issue,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cycle {}, {}: {}", self.cycle, self.queue, self.issue.instr)
    }
}

/// Collects violations.
#[derive(Default)]
pub(crate) struct Found(Vec<Violation>);

impl Found {
    pub(crate) fn unless(&mut self, sound: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !sound {
            self.0.push(Violation { rule, what: what() });
        }
    }
}

/// Every broken rule of the program of a single chip.
pub fn check(program: &Program, timing: &Timing) -> Vec<Violation> {
    check_system(std::slice::from_ref(program), timing)
}

/// Every broken rule of the programs of all chips, in their order.
pub fn check_system(programs: &[Program], timing: &Timing) -> Vec<Violation> {
    let mut all = Found::default();
    let mut traffic = Vec::new();
    for (chip, program) in programs.iter().enumerate() {
        let mut found = Found::default();
        traffic.push(check_chip(program, timing, &mut found));
        if programs.len() > 1 {
            found.0.iter_mut().for_each(|violation| violation.what = format!("chip {chip}, {}", violation.what));
        }
        all.0.append(&mut found.0);
    }
    links::across(programs, &traffic, timing, &mut all);
    all.0
}

fn check_chip(program: &Program, timing: &Timing, found: &mut Found) -> links::Traffic {
    let mut events = Vec::new();
    for (queue, issues) in &program.queues {
        match expand(*queue, issues) {
            Ok(all) => events.extend(all.into_iter().map(|issue| Event { cycle: issue.cycle.into(), queue: *queue, issue })),
            Err(what) => found.unless(false, "Q1", || what),
        }
    }
    let end = events.iter().map(|event| event.cycle).max().unwrap_or(0);
    found.unless(i64::from(program.data.cycles) == end + timing.write, "Q1", || {
        format!("the program says that it takes {} cycles", program.data.cycles)
    });
    events.sort_by_key(|event| (event.cycle, event.queue));
    let drivers = streams::check(&events, timing, found);
    flow::check(&events, &drivers, &program.data, timing, found);
    memory::check(&events, &program.data, timing, found);
    units::check(&events, timing, found);
    links::check(&events, &drivers, &program.data, timing, found)
}
