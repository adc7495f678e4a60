//! Macro-ops of the MXM: a tile of weights goes into a plane, and vectors are multiplied with it.
//!
//! The kernel that all decoding time goes into. A tile is 320 columns of 320 bytes at most, sixteen columns per cycle. Its raw bytes flow from
//! memory straight into plane A of their hemisphere. For codec `split`, the same bytes flow inward as well, through four ALUs that leave
//! their low four bits, and out again into plane B; module `linear` of the lowering says what that is good for. The next tile's bytes
//! follow as soon as the buffer has room: twenty cycles for each full tile.

use super::tables::{Attempt, Hold};
use super::{Byte, Schedule, Word};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{ALUS, EDGE, Queue, Side, Slice, Stream, Unit, plane_side};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::Place;
use q35_tsp::timing::Timing;
use std::ops::Range;

/// Cycles that multiplications may wait for a free stream before the tile is tried elsewhere.
const PATIENCE: i64 = 8;
/// Cycles by which a tile's loads may fall behind, for activations and results that cross their way.
const SLACK: i64 = 12;
/// The four low bits of each byte.
const NIBBLES: u32 = 0x0f0f_0f0f;

/// Where a tile's columns lie: sixteen of a load in one set of slices, those of the next load in the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) slices: [[Slice; 16]; 2],
    pub(crate) address: u16,
    /// Addresses, that is, cycles of loading.
    pub(crate) loads: u16,
    /// From one address to the next one: 0 where all columns are alike, in the first set.
    pub(crate) step: u16,
}

/// Which plane gets what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// Every byte as it is.
    Raw,
    /// The low four bits of every byte.
    Nibbles,
}

/// A multiplication: what with, into which accumulator, and whether it adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multiply {
    /// In the plane's hemisphere, if there is a choice.
    pub(crate) input: Byte,
    pub(crate) accumulator: u8,
    pub(crate) add: bool,
}

/// From when on an accumulator may be set.
pub(crate) struct Accumulators {
    /// Sixteen columns of ones, once they are made.
    pub(crate) ones: Option<Tile>,
    free: Vec<Vec<i64>>,
    turn: usize,
}

impl Accumulators {
    pub(crate) fn new(timing: Timing) -> Self {
        Self { ones: None, free: vec![vec![0; timing.accumulators.clamp(1, 256) as usize]; 4], turn: 0 }
    }

    /// The next one in turn.
    pub(crate) fn next(&mut self) -> u8 {
        self.turn += 1;
        (self.turn % self.free[0].len()) as u8
    }
}

impl Schedule {
    /// Loads and installs a tile and multiplies. Gives the cycle of the first load, and that from which on the sums can be emitted.
    pub(crate) fn install(
        &mut self,
        plane: u8,
        tile: Tile,
        bytes: Bytes,
        multiplies: &[Multiply],
        earliest: i64,
    ) -> (i64, i64) {
        let timing = self.timing;
        let loads = i64::from(tile.loads);
        let inputs = multiplies.iter().map(|m| m.input.ready).max().unwrap_or(0);
        let after_loads = timing.weights + timing.install;
        let earliest = earliest.max(inputs - loads - after_loads - PATIENCE);
        let free: Vec<i64> =
            multiplies.iter().map(|m| self.accumulators.free[usize::from(plane)][usize::from(m.accumulator)]).collect();
        self.place(earliest, |attempt, cycle| {
            attempt.hold(Hold::Buffer(plane), cycle, cycle + loads - 1)?;
            if tile.step == 0 {
                tile.slices[0].into_iter().for_each(|slice| attempt.claim(Place { slice, address: tile.address }));
            }
            let loaded = stream_tile(attempt, plane, tile, bytes, cycle)?;
            if loaded >= cycle + loads {
                attempt.hold(Hold::Buffer(plane), cycle + loads, loaded)?;
            }
            let install = loaded + timing.weights;
            let first = install + timing.install;
            let mut done = first;
            for (multiply, free) in multiplies.iter().zip(&free) {
                let at = try_multiply(attempt, plane, *multiply, first.max(*free)..first + PATIENCE)?;
                done = done.max(at + timing.multiply);
            }
            attempt.hold(Hold::Array(plane), install, done - 1)?;
            attempt.issue(Queue::plane(plane, Unit::Weights), install, Instr::Install {})?;
            Some((cycle, done))
        })
    }

    /// Writes an accumulator's sum to memory.
    pub(crate) fn emit(&mut self, plane: u8, accumulator: u8, earliest: i64) -> Word {
        let quad = self.memory.value(Some(plane_side(plane)));
        let from = plane_side(plane).sign() * EDGE;
        let (word, cycle) = self.place(earliest, |attempt, cycle| {
            let word = Word { quad, ready: 0 };
            let (out, ready) = attempt.store(&word.places(), from, cycle + attempt.timing.result)?;
            attempt.issue(Queue::plane(plane, Unit::Results), cycle, Instr::Emit { accumulator, out })?;
            Some((Word { ready, ..word }, cycle))
        });
        self.accumulators.free[usize::from(plane)][usize::from(accumulator)] = cycle + 1;
        word
    }
}

