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
