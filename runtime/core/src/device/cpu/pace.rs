//! Which launches are worth sharing.
//!
//! Waking a thread takes microseconds, and the launches of a small model, or between the layers of a large one, are over sooner. How long a
//! launch takes is known from the last one of its kind: the time of its first range, which contains no waiting, times the ranges. The choice
//! changes when things are computed, never what.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Nanoseconds below which a launch stays on the calling thread.
const WORTH_SHARING: u64 = 5_000;
/// Ranges of tiles per thread: enough that a thread which lost its core delays little, few enough that claiming costs nothing.
const RANGES_PER_THREAD: u64 = 4;

/// Launches that take about as long: one variant of a step, over rows whose number has the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    step: usize,
    variant: usize,
    bits: u32,
}

impl Kind {
    /// Of a variant of a step over so many rows.
    pub(super) fn new(step: usize, variant: usize, rows: i64) -> Self {
        Self { step, variant, bits: i64::BITS - rows.leading_zeros() }
    }
}

/// What is known of the launches of one kind: nanoseconds that the last one took a single thread; 0 before the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(Arc<AtomicU64>);

/// What is known of all launches.
#[derive(Debug, Default)]
pub(super) struct Pace(BTreeMap<Kind, Taken>);

impl Pace {
    /// What is known of a kind.
    pub(super) fn of(&mut self, kind: Kind) -> Taken {
        self.0.entry(kind).or_default().clone()
    }
}

impl Taken {
    /// Into how many ranges to cut a launch of so many tiles.
    pub(super) fn ranges(&self, tiles: u64, threads: usize) -> u64 {
        let short = (1..WORTH_SHARING).contains(&self.0.load(Relaxed));
        if short { tiles.min(1) } else { tiles.min(threads as u64 * RANGES_PER_THREAD) }
    }

    /// Runs one range of `ranges`, and learns from it.
    pub(super) fn run(&self, ranges: u64, range: impl FnOnce()) {
        let begin = Instant::now();
        range();
        let nanos = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos.saturating_mul(ranges).max(1), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_launches_stay_where_they_are() {
        let taken = Taken::default();
        assert_eq!([taken.ranges(100, 2), taken.ranges(3, 2), taken.ranges(0, 2)], [8, 3, 0]);
        for (nanos, ranges) in [(1, 1), (WORTH_SHARING - 1, 1), (WORTH_SHARING, 8)] {
            taken.0.store(nanos, Relaxed);
            assert_eq!(taken.ranges(100, 2), ranges, "{nanos}");
        }
        assert_eq!(taken.ranges(0, 2), 0);
    }

    #[test]
    fn every_kind_is_known_for_itself() {
        let mut pace = Pace::default();
        pace.of(Kind::new(3, 1, 5)).run(4, || ());
        let known = |pace: &mut Pace, kind| pace.of(kind).0.load(Relaxed) > 0;
        assert!(known(&mut pace, Kind::new(3, 1, 7)) && known(&mut pace, Kind::new(3, 1, 4)));
        assert!(
            ![Kind::new(3, 1, 8), Kind::new(3, 1, 3), Kind::new(3, 0, 5), Kind::new(2, 1, 5)]
                .map(|k| known(&mut pace, k))
                .contains(&true)
        );
    }
}
