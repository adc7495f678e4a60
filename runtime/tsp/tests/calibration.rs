//! The public sums of cycles, and the faults the simulator must see.

#![allow(clippy::unwrap_used)] // a test may panic

use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{LANES, Queue, Side, Slice, Stream, Unit};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::{Issue, MacroOp, Place, Program, Quad};
use q35_tsp::timing::Timing;
use q35_tsp_sim::Chip;

fn east(number: u8) -> Stream {
    Stream::new(Side::East, number)
}

fn west(number: u8) -> Stream {
    Stream::new(Side::West, number)
}

fn program(issues: &[(Queue, u32, Instr)]) -> Program {
    let mut program = Program::default();
    program.data.nodes.push("test".to_owned());
    program.data.ops.push(MacroOp::default());
    for (queue, cycle, instr) in issues {
        program.queues.entry(*queue).or_default().push(Issue { cycle: *cycle, op: 0, instr: *instr });
    }
    program.queues.values_mut().for_each(|issues| issues.sort_by_key(|issue| issue.cycle));
    program
}

fn chip(issues: &[(Queue, u32, Instr)]) -> Chip {
    Chip::new(&program(issues), Timing::tsp1()).unwrap()
}

/// One column group read at cycle 0 at the edge of memory, multiplied, and in an ALU in cycle 76.
fn matrix_vector(alu_cycle: u32) -> Chip {
    let mut issues = Vec::new();
    // Sixteen slices in four groups: each is read when its vector meets the others' on the way east.
    for (stream, number) in (0u8..).zip(28..44u8) {
        let slice = Slice::new(Side::East, number);
        let cycle = (slice.position() - 8) as u32;
        issues.push((Queue::mem(slice), cycle, Instr::Read { address: 0, out: east(stream) }));
    }
    let at = 3; // the read of the outermost slice is in cycle 3; it stands at the MXM 3 cycles later
    let activation = Slice::new(Side::East, 0);
    issues.extend([
        (Queue::plane(0, Unit::Weights), at + 3, Instr::Install { input: east(0) }),
        (Queue::mem(activation), at + 16 - 12 - 1, Instr::Read { address: 7, out: east(16) }),
        (Queue::plane(0, Unit::Activations), at + 16, Instr::Multiply { input: east(16), accumulator: 0, add: 0 }),
        (Queue::plane(0, Unit::Results), at + 29, Instr::Emit { accumulator: 0, out: west(0) }),
        (
            Queue::alu(0),
            at + alu_cycle,
            Instr::Compute { op: AluOp::AddI, a: Source::Word(west(0)), b: Source::Constant(1), out: Sink::Word(west(4)) },
        ),
        (Queue::mem(Slice::new(Side::West, 0)), at + alu_cycle + 4, Instr::Write { address: 9, input: west(4) }),
        (Queue::mem(Slice::new(Side::West, 1)), at + alu_cycle + 4, Instr::Write { address: 9, input: west(5) }),
        (Queue::mem(Slice::new(Side::West, 2)), at + alu_cycle + 4, Instr::Write { address: 9, input: west(6) }),
        (Queue::mem(Slice::new(Side::West, 3)), at + alu_cycle + 4, Instr::Write { address: 9, input: west(7) }),
    ]);
    let mut chip = chip(&issues);
    for (column, number) in (0u8..).zip(28..44u8) {
        let weights = std::array::from_fn(|lane| (lane as u8).wrapping_mul(3).wrapping_add(column));
        chip.write(Place { slice: Slice::new(Side::East, number), address: 0 }, &weights).unwrap();
    }
    chip.write(Place { slice: activation, address: 7 }, &std::array::from_fn(|lane| (lane as u8).wrapping_mul(7))).unwrap();
    chip
}

