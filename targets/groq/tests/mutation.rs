//! The checker: sound programs pass, and single edits of a sound program do not. An edit that passes must be harmless: the simulator finds
//! the same logits.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test may panic

mod support;

use q35_groq_check::{check, check_system};
use q35_tsp::geometry::{LINKS, Queue, STREAMS, Stream, Unit};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::{Issue, Program, expand};
use q35_tsp::timing::Timing;
use q35_tsp_sim::{Latency, System, host};
use std::collections::BTreeMap;
use support::llama::{SMALL, Shape, compile, compile_for, llama};
use support::{Random, Toy};

#[test]
fn programs_are_sound() {
    let [mixture, full] = [6, 8].map(|experts| Shape { experts: Some((experts, 2)), ..SMALL });
    for (shape, context) in [
        (SMALL, 11),
        (mixture, 9),
        (full, 9),
        (Shape { hidden: 256, heads: 8, dim: 32, ffn: 640, layers: 1, vocab: 300, ..SMALL }, 33),
    ] {
        let found = check(&compile(&llama(shape, 1), context), &Timing::tsp1());
        assert!(found.is_empty(), "{} violations, first: {}", found.len(), found[0]);
    }
}

/// Another stream: of the same group, or of the other direction.
fn other(stream: Stream, random: &mut Random) -> Stream {
    match random.below(5) {
        0 => Stream { to: stream.to.other(), ..stream },
        n => Stream { number: (stream.number + [1, 4, 16, 31][n as usize - 1]) % STREAMS, ..stream },
    }
}

/// An edit of one instruction's streams, address or accumulator, if it has any.
fn edit(instr: Instr, random: &mut Random) -> Option<Instr> {
    let moved = |address: u16, random: &mut Random| match random.below(3) {
        0 => address ^ 4096,
        1 => address.wrapping_add(1) % 8192,
        _ => address.wrapping_sub(1) % 8192,
    };
    let source = |source: Source, random: &mut Random| match source {
        Source::Word(stream) => Some(Source::Word(other(stream, random))),
        Source::Byte(stream) => Some(Source::Byte(other(stream, random))),
        Source::Alu(alu) => Some(Source::Alu((alu + 1 + random.below(15) as u8) % 16)),
        Source::Constant(_) => None,
    };
    Some(match instr {
        Instr::Read { address, out } if random.below(2) == 0 => Instr::Read { address, out: other(out, random) },
        Instr::Read { address, out } => Instr::Read { address: moved(address, random), out },
        Instr::Write { address, input } if random.below(2) == 0 => Instr::Write { address, input: other(input, random) },
        Instr::Write { address, input } => Instr::Write { address: moved(address, random), input },
        Instr::Scatter { base, limit, map, input } => match random.below(3) {
            0 => Instr::Scatter { base: moved(base, random), limit, map, input },
            1 => Instr::Scatter { base, limit, map: other(map, random), input },
            _ => Instr::Scatter { base, limit, map, input: other(input, random) },
        },
        Instr::SetMap { map } => Instr::SetMap { map: other(map, random) },
        Instr::Permute { input, out } if random.below(2) == 0 => Instr::Permute { input, out: other(out, random) },
        Instr::Permute { input, out } => Instr::Permute { input: other(input, random), out },
        Instr::Load { input } => Instr::Load { input: other(input, random) },
        Instr::Install { input } => Instr::Install { input: other(input, random) },
        Instr::Gather { base, limit, map, out } => match random.below(3) {
            0 => Instr::Gather { base: moved(base, random), limit, map, out },
            1 => Instr::Gather { base, limit, map: other(map, random), out },
            _ => Instr::Gather { base, limit, map, out: other(out, random) },
        },
        Instr::Send { input } => Instr::Send { input: other(input, random) },
        Instr::Receive { out } => Instr::Receive { out: other(out, random) },
        Instr::Multiply { input, accumulator, add } => match random.below(3) {
            0 => Instr::Multiply { input: other(input, random), accumulator, add },
            1 => Instr::Multiply { input, accumulator: (accumulator + 1) % 64, add },
            _ => Instr::Multiply { input, accumulator, add: 1 - add },
        },
        Instr::Emit { accumulator, out } if random.below(2) == 0 => Instr::Emit { accumulator, out: other(out, random) },
        Instr::Emit { accumulator, out } => Instr::Emit { accumulator: (accumulator + 1) % 64, out },
        Instr::Compute { op, a, b, out } => match random.below(3) {
            0 => Instr::Compute { op, a: source(a, random)?, b, out },
            1 if op.arity() == 2 => Instr::Compute { op, a, b: source(b, random)?, out },
            _ => match out {
                Sink::Word(stream) => Instr::Compute { op, a, b, out: Sink::Word(other(stream, random)) },
                Sink::Byte(stream) => Instr::Compute { op, a, b, out: Sink::Byte(other(stream, random)) },
                Sink::Nothing => return None,
            },
        },
        Instr::Repeat { count, interval, step } => match random.below(3) {
            0 => Instr::Repeat { count: count + 1, interval, step },
            1 => Instr::Repeat { count: count - 1, interval, step },
            _ => Instr::Repeat { count, interval, step: step.wrapping_add(1) },
        },
        _ => return None,
    })
}

