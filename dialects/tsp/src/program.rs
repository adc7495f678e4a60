//! A program: what every queue issues when, what memory holds before the first cycle, and where a step's input and output lie.
//!
//! A step decodes one token. Before it the host writes the input vectors; after the last cycle it reads the output vectors. Embedding
//! rows, angles and the mask of unseen cache entries are the host's: tables that only a position or a token selects from need
//! no place on the chip.
//!
//! A model that is spread over several chips is a program for each of them. All chips count the cycles of one clock, in epochs; a
//! program's cycle 0 is where an epoch begins. What this assumes: between two deskews, which is a step, the clocks of no two chips come a
//! cycle apart. How far they drift is not public.

use crate::geometry::{LANES, LINKS, Queue, ROWS, SLICES, Side, Slice};
use crate::isa::Instr;
use crate::lanes::Lanes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A vector in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The slice.
    pub slice: Slice,
    /// Its address there.
    pub address: u16,
}

/// A vector of words in memory: byte `i` lies in slice `4 * group + i`, all at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quad {
    /// Hemisphere.
    pub side: Side,
    /// Four slices: 0 to 10.
    pub group: u8,
    /// Address.
    pub address: u16,
}

impl Quad {
    /// Where its byte `i` lies.
    pub fn byte(self, i: u8) -> Place {
        Place { slice: Slice::new(self.side, 4 * self.group + i), address: self.address }
    }
}

/// What memory holds before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fill")]
pub enum Image {
    /// Words: each lane up to the next entry's holds these bits. The first entry is that of lane 0.
    Words {
        /// Where.
        quad: Quad,
        /// First lane and its bits.
        runs: Vec<(u32, u32)>,
    },
    /// Bytes, as [`Image::Words`].
    Bytes {
        /// Where.
        place: Place,
        /// First lane and its byte.
        runs: Vec<(u32, u8)>,
    },
    /// Zero words at `count` addresses.
    Zeros {
        /// The first.
        quad: Quad,
        /// How many.
        count: u16,
    },
    /// Numbers of a row of a parameter; other lanes are 0.
    Numbers {
        /// Where.
        quad: Quad,
        /// The parameter.
        param: String,
        /// The row.
        row: u32,
        /// Lanes to elements.
        lanes: Lanes,
    },
    /// Scales of a parameter, one per row; other lanes are 0.
    Scales {
        /// Where.
        quad: Quad,
        /// The parameter.
        param: String,
        /// Lanes to rows.
        lanes: Lanes,
        /// What every scale is multiplied with, a power of two.
        factor: f32,
    },
    /// A tile of weights: column `c` lies in slice `slices[c % n]` of `n` at address `address + stride (c / n)`, up to the last column of a block or guest and
    /// the fifteen that are loaded with it; columns and lanes of no block are 0.
    Tile {
        /// Sixteen slices, or a multiple.
        slices: Vec<Slice>,
        /// First address.
        address: u16,
        /// From the address of a column to that of column `n` further: as many tiles as there are experts lie between one another.
        stride: u16,
        /// The parameter.
        param: String,
        /// What a byte is.
        bytes: TileBytes,
        /// What lies where. No two blocks share a lane.
        blocks: Vec<Block>,
    },
}

/// Part of a tile: some rows of a parameter, and some of their columns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// Columns of the tile to rows of the parameter.
    pub outputs: Lanes,
    /// Lanes to columns of the parameter, or to pairs of them.
    pub inputs: Lanes,
    /// Of pairs: rows of whose codes the lowest bit of each byte is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
}

/// Rows without a tile of their own: their codes of seven bits lie in the lowest bits of the bytes of seven tiles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Guest {
    /// Columns of the tile to rows of the parameter.
    pub outputs: Lanes,
    /// Which bit of the code: 0 to 3 are those of `(a - 1) / 2` in two's complement, 4 to 6 those of `(b + 14) / 4`.
    pub bit: u8,
}

/// What a byte of a tile of weights is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TileBytes {
    /// The integer of one weight.
    Integer,
    /// The integers `(a, b)` of a pair of the codec `split`, as `8 a + b / 2`: a number whose lowest bit is 1, and free for a guest's.
    Pair,
}

