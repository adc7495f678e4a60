//! The scheduler: when and where everything happens.
//!
//! Nothing on the chip waits, so all instructions of one *macro-op* (a vector through the ALUs, a permutation, a tile of weights) stand at
//! fixed distances from one another: an operand arrives exactly when it is used. A macro-op is therefore tried as a whole at one
//! cycle after the other until every queue, stream and unit it needs is free. Macro-ops meet only in memory, where a value may wait; they
//! are placed in program order, each as early as it fits, also before others that were placed earlier (list scheduling with
//! backfilling). The result depends on the program alone.
//!
//! | module | idea |
//! | --- | --- |
//! | [`tables`] | what is taken when, and an attempt that can be taken back |
//! | [`lanes`] | which lanes hold elements |
//! | [`memory`] | rows for values, constants and weights |
//! | [`vector`] | macro-ops of the VXM: an expression over vectors |
//! | [`permute`] | macro-ops of the SXM |
//! | [`tile`] | macro-ops of the MXM |
//! | [`link`] | macro-ops of the links to other chips |
//! | [`emit`] | queues as they go into the file |
//!
//! This module must not know models.

pub(crate) mod emit;
pub(crate) mod lanes;
pub(crate) mod link;
pub(crate) mod memory;
pub(crate) mod permute;
pub(crate) mod tables;
pub(crate) mod tile;
pub(crate) mod vector;

use memory::Memory;
use q35_tsp::geometry::Side;
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Block, Data, Place, Quad};
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;
use tables::{Attempt, Tables};

/// A vector of words in memory, and the first cycle whose reads see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) quad: Quad,
    pub(crate) ready: i64,
}

/// A vector of bytes in memory, and the first cycle whose reads see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Byte {
    pub(crate) place: Place,
    pub(crate) ready: i64,
}

/// Addresses that are known only when a step runs, the same in every superlane: a vector that travels outward from next to the VXM in the
/// east and in the west, and one that travels inward from next to the SXM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map {
    pub(crate) near: [Byte; 2],
    pub(crate) far: [Byte; 2],
}

/// Words at neighbouring addresses, of which a map chooses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choices {
    pub(crate) first: Quad,
    pub(crate) count: u16,
    /// In the hemisphere of the words.
    pub(crate) map: Byte,
}

impl Word {
    pub(crate) fn places(self) -> [Place; 4] {
        [0, 1, 2, 3].map(|i| self.quad.byte(i))
    }
}

/// A schedule in the making.
pub(crate) struct Schedule {
    pub(crate) timing: Timing,
    pub(crate) tables: Tables,
    pub(crate) memory: Memory,
    pub(crate) data: Data,
    /// The node that what is scheduled now is for.
    pub(crate) node: u32,
    /// The caller's numbers of the program's nodes.
    pub(crate) keys: Vec<u32>,
    constants: BTreeMap<Vec<(u32, u32)>, Word>,
    maps: BTreeMap<(Side, permute::Order), [Place; 2]>,
    pub(crate) planes: tile::Planes,
    /// What lies there once for each expert, by parameter and what the first one's hold: tiles, and words. Every choice gathers from it.
    pub(crate) tiles: BTreeMap<(String, Vec<Block>), tile::Tile>,
    pub(crate) words: BTreeMap<(String, Lanes), Quad>,
}

impl Schedule {
    pub(crate) fn new(timing: Timing) -> Self {
        let data = Data { timing: "tsp1".to_owned(), ..Data::default() };
        Self {
            timing,
            tables: Tables::default(),
            memory: Memory::default(),
            data,
            node: 0,
            keys: Vec::new(),
            constants: BTreeMap::new(),
            maps: BTreeMap::new(),
            planes: tile::Planes::new(timing),
            tiles: BTreeMap::new(),
            words: BTreeMap::new(),
        }
    }

    /// Says which node of the model follows, by a number of the caller's and a name, which need not be its own. Gives its number in the program.
    pub(crate) fn begin(&mut self, key: u32, name: &str) -> u32 {
        let known = self.keys.iter().rposition(|other| *other == key);
        let at = known.unwrap_or(self.keys.len());
        if known.is_none() {
            self.keys.push(key);
            self.data.nodes.push(name.to_owned());
        }
        self.node = at as u32;
        self.node
    }

    /// A row for a value that is there in cycle `after` at the earliest.
    pub(crate) fn value(&mut self, side: Option<Side>, after: i64) -> Quad {
        let tables = &self.tables;
        let touched = |quad: Quad| (0..4).map(|i| tables.last_touch(quad.byte(i))).max().unwrap_or(-1);
        self.memory.value(side, after, touched)
    }

    /// Places a macro-op at the first cycle from `earliest` on at which it fits.
    pub(crate) fn place<T>(&mut self, earliest: i64, fits: impl FnMut(&mut Attempt<'_>, i64) -> Option<T>) -> T {
        let op = self.tables.begin(self.node);
        self.place_part(op, earliest, fits)
    }

    /// The same for a part of a macro-op that has been begun.
    pub(crate) fn place_part<T>(
        &mut self,
        op: u32,
        earliest: i64,
        mut fits: impl FnMut(&mut Attempt<'_>, i64) -> Option<T>,
    ) -> T {
        let mut cycle = earliest.max(0);
        loop {
            let mut attempt = Attempt::new(&mut self.tables, self.timing, op);
            if let Some(done) = fits(&mut attempt, cycle) {
                attempt.commit();
                return done;
            }
            attempt.take_back();
            cycle += 1;
            assert!(cycle < earliest + (1 << 24), "a macro-op that fits nowhere");
        }
    }
}
