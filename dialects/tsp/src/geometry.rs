//! Slices, positions, streams, queues.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Lanes of a vector, one byte each.
pub const LANES: usize = 320;
/// Lanes of a superlane.
pub const SUPERLANE: usize = 16;
/// Streams of one direction.
pub const STREAMS: u8 = 32;
/// MEM slices of a hemisphere.
pub const SLICES: u8 = 44;
/// Vectors of a slice: one bank bit and twelve row bits.
pub const ROWS: u16 = 8192;
/// Vectors of a bank.
pub const BANK: u16 = 4096;
/// Planes of the MXM: two in each hemisphere, 0 and 1 in the east.
pub const PLANES: u8 = 4;
/// Columns of weights that one cycle can load into a plane.
pub const COLUMNS_PER_LOAD: usize = 16;
/// ALUs of a lane, a mesh of 4 x 4.
pub const ALUS: u8 = 16;
/// Links of a chip to others, as chips are deployed: seven to the other chips of its node, four to other nodes.
pub const LINKS: u8 = 11;
/// Links to the other chips of a node.
pub const LOCAL_LINKS: u8 = 7;
/// Chips of a node, each of which is linked to every other.
pub const NODE: u32 = 8;
/// Position of the outermost slice, the MXM.
pub const EDGE: i32 = 13;
/// Position of the SXM.
pub const SXM: i32 = 12;

/// A hemisphere, or the direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// Positive positions; a stream's position grows by 1 per cycle.
    #[serde(rename = "E")]
    East,
    /// Negative positions; a stream's position falls by 1 per cycle.
    #[serde(rename = "W")]
    West,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::East, Side::West];

    /// 1 or -1.
    pub fn sign(self) -> i32 {
        match self {
            Self::East => 1,
            Self::West => -1,
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::East => Self::West,
            Self::West => Self::East,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::East => 'E',
            Self::West => 'W',
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "E" => Some(Self::East),
            "W" => Some(Self::West),
            _ => None,
        }
    }
}

/// A MEM slice; slice 0 is next to the VXM, slice 43 next to the SXM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slice {
    /// Hemisphere.
    pub side: Side,
    /// 0 to 43.
    pub number: u8,
}

impl Slice {
    /// A slice.
    pub fn new(side: Side, number: u8) -> Self {
        Self { side, number }
    }

    /// Position: four neighbours share a stream register.
    pub fn position(self) -> i32 {
        self.side.sign() * (i32::from(self.number) / 4 + 1)
    }

    /// Whether the system keeps it, for instruction text among other things.
    pub fn reserved(self) -> bool {
        matches!(self.number, 16 | 20 | 24 | 28) || (self.side == Side::West && self.number == 38)
    }
}

/// A stream: a direction and a number. A value of 4 bytes takes four streams, the first a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stream {
    /// Where it flows.
    pub to: Side,
    /// 0 to 31.
    pub number: u8,
}

impl Stream {
    /// A stream.
    pub fn new(to: Side, number: u8) -> Self {
        Self { to, number }
    }

    /// The stream `n` further.
    pub fn plus(self, n: u8) -> Self {
        Self { number: self.number + n, ..self }
    }

    /// What stays the same of a moving value: time less (plus) position.
    pub fn diagonal(self, position: i32, cycle: i64) -> i64 {
        cycle - i64::from(self.to.sign() * position)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:02}", self.to.letter(), self.number)
    }
}

impl FromStr for Stream {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let to = text.get(..1).and_then(Side::from_letter).ok_or(())?;
        let number = text[1..].parse().ok().filter(|n| *n < STREAMS).ok_or(())?;
        Ok(Self { to, number })
    }
}

/// Hemisphere of a plane of the MXM.
pub fn plane_side(plane: u8) -> Side {
    if plane < 2 { Side::East } else { Side::West }
}

/// Whether an ALU can take the result of another: itself, or one in its row or column of the mesh.
pub fn linked(from: u8, to: u8) -> bool {
    from / 4 == to / 4 || from % 4 == to % 4
}

