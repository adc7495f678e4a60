//! Rounds of damage over seeds.

use crate::memory::watch;
use crate::mutate::{Random, mutate};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes that a reader may hold for each byte it was given, and those that it may hold anyway.
const TIMES: usize = 64;
const FREE: usize = 8 << 20;

/// Rounds for each seed with `Q35_FULL`, for each without it.
const FULL: usize = 100;

/// How rounds ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Files that were read.
    pub read: usize,
    /// Files that were refused.
    pub refused: usize,
}

/// Damages each seed `rounds` times and gives the result to `reader`, which says whether it could read it.
///
/// # Panics
/// If the reader panics, or holds more memory than its input warrants.
pub fn fuzz(name: &str, seeds: &[(String, Vec<u8>)], rounds: usize, mut reader: impl FnMut(&[u8]) -> bool) -> Outcome {
    let rounds = if std::env::var_os("Q35_FULL").is_some() { rounds * FULL } else { rounds };
    let mut outcome = Outcome::default();
    for (at, (seed, bytes)) in seeds.iter().enumerate() {
        let (_, other) = &seeds[(at + 1) % seeds.len()];
        for round in 0..rounds {
            let damaged = mutate(&mut Random::new((at * 1_000_003 + round) as u64), bytes, other);
            let (result, most) = watch(|| catch_unwind(AssertUnwindSafe(|| reader(&damaged))));
            match result {
                Ok(true) => outcome.read += 1,
                Ok(false) => outcome.refused += 1,
                Err(_) => panic!("{name}: panics on seed {seed}, round {round}"),
            }
            let allowed = FREE + TIMES * damaged.len();
            assert!(most <= allowed, "{name}: {most} bytes for {} on seed {seed}, round {round}", damaged.len());
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: crate::memory::Counting = crate::memory::Counting;

    fn one() -> Vec<(String, Vec<u8>)> {
        vec![("seed".to_owned(), vec![7; 100])]
    }

    /// What a reader is found guilty of.
    fn guilty(reader: fn(&[u8]) -> bool) -> String {
        let found = catch_unwind(|| fuzz("reader", &one(), 20, reader));
        found.err().and_then(|why| why.downcast::<String>().ok()).map_or_else(String::new, |why| *why)
    }

    #[test]
    fn readers_that_go_wrong_are_named() {
        assert_eq!(guilty(|bytes| bytes.len() > 100), "");
        assert_eq!(guilty(|_| panic!("bad reader")), "reader: panics on seed seed, round 0");
        let greedy = guilty(|bytes| vec![1u8; (9 << 20) + 200 * bytes.len()].len() > 3);
        assert!(greedy.starts_with("reader: ") && greedy.ends_with("on seed seed, round 0"), "{greedy}");
    }

    #[test]
    fn damage_is_the_same_every_time_and_differs_by_round() {
        let damaged = |seed| mutate(&mut Random::new(seed), &[7; 100], &[9; 50]);
        assert_eq!(damaged(3), damaged(3));
        assert!((0..20).map(damaged).collect::<std::collections::BTreeSet<_>>().len() > 15);
    }
}
