//! Macro-ops of the SXM: the lanes of a word vector in another order, one byte after the other; and those that only move vectors: into the
//! cache, and out of several that a map chooses from.

use super::lanes::{NUMBERS, lane, number};
use super::tables::Attempt;
use super::{Byte, Choices, Schedule, Word};
use q35_tsp::geometry::{LANES, Queue, SXM, Side};
use q35_tsp::isa::Instr;
use q35_tsp::program::{Image, Place, Quad, runs_of_lanes};

/// Numbers that a shift looks at.
const SHIFTED: usize = 256;

/// An order of lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Lane numbers that differ in these bits change places.
    Exchanged(u32),
    /// Numbers go to lanes so much further.
    Shifted(i64),
}

impl Order {
    /// The lane that each lane gets.
    fn lanes(self) -> Vec<usize> {
        match self {
            Self::Exchanged(distance) => {
                let partner = |of: usize| number(of).map(|n| n ^ distance as usize).filter(|n| *n < NUMBERS);
                (0..LANES).map(|of| partner(of).map_or(of, lane)).collect()
            }
            Self::Shifted(by) => {
                let from = |of: usize| usize::try_from(of as i64 - by).ok().filter(|n| *n < SHIFTED).map(lane);
                let wanted: Vec<Option<usize>> = (0..LANES).map(from).collect();
                let mut others = (0..LANES).filter(|lane| !wanted.contains(&Some(*lane)));
                wanted.iter().map(|lane| lane.or_else(|| others.next()).unwrap_or(0)).collect()
            }
        }
    }
}

impl Attempt<'_> {
    /// Sets the map that a permutor goes by from a cycle on.
    fn set_map(&mut self, side: Side, map: &[Place; 2], cycle: i64) -> Option<()> {
        let set = cycle - self.timing.map;
        let map = self.fetch(map, 0, side.sign() * SXM, set)?;
        self.issue(Queue::permute(side), set, Instr::SetMap { map })
    }
}

impl Schedule {
    /// A constant vector, by lane number; lanes without a number hold 0.
    pub(crate) fn constant(&mut self, words: impl Fn(usize) -> u32) -> Word {
        self.constant_lanes(|lane| number(lane).map_or(0, &words))
    }

    /// A constant vector, by lane.
    pub(crate) fn constant_lanes(&mut self, words: impl Fn(usize) -> u32) -> Word {
        let words: Vec<u32> = (0..LANES).map(words).collect();
        let runs = runs_of_lanes(&words);
        if let Some(word) = self.constants.get(&runs) {
            return *word;
        }
        let word = Word { quad: self.memory.constant(1), ready: 0 };
        self.data.images.push(Image::Words { quad: word.quad, runs: runs.clone() });
        self.constants.insert(runs, word);
        word
    }

    /// The map by which a permutor does something: low and high bytes.
    fn order_map(&mut self, side: Side, order: Order) -> [Place; 2] {
        if let Some(places) = self.maps.get(&(side, order)) {
            return *places;
        }
        let places = self.memory.pair(side);
        let from = order.lanes();
        for (place, shift) in places.into_iter().zip([0, 8]) {
            let bytes: Vec<u8> = from.iter().map(|lane| (lane >> shift) as u8).collect();
            self.data.images.push(Image::Bytes { place, runs: runs_of_lanes(&bytes) });
        }
        self.maps.insert((side, order), places);
        places
    }

    /// The vector whose lane number `i` is lane number `i ^ distance` of `word`.
    pub(crate) fn exchange(&mut self, word: Word, distance: u32) -> Word {
        let (side, order) = (word.quad.side, Order::Exchanged(distance));
        let map = self.order_map(side, order);
        let quad = self.value(Some(side), word.ready);
        let (queue, at) = (Queue::permute(side), side.sign() * SXM);
        self.place(word.ready, |attempt, cycle| {
            let unset = attempt.hold_map(side, order, cycle, cycle + 3)?;
            let mut ready = 0;
            for (i, (from, to)) in (0i64..).zip(word.places().into_iter().zip(Word { quad, ready }.places())) {
                let input = attempt.fetch(&[from], word.ready, at, cycle + i)?;
                let (out, stored) = attempt.store(&[to], at, cycle + i + attempt.timing.permute)?;
                attempt.issue(queue, cycle + i, Instr::Permute { input, out })?;
                ready = stored;
            }
            if unset {
                attempt.set_map(side, &map, cycle)?;
            }
            Some(Word { quad, ready })
        })
    }

    /// The bytes of numbers below [`SHIFTED`] in lanes `by` further than their numbers, as far as there are lanes; others hold anything.
    pub(crate) fn shift(&mut self, byte: Byte, by: i64) -> Byte {
        let (side, order) = (byte.place.slice.side, Order::Shifted(by));
        let map = self.order_map(side, order);
        let place = self.memory.bytes(side);
        let (queue, at) = (Queue::permute(side), side.sign() * SXM);
        self.place(byte.ready, |attempt, cycle| {
            let unset = attempt.hold_map(side, order, cycle, cycle)?;
            let input = attempt.fetch_byte(byte, at, cycle)?;
            let (out, ready) = attempt.store(&[place], at, cycle + attempt.timing.permute)?;
            attempt.issue(queue, cycle, Instr::Permute { input, out })?;
            if unset {
                attempt.set_map(side, &map, cycle)?;
            }
            Some(Byte { place, ready })
        })
    }

    /// Copies a vector to `base` plus the address that `entry` holds, below `limit`. Gives the first cycle whose reads see it.
    pub(crate) fn append(&mut self, word: Word, base: Quad, limit: u16, entry: Byte) -> i64 {
        let target = Word { quad: base, ready: 0 };
        let at = base.byte(0).slice.position();
        self.place(word.ready.max(entry.ready), |attempt, cycle| {
            let map = attempt.fetch_byte(entry, at, cycle)?;
            let data = attempt.fetch_word(word, at, cycle)?;
            for (i, place) in (0u8..).zip(target.places()) {
                let instr = Instr::Scatter { base: base.address, limit, map, input: data.plus(i) };
                attempt.issue(Queue::mem(place.slice), cycle, instr)?;
                attempt.touch(place, cycle);
            }
            Some(cycle + attempt.timing.write)
        })
    }

    /// The word that a map chooses.
    pub(crate) fn choose(&mut self, choices: Choices) -> Word {
        let quad = self.value(Some(choices.first.side), choices.map.ready);
        let (places, at) = (Word { quad, ready: 0 }.places(), quad.byte(0).slice.position());
        let ready = self.place(choices.map.ready, |attempt, cycle| {
            let stream = attempt.fetch_choice(choices, at, cycle)?;
            attempt.keep(&places, stream, cycle)
        });
        Word { quad, ready }
    }
}
