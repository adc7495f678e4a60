//! What is taken when: queues by cycle, stream registers by position and cycle, units by interval.

use super::permute::Order;
use super::{Byte, Choices, Word};
use q35_tsp::geometry::{EDGE, QUEUES, Queue, STREAMS, Side, Slice, Stream};
use q35_tsp::isa::Instr;
use q35_tsp::program::{Issue, MacroOp, Origin, Place};
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;

const POSITIONS: usize = 2 * EDGE as usize + 1;

/// A unit that is one macro-op's for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// The map of a permutor.
    Permutor(Side),
    /// The way out of a link.
    Link(u8),
}

/// Streams taken in a cycle, by direction and position, a bit each.
type Registers = [[u32; POSITIONS]; 2];

/// Cycles in which a queue dispatches something, a bit each. An attempt asks them far more often than it comes to anything.
#[derive(Clone, Default)]
struct Cycles(Vec<u64>);

impl Cycles {
    fn has(&self, cycle: i64) -> bool {
        self.0.get(cycle as usize / 64).is_some_and(|word| word >> (cycle % 64) & 1 == 1)
    }

    fn insert(&mut self, cycle: i64) {
        let word = cycle as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 64, 0);
        }
        self.0[word] |= 1 << (cycle % 64);
    }

    fn remove(&mut self, cycle: i64) {
        self.0[cycle as usize / 64] &= !(1 << (cycle % 64));
    }
}

pub(crate) struct Tables {
    /// What is placed.
    pub(crate) queues: BTreeMap<Queue, BTreeMap<i64, Issue>>,
    /// The cycles of what is placed and of what is tried, by the queue's number.
    busy: Vec<Cycles>,
    registers: Vec<Registers>,
    holds: BTreeMap<Hold, BTreeMap<i64, i64>>,
    /// Maps of the permutors, by the cycle from which on they hold.
    maps: [BTreeMap<i64, Order>; 2],
    /// The last cycle in which a row was read or written.
    touched: BTreeMap<(Slice, u16), i64>,
    /// The macro-op that wrote a row last, in the order in which they were placed.
    writers: BTreeMap<(Slice, u16), u32>,
    /// What has been begun.
    pub(crate) ops: Vec<MacroOp>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
            busy: vec![Cycles::default(); usize::from(QUEUES)],
            registers: Vec::new(),
            holds: BTreeMap::new(),
            maps: Default::default(),
            touched: BTreeMap::new(),
            writers: BTreeMap::new(),
            ops: Vec::new(),
        }
    }
}

impl Tables {
    /// Begins a macro-op for a node of the model. Gives its number.
    pub(crate) fn begin(&mut self, node: u32) -> u32 {
        self.ops.push(MacroOp { node, flow: 0, reads: Vec::new() });
        self.ops.len() as u32 - 1
    }

    pub(crate) fn last_touch(&self, place: Place) -> i64 {
        self.touched.get(&(place.slice, place.address)).copied().unwrap_or(-1)
    }
}

enum Undo {
    Issue(Queue, Issue),
    Registers { side: Side, position: i32, cycle: i64, mask: u32 },
    Hold(Hold, i64),
    Map(Side, i64),
}

/// Part of a macro-op, entered into the tables as it is tried.
pub(crate) struct Attempt<'a> {
    tables: &'a mut Tables,
    pub(crate) timing: Timing,
    /// The macro-op.
    op: u32,
    log: Vec<Undo>,
    touches: Vec<Touch>,
}

/// A use of a row, in a cycle.
struct Touch {
    op: u32,
    place: Place,
    cycle: i64,
    kind: TouchKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TouchKind {
    /// Of so many neighbouring slices, this one being the first.
    Read(u8),
    Write,
    Other,
}

/// How far an attempt has come.
#[derive(Clone, Copy)]
pub(crate) struct Mark(usize, usize);

fn side_index(side: Side) -> usize {
    usize::from(side == Side::West)
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(tables: &'a mut Tables, timing: Timing, op: u32) -> Self {
        Self { tables, timing, op, log: Vec::new(), touches: Vec::new() }
    }

    /// The same for a part of another macro-op that has to fit as well.
    pub(crate) fn within<T>(&mut self, op: u32, part: impl FnOnce(&mut Self) -> T) -> T {
        let own = std::mem::replace(&mut self.op, op);
        let result = part(self);
        self.op = own;
        result
    }

    /// Where the attempt stands.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.log.len(), self.touches.len())
    }

