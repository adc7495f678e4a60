//! Two chips by hand: vectors of one are on the other a hop later, whatever the latency of the link; and what both checker and simulator
//! see when they are not.

#![allow(clippy::unwrap_used)] // a test may panic

use q35_groq_check::check_system;
use q35_tsp::geometry::{LANES, Queue, SXM, Side, Slice, Stream, link_between};
use q35_tsp::isa::Instr;
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Carried, Image, Issue, LinkEnd, MacroOp, Origin, Output, Program, Quad};
use q35_tsp::timing::Timing;
use q35_tsp_sim::{Latency, System};

const WORDS: usize = 3;

fn quad(word: usize) -> Quad {
    Quad { side: Side::East, group: 0, address: 10 + word as u16 }
}

/// Chip 0 sends three words from next to its VXM, in slots of `slot` cycles from cycle 100 on; chip 1 receives and keeps them.
fn programs(slot: u32) -> Vec<Program> {
    between(0, 1, slot)
}

/// The same of any two linked chips.
fn between(sender: u32, receiver: u32, slot: u32) -> Vec<Program> {
    let timing = Timing::tsp1();
    let [out, back] = [link_between(sender, receiver).unwrap(), link_between(receiver, sender).unwrap()];
    let ends = [LinkEnd { link: out, chip: receiver, end: back }, LinkEnd { link: back, chip: sender, end: out }];
    let mut chips = [(sender, ends[0]), (receiver, ends[1])].map(|(chip, end)| {
        let mut program = Program::default();
        program.data.timing = "tsp1".to_owned();
        program.data.chip = chip;
        program.data.nodes.push(format!("layer {chip}"));
        program.data.links.push(end);
        program
    });
    let (send, receive) = (Queue::link(out), Queue::link(back));
    // The first vector leaves in cycle 100; its receive is in cycle 100 + hop of the common clock.
    let start = (100 + timing.hop) / timing.epoch * timing.epoch;
    chips[1].data.start = start as u64;
    for (program, queue) in chips.iter_mut().zip([send, receive]) {
        program.data.ops.push(MacroOp::default());
        program.queues.entry(queue).or_default().push(Issue { cycle: 0, op: 0, instr: Instr::Deskew {} });
    }
    for word in 0..WORDS {
        let at = quad(word);
        let carried = Carried { quad: at, lanes: Lanes::of((0..LANES as u32).map(|lane| Some(320 * word as u32 + lane))) };
        chips[0].data.images.push(Image::Words { quad: at, runs: vec![(0, 0x0403_0201 * (word as u32 + 1)), (7, 9)] });
        chips[1].data.outputs.push(Output { quad: at, lanes: carried.lanes.clone() });
        chips[0].data.sent.push(carried.clone());
        chips[1].data.received.push(carried);
        for byte in 0..4u8 {
            let (flit, mem) = (4 * word as u32 + u32::from(byte), Queue::mem(Slice::new(Side::East, byte)));
            let op = flit + 1;
            let sent = 100 + flit * slot;
            let mut issue = |chip: usize, queue: Queue, cycle: i64, instr: Instr| {
                chips[chip].queues.entry(queue).or_default().push(Issue { cycle: cycle as u32, op, instr });
            };
            // Slices 0 to 3 are at position 1, this link at that of the SXM in the east or in the west.
            let hops = i64::from((send.position() - 1).abs());
            let to = Stream::new(if send.position() > 0 { Side::East } else { Side::West }, byte);
            issue(0, mem, i64::from(sent) - hops - timing.read, Instr::Read { address: at.address, out: to });
            issue(0, send, sent.into(), Instr::Send { input: to });
            let arrival = i64::from(sent) + timing.hop - start;
            let hops = i64::from((receive.position() - 1).abs());
            let from = Stream::new(if receive.position() > 0 { Side::West } else { Side::East }, byte);
            issue(1, receive, arrival, Instr::Receive { out: from });
            issue(1, mem, arrival + timing.receive + hops, Instr::Write { address: at.address, input: from });
            let origin = Origin { queue: mem.number(), address: at.address, count: 1, writer: None };
            chips[0].data.ops.push(MacroOp { reads: vec![origin], ..MacroOp::default() });
            chips[1].data.ops.push(MacroOp::default());
        }
    }
    for program in &mut chips {
        let last = program.queues.values().flatten().map(|issue| issue.cycle).max().unwrap();
        program.data.cycles = last + timing.write as u32;
    }
    chips.sort_by_key(|program| program.data.chip);
    chips.into()
}

fn run(programs: &[Program], latency: Latency) -> Result<Vec<[u32; LANES]>, String> {
    let mut system = System::new(programs, Timing::tsp1())?;
    system.latency = latency;
    for word in 0..WORDS {
        let value = 0x0403_0201 * (word as u32 + 1);
        system.chips[0].write_words(quad(word), &std::array::from_fn(|lane| if lane < 7 { value } else { 9 })).unwrap();
    }
    system.run().map_err(|fault| fault.to_string())?;
    (0..WORDS).map(|word| system.chips[1].read_words(quad(word))).collect()
}

/// The rule that is broken first, and what the simulator says, if it minds.
fn verdict(programs: &[Program]) -> (Option<&'static str>, Option<String>) {
    let found = check_system(programs, &Timing::tsp1());
    (found.first().map(|violation| violation.rule), run(programs, Latency::Shortest).err())
}

