//! Which element of an activation lies in which lane of which vector.
//!
//! Elements `2 j` and `2 j + 1` of a chunk of 512 lie in lane `j` of two vectors, one of even and one of odd elements: the pairs that a
//! container of the number format holds. A linear layer's tile puts its outputs into any lanes, so no vector is ever rearranged on the
//! way from one layer to the next. 256 lanes are used: a power of two, as rotations and sums over all lanes want it. Lanes here are their
//! numbers (module [`crate::schedule::lanes`]).

use crate::schedule::lanes::{NUMBERS, arrange, lane};
use q35_tsp::geometry::COLUMNS_PER_LOAD;
use q35_tsp::lanes::Lanes;
use std::collections::BTreeMap;

/// Lanes in use.
pub(crate) const LANES: usize = 256;

/// Lanes after which the elements of [`Layout::periodic`] come again: a power of two.
pub(crate) fn period(width: u64) -> usize {
    (width.div_ceil(2) as usize).next_power_of_two()
}

/// The elements of each vector, by number of the lane: chunk by chunk, even before odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    vectors: Vec<Vec<Option<u32>>>,
}

impl Layout {
    /// Of an activation as it is.
    pub(crate) fn natural(width: u64) -> Self {
        Self::of(width, LANES, |element| element)
    }

    /// Of some elements of an activation, from an even one on.
    pub(crate) fn section(first: u64, count: u64) -> Self {
        Self::of(count, LANES, |at| first + at)
    }

    /// In order, in as few vectors as there can be; the last two are about equally long where there are as many for both hemispheres.
    pub(crate) fn dense(width: u64) -> Self {
        let width = width as usize;
        let count = width.div_ceil(NUMBERS);
        let shared = if count >= 2 && count.is_multiple_of(2) { width - (count - 2) * NUMBERS } else { 0 };
        let length = |v: usize| match count - v {
            2 if shared > 0 => shared.div_ceil(2),
            1 if shared > 0 => shared / 2,
            _ => NUMBERS.min(width - v * NUMBERS),
        };
        let mut next = 0;
        let mut vector = |v: usize| {
            let first = next;
            next += length(v);
            (first as u32..next as u32).map(Some).collect()
        };
        Self { vectors: (0..count).map(&mut vector).collect() }
    }

    /// Of heads of `dim` columns, each of which stands `copies` times side by side.
    pub(crate) fn repeated(width: u64, dim: u64, copies: u64) -> Self {
        Self::of(width * copies, LANES, |at| at / (dim * copies) * dim + at % dim)
    }

    /// Of heads of `dim` columns, of which `group` neighbours share a head of the cache: in every round `copies` neighbours of each stand side
    /// by side, in vectors that meet those of [`Layout::repeated`].
    pub(crate) fn rounds(width: u64, dim: u64, group: u64, copies: u64) -> Self {
        let round = |round: u64| {
            let element = move |at: u64| {
                let (slot, column) = (at / dim, at % dim);
                (slot / copies * group + round * copies + slot % copies) * dim + column
            };
            Self::of(width / group * copies, LANES, element).vectors
        };
        Self { vectors: (0..group / copies).flat_map(round).collect() }
    }

    /// Of few elements: all of them again and again, so that sums over the lanes of one [`period`] are in every lane.
    pub(crate) fn periodic(width: u64) -> Self {
        let element = |lane: usize, odd: usize| (2 * (lane % period(width)) + odd) as u32;
        let vector = |odd| (0..LANES).map(|lane| Some(element(lane, odd)).filter(|e| u64::from(*e) < width)).collect();
        Self { vectors: (0..2).map(vector).collect() }
    }

    fn of(places: u64, lanes: usize, element: impl Fn(u64) -> u64) -> Self {
        let lanes = lanes as u64;
        let chunks = places.div_ceil(2 * lanes);
        let vector = |v: u64| {
            let first = v / 2 * 2 * lanes + v % 2;
            let places = (0..lanes).map(|lane| first + 2 * lane).take_while(|place| *place < places);
            places.map(|place| Some(element(place) as u32)).collect()
        };
        Self { vectors: (0..2 * chunks).map(vector).collect() }
    }

    /// Vectors; a multiple of 2, but for dense ones.
    pub(crate) fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Vector and number of the lane of each element.
    pub(crate) fn places(&self) -> BTreeMap<u32, (usize, usize)> {
        let vectors = self.vectors.iter().enumerate();
        let places = vectors.flat_map(|(v, of)| of.iter().enumerate().filter_map(move |(n, e)| Some(((*e)?, (v, n)))));
        places.collect()
    }

    /// The elements of a vector.
    pub(crate) fn vector(&self, at: usize) -> &[Option<u32>] {
        &self.vectors[at]
    }

    /// Cycles in which a tile with these outputs is loaded.
    pub(crate) fn loads(&self, at: usize) -> u64 {
        let last = self.vectors[at].len().checked_sub(1);
        last.map_or(0, |last| lane(last) / COLUMNS_PER_LOAD + 1) as u64
    }

    /// Lanes of a vector to what `f` says of their elements.
    pub(crate) fn lanes(&self, at: usize, f: impl Fn(u32) -> u32) -> Lanes {
        arrange(|number| self.vectors[at].get(number).copied().flatten().map(&f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_has_its_lane() {
        let layout = Layout::natural(1025);
        assert_eq!(layout.len(), 6);
        assert_eq!((layout.vector(1)[3], layout.vector(2)[0], layout.vector(4)), (Some(7), Some(512), &[Some(1024)][..]));
        let mut all: Vec<u32> = layout.vectors.concat().into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..1025).collect::<Vec<u32>>());
        let dense = |width: u64| -> Vec<usize> { Layout::dense(width).vectors.iter().map(Vec::len).collect() };
        assert_eq!((dense(3), dense(320), dense(700)), (vec![3], vec![160, 160], vec![318, 318, 64]));
        let twice = Layout::repeated(8, 4, 2);
        let elements = |v: usize| twice.vectors[v].iter().copied().map(Option::unwrap).collect::<Vec<u32>>();
        assert_eq!((elements(0), elements(1)), (vec![0, 2, 0, 2, 4, 6, 4, 6], vec![1, 3, 1, 3, 5, 7, 5, 7]));
        // Four heads of two columns, of which two share one of the cache each.
        let rounds = Layout::rounds(8, 2, 2, 1);
        assert_eq!(rounds.len(), 4);
        let elements = |v: usize| rounds.vectors[v].iter().copied().map(Option::unwrap).collect::<Vec<u32>>();
        assert_eq!((elements(0), elements(1), elements(2)), (vec![0, 4], vec![1, 5], vec![2, 6]));
        assert_eq!(Layout::rounds(8, 2, 2, 2), Layout::natural(8));
        let three = Layout::periodic(3);
        assert_eq!(
            (&three.vector(0)[..3], &three.vector(1)[..3]),
            (&[Some(0), Some(2), Some(0)][..], &[Some(1), None, Some(1)][..])
        );
    }
}
