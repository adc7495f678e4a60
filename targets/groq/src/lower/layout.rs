//! Which element of an activation lies in which lane of which vector.
//!
//! Elements `2 j` and `2 j + 1` of a chunk of 512 lie in lane `j` of two vectors, one of even and one of odd elements: the pairs that a
//! container of the number format holds. A linear layer's tile puts its outputs into any lanes, so no vector is ever rearranged on the
//! way from one layer to the next. 256 of 320 lanes are used: a power of two, as rotations and sums over all lanes want it.

use q35_tsp::lanes::Lanes;

/// Lanes in use.
pub(crate) const LANES: usize = 256;

/// The elements of each vector, lane by lane: chunk by chunk, even before odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    vectors: Vec<Vec<u32>>,
}

impl Layout {
    /// Of an activation as it is.
    pub(crate) fn natural(width: u64) -> Self {
        Self::of(width, LANES, |element| element)
    }

    /// The same in vectors of so many lanes, for a layer by itself.
    pub(crate) fn dense(width: u64, lanes: usize) -> Self {
        Self::of(width, lanes, |element| element)
    }

    /// Of heads of `dim` columns, each of which stands `copies` times side by side.
    pub(crate) fn repeated(width: u64, dim: u64, copies: u64) -> Self {
        Self::of(width * copies, LANES, |at| at / (dim * copies) * dim + at % dim)
    }

    fn of(places: u64, lanes: usize, element: impl Fn(u64) -> u64) -> Self {
        let lanes = lanes as u64;
        let chunks = places.div_ceil(2 * lanes);
        let vector = |v: u64| {
            let first = v / 2 * 2 * lanes + v % 2;
            let places = (0..lanes).map(|lane| first + 2 * lane).take_while(|place| *place < places);
            places.map(|place| element(place) as u32).collect()
        };
        Self { vectors: (0..2 * chunks).map(vector).collect() }
    }

    /// Vectors, a multiple of 2.
    pub(crate) fn len(&self) -> usize {
        self.vectors.len()
    }

    /// The elements of a vector.
    pub(crate) fn vector(&self, at: usize) -> &[u32] {
        &self.vectors[at]
    }

    /// Lanes of a vector to what `f` says of their elements.
    pub(crate) fn lanes(&self, at: usize, f: impl Fn(u32) -> u32) -> Lanes {
        Lanes::of(self.vectors[at].iter().map(|element| Some(f(*element))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_its_lane() {
        let layout = Layout::natural(1025);
        assert_eq!(layout.len(), 6);
        assert_eq!((layout.vector(1)[3], layout.vector(2)[0], layout.vector(4)), (7, 512, &[1024][..]));
        let mut all: Vec<u32> = layout.vectors.concat();
        all.sort_unstable();
        assert_eq!(all, (0..1025).collect::<Vec<u32>>());
        let twice = Layout::repeated(8, 4, 2);
        assert_eq!((twice.vector(0), twice.vector(1)), (&[0, 2, 0, 2, 4, 6, 4, 6][..], &[1, 3, 1, 3, 5, 7, 5, 7][..]));
    }
}
