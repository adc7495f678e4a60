//! Rounded activations, as tiles of weights meet them.

use super::layout::Layout;
use crate::schedule::Byte;
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