#[test]
fn vectors_are_there_a_hop_later_whatever_the_latency() {
    for slot in [24, 31] {
        let programs = programs(slot);
        let found = check_system(&programs, &Timing::tsp1());
        assert!(found.is_empty(), "{}", found[0]);
        let expected = run(&programs, Latency::Shortest).unwrap();
        assert_eq!((expected[2][0], expected[2][319]), (0x0c09_0603, 9));
        for latency in [Latency::Longest, Latency::Varying(1), Latency::Varying(2)] {
            assert_eq!(run(&programs, latency).unwrap(), expected);
        }
    }
}

#[test]
fn both_see_a_slot_that_is_too_short() {
    let (rule, fault) = verdict(&programs(23));
    assert_eq!(rule, Some("L2"));
    let link = Queue::link(link_between(0, 1).unwrap());
    let expected = format!(
        "chip 0, cycle 123, {link}, node 'layer 0': send {}01: the vector of cycle 100 takes the link until cycle 123",
        if link.position() == SXM { "E" } else { "W" }
    );
    assert_eq!(fault.as_deref(), Some(expected.as_str()));
}

#[test]
fn both_see_what_is_missing_and_what_comes_to_nobody() {
    let edit = |chip: usize, edit: &dyn Fn(&mut Vec<Issue>)| {
        let mut programs = programs(24);
        let queue = Queue::link(programs[chip].data.links[0].link);
        edit(programs[chip].queues.get_mut(&queue).unwrap());
        verdict(&programs)
    };
    // A deskew, a send, a receive.
    let (rule, fault) = edit(0, &|issues| _ = issues.remove(0));
    assert_eq!(rule, Some("L1"));
    assert!(fault.unwrap().contains("the link is not deskewed"));
    let (rule, fault) = edit(0, &|issues| _ = issues.remove(2));
    assert_eq!(rule, Some("S3"), "what was read for it goes nowhere");
    assert!(fault.unwrap().contains("chip 1, cycle "));
    let (rule, fault) = edit(1, &|issues| _ = issues.pop());
    assert_eq!(rule, Some("S2"), "what should have been written is not there");
    assert!(fault.is_some());
}

#[test]
fn what_comes_early_is_seen_by_the_clock_alone() {
    // All of chip 1 an epoch earlier, or two: nothing on the chip itself is wrong.
    let epoch = Timing::tsp1().epoch as u64;
    for (epochs, there) in [(1, true), (2, false)] {
        let mut programs = programs(24);
        programs[1].data.start -= epochs * epoch;
        let (rule, fault) = verdict(&programs);
        assert_eq!(rule, Some("L3"));
        // A vector waits some 400 cycles for its receive, so one epoch less is not too early for this chip; two are.
        assert_eq!(fault.is_none(), there, "{fault:?}");
    }
    let mut programs = programs(24);
    programs[1].data.start -= 1;
    assert_eq!(verdict(&programs).0, Some("L1"));
    assert!(verdict(&programs).1.unwrap().contains("no epoch begins now"));
}

#[test]
fn words_that_change_places_are_seen() {
    let mut swapped = programs(24);
    swapped[1].data.received.swap(0, 1);
    assert_eq!(verdict(&swapped).0, Some("L4"));
    let mut short = programs(24);
    short[0].data.sent.pop();
    assert_eq!(verdict(&short).0, Some("L4"));
    let mut loose = programs(24);
    loose[0].data.links[0].end ^= 1;
    assert!(verdict(&loose).1.unwrap().contains("does not lead back"));
    let mut alone = programs(24);
    alone.pop();
    assert_eq!(verdict(&alone).0, Some("L3"));
}

/// Chip 1 sends to chip 0: every vector is there in time, but what may be sent back may be waited for in a circle.
#[test]
fn what_goes_back_is_seen() {
    let backward = between(1, 0, 24);
    let rules: Vec<&str> = check_system(&backward, &Timing::tsp1()).iter().map(|violation| violation.rule).collect();
    // Besides, chip 0 should have got something from a chip before it.
    assert_eq!(rules[..4 * WORDS], ["L6"; 4 * WORDS]);
    assert_eq!(rules[4 * WORDS..], ["L4"]);
    let mut system = System::new(&backward, Timing::tsp1()).unwrap();
    for word in 0..WORDS {
        system.chips[1].write_words(quad(word), &[7; LANES]).unwrap();
    }
    system.run().unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(system.chips[0].read_words(quad(0)).unwrap(), [7; LANES], "nothing else is wrong");
}

#[test]
fn too_many_wait_at_the_end_of_a_link() {
    // Nothing waits so long on the chip as it is: so the receives are put off by a thousand cycles.
    let mut programs = programs(24);
    let timing = Timing { buffer: 2, ..Timing::tsp1() };
    let rules: Vec<&str> = check_system(&programs, &timing).iter().map(|violation| violation.rule).collect();
    assert!(!rules.is_empty() && rules.iter().all(|rule| *rule == "L5"), "{rules:?}");
    programs[1].data.start += 4 * timing.epoch as u64;
    let mut system = System::new(&programs, timing).unwrap();
    for word in 0..WORDS {
        system.chips[0].write_words(quad(word), &[1; LANES]).unwrap();
    }
    let fault = system.run().unwrap_err().to_string();
    assert!(fault.contains("vectors wait at the end of the link, which has room for 2"), "{fault}");
}
