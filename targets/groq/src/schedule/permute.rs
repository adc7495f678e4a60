//! Macro-ops of the SXM: the lanes of a word vector in another order, one byte after the other; and those that only move vectors: into the
//! cache, and out of several that a map chooses from.

use super::lanes::{NUMBERS, lane, number};
use super::{Byte, Choices, Schedule, Word};
use q35_tsp::geometry::{LANES, Queue, SXM, Side};
use q35_tsp::isa::Instr;
use q35_tsp::program::{Image, Place, Quad, runs_of_lanes};

impl Schedule {
    /// A constant vector, by lane number; lanes without a number hold 0.
    pub(crate) fn constant(&mut self, words: impl Fn(usize) -> u32) -> Word {
        let words: Vec<u32> = (0..LANES).map(|lane| number(lane).map_or(0, &words)).collect();
        let runs = runs_of_lanes(&words);
        if let Some(word) = self.constants.get(&runs) {
            return *word;
        }
        let word = Word { quad: self.memory.constant(1), ready: 0 };
        self.data.images.push(Image::Words { quad: word.quad, runs: runs.clone() });
        self.constants.insert(runs, word);
        word
    }

    /// The map that exchanges lane number `i` with lane number `i ^ distance`, low and high bytes.
    fn exchange_map(&mut self, side: Side, distance: u32) -> [Place; 2] {
        if let Some(places) = self.maps.get(&(side, distance)) {
            return *places;
        }
        let places = self.memory.pair(side);
        let partner = |of: usize| number(of).map(|n| n ^ distance as usize).filter(|n| *n < NUMBERS);
        let from = |of: usize| partner(of).map_or(of, lane);
        for (place, shift) in places.into_iter().zip([0, 8]) {
            let bytes: Vec<u8> = (0..LANES).map(|lane| (from(lane) >> shift) as u8).collect();
            self.data.images.push(Image::Bytes { place, runs: runs_of_lanes(&bytes) });
        }
        self.maps.insert((side, distance), places);
        places
    }

    /// The vector whose lane number `i` is lane number `i ^ distance` of `word`.
    pub(crate) fn exchange(&mut self, word: Word, distance: u32) -> Word {
        let side = word.quad.side;
        let map = self.exchange_map(side, distance);
        let quad = self.value(Some(side), word.ready);
        let (queue, at) = (Queue::permute(side), side.sign() * SXM);
        self.place(word.ready, |attempt, cycle| {
            let unset = attempt.hold_map(side, distance, cycle, cycle + 3)?;
            let set = cycle - attempt.timing.map;
            let mut ready = 0;
            for (i, (from, to)) in (0i64..).zip(word.places().into_iter().zip(Word { quad, ready }.places())) {
                let input = attempt.fetch(&[from], word.ready, at, cycle + i)?;
                let (out, stored) = attempt.store(&[to], at, cycle + i + attempt.timing.permute)?;
                attempt.issue(queue, cycle + i, Instr::Permute { input, out })?;
                ready = stored;
            }
            if unset {
                let map = attempt.fetch(&map, 0, at, set)?;
                attempt.issue(queue, set, Instr::SetMap { map })?;
            }
            Some(Word { quad, ready })
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
