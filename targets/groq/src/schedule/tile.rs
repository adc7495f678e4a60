//! Macro-ops of the MXM: a tile of weights goes into a plane, and vectors are multiplied with it.
//!
//! The kernel that all decoding time goes into. A tile is 320 columns of 320 bytes at most, sixteen columns per cycle. Its raw bytes flow from
//! memory straight into plane A of their hemisphere. For codec `split`, the same bytes flow inward as well, through four ALUs that leave
//! some of their bits, and out again into plane B; module `linear` of the lowering says what that is good for. The next tile's bytes
//! follow without a gap: twenty cycles for each full tile.
//!
//! Then all streams into the planes are full of weights, and activations, which have to meet a tile between its installation and the next
//! one, find no free stream. They *ride*: a column of the next tile holds no weights (module [`super::lanes`]), and while it is loaded,
//! the activations travel on its stream; the plane loads them as weights of a column that nobody looks at, and multiplies with them
//! in the same cycle. Where nothing is loaded they come on any stream.
//!
//! One slice gives one vector per cycle, and each vector is read for both planes. So loads are taken from two sets of slices in turn, and
//! plane B, whose bytes have the longer way, is loaded an odd number of cycles before plane A: when one of them reads from one set, the
//! other one reads from the other.

use super::lanes::RIDES;
use super::tables::Attempt;
use super::{Byte, Schedule};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{ALUS, EDGE, Queue, Side, Slice, Stream, Unit, plane_side};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::Place;
use q35_tsp::timing::Timing;
use std::collections::VecDeque;

/// Cycles by which a tile's loads may fall behind, for what crosses their way.
const SLACK: i64 = 12;
/// The stream of a load on which activations ride: the last one.
const RIDER: u8 = 15;

/// Where a tile's columns lie: sixteen of a load in one set of slices, those of the next load in the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    pub(crate) slices: [[Slice; 16]; 2],
    pub(crate) address: u16,
    /// Addresses, that is, cycles of loading.
    pub(crate) loads: u16,
    /// From one address to the next one: 0 where all columns are alike, in the first set. Else the columns of riders hold no weights.
    pub(crate) step: u16,
    /// Tiles at neighbouring addresses, of which maps choose one: that which travels outward, and that which travels inward.
    pub(crate) choices: Option<(u16, [Byte; 2])>,
}

impl Tile {
    /// Where the columns of a load lie.
    fn load(&self, number: u16) -> impl Iterator<Item = Place> + use<> {
        let apart = self.step * self.choices.map_or(1, |(count, _)| count);
        let (slices, address) = (self.slices[usize::from(number % 2 * self.step)], self.address + apart * (number / 2));
        slices.into_iter().map(move |slice| Place { slice, address })
    }

    /// Whether a load may carry a rider: `margin` loads at least follow, so that its multiplication is through before the installation.
    fn rides(&self, load: u16, margin: i64) -> bool {
        self.step > 0 && RIDES.contains(&load) && i64::from(load) + margin < i64::from(self.loads)
    }
}

/// Which plane gets what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// Every byte as it is.
    Raw,
    /// These bits of every byte.
    Masked(u8),
}

/// A multiplication: what with, into which accumulator, and whether it adds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multiply {
    /// In the plane's hemisphere, if there is a choice.
    pub(crate) input: Byte,
    pub(crate) accumulator: u8,
    pub(crate) add: bool,
}

/// A sum in an accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) plane: u8,
    pub(crate) accumulator: u8,
}

/// What is multiplied with the tile that was installed last.
#[derive(Clone)]
struct Pending {
    op: u32,
    /// First cycle in which the tile can be used.
    usable: i64,
    multiplies: VecDeque<Multiply>,
}

#[derive(Clone)]
struct Plane {
    last_load: i64,
    pending: Option<Pending>,
    /// The last multiplication with the tile that is installed.
    last_multiply: i64,
    /// Of each accumulator: from when on it may be set, and from when on its sum is complete.
    free: Vec<i64>,
    done: Vec<i64>,
    turn: usize,
}

/// How far the planes are.
pub(crate) struct Planes {
    /// Sixteen columns of ones, once they are made.
    pub(crate) ones: Option<Tile>,
    planes: Vec<Plane>,
}

impl Planes {
    pub(crate) fn new(timing: Timing) -> Self {
        let accumulators = vec![0; timing.accumulators.clamp(1, 256) as usize];
        let plane = Plane {
            last_load: -1,
            pending: None,
            last_multiply: i64::MIN / 2,
            free: accumulators.clone(),
            done: accumulators,
            turn: 0,
        };
        Self { ones: None, planes: vec![plane; usize::from(q35_tsp::geometry::PLANES)] }
    }

