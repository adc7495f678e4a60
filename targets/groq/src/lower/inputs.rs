//! Rounded activations, as tiles of weights meet them.
//!
//! Ops leave 256 pairs in a vector, and a tile has room for 320. A row of many columns is therefore packed: the vectors are shifted, cut and put
//! together again, byte by byte, which takes some hundred cycles and saves a fifth of the tiles of every layer that meets the row. Not where
//! experts read them: the addresses that choose one stand in those lanes alone that ops leave values in.

use super::layout::{LANES as IN_USE, Layout};
use crate::schedule::vector::{Expr, Shelf};
use crate::schedule::{Byte, Schedule};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{LANES, Side};
use q35_tsp::lanes::Lanes;

/// Lanes by which pairs that are left over are counted.
pub(crate) const UNIT: usize = 64;
const UNITS: usize = LANES / UNIT;

/// The activations of some pairs of columns.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    /// Lanes to pairs; other lanes hold 0.
    pub(crate) lanes: Lanes,
    /// Of even and of odd columns, each in the east and in the west, for the planes there.
    pub(crate) bytes: [[Byte; 2]; 2],
}

impl Chunk {
    /// Its lanes to what `f` says of their pairs.
    pub(crate) fn columns(&self, f: impl Fn(usize) -> Option<u32>) -> Lanes {
        let mut lanes = vec![None; LANES];
        for run in &self.lanes.0 {
            for i in 0..run.count {
                lanes[(run.lane + i) as usize] = f((run.first + i * run.step) as usize);
            }
        }
        Lanes::of(lanes)
    }
}

/// Pairs that do not fill a tile, in several places, so that they meet a tile that output vectors share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rest {
    /// All of them, at each place where they fit one below the other.
    pub(crate) whole: Vec<Chunk>,
    /// Parts of them, in the lanes that are left below those.
    pub(crate) parts: Vec<Chunk>,
}

/// All activations of a row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) full: Vec<Chunk>,
    pub(crate) rest: Rest,
}

/// Where the pairs of a row lie in dense vectors: full ones, and the rest, each by its first lane, its first pair, and how many.
struct Shape {
    full: usize,
    whole: Vec<[usize; 3]>,
    parts: Vec<[usize; 3]>,
}

impl Shape {
    fn of(pairs: usize) -> Self {
        let left = pairs % LANES;
        let units = left.div_ceil(UNIT);
        if units == 0 || units == UNITS {
            return Self { full: pairs.div_ceil(LANES), whole: Vec::new(), parts: Vec::new() };
        }
        let first = pairs - left;
        let places = UNITS / units;
        let room = LANES - places * units * UNIT;
        let whole = (0..places).map(|at| [at * units * UNIT, first, left]).collect();
        let starts = if room == 0 { 0..0 } else { 0..left.div_ceil(room) };
        let parts = starts.map(|at| [places * units * UNIT, first + at * room, room.min(left - at * room)]).collect();
        Self { full: pairs / LANES, whole, parts }
    }
}

/// Pairs of columns from which on packing is worth its time.
const MANY: usize = 1024;

/// How many tiles an output vector takes: full ones, and one that it shares with others, so many in all, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    pub(crate) full: u64,
    pub(crate) sharing: u64,
}

/// Pairs of a layout that is packed: all vectors but the last are full.
fn packed(layout: &Layout) -> Option<usize> {
    let lengths: Vec<usize> = (0..layout.len()).step_by(2).map(|v| layout.vector(v).len()).collect();
    let (last, full) = lengths.split_last()?;
    let pairs = full.iter().sum::<usize>() + last;
    (pairs >= MANY && full.iter().all(|length| *length == IN_USE)).then_some(pairs)
}

/// The tiles of a layer on activations in a layout, which may be packed.
pub(crate) fn tiles(layout: &Layout, may_pack: bool) -> Tiles {
    match packed(layout).filter(|_| may_pack).map(Shape::of) {
        Some(Shape { full, whole, .. }) => Tiles { full: full as u64, sharing: whole.len() as u64 },
        None => Tiles { full: layout.len() as u64 / 2, sharing: 0 },
    }
}

impl Schedule {
    /// The bytes of an activation, packed if that is worth it. Layers have `vectors` of outputs in each hemisphere at most, so many of which share
    /// a tile; `None` if the bytes stay as they are.
    pub(crate) fn inputs(&mut self, bytes: &[[Byte; 2]], layout: &Layout, vectors: Option<usize>) -> Inputs {
        let Some((pairs, vectors)) = packed(layout).zip(vectors) else { return Inputs::of(bytes, layout) };
        let of: Vec<Option<u32>> =
            (0..layout.len()).step_by(2).flat_map(|v| layout.vector(v)).map(|element| element.map(|e| e / 2)).collect();
        let Shape { full, whole, .. } = Shape::of(pairs);
        let mut chunk = |[lane, first, count]: [usize; 3]| {
            let pair = |at: usize| if (lane..lane + count).contains(&at) { of[first + at - lane] } else { None };
            let mut gather = |odd: usize| {
                Side::ALL.map(|side| {
                    let sources: Vec<Byte> = bytes.iter().skip(odd).step_by(2).map(|sides| sides[side as usize]).collect();
                    self.gather(side, &sources, [lane, first, count])
                })
            };
            Chunk { lanes: Lanes::of((0..LANES).map(pair)), bytes: [gather(0), gather(1)] }
        };
        let full = (0..full).map(|at| chunk([0, at * LANES, LANES.min(pairs - at * LANES)])).collect();
        let whole = whole.into_iter().take(vectors.max(1)).map(&mut chunk).collect();
        Inputs { full, rest: Rest { whole, parts: Vec::new() } }
    }

