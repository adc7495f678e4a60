//! Rows of memory. Weights grow from the first address up, values and constants from the last one down, in every slice.
//!
//! | rows of | lie in |
//! | --- | --- |
//! | values that are computed | groups 0 and 1 of both hemispheres, next to the VXM; groups 2 and 3 while no weights are read |
//! | constants and the cache | the outer groups |
//! | bytes (rounded activations, addresses) | three slices next to the VXM; addresses that travel inward, the outermost slice |
//! | weights | two sets of sixteen slices in each hemisphere, load by load in turn: while one reading of a tile is at one set, another one is at the other |

use super::Word;
use q35_tsp::geometry::{ROWS, SLICES, Side, Slice};
use q35_tsp::program::{Place, Quad};
use std::collections::{BTreeMap, VecDeque};

const VALUES: [(Side, u8); 4] = [(Side::East, 0), (Side::West, 0), (Side::East, 1), (Side::West, 1)];
const MORE_VALUES: [(Side, u8); 4] = [(Side::East, 2), (Side::West, 2), (Side::East, 3), (Side::West, 3)];
const CONSTANTS: [(Side, u8); 5] = [(Side::East, 8), (Side::West, 8), (Side::East, 10), (Side::West, 10), (Side::East, 9)];
const BYTES: [u8; 3] = [4, 5, 6];
const FAR: u8 = SLICES - 1;

/// Slices for the weights of a hemisphere: sixteen for every other load of a tile, and sixteen for the loads between.
pub(crate) const WEIGHTS: [[u8; 16]; 2] = [
    [32, 33, 34, 35, 36, 37, 39, 40, 41, 42, 43, 29, 30, 31, 27, 26],
    [8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 7],
];

#[derive(Default)]
pub(crate) struct Memory {
    /// First address that weights do not take, per slice.
    weights: BTreeMap<Slice, u16>,
    /// Rows that were taken from the top, per slice.
    top: BTreeMap<Slice, u16>,
    /// Rows of values that are free again, in the order in which they became so.
    values: BTreeMap<(Side, u8), VecDeque<u16>>,
    /// Whose turn it is: for values of any hemisphere, of the east, of the west; for constants; for bytes.
    turns: [usize; 3],
    turn: [usize; 2],
    /// Whether the last tile of a hemisphere ended in the first set.
    odd: [bool; 2],
    /// Whether values are kept out of the slices that weights lie in as well: while these are read.
    pub(crate) narrow: bool,
    /// Rows of a slice that weights are going to take.
    expected: u16,
    /// Slices that are full: how many rows were asked for beyond their end.
    pub(crate) missing: u64,
}

impl Memory {
    /// Says how many vectors weights are going to take, over all slices.
    pub(crate) fn expect(&mut self, weights: u64) {
        let slices = (2 * WEIGHTS.concat().len()) as u64;
        self.expected = weights.div_ceil(slices).min(u64::from(ROWS)) as u16;
    }

    /// The address below what is taken from the top of all these slices.
    fn take_from_top(&mut self, slices: &[Slice], rows: u16) -> u16 {
        let taken = slices.iter().map(|slice| self.top.get(slice).copied().unwrap_or(0)).max().unwrap_or(0);
        let bottom = slices.iter().map(|slice| self.weights.get(slice).copied().unwrap_or(0)).max().unwrap_or(0);
        if u32::from(taken) + u32::from(rows) + u32::from(bottom) > u32::from(ROWS) {
            self.missing += u64::from(rows);
            return 0;
        }
        for slice in slices {
            self.top.insert(*slice, taken + rows);
        }
        ROWS - taken - rows
    }

    /// Whether a group has a row that was never used, besides those that weights are going to take.
    fn has_fresh(&self, (side, group): (Side, u8)) -> bool {
        (0..4).map(|i| Slice::new(side, 4 * group + i)).all(|slice| {
            let [top, weights] = [&self.top, &self.weights].map(|rows| rows.get(&slice).copied().unwrap_or(0));
            let expected = if WEIGHTS.concat().contains(&slice.number) { self.expected } else { 0 };
            u32::from(top) + u32::from(weights.max(expected)) < u32::from(ROWS)
        })
    }

    fn quad(&mut self, (side, group): (Side, u8), rows: u16) -> Quad {
        let slices = [0, 1, 2, 3].map(|i| Slice::new(side, 4 * group + i));
        Quad { side, group, address: self.take_from_top(&slices, rows) }
    }