    /// The plane's next accumulator in turn.
    pub(crate) fn next(&mut self, plane: u8) -> Sum {
        let state = &mut self.planes[usize::from(plane)];
        state.turn += 1;
        Sum { plane, accumulator: (state.turn % state.free.len()) as u8 }
    }

    /// From when on a sum is complete.
    pub(crate) fn done(&self, sum: Sum) -> i64 {
        self.planes[usize::from(sum.plane)].done[usize::from(sum.accumulator)]
    }

    /// A sum is not needed any more from a cycle on.
    pub(crate) fn free(&mut self, sum: Sum, cycle: i64) {
        self.planes[usize::from(sum.plane)].free[usize::from(sum.accumulator)] = cycle;
    }
}

impl Schedule {
    /// Loads and installs a tile, no earlier than `earliest`; what it is multiplied with comes while the plane's next tile is loaded, or
    /// when the sums are asked for. Gives the cycle of the first load.
    pub(crate) fn install(&mut self, plane: u8, tile: Tile, bytes: Bytes, multiplies: Vec<Multiply>, earliest: i64) -> i64 {
        let timing = self.timing;
        let before = self.planes.planes[usize::from(plane)].clone();
        let inputs = multiplies.iter().map(|m| m.input.ready).max().unwrap_or(0);
        let lead = i64::from(tile.loads) + timing.weights + timing.install;
        let earliest = earliest.max(before.last_load + 1).max(inputs - lead);
        let op = self.tables.begin(self.node);
        let (first, last, done) = self.place_part(op, earliest, |attempt, cycle| {
            let mut kernel = Kernel::new(attempt, plane, &before);
            kernel.multiply_until(cycle);
            let mut at = cycle;
            for load in 0..tile.loads {
                at = kernel.make_room(&tile, load, at)?;
                let most = if load == 0 { at } else { at + SLACK };
                at = (at..=most).find(|at| kernel.load(&tile, load, bytes, *at))? + 1;
            }
            if tile.step == 0 {
                tile.load(0).for_each(|place| kernel.attempt.claim(place));
            }
            Some((cycle, at - 1, kernel.done))
        });
        self.multiplied(plane, done);
        let plane = &mut self.planes.planes[usize::from(plane)];
        plane.last_load = last;
        let usable = last + timing.weights + timing.install;
        plane.pending = Some(Pending { op, usable, multiplies: multiplies.into() });
        first
    }

    /// Sums that became complete.
    fn multiplied(&mut self, plane: u8, done: Vec<(u8, i64)>) {
        let timing = self.timing;
        let plane = &mut self.planes.planes[usize::from(plane)];
        for (accumulator, at) in done {
            plane.done[usize::from(accumulator)] = at + timing.multiply;
            plane.last_multiply = plane.last_multiply.max(at);
        }
    }

    /// Multiplies with the last tile of a plane.
    pub(crate) fn settle(&mut self, plane: u8) {
        let Some(pending) = self.planes.planes[usize::from(plane)].pending.take() else { return };
        let mut earliest = pending.usable;
        for multiply in pending.multiplies {
            let free = self.planes.planes[usize::from(plane)].free[usize::from(multiply.accumulator)];
            let at = self.place_part(pending.op, earliest.max(free), |attempt, cycle| {
                attempt.multiply(plane, multiply, cycle, None).map(|()| cycle)
            });
            self.multiplied(plane, vec![(multiply.accumulator, at)]);
            earliest = at + 1;
        }
    }

    /// Sees to it that a sum becomes complete.
    pub(crate) fn settle_sum(&mut self, sum: Sum) {
        let pending = &self.planes.planes[usize::from(sum.plane)].pending;
        if pending.as_ref().is_some_and(|p| p.multiplies.iter().any(|m| m.accumulator == sum.accumulator)) {
            self.settle(sum.plane);
        }
    }

    /// The first cycle in which an ALU may use a sum.
    pub(crate) fn sum_at_vxm(&self, sum: Sum) -> i64 {
        self.planes.done(sum) + self.timing.result + i64::from(EDGE) + self.timing.enter
    }
}

impl Attempt<'_> {
    /// Sends the words of a complete sum so that they stand at `at` in cycle `cycle`. Gives their stream, and when they are emitted.
    pub(crate) fn emit(&mut self, sum: Sum, done: i64, at: i32, cycle: i64) -> Option<(Stream, i64)> {
        let from = plane_side(sum.plane).sign() * EDGE;
        let leave = cycle - i64::from((at - from).abs());
        let emit = leave - self.timing.result;
        if emit < done {
            return None;
        }
        let out = self.send(4, from, leave, at)?;
        self.issue(Queue::plane(sum.plane, Unit::Results), emit, Instr::Emit { accumulator: sum.accumulator, out })?;
        Some((out, emit))
    }
}