/// The link that leads from a chip to another, if one does: within a node to each of the others; from the last chip of a node to the first
/// of the next one, and back. Of links between nodes programs of this dialect need no more.
pub fn link_between(from: u32, to: u32) -> Option<u8> {
    let (here, there) = (from % NODE, to % NODE);
    match (from / NODE, to / NODE) {
        (a, b) if a == b && here != there => Some(if there < here { there } else { there - 1 } as u8),
        (a, b) if a.checked_add(1) == Some(b) && here == NODE - 1 && there == 0 => Some(LOCAL_LINKS),
        (a, b) if b.checked_add(1) == Some(a) && here == 0 && there == NODE - 1 => Some(LOCAL_LINKS + 1),
        _ => None,
    }
}

/// What kind of unit a queue feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// A MEM slice.
    Mem,
    /// The permutor of an SXM.
    Permute,
    /// A transposer of an SXM.
    Transpose,
    /// Loading of weights into a plane of the MXM.
    Weights,
    /// Activations of a plane.
    Activations,
    /// Results of a plane.
    Results,
    /// An ALU of the VXM.
    Alu,
    /// A link to another chip.
    Link,
    /// SXM and chip-to-chip units that programs of this dialect leave idle.
    Idle,
}

/// One of the 144 instruction queues: 88 of MEM slices, 14 of the SXM and the links in each hemisphere, 3 of each plane of the MXM, 16 of ALUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Queue(u8);

/// Number of queues.
pub const QUEUES: u8 = 144;
const SXM_QUEUES: u8 = 14;
/// Of those of a hemisphere, what stands before the links: permutor, two transposers, four distributors.
const BEFORE_LINKS: u8 = 7;
const FIRST_SXM: u8 = 2 * SLICES;
const FIRST_MXM: u8 = FIRST_SXM + 2 * SXM_QUEUES;
const FIRST_ALU: u8 = FIRST_MXM + 3 * PLANES;

impl Queue {
    /// The queue of a number below [`QUEUES`].
    pub fn of(number: u8) -> Option<Self> {
        (number < QUEUES).then_some(Self(number))
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..QUEUES).map(Self)
    }

    /// Of a MEM slice.
    pub fn mem(slice: Slice) -> Self {
        Self(slice.number + if slice.side == Side::East { 0 } else { SLICES })
    }

    /// Of the permutor.
    pub fn permute(side: Side) -> Self {
        Self(FIRST_SXM + if side == Side::East { 0 } else { SXM_QUEUES })
    }

    /// Of transposer 0 or 1.
    pub fn transpose(side: Side, number: u8) -> Self {
        Self(Self::permute(side).0 + 1 + number)
    }

    /// Of a link. Links of even numbers leave from the SXM in the east, the others from that in the west.
    pub fn link(number: u8) -> Self {
        let side = if number.is_multiple_of(2) { Side::East } else { Side::West };
        Self(Self::permute(side).0 + BEFORE_LINKS + number / 2)
    }

    /// Of a plane: [`Unit::Weights`], [`Unit::Activations`] or [`Unit::Results`].
    pub fn plane(plane: u8, unit: Unit) -> Self {
        let at = match unit {
            Unit::Weights => 0,
            Unit::Activations => 1,
            _ => 2,
        };
        Self(FIRST_MXM + 3 * plane + at)
    }

    /// Of an ALU.
    pub fn alu(alu: u8) -> Self {
        Self(FIRST_ALU + alu)
    }

    /// What it feeds.
    pub fn unit(self) -> Unit {
        match self.0 {
            n if n < FIRST_SXM => Unit::Mem,
            n if n < FIRST_MXM => match (n - FIRST_SXM) % SXM_QUEUES {
                0 => Unit::Permute,
                1 | 2 => Unit::Transpose,
                at if at >= BEFORE_LINKS && self.link_number() < LINKS => Unit::Link,
                _ => Unit::Idle,
            },
            n if n < FIRST_ALU => [Unit::Weights, Unit::Activations, Unit::Results][usize::from((n - FIRST_MXM) % 3)],
            _ => Unit::Alu,
        }
    }

    /// The link of a queue at the place of one.
    fn link_number(self) -> u8 {
        let at = self.0 - FIRST_SXM;
        2 * (at % SXM_QUEUES - BEFORE_LINKS) + at / SXM_QUEUES
    }

    /// Which of its unit's kind it is: slice number, transposer, link, plane, ALU.
    pub fn index(self) -> u8 {
        match self.unit() {
            Unit::Mem => self.0 % SLICES,
            Unit::Link => self.link_number(),
            Unit::Permute | Unit::Transpose | Unit::Idle => ((self.0 - FIRST_SXM) % SXM_QUEUES).saturating_sub(1),
            Unit::Weights | Unit::Activations | Unit::Results => (self.0 - FIRST_MXM) / 3,
            Unit::Alu => self.0 - FIRST_ALU,
        }
    }

    /// Its hemisphere; of an ALU, none in particular.
    pub fn side(self) -> Side {
        let east = match self.unit() {
            Unit::Mem => self.0 < SLICES,
            Unit::Permute | Unit::Transpose | Unit::Link | Unit::Idle => self.0 < FIRST_SXM + SXM_QUEUES,
            Unit::Weights | Unit::Activations | Unit::Results => return plane_side(self.index()),
            Unit::Alu => true,
        };
        if east { Side::East } else { Side::West }
    }

    /// The slice of a MEM queue.
    pub fn slice(self) -> Slice {
        Slice::new(self.side(), self.index())
    }

    /// Where its unit meets the streams.
    pub fn position(self) -> i32 {
        match self.unit() {
            Unit::Mem => self.slice().position(),
            Unit::Permute | Unit::Transpose | Unit::Link | Unit::Idle => self.side().sign() * SXM,
            Unit::Weights | Unit::Activations | Unit::Results => self.side().sign() * EDGE,
            Unit::Alu => 0,
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, index) = (self.side().letter(), self.index());
        match self.unit() {
            Unit::Mem => write!(f, "mem.{side}{index:02}"),
            Unit::Permute => write!(f, "permute.{side}"),
            Unit::Transpose => write!(f, "transpose.{side}{index}"),
            Unit::Link => write!(f, "link.{index:02}"),
            Unit::Idle => write!(f, "sxm.{side}{index}"),
            Unit::Weights => write!(f, "weights.{index}"),
            Unit::Activations => write!(f, "activations.{index}"),
            Unit::Results => write!(f, "results.{index}"),
            Unit::Alu => write!(f, "alu.{index:02}"),
        }
    }
}