    /// A row for a value that is there in cycle `after` at the earliest; `side` says where, if it matters. Groups take turns, but none gets it whose
    /// rows are all in use then, as `touched` says: the last cycle in which a row is.
    pub(crate) fn value(&mut self, side: Option<Side>, after: i64, touched: impl Fn(Quad) -> i64) -> Quad {
        let turn = &mut self.turns[side.map_or(0, |side| 1 + usize::from(side == Side::West))];
        *turn += 1;
        let more: &[(Side, u8)] = if self.narrow { &[] } else { &MORE_VALUES };
        let groups = VALUES.iter().chain(more).copied();
        let mut groups: Vec<(Side, u8)> = groups.filter(|(of, _)| side.is_none_or(|side| side == *of)).collect();
        let count = groups.len();
        groups.rotate_left(*turn % count);
        let mut best: Option<(i64, (Side, u8), bool)> = None;
        for group in groups {
            let free = self.values.get(&group).and_then(VecDeque::front);
            let free = free.map(|address| touched(Quad { side: group.0, group: group.1, address: *address }));
            let (touch, fresh) = match free {
                Some(touch) if touch < after => (touch, false),
                _ if self.has_fresh(group) => (-1, true),
                Some(touch) => (touch, false),
                None => continue,
            };
            if best.is_none_or(|(least, ..)| touch < least) {
                best = Some((touch, group, fresh));
            }
            if touch < after {
                break;
            }
        }
        let (_, group, fresh) = best.unwrap_or((-1, VALUES[0], true));
        let reused = if fresh { None } else { self.values.entry(group).or_default().pop_front() };
        reused.map_or_else(|| self.quad(group, 1), |address| Quad { side: group.0, group: group.1, address })
    }

    /// The row's value is not needed any more.
    pub(crate) fn release(&mut self, word: Word) {
        let group = (word.quad.side, word.quad.group);
        if VALUES.contains(&group) || MORE_VALUES.contains(&group) {
            self.values.entry(group).or_default().push_back(word.quad.address);
        }
    }

    /// Rows for constants or the cache.
    pub(crate) fn constant(&mut self, rows: u16) -> Quad {
        self.turn[0] += 1;
        self.quad(CONSTANTS[self.turn[0] % CONSTANTS.len()], rows)
    }

    /// A row of bytes.
    pub(crate) fn bytes(&mut self, side: Side) -> Place {
        self.turn[1] += 1;
        let slice = Slice::new(side, BYTES[self.turn[1] / 2 % BYTES.len()]);
        Place { slice, address: self.take_from_top(&[slice], 1) }
    }

    /// A row of bytes next to the SXM.
    pub(crate) fn far(&mut self, side: Side) -> Place {
        let slice = Slice::new(side, FAR);
        Place { slice, address: self.take_from_top(&[slice], 1) }
    }

    /// Two rows of bytes of one position.
    pub(crate) fn pair(&mut self, side: Side) -> [Place; 2] {
        let slices = [30, 31].map(|number| Slice::new(side, number));
        let address = self.take_from_top(&slices, 1);
        slices.map(|slice| Place { slice, address })
    }

    /// Rows for so many loads of weights: the set of the first load, that of the second, and so on in turn; it is the turn of the set that
    /// the hemisphere's last tile did not end with. Each row is there once per expert, at neighbouring addresses.
    pub(crate) fn weights(&mut self, side: Side, loads: u16, experts: u16) -> ([[Slice; 16]; 2], u16) {
        let rows = loads.div_ceil(2).saturating_mul(experts);
        let mut sets = WEIGHTS.map(|set| set.map(|number| Slice::new(side, number)));
        let odd = &mut self.odd[usize::from(side == Side::West)];
        if *odd {
            sets.reverse();
        }
        *odd ^= !loads.is_multiple_of(2);
        let slices = sets.concat();
        let first = slices.iter().map(|slice| self.weights.get(slice).copied().unwrap_or(0)).max().unwrap_or(0);
        let top = slices.iter().map(|slice| self.top.get(slice).copied().unwrap_or(0)).max().unwrap_or(0);
        if u32::from(first) + u32::from(rows) + u32::from(top) > u32::from(ROWS) {
            self.missing += u64::from(rows) * slices.len() as u64;
            return (sets, 0);
        }
        for slice in slices {
            self.weights.insert(slice, first + rows);
        }
        (sets, first)
    }

    /// Rows in use, over all slices.
    pub(crate) fn used(&self) -> u64 {
        self.weights.values().chain(self.top.values()).map(|rows| u64::from(*rows)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_set_holds_a_slice_twice_or_one_of_the_systems() {
        for side in Side::ALL {
            let mut all: Vec<u8> = WEIGHTS.concat();
            assert!(all.iter().all(|n| !Slice::new(side, *n).reserved()));
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 32);
        }
        for (side, group) in VALUES.iter().chain(&MORE_VALUES).chain(&CONSTANTS) {
            assert!((0..4).all(|i| !Slice::new(*side, 4 * group + i).reserved()), "{side:?} {group}");
        }
    }
}