/// A tile on its way into a plane, and the multiplications with the tile before it.
struct Kernel<'a, 'b> {
    attempt: &'a mut Attempt<'b>,
    plane: u8,
    /// The macro-op of the tile before, and from when on it can be used.
    op: u32,
    usable: i64,
    waiting: VecDeque<Multiply>,
    free: &'a [i64],
    last_multiply: i64,
    /// Accumulators, and when they were multiplied into.
    done: Vec<(u8, i64)>,
}

impl<'a, 'b> Kernel<'a, 'b> {
    fn new(attempt: &'a mut Attempt<'b>, plane: u8, before: &'a Plane) -> Self {
        let (op, usable, waiting) = match &before.pending {
            Some(Pending { op, usable, multiplies }) => (*op, *usable, multiplies.clone()),
            None => (0, 0, VecDeque::new()),
        };
        Self { attempt, plane, op, usable, waiting, free: &before.free, last_multiply: before.last_multiply, done: Vec::new() }
    }

    /// Cycles that have to lie between a multiplication and the last load of the tile that replaces the weights.
    fn margin(&self) -> i64 {
        self.attempt.timing.multiply - self.attempt.timing.weights
    }

    /// The multiplication whose turn it is, if it may be in this cycle.
    fn next(&self, cycle: i64) -> Option<Multiply> {
        let next = self.waiting.front().copied();
        next.filter(|next| cycle >= self.usable.max(self.free[usize::from(next.accumulator)]))
    }

    fn multiplied(&mut self, multiply: Multiply, cycle: i64) {
        self.waiting.pop_front();
        self.last_multiply = cycle;
        self.done.push((multiply.accumulator, cycle));
    }

    /// The next multiplication in this cycle, with activations on a stream of their own, if that fits.
    fn multiply(&mut self, cycle: i64) {
        let Some(multiply) = self.next(cycle) else { return };
        let (plane, mark) = (self.plane, self.attempt.mark());
        match self.attempt.within(self.op, |attempt| attempt.multiply(plane, multiply, cycle, None)) {
            Some(()) => self.multiplied(multiply, cycle),
            None => self.attempt.rewind(mark),
        }
    }

    /// Multiplications before the first load.
    fn multiply_until(&mut self, cycle: i64) {
        (self.usable..cycle).for_each(|at| self.multiply(at));
    }

    /// The cycle of a load that could be in cycle `at`: there is a gap, of an even number of cycles, for multiplications that cannot ride,
    /// and the last load is late enough for all of them.
    fn make_room(&mut self, tile: &Tile, load: u16, at: i64) -> Option<i64> {
        let (margin, last) = (self.margin(), load + 1 == tile.loads);
        let rides = (load..tile.loads).filter(|load| tile.rides(*load, margin)).count();
        let mut next = at;
        while self.waiting.len() > rides && (last || next >= self.usable) {
            next = next.max(self.usable);
            self.multiply(next);
            next += 1;
            if next > at.max(self.usable) + 4 * SLACK {
                return None;
            }
        }
        next += (next - at) % 2;
        Some(if last { next.max(self.last_multiply + margin) } else { next })
    }

    /// A load, with a rider if there is one. Whether it fits.
    fn load(&mut self, tile: &Tile, load: u16, bytes: Bytes, at: i64) -> bool {
        let rider = self.next(at).filter(|_| tile.rides(load, self.margin()));
        let (op, plane, mark) = (self.op, self.plane, self.attempt.mark());
        let input = Stream::new(plane_side(plane), first_stream(plane));
        let last = load + 1 == tile.loads;
        let instr = if last { Instr::Install { input } } else { Instr::Load { input } };
        let ridden = match rider {
            Some(rider) => self.attempt.within(op, |attempt| attempt.ride(plane, rider, bytes, at)),
            None => Some(()),
        };
        let places: Vec<Place> = tile.load(load).take(if rider.is_some() { RIDER.into() } else { 16 }).collect();
        if ridden.is_none() || self.attempt.load(instr, plane, &places, tile.choices, bytes, at).is_none() {
            self.attempt.rewind(mark);
            return false;
        }
        if let Some(rider) = rider {
            self.multiplied(rider, at);
        }
        true
    }
}

/// The streams that a plane's weights travel on. At the VXM the bytes of one hemisphere arrive in the direction in which those of the other
/// leave, so the two differ.
fn first_stream(plane: u8) -> u8 {
    [16, 0, 0, 16][usize::from(plane)]
}

/// When the bytes of a load that passes the VXM stand there.
fn at_vxm(load: i64, timing: Timing) -> i64 {
    load - i64::from(EDGE) - timing.op - timing.enter
}