    /// Leaves the tables as they were before.
    pub(crate) fn take_back(&mut self) {
        self.rewind(Mark(0, 0));
    }

    /// Leaves the tables as they were at a mark.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.touches.truncate(mark.1);
        for undo in self.log.drain(mark.0..).rev() {
            match undo {
                Undo::Issue(queue, issue) => self.tables.busy[usize::from(queue.number())].remove(issue.cycle.into()),
                Undo::Registers { side, position, cycle, mask } => {
                    self.tables.registers[cycle as usize][side_index(side)][(position + EDGE) as usize] &= !mask;
                }
                Undo::Hold(hold, from) => {
                    self.tables.holds.get_mut(&hold).and_then(|holds| holds.remove(&from));
                }
                Undo::Map(side, from) => {
                    self.tables.maps[side_index(side)].remove(&from);
                }
            }
        }
    }

    pub(crate) fn is_free(&self, queue: Queue, cycle: i64) -> bool {
        cycle >= 0 && !self.tables.busy[usize::from(queue.number())].has(cycle)
    }

    /// Dispatches an instruction.
    pub(crate) fn issue(&mut self, queue: Queue, cycle: i64, instr: Instr) -> Option<()> {
        if !self.is_free(queue, cycle) {
            return None;
        }
        let issue = Issue { cycle: u32::try_from(cycle).ok()?, op: self.op, instr };
        self.tables.busy[usize::from(queue.number())].insert(cycle);
        self.log.push(Undo::Issue(queue, issue));
        Some(())
    }

    /// Takes a unit for the cycles `from..=to`.
    pub(crate) fn hold(&mut self, hold: Hold, from: i64, to: i64) -> Option<()> {
        let holds = self.tables.holds.entry(hold).or_default();
        if holds.range(..=to).next_back().is_some_and(|(_, end)| *end >= from) {
            return None;
        }
        holds.insert(from, to);
        self.log.push(Undo::Hold(hold, from));
        Some(())
    }

    /// Takes a permutor with a map for the cycles `from..=to`. Gives whether the map has to be set for them: not where it holds already.
    pub(crate) fn hold_map(&mut self, side: Side, map: Order, from: i64, to: i64) -> Option<bool> {
        let maps = &self.tables.maps[side_index(side)];
        let known = maps.range(..=from).next_back().is_some_and(|(_, known)| *known == map);
        let next = maps.range(from + 1..).next().map_or(i64::MAX, |(from, _)| *from);
        if next <= to {
            return None;
        }
        // Whoever comes next may count on the map that holds now.
        let later = self.tables.holds.get(&Hold::Permutor(side)).and_then(|holds| holds.range(from..).next());
        if !known && later.is_some_and(|(later, _)| *later < next) {
            return None;
        }
        self.hold(Hold::Permutor(side), from, to)?;
        if !known {
            self.tables.maps[side_index(side)].insert(from, map);
            self.log.push(Undo::Map(side, from));
        }
        Some(!known)
    }

    /// Streams that are free all the way from `from`, where a vector stands in cycle `cycle`, to `until`, as bits.
    fn free(&mut self, to: Side, from: i32, cycle: i64, until: i32) -> u32 {
        let hops = i64::from((until - from).abs());
        if cycle < 0 {
            return 0;
        }
        if self.tables.registers.len() <= (cycle + hops) as usize {
            self.tables.registers.resize((cycle + hops + 1024) as usize, [[0; POSITIONS]; 2]);
        }
        let taken = (0..=hops).fold(0, |taken, hop| {
            let position = from + to.sign() * hop as i32 + EDGE;
            taken | self.tables.registers[(cycle + hop) as usize][side_index(to)][position as usize]
        });
        !taken
    }

    fn take(&mut self, to: Side, from: i32, cycle: i64, until: i32, mask: u32) {
        for hop in 0..=i64::from((until - from).abs()) {
            let (position, cycle) = (from + to.sign() * hop as i32, cycle + hop);
            self.tables.registers[cycle as usize][side_index(to)][(position + EDGE) as usize] |= mask;
            self.log.push(Undo::Registers { side: to, position, cycle, mask });
        }
    }

    /// Takes `width` streams for vectors that stand at `from` in cycle `cycle` and go on to `until`. Single bytes come from the top, so that
    /// aligned groups stay free; words keep, where they can, to the half of the streams on which no weights pass the VXM.
    pub(crate) fn send(&mut self, width: u8, from: i32, cycle: i64, until: i32) -> Option<Stream> {
        let to = if until >= from { Side::East } else { Side::West };
        let quiet = if from + until >= 0 { STREAMS / 2 } else { 0 };
        let free = self.free(to, from, cycle, until);
        let group = u32::MAX >> (32 - u32::from(width));
        let mut starts = (0..STREAMS).step_by(usize::from(width)).filter(|start| free >> start & group == group);
        let first = if width <= 2 { starts.next_back() } else { starts.clone().find(|s| *s >= quiet).or(starts.next()) }?;
        self.take(to, from, cycle, until, group << first);
        Some(Stream::new(to, first))
    }

    /// Takes one stream of a given number.
    pub(crate) fn send_on(&mut self, stream: Stream, from: i32, cycle: i64, until: i32) -> Option<()> {
        let free = self.free(stream.to, from, cycle, until);
        (free >> stream.number & 1 == 1).then(|| self.take(stream.to, from, cycle, until, 1 << stream.number))
    }

    /// Reads vectors of one position so that they stand at `at` in cycle `cycle`, on neighbouring streams.
    pub(crate) fn fetch(&mut self, places: &[Place], ready: i64, at: i32, cycle: i64) -> Option<Stream> {
        let from = places[0].slice.position();
        let start = cycle - i64::from((at - from).abs());
        let read = start - self.timing.read;
        if read < ready || !places.iter().all(|place| self.is_free(Queue::mem(place.slice), read)) {
            return None;
        }
        let stream = self.send(places.len() as u8, from, start, at)?;
        for (i, place) in (0u8..).zip(places) {
            let instr = Instr::Read { address: place.address, out: stream.plus(i) };
            self.issue(Queue::mem(place.slice), read, instr)?;
            let kind = if i == 0 { TouchKind::Read(places.len() as u8) } else { TouchKind::Other };
            self.touches.push(Touch { op: self.op, place: *place, cycle: read, kind });
        }
        Some(stream)
    }

    /// [`Attempt::fetch`] of a byte on a stream that is given.
    pub(crate) fn fetch_on(&mut self, stream: Stream, byte: Byte, at: i32, cycle: i64) -> Option<()> {
        let Byte { place, ready } = byte;
        let from = place.slice.position();
        let start = cycle - i64::from((at - from).abs());
        let read = start - self.timing.read;
        if read < ready {
            return None;
        }
        self.send_on(stream, from, start, at)?;
        self.issue(Queue::mem(place.slice), read, Instr::Read { address: place.address, out: stream })?;
        self.touches.push(Touch { op: self.op, place, cycle: read, kind: TouchKind::Read(1) });
        Some(())
    }

    /// [`Attempt::fetch`] of a word.
    pub(crate) fn fetch_word(&mut self, word: Word, at: i32, cycle: i64) -> Option<Stream> {
        self.fetch(&word.places(), word.ready, at, cycle)
    }

    /// [`Attempt::fetch`] of a byte.
    pub(crate) fn fetch_byte(&mut self, byte: Byte, at: i32, cycle: i64) -> Option<Stream> {
        self.fetch(&[byte.place], byte.ready, at, cycle)
    }

    /// Reads the words that a map chooses so that they stand at `at` in cycle `cycle`.
    pub(crate) fn fetch_choice(&mut self, choices: Choices, at: i32, cycle: i64) -> Option<Stream> {
        let Choices { first, count, map } = choices;
        let places = [0, 1, 2, 3].map(|i| first.byte(i));
        let from = places[0].slice.position();
        let start = cycle - i64::from((at - from).abs());
        let read = start - self.timing.read;
        let map = self.fetch_byte(map, from, read)?;
        let stream = self.send(4, from, start, at)?;
        for (i, place) in (0u8..).zip(places) {
            let instr = Instr::Gather { base: first.address, limit: count, map, out: stream.plus(i) };
            self.issue(Queue::mem(place.slice), read, instr)?;
        }
        for address in first.address..first.address + count {
            let place = Place { address, ..places[0] };
            self.touches.push(Touch { op: self.op, place, cycle: read, kind: TouchKind::Read(4) });
        }
        Some(stream)
    }

    /// Sends vectors that stand at `from` in cycle `cycle` to memory. Gives their streams, and the first cycle whose reads see them.
    pub(crate) fn store(&mut self, places: &[Place], from: i32, cycle: i64) -> Option<(Stream, i64)> {
        let at = places[0].slice.position();
        let stream = self.send(places.len() as u8, from, cycle, at)?;
        let ready = self.keep(places, stream, cycle + i64::from((at - from).abs()))?;
        Some((stream, ready))
    }

    /// Writes what stands on neighbouring streams in a cycle. Gives the first cycle whose reads see it.
    pub(crate) fn keep(&mut self, places: &[Place], stream: Stream, write: i64) -> Option<i64> {
        if !places.iter().all(|place| self.tables.last_touch(*place) < write) {
            return None;
        }
        for (i, place) in (0u8..).zip(places) {
            self.issue(Queue::mem(place.slice), write, Instr::Write { address: place.address, input: stream.plus(i) })?;
            self.touches.push(Touch { op: self.op, place: *place, cycle: write, kind: TouchKind::Write });
        }
        Some(write + self.timing.write)
    }

    /// Remembers a use of a row that is not one of the above.
    pub(crate) fn touch(&mut self, place: Place, cycle: i64) {
        self.touches.push(Touch { op: self.op, place, cycle, kind: TouchKind::Other });
    }

    /// Says that a row is read which is not fetched.
    pub(crate) fn claim(&mut self, place: Place) {
        self.touches.push(Touch { op: self.op, place, cycle: 0, kind: TouchKind::Read(1) });
    }

    /// What was tried is placed.
    pub(crate) fn commit(mut self) {
        for undo in self.log.drain(..) {
            if let Undo::Issue(queue, issue) = undo {
                self.tables.queues.entry(queue).or_default().insert(issue.cycle.into(), issue);
            }
        }
        for Touch { op, place, cycle, kind } in self.touches.drain(..) {
            let row = (place.slice, place.address);
            if let TouchKind::Read(count) = kind {
                let writer = self.tables.writers.get(&row).copied();
                let origin = Origin { queue: Queue::mem(place.slice).number(), address: place.address, count, writer };
                let reads = &mut self.tables.ops[op as usize].reads;
                if let Err(at) = reads.binary_search(&origin) {
                    reads.insert(at, origin);
                }
            }
            if kind == TouchKind::Write {
                self.tables.writers.insert(row, op);
            }
            let last = self.tables.touched.entry(row).or_insert(cycle);
            *last = (*last).max(cycle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_leaves_no_trace_when_it_is_taken_back() {
        let mut tables = Tables::default();
        let timing = Timing::tsp1();
        let place = Place { slice: Slice::new(Side::East, 0), address: 3 };
        let run = |tables: &mut Tables, keep: bool| {
            let op = tables.begin(0);
            let mut attempt = Attempt::new(tables, timing, op);
            let stream = attempt.fetch(&[place], 0, 0, 20);
            let hold = attempt.hold(Hold::Permutor(Side::East), 5, 9);
            if keep {
                attempt.commit();
            } else {
                attempt.take_back();
            }
            (stream.map(|stream| stream.number), hold.is_some())
        };
        assert_eq!(run(&mut tables, false), (Some(31), true));
        assert_eq!(run(&mut tables, true), (Some(31), true));
        assert_eq!(run(&mut tables, false), (None, false), "the queue is taken");
        assert_eq!(tables.last_touch(place), 18);
        // Another slice of the same position gets the next stream, one that meets the first one's path does not get its number.
        let mut attempt = Attempt::new(&mut tables, timing, 0);
        assert_eq!(attempt.send(1, 1, 19, 0).unwrap().number, 30);
        assert_eq!(attempt.send(1, 1, 20, 0).unwrap().number, 31);
        assert!(attempt.send_on(Stream::new(Side::West, 31), 0, 20, -3).is_none());
        assert!(attempt.send_on(Stream::new(Side::West, 31), -1, 21, -3).is_some());
    }
}
