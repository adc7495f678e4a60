//! The ALUs: operands are sampled when they stand at the VXM, and meet in the ALU some cycles later.

use crate::Words;
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{ALUS, LANES, linked};
use q35_tsp::isa::Source;
use std::collections::VecDeque;

/// One ALU.
#[derive(Default)]
struct Alu {
    /// Stream operands that have been sampled for the dispatches to come.
    operands: VecDeque<[Option<Box<Words>>; 2]>,
    /// Results, by the cycle in which they stand in the register.
    results: VecDeque<(i64, Box<Words>)>,
}

pub(crate) struct Vxm {
    alus: Vec<Alu>,
}

impl Vxm {
    pub(crate) fn new() -> Self {
        Self { alus: (0..ALUS).map(|_| Alu::default()).collect() }
    }

    pub(crate) fn arrive(&mut self, alu: u8, operands: [Option<Box<Words>>; 2]) {
        self.alus[usize::from(alu)].operands.push_back(operands);
    }

    /// Computes; the result stands in the register in cycle `done`.
    pub(crate) fn compute(
        &mut self,
        alu: u8,
        op: AluOp,
        sources: [Source; 2],
        cycle: i64,
        done: i64,
    ) -> Result<&Words, String> {
        let sampled = self.alus[usize::from(alu)].operands.pop_front().unwrap_or_default();
        let mut operands = [[0u32; LANES]; 2];
        for ((operand, source), sampled) in operands.iter_mut().zip(sources).zip(sampled).take(op.arity()) {
            match source {
                Source::Constant(bits) => operand.fill(bits),
                Source::Alu(from) if !linked(from, alu) => return Err(format!("alu{from:02} is not linked to this one")),
                Source::Alu(from) => {
                    let found = self.alus[usize::from(from)].results.iter().find(|(at, _)| *at == cycle);
                    let (_, words) = found.ok_or_else(|| format!("alu{from:02} has no result in cycle {cycle}"))?;
                    operand.copy_from_slice(&words[..]);
                }
                Source::Word(_) | Source::Byte(_) => match sampled {
                    Some(words) => operand.copy_from_slice(&words[..]),
                    None => return Err("an operand was not sampled".to_owned()),
                },
            }
        }
        let mut out = Box::new([0u32; LANES]);
        op.apply(&operands[0], &operands[1], &mut out[..]);
        let results = &mut self.alus[usize::from(alu)].results;
        while results.pop_front_if(|(at, _)| *at < cycle).is_some() {}
        results.push_back((done, out));
        match results.back() {
            Some((_, words)) => Ok(words),
            None => unreachable!("it was pushed just now"),
        }
    }
}