/// What the host writes before a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "input")]
pub enum Input {
    /// The token's row of a table; other lanes are 0.
    Embedding {
        /// Where.
        quad: Quad,
        /// The table.
        param: String,
        /// Lanes to columns.
        lanes: Lanes,
    },
    /// A function of `position * inv_freq[i]`, as the op `rotary` defines it; other lanes hold what angle 0 gives, unscaled.
    Angles {
        /// Where.
        quad: Quad,
        /// The parameter of frequencies.
        param: String,
        /// Which function.
        function: Angle,
        /// Factor of cosine and sine.
        scale: f32,
        /// Lanes to frequencies.
        lanes: Lanes,
    },
    /// Where the step's token goes in the cache: its entry as 16 bits in the first two bytes of each superlane.
    Entry {
        /// Where.
        place: Place,
    },
    /// 0 for entries that the token sees, and a very negative number for others and for lanes without an entry.
    Seen {
        /// Where.
        quad: Quad,
        /// Lanes to entries.
        lanes: Lanes,
        /// Entries a token sees, itself included.
        window: Option<u32>,
    },
}

/// A function of an angle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Angle {
    /// Cosine.
    Cos,
    /// Sine.
    Sin,
}

/// What a lane holds of an entry that a token does not see.
pub const UNSEEN: f32 = -1.0e30;

/// A vector of words whose lanes are logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Where.
    pub quad: Quad,
    /// Lanes to tokens.
    pub lanes: Lanes,
}

/// Half of a cache layer: entry `t` lies at address `quad.address + t` of each quad.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheVectors {
    /// Where entry 0 lies, and the columns (head by head) that its lanes hold; a column may lie in more than one lane.
    pub vectors: Vec<(Quad, Lanes)>,
}

/// A macro-op: instructions at fixed distances from one another that turn values in memory into values in memory. Streams never lead from one
/// macro-op to another. What it says here is a claim, for a checker to compare with what the queues do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MacroOp {
    /// The node of the user's model, an index into [`Data::nodes`].
    pub node: u32,
    /// What it computes (module [`crate::flow`]).
    pub flow: u32,
    /// What it reads, tiles of weights left out.
    pub reads: Vec<Origin>,
}

/// Vectors at one address of neighbouring slices, and the macro-op that wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u8, u16, u8, Option<u32>)", into = "(u8, u16, u8, Option<u32>)")]
pub struct Origin {
    /// Number of the queue of the first slice.
    pub queue: u8,
    /// Address.
    pub address: u16,
    /// Slices.
    pub count: u8,
    /// Who wrote it; `None` for what is there before the first cycle, and for cache entries.
    pub writer: Option<u32>,
}

impl From<(u8, u16, u8, Option<u32>)> for Origin {
    fn from((queue, address, count, writer): (u8, u16, u8, Option<u32>)) -> Self {
        Self { queue, address, count, writer }
    }
}

impl From<Origin> for (u8, u16, u8, Option<u32>) {
    fn from(origin: Origin) -> Self {
        (origin.queue, origin.address, origin.count, origin.writer)
    }
}

/// Where a link of a chip leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkEnd {
    /// Its number here.
    pub link: u8,
    /// The chip at its other end.
    pub chip: u32,
    /// Its number there.
    pub end: u8,
}

/// A vector of words that goes from one chip to another, byte 0 of every lane first: where it lies on this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// Where.
    pub quad: Quad,
    /// Lanes to elements of what is carried.
    pub lanes: Lanes,
}

/// All of a program but the queues.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Which timing it is scheduled for.
    pub timing: String,
    /// Which chip it is for, counted from 0 along the way of a token.
    pub chip: u32,
    /// The cycle of all chips' common clock that is cycle 0 of this one: where an epoch begins.
    pub start: u64,
    /// Cycles of a step, from the first dispatch to the last write.
    pub cycles: u32,
    /// Cache entries.
    pub capacity: u32,
    /// Nodes of the user's model, by number.
    pub nodes: Vec<String>,
    /// Macro-ops, by number.
    pub ops: Vec<MacroOp>,
    /// Memory before the first step.
    pub images: Vec<Image>,
    /// Before every step.
    pub inputs: Vec<Input>,
    /// After every step.
    pub outputs: Vec<Output>,
    /// Keys and values of every layer.
    pub cache: Vec<[CacheVectors; 2]>,
    /// The links that are in use.
    pub links: Vec<LinkEnd>,
    /// What comes from the chip before, in the order in which that sends it.
    pub received: Vec<Carried>,
    /// What the chip after gets.
    pub sent: Vec<Carried>,
}

/// An instruction in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issue {
    /// When it is dispatched.
    pub cycle: u32,
    /// The macro-op it belongs to, an index into [`Data::ops`].
    pub op: u32,
    /// What.
    pub instr: Instr,
}

