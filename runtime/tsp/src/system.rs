//! Several chips in lock step: every dispatch of all of them in the order of their common clock. What a chip sends is on another one some cycles
//! later, anywhere between the shortest and the longest latency of a link; a sound program does not depend on where.

use crate::chip::{Chip, Fault};
use q35_tsp::geometry::Queue;
use q35_tsp::program::{Data, LinkEnd, Program};
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;

/// How long vectors are on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    /// As short as can be.
    #[default]
    Shortest,
    /// As long as can be.
    Longest,
    /// Each its own, by chance.
    Varying(u64),
}

impl Latency {
    fn draw(&mut self, timing: &Timing) -> i64 {
        match self {
            Self::Shortest => timing.latency_min,
            Self::Longest => timing.latency_max,
            Self::Varying(state) => {
                *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                timing.latency_min + ((*state >> 33) as i64) % (timing.latency_max - timing.latency_min + 1)
            }
        }
    }
}

/// Chips with their programs, and the links between them.
pub struct System {
    timing: Timing,
    /// The chips, in the order of their numbers.
    pub chips: Vec<Chip>,
    /// The common clock's cycle that is each chip's cycle 0.
    starts: Vec<i64>,
    /// The other end of every link, by chip and link.
    wires: BTreeMap<(usize, u8), LinkEnd>,
    /// How long vectors are on a link.
    pub latency: Latency,
}

impl System {
    /// Chips with empty memories. An error says which chip's program, or which link, makes no sense.
    pub fn new(programs: &[Program], timing: Timing) -> Result<Self, String> {
        let mut wires = BTreeMap::new();
        for (number, Program { data, .. }) in programs.iter().enumerate() {
            if data.chip as usize != number {
                return Err(format!("the program of chip {number} is for chip {}", data.chip));
            }
            for end in &data.links {
                let back = LinkEnd { link: end.end, chip: number as u32, end: end.link };
                if !programs.get(end.chip as usize).is_some_and(|Program { data, .. }| data.links.contains(&back)) {
                    return Err(format!("link {} of chip {number} does not lead back from chip {}", end.link, end.chip));
                }
                if wires.insert((number, end.link), *end).is_some() {
                    return Err(format!("link {} of chip {number} leads to two chips", end.link));
                }
            }
        }
        let chips = programs.iter().map(|program| Chip::new(program, timing)).collect::<Result<_, _>>()?;
        let start = |Data { start, chip, .. }: &Data| {
            i64::try_from(*start).ok().filter(|start| *start < 1 << 48).ok_or_else(|| format!("chip {chip} never starts"))
        };
        let starts = programs.iter().map(|program| start(&program.data)).collect::<Result<_, _>>()?;
        Ok(Self { timing, chips, starts, wires, latency: Latency::default() })
    }

    /// Runs all programs once, on what memories hold.
    pub fn run(&mut self) -> Result<(), Fault> {
        let several = self.chips.len() > 1;
        let named = |number: usize| move |fault: Fault| Fault { chip: several.then_some(number as u32), ..fault };
        self.chips.iter_mut().for_each(Chip::begin);
        loop {
            let next = |(number, chip): (usize, &Chip)| chip.next().map(|cycle| (self.starts[number] + cycle, number));
            let Some((_, number)) = self.chips.iter().enumerate().filter_map(next).min() else { break };
            self.chips[number].step().map_err(named(number))?;
            if let Some(flit) = self.chips[number].ends.sent.take() {
                let Some(wire) = self.wires.get(&(number, flit.link)).copied() else { continue };
                let arrival = self.starts[number] + flit.cycle + self.latency.draw(&self.timing);
                let to = wire.chip as usize;
                let arrival = arrival - self.starts[to];
                let arrived = self.chips[to].ends.arrive(wire.end, arrival, flit);
                arrived.unwrap_or_else(|what| unreachable!("both ends of a link are there: {what}"));
            }
        }
        for (number, chip) in self.chips.iter().enumerate() {
            let Some((link, flit)) = chip.ends.left() else { continue };
            let from = self.wires.get(&(number, link)).map_or(0, |wire| wire.chip as usize);
            let (queue, node) = (Queue::link(flit.link).to_string(), self.chips[from].node(flit.op));
            let what = format!("chip {number} never receives what is sent");
            return Err(named(from)(Fault { chip: None, cycle: flit.cycle, queue, node, what }));
        }
        Ok(())
    }
}