impl FromStr for Queue {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::all().find(|queue| queue.to_string() == text).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_their_text_and_their_parts() {
        let count = |unit| Queue::all().filter(|q| q.unit() == unit).count();
        assert_eq!((count(Unit::Mem), count(Unit::Alu), count(Unit::Weights), count(Unit::Link)), (88, 16, 4, 11));
        assert_eq!(Queue::all().count(), 144);
        for queue in Queue::all() {
            assert_eq!(queue.to_string().parse(), Ok(queue), "{queue}");
        }
        for side in Side::ALL {
            for number in 0..SLICES {
                let slice = Slice::new(side, number);
                assert_eq!(Queue::mem(slice).slice(), slice);
            }
            assert_eq!((Queue::permute(side).unit(), Queue::permute(side).side()), (Unit::Permute, side));
            assert_eq!(Queue::transpose(side, 1).index(), 1);
        }
        for number in 0..LINKS {
            assert_eq!((Queue::link(number).unit(), Queue::link(number).index()), (Unit::Link, number));
        }
        assert_eq!((Queue::link(6).position(), Queue::link(7).position()), (SXM, -SXM));
        assert_eq!(Slice::new(Side::West, 43).position(), -11);
        assert_eq!(Slice::new(Side::East, 3).position(), 1);
    }

    #[test]
    fn a_link_leads_to_one_chip_and_back() {
        for from in 0..20u32 {
            let mut links: Vec<u8> = (0..20).filter_map(|to| link_between(from, to)).collect();
            let count = links.len();
            links.sort_unstable();
            links.dedup();
            assert_eq!(links.len(), count, "chip {from}");
            assert!(links.iter().all(|link| *link < LINKS));
            assert!((0..20).all(|to| link_between(from, to).is_some() == link_between(to, from).is_some()));
            assert!(link_between(from, from + 1).is_some());
        }
    }

    #[test]
    fn every_two_alus_have_a_common_neighbour() {
        for (a, b) in (0..ALUS).flat_map(|a| (0..ALUS).map(move |b| (a, b))) {
            assert!((0..ALUS).any(|c| linked(a, c) && linked(b, c)));
        }
    }
}