/// Any queue.
fn any(_: Queue) -> bool {
    true
}

/// One of a link.
fn of_link(queue: Queue) -> bool {
    queue.unit() == Unit::Link
}

/// The programs with one edit in a queue of these, and what it was.
fn mutate(programs: &[Program], which: fn(Queue) -> bool, random: &mut Random) -> Option<(Vec<Program>, String)> {
    let chip = random.below(programs.len() as u64) as usize;
    let queues: Vec<Queue> = programs[chip].queues.keys().copied().filter(|queue| which(*queue)).collect();
    let queue = *queues.get(random.below(queues.len() as u64) as usize)?;
    let mut mutants = programs.to_vec();
    let queues = &mut mutants[chip].queues;
    let mut edited = queues.get(&queue)?.clone();
    let at = random.below(edited.len() as u64) as usize;
    let Issue { cycle, instr, .. } = edited[at];
    let what = match random.below(if of_link(queue) { 5 } else { 4 }) {
        0 => {
            edited.remove(at);
            "dropped".to_owned()
        }
        4 => {
            let other = Queue::link((queue.index() + 1 + random.below(u64::from(LINKS) - 1) as u8) % LINKS);
            let moved = edited.remove(at);
            let issues = queues.entry(other).or_default();
            issues.retain(|issue| issue.cycle != cycle);
            issues.push(moved);
            issues.sort_by_key(|issue| issue.cycle);
            format!("moved to {other}")
        }
        1 | 2 => {
            edited[at].cycle = if random.below(2) == 0 { cycle + 1 } else { cycle.checked_sub(1)? };
            format!("moved to cycle {}", edited[at].cycle)
        }
        _ => {
            edited[at].instr = edit(instr, random)?;
            format!("is now {}", edited[at].instr)
        }
    };
    queues.insert(queue, edited);
    Some((mutants, format!("chip {chip}, cycle {cycle}, {queue}: {instr} {what}")))
}

fn logits(programs: &[Program], toy: &Toy) -> Result<Vec<f32>, String> {
    let mut system = System::new(programs, Timing::tsp1())?;
    for (chip, program) in system.chips.iter_mut().zip(programs) {
        host::load(chip, &program.data, toy)?;
    }
    let mut all = Vec::new();
    for (entry, token) in [5, 1, 9].into_iter().enumerate() {
        let entry = entry as u32;
        system.latency = [Latency::Shortest, Latency::Longest, Latency::Varying(7)][entry as usize];
        for (chip, program) in system.chips.iter_mut().zip(programs) {
            host::feed(chip, &program.data, toy, host::Step { token, position: entry, entry })?;
        }
        system.run().map_err(|fault| fault.to_string())?;
        let mut row = vec![0.0; 70];
        for (chip, program) in system.chips.iter().zip(programs) {
            host::logits(chip, &program.data, &mut row)?;
        }
        all.extend(row);
    }
    Ok(all)
}

fn edit_all(shape: Shape, chips: u32, which: fn(Queue) -> bool, edits: usize) {
    let toy = llama(Shape { layers: chips, ..shape }, 4);
    let mut programs = compile_for(&toy, 11, Some(chips));
    // An edit beside a repeat is one that the repeat gives away: on links, every send is edited by itself.
    for (queue, issues) in programs.iter_mut().flat_map(|program| &mut program.queues).filter(|(queue, _)| of_link(**queue)) {
        *issues = expand(*queue, issues).unwrap();
    }
    assert!(check_system(&programs, &Timing::tsp1()).is_empty(), "what is edited is sound");
    let expected = logits(&programs, &toy).unwrap();
    let count = if std::env::var_os("Q35_FULL").is_some() { 20 * edits } else { edits };
    let (mut random, mut caught, mut harmless, mut escaped) = (Random::new(11), BTreeMap::new(), 0, Vec::new());
    while caught.values().sum::<usize>() + harmless + escaped.len() < count {
        let mutant = mutate(&programs, which, &mut random).filter(|(mutant, _)| *mutant != programs);
        let Some((mutant, what)) = mutant else { continue };
        match check_system(&mutant, &Timing::tsp1()).first() {
            Some(violation) => *caught.entry(violation.rule).or_insert(0) += 1,
            None if logits(&mutant, &toy).as_ref() == Ok(&expected) => harmless += 1,
            None => escaped.push(what),
        }
    }
    let total: usize = caught.values().sum();
    println!("{count} edits: {total} caught {caught:?}, {harmless} harmless, {} escaped", escaped.len());
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}

#[test]
fn every_single_edit_is_caught_or_harmless() {
    edit_all(SMALL, 1, any, 1_000);
}

#[test]
fn every_single_edit_of_a_mixture_of_experts_is_caught_or_harmless() {
    edit_all(Shape { experts: Some((6, 2)), ..SMALL }, 1, any, 300);
}

/// Sends dropped, receives a cycle early, other streams, other links.
#[test]
fn every_single_edit_of_what_links_do_is_caught_or_harmless() {
    edit_all(SMALL, 2, of_link, 150);
    edit_all(SMALL, 2, any, 50);
}