    /// A vector of `count` bytes of those that lie one after the other in some vectors, from byte `first` on, in lanes from `lane` on.
    fn gather(&mut self, side: Side, sources: &[Byte], [lane, first, count]: [usize; 3]) -> Byte {
        let mut expr = Expr::default();
        let mut all = None;
        for (at, source) in sources.iter().enumerate() {
            let (from, to) = (first.max(at * IN_USE), (first + count).min((at + 1) * IN_USE));
            if from >= to {
                continue;
            }
            let to_lane = |pair: usize| lane + pair - first;
            let shifted = self.shift(*source, to_lane(from) as i64 - (from - at * IN_USE) as i64);
            let mask = self.constant_lanes(|lane| if (to_lane(from)..to_lane(to)).contains(&lane) { u32::MAX } else { 0 });
            let (byte, mask) = (expr.byte(shifted), expr.word(mask));
            let piece = expr.op(AluOp::And, byte, mask);
            all = Some(all.map_or(piece, |all| expr.op(AluOp::Or, all, piece)));
        }
        let all = all.unwrap_or_else(|| unreachable!("a chunk has pairs"));
        expr.keep_byte(all, Shelf::Near(side));
        self.eval(&expr).1[0]
    }
}

impl Inputs {
    /// Of an activation in a layout whose vectors hold even and odd columns in turn.
    pub(crate) fn of(bytes: &[[Byte; 2]], layout: &Layout) -> Self {
        let chunk = |(at, pair): (usize, &[[Byte; 2]])| Chunk {
            lanes: layout.lanes(2 * at, |element| element / 2),
            bytes: [pair[0], pair[1]],
        };
        Self { full: bytes.chunks_exact(2).enumerate().map(chunk).collect(), rest: Rest::default() }
    }

    /// Of a row of so many columns, as dense as it can be; `byte` makes room for a vector.
    pub(crate) fn dense(columns: u64, mut byte: impl FnMut(Side) -> Byte) -> Self {
        let Shape { full, whole, parts } = Shape::of(columns.div_ceil(2) as usize);
        let pairs = columns.div_ceil(2) as usize;
        let mut chunk = |[lane, first, count]: [usize; 3]| {
            let pair = |of: usize| (lane..lane + count).contains(&of).then(|| (first + of - lane) as u32);
            Chunk { lanes: Lanes::of((0..LANES).map(pair)), bytes: [(); 2].map(|()| Side::ALL.map(&mut byte)) }
        };
        let full = (0..full).map(|at| chunk([0, at * LANES, LANES.min(pairs - at * LANES)])).collect();
        let rest = Rest { whole: whole.into_iter().map(&mut chunk).collect(), parts: parts.into_iter().map(chunk).collect() };
        Self { full, rest }
    }

    /// Every pair once.
    pub(crate) fn once(&self) -> impl Iterator<Item = &Chunk> {
        self.full.iter().chain(self.rest.whole.first())
    }

    /// Every vector.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Chunk> {
        self.full.iter().chain(&self.rest.whole).chain(&self.rest.parts)
    }

    /// What a hemisphere computes of a vector that both do: chunks that fill tiles, and others.
    pub(crate) fn share(&self, vector: usize, side: Side) -> (usize, &[Chunk], Vec<&Chunk>) {
        let (east, west) = self.full.split_at(self.full.len().div_ceil(2));
        let rest: Vec<&Chunk> = if self.rest.parts.is_empty() {
            self.rest.whole.first().into_iter().collect()
        } else {
            self.rest.parts.iter().collect()
        };
        let mine = |at: usize| Side::ALL[(at + self.full.len()) % 2] == side;
        let rest = rest.into_iter().enumerate().filter(|(at, _)| mine(*at)).map(|(_, chunk)| chunk).collect();
        (vector, if side == Side::East { east } else { west }, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 2048 pairs, 128 are left over: they fit twice, and the 64 lanes below take one half after the other.
    #[test]
    fn what_is_left_over_fits_several_times() {
        let shape = Shape::of(2048);
        assert_eq!((shape.full, shape.whole), (6, vec![[0, 1920, 128], [128, 1920, 128]]));
        assert_eq!(shape.parts, [[256, 1920, 64], [256, 1984, 64]]);
        assert_eq!(Shape::of(320 + 4).whole.len(), 5);
        assert!(Shape::of(320 + 4).parts.is_empty());
        assert_eq!((Shape::of(640).full, Shape::of(2 * 320 - 60).full), (2, 2));
        assert!(Shape::of(2 * 320 - 60).whole.is_empty());
    }
}