#[test]
fn a_matrix_vector_product_takes_76_cycles() {
    let mut chip = matrix_vector(76);
    chip.run().unwrap();
    let words = chip.read_words(Quad { side: Side::West, group: 0, address: 9 }).unwrap();
    for (column, word) in words.iter().enumerate() {
        let exact: i32 = (0..LANES)
            .map(|lane| {
                let weight = (lane as u8).wrapping_mul(3).wrapping_add(column as u8) as i8;
                i32::from(weight) * i32::from((lane as u8).wrapping_mul(7) as i8)
            })
            .sum();
        assert_eq!(*word as i32, if column < 16 { exact + 1 } else { 1 }, "column {column}");
    }
    for other in [75, 77] {
        let fault = matrix_vector(other).run().unwrap_err();
        assert!(fault.what.contains("nothing stands on W00 at position 0"), "{fault}");
    }
}

/// A word of 16 lanes goes from an ALU through the transposer and back into the ALU: 50 cycles.
fn transpose_loop(back: u32) -> Result<(), q35_tsp_sim::Fault> {
    let mut issues = Vec::new();
    let first = 20;
    for (alu, stream) in (0..4u8).map(|alu| (alu, 4 * alu)) {
        let constant = u32::from_le_bytes([stream, stream + 1, stream + 2, stream + 3]);
        let load = Instr::Compute {
            op: AluOp::Pass,
            a: Source::Constant(constant),
            b: Source::Constant(0),
            out: Sink::Word(east(stream)),
        };
        issues.push((Queue::alu(alu), first, load));
    }
    let transposer = Queue::transpose(Side::East, 0);
    issues.push((transposer, first + 3 + 12, Instr::Transpose { input: east(0), out: west(0) }));
    let again = Instr::Compute { op: AluOp::Xor, a: Source::Word(west(4)), b: Source::Constant(0), out: Sink::Word(west(4)) };
    issues.push((Queue::alu(0), first + back, again));
    chip(&issues).run()
}

#[test]
fn a_loop_through_the_transposer_takes_50_cycles() {
    transpose_loop(50).unwrap();
    assert!(transpose_loop(49).is_err() && transpose_loop(51).is_err());
}

#[test]
fn faults_name_cycle_queue_and_node() {
    let slice = Slice::new(Side::East, 0);
    let read = |address, out| Instr::Read { address, out };
    let run = |issues: &[(Queue, u32, Instr)]| {
        let mut chip = chip(issues);
        for number in 0..4 {
            chip.write(Place { slice: Slice::new(Side::East, number), address: 1 }, &[1; LANES]).unwrap();
        }
        chip.run().map_err(|fault| fault.to_string())
    };
    let mem = Queue::mem(slice);
    assert_eq!(run(&[(mem, 5, read(1, west(0)))]), Ok(()));
    assert_eq!(
        run(&[(mem, 5, read(2, west(0)))]).unwrap_err(),
        "cycle 5, mem.E00, node 'test': read 2, W00: address 2 was never written"
    );
    let twice = [(mem, 5, read(1, west(0))), (Queue::mem(Slice::new(Side::East, 1)), 5, read(1, west(0)))];
    let after = [(Queue::mem(slice), 9, read(1, west(0)))];
    let message = run(&[&twice[..], &after[..]].concat()).unwrap_err();
    assert!(message.contains("two units drive W00 at position 1 in cycle 6"), "{message}");
    let undriven = Instr::Compute { op: AluOp::Pass, a: Source::Byte(west(0)), b: Source::Constant(0), out: Sink::Nothing };
    let message = run(&[(Queue::alu(3), 10, undriven)]).unwrap_err();
    assert!(message.starts_with("cycle 7, alu.03"), "{message}");
    let chain = |alu| Instr::Compute { op: AluOp::Pass, a: Source::Alu(alu), b: Source::Constant(0), out: Sink::Nothing };
    let constant = Instr::Compute { op: AluOp::Pass, a: Source::Constant(1), b: Source::Constant(0), out: Sink::Nothing };
    assert_eq!(run(&[(Queue::alu(0), 10, constant), (Queue::alu(1), 13, chain(0))]), Ok(()));
    assert!(run(&[(Queue::alu(0), 10, constant), (Queue::alu(1), 14, chain(0))]).unwrap_err().contains("has no result"));
    assert!(run(&[(Queue::alu(0), 10, constant), (Queue::alu(5), 13, chain(0))]).unwrap_err().contains("not linked"));
}
