//! Which lanes of a vector hold elements: all but those of the columns in which activations ride into a plane (module [`super::tile`]).
//!
//! Elements are numbered; the order of the numbers is that of the lanes. Who exchanges lanes by number needs to know nothing of the gaps.

use q35_tsp::geometry::{COLUMNS_PER_LOAD, LANES};
use q35_tsp::lanes::Lanes;

/// Loads of a tile, counted from 0, whose last column holds no weights: the activations that are multiplied with the tile before travel there.
pub(crate) const RIDES: [u16; 2] = [12, 13];

/// Numbers of lanes.
pub(crate) const NUMBERS: usize = LANES - RIDES.len();

/// Lanes of the columns that hold no weights, in order.
fn rides() -> impl Iterator<Item = usize> {
    RIDES.into_iter().map(|load| (usize::from(load) + 1) * COLUMNS_PER_LOAD - 1)
}

/// The number of a lane, if it has one.
pub(crate) fn number(lane: usize) -> Option<usize> {
    rides().all(|ride| ride != lane).then(|| lane - rides().filter(|ride| *ride < lane).count())
}

/// The lane of a number below [`NUMBERS`].
pub(crate) fn lane(number: usize) -> usize {
    rides().fold(number, |lane, ride| lane + usize::from(lane >= ride))
}

/// Numbers to elements, as lanes to elements.
pub(crate) fn arrange(element: impl Fn(usize) -> Option<u32>) -> Lanes {
    Lanes::of((0..LANES).map(|lane| number(lane).and_then(&element)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lanes_belong_together() {
        assert_eq!((lane(0), lane(206), lane(207), lane(222), lane(255), lane(NUMBERS - 1)), (0, 206, 208, 224, 257, 319));
        assert!((0..NUMBERS).all(|n| number(lane(n)) == Some(n)));
        assert_eq!(number(207), None);
        assert_eq!(arrange(|n| (n < 256).then_some(n as u32)).pairs(256).unwrap().len(), 256);
    }
}