impl Data {
    /// Whether every place exists. Whoever got the data from outside asks this before anything else.
    pub fn check(&self) -> Result<(), String> {
        let place = |place: &Place| place.slice.number < SLICES && place.address < ROWS;
        let quad = |quad: &Quad| quad.group < SLICES / 4 && quad.address < ROWS;
        let images = self.images.iter().all(|image| match image {
            Image::Bytes { place: at, .. } => place(at),
            Image::Words { quad: at, .. } | Image::Numbers { quad: at, .. } | Image::Scales { quad: at, .. } => quad(at),
            Image::Zeros { quad: at, count } => quad(at) && at.address <= ROWS - count.min(&ROWS),
            Image::Tile { slices, address, .. } => {
                !slices.is_empty() && slices.iter().all(|slice| place(&Place { slice: *slice, address: *address }))
            }
        });
        let inputs = self.inputs.iter().all(|input| match input {
            Input::Entry { place: at } => place(at),
            Input::Embedding { quad: at, .. } | Input::Angles { quad: at, .. } | Input::Seen { quad: at, .. } => quad(at),
        });
        let outputs = self.outputs.iter().all(|output| quad(&output.quad));
        let room = |at: &Quad| quad(at) && u32::from(at.address) + self.capacity <= u32::from(ROWS);
        let entries = self.capacity <= u32::from(ROWS);
        let cache = entries && self.cache.iter().flatten().flat_map(|half| &half.vectors).all(|(at, _)| room(at));
        let links = self.links.iter().all(|end| end.link < LINKS && end.end < LINKS);
        let carried = self.received.iter().chain(&self.sent).all(|carried| quad(&carried.quad));
        if !links {
            return Err("there is no such link".to_owned());
        }
        if images && inputs && outputs && cache && carried {
            Ok(())
        } else {
            Err("a vector lies where there is no memory".to_owned())
        }
    }

    /// The node of the user's model that a macro-op is for.
    pub fn node(&self, op: u32) -> &str {
        let node = self.ops.get(op as usize).and_then(|op| self.nodes.get(op.node as usize));
        node.map_or("", String::as_str)
    }
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// What is not in the queues.
    pub data: Data,
    /// What each queue issues, in order.
    pub queues: BTreeMap<Queue, Vec<Issue>>,
}

/// Most instructions that a queue may expand to: far beyond any program.
pub const MOST_ISSUES: usize = 1 << 22;

/// What a queue dispatches, every [`Instr::Repeat`] written out.
///
/// # Errors
/// A repeat without a previous instruction, cycles that do not grow, an instruction of another unit.
pub fn expand(queue: Queue, issues: &[Issue]) -> Result<Vec<Issue>, String> {
    let mut all: Vec<Issue> = Vec::with_capacity(issues.len());
    for issue in issues {
        let fault = |what: &str| Err(format!("{queue}, cycle {}: '{}' {what}", issue.cycle, issue.instr));
        if all.last().is_some_and(|last| last.cycle >= issue.cycle) {
            return fault("is not after the instruction before it");
        }
        if issue.instr.decl().unit.is_some_and(|unit| unit != queue.unit()) {
            return fault("belongs to another unit");
        }
        let Instr::Repeat { count, interval, step } = issue.instr else {
            all.push(*issue);
            continue;
        };
        let Some(last) = all.last().copied() else { return fault("has nothing to repeat") };
        if interval == 0 || issue.cycle != last.cycle + u32::from(interval) || all.len() + usize::from(count) > MOST_ISSUES {
            return fault("repeats at other times than it says");
        }
        all.extend((0..count).map(|i| Issue {
            cycle: issue.cycle + u32::from(i) * u32::from(interval),
            op: issue.op,
            instr: last.instr.advanced(step.wrapping_mul(i + 1)),
        }));
    }
    Ok(all)
}

/// The lanes that `runs` describes.
pub fn lanes_of_runs<T: Copy>(runs: &[(u32, T)]) -> Result<Vec<T>, String> {
    let mut all = Vec::with_capacity(LANES);
    for (at, (lane, value)) in runs.iter().enumerate() {
        let end = runs.get(at + 1).map_or(LANES as u32, |next| next.0);
        if *lane as usize != all.len() || end <= *lane || end as usize > LANES {
            return Err(format!("a run of lanes {lane} to {end}"));
        }
        all.resize(end as usize, *value);
    }
    if all.len() == LANES { Ok(all) } else { Err("runs that leave lanes out".to_owned()) }
}

/// Runs of equal lanes.
pub fn runs_of_lanes<T: Copy + PartialEq>(lanes: &[T]) -> Vec<(u32, T)> {
    let mut runs: Vec<(u32, T)> = Vec::new();
    for (lane, value) in (0u32..).zip(lanes) {
        if runs.last().is_none_or(|(_, last)| last != value) {
            runs.push((lane, *value));
        }
    }
    runs
}