impl Attempt<'_> {
    /// Multiplies with activations that stand on a stream, or come on one of their own.
    fn multiply(&mut self, plane: u8, multiply: Multiply, cycle: i64, on: Option<Stream>) -> Option<()> {
        let (queue, edge) = (Queue::plane(plane, Unit::Activations), plane_side(plane).sign() * EDGE);
        if !self.is_free(queue, cycle) {
            return None;
        }
        let Multiply { input, accumulator, add } = multiply;
        let input = match on {
            Some(stream) => stream,
            None => self.fetch_byte(input, edge, cycle)?,
        };
        self.issue(queue, cycle, Instr::Multiply { input, accumulator, add: add.into() })
    }

    /// Multiplies with activations that ride on a load of this cycle.
    fn ride(&mut self, plane: u8, multiply: Multiply, bytes: Bytes, cycle: i64) -> Option<()> {
        let side = plane_side(plane);
        let outward = Stream::new(side, first_stream(plane) + RIDER);
        match bytes {
            Bytes::Raw => self.fetch_on(outward, multiply.input, side.sign() * EDGE, cycle)?,
            Bytes::Masked(_) => {
                self.fetch_on(Stream::new(side.other(), outward.number), multiply.input, 0, at_vxm(cycle, self.timing))?;
            }
        }
        self.multiply(plane, multiply, cycle, Some(outward))
    }

    /// Brings a map past all slices of a load, so that it stands at each of them when that is read.
    fn map(&mut self, places: &[Place], [near, far]: [Byte; 2], bytes: Bytes, edge: i32, at: i64) -> Option<Stream> {
        let positions = places.iter().map(|place| place.slice.position());
        match bytes {
            Bytes::Raw => {
                let last = positions.max_by_key(|x| x.abs())?;
                self.fetch_byte(near, last, at - i64::from((edge - last).abs()) - self.timing.read)
            }
            Bytes::Masked(_) => {
                let last = positions.min_by_key(|x| x.abs())?;
                self.fetch_byte(far, last, at_vxm(at, self.timing) - i64::from(last.abs()) - self.timing.read)
            }
        }
    }

    /// Streams sixteen columns into a plane's buffer, where `instr` takes them; or fifteen, those of a load with a rider.
    fn load(
        &mut self,
        instr: Instr,
        plane: u8,
        places: &[Place],
        choices: Option<(u16, [Byte; 2])>,
        bytes: Bytes,
        at: i64,
    ) -> Option<()> {
        let (side, first, timing) = (plane_side(plane), first_stream(plane), self.timing);
        let edge = side.sign() * EDGE;
        let outward = Stream::new(side, first);
        let map = match choices {
            Some((_, maps)) => Some(self.map(places, maps, bytes, edge, at)?),
            None => None,
        };
        for (i, place) in (0u8..).zip(places) {
            let x = place.slice.position();
            let (stream, end, until) = match bytes {
                Bytes::Raw => (outward.plus(i), at, edge),
                Bytes::Masked(_) => (Stream::new(side.other(), first + i), at_vxm(at, timing), 0),
            };
            let start = end - i64::from((until - x).abs());
            let read = match (map, choices) {
                (Some(map), Some((limit, _))) => Instr::Gather { base: place.address, limit, map, out: stream },
                _ => Instr::Read { address: place.address, out: stream },
            };
            self.issue(Queue::mem(place.slice), start - timing.read, read)?;
            self.send_on(stream, x, start, until)?;
        }
        if let Bytes::Masked(mask) = bytes {
            let mask = u32::from_ne_bytes([mask; 4]);
            // What flows out again from here on.
            let leave = at - i64::from(EDGE);
            let now = leave - timing.op;
            let alus: Vec<u8> = (0..ALUS).rev().filter(|alu| self.is_free(Queue::alu(*alu), now)).take(4).collect();
            if alus.len() < 4 {
                return None;
            }
            for (word, alu) in (0u8..).zip(alus) {
                for i in 0..4 {
                    self.send_on(outward.plus(4 * word + i), 0, leave, edge)?;
                }
                let rider = places.len() == usize::from(RIDER) && word == RIDER / 4;
                let and = Instr::Compute {
                    op: AluOp::And,
                    a: Source::Word(Stream::new(side.other(), first + 4 * word)),
                    b: Source::Constant(if rider { mask | 0xff00_0000 } else { mask }),
                    out: Sink::Word(outward.plus(4 * word)),
                };
                self.issue(Queue::alu(alu), now, and)?;
            }
        }
        self.issue(Queue::plane(plane, Unit::Weights), at, instr)
    }
}

/// The plane of a hemisphere that gets raw bytes, and the one that gets some of their bits.
pub(crate) fn planes(side: Side) -> [u8; 2] {
    match side {
        Side::East => [0, 1],
        Side::West => [2, 3],
    }
}