/// Multiplies in one of these cycles: the first in which the activations travel where other activations do, or else the first.
/// A cycle that has lost streams to one activation loses nothing to a second.
fn try_multiply(attempt: &mut Attempt<'_>, plane: u8, multiply: Multiply, cycles: Range<i64>) -> Option<i64> {
    let (queue, side) = (Queue::plane(plane, Unit::Activations), plane_side(plane));
    let shared = |attempt: &Attempt<'_>, cycle: &i64| attempt.carries_byte(side, side.sign() * EDGE, *cycle);
    let (first, second): (Vec<i64>, Vec<i64>) = cycles.partition(|cycle| shared(attempt, cycle));
    first.into_iter().chain(second).find(|cycle| {
        if !attempt.is_free(queue, *cycle) {
            return false;
        }
        let Some(input) = attempt.fetch_byte(multiply.input, side.sign() * EDGE, *cycle) else { return false };
        let Multiply { accumulator, add, .. } = multiply;
        attempt.issue(queue, *cycle, Instr::Multiply { input, accumulator, add: add.into() }).is_some()
    })
}

/// Streams a tile into a plane's buffer, the first load in cycle `cycle`; later ones may give way to other traffic. Gives the cycle of the last.
fn stream_tile(attempt: &mut Attempt<'_>, plane: u8, tile: Tile, bytes: Bytes, cycle: i64) -> Option<i64> {
    let mut at = cycle;
    for load in 0..tile.loads {
        let address = tile.address + tile.step * (load / 2);
        let slices = &tile.slices[usize::from(load % 2 * tile.step)];
        let most = if load == 0 { cycle } else { cycle + i64::from(load) + SLACK };
        at = (at..=most).find(|at| {
            let mark = attempt.mark();
            let fits = stream_load(attempt, plane, slices, address, bytes, *at).is_some();
            if !fits {
                attempt.rewind(mark);
            }
            fits
        })? + 1;
    }
    Some(at - 1)
}

/// The streams that a plane's weights travel on. At the VXM the nibbles of one hemisphere arrive in the direction in which those of the other
/// leave, so the two differ.
fn first_stream(plane: u8) -> u8 {
    [16, 0, 0, 16][usize::from(plane)]
}

/// Streams sixteen columns.
fn stream_load(attempt: &mut Attempt<'_>, plane: u8, slices: &[Slice; 16], address: u16, bytes: Bytes, at: i64) -> Option<()> {
    let (side, first) = (plane_side(plane), first_stream(plane));
    let (edge, timing) = (side.sign() * EDGE, attempt.timing);
    let outward = Stream::new(side, first);
    // Nibbles are made at the VXM: when their bytes stand there, and from when on they flow out.
    let leave = at - i64::from(EDGE);
    let arrive = leave - timing.op - timing.enter;
    for (i, slice) in (0u8..).zip(slices) {
        let x = slice.position();
        let (stream, end, until) = match bytes {
            Bytes::Raw => (outward.plus(i), at, edge),
            Bytes::Nibbles => (Stream::new(side.other(), first + i), arrive, 0),
        };
        let start = end - i64::from((until - x).abs());
        attempt.issue(Queue::mem(*slice), start - timing.read, Instr::Read { address, out: stream })?;
        attempt.send_on(stream, x, start, until)?;
    }
    if bytes == Bytes::Nibbles {
        let now = leave - timing.op;
        let alus: Vec<u8> = (0..ALUS).rev().filter(|alu| attempt.is_free(Queue::alu(*alu), now)).take(4).collect();
        if alus.len() < 4 {
            return None;
        }
        for (word, alu) in (0u8..).zip(alus) {
            for i in 0..4 {
                attempt.send_on(outward.plus(4 * word + i), 0, leave, edge)?;
            }
            let instr = Instr::Compute {
                op: AluOp::And,
                a: Source::Word(Stream::new(side.other(), first + 4 * word)),
                b: Source::Constant(NIBBLES),
                out: Sink::Word(outward.plus(4 * word)),
            };
            attempt.issue(Queue::alu(alu), now, instr)?;
        }
    }
    attempt.issue(Queue::plane(plane, Unit::Weights), at, Instr::Load { input: outward })
}

/// The plane of a hemisphere that gets raw bytes, and the one that gets nibbles.
pub(crate) fn planes(side: Side) -> [u8; 2] {
    match side {
        Side::East => [0, 1],
        Side::West => [2, 3],
    }
}
