//! Readers under damaged input.
//!
//! Every reader of files from outside is run on files that were damaged in some way: it may refuse them or read them, but it must not panic, and what
//! it allocates must stay within bounds of what it was given. [`mutate`] damages, [`memory`] counts, [`run`] does both over a number of rounds.
//! The seeds are small files in the repository; `tests/readers.rs` lists readers and seeds.
//!
//! Everything is seeded, so a round that fails is named by its reader, seed and number, and fails again. `Q35_FULL=1` runs a hundred times as many.

pub mod memory;
pub mod mutate;
pub mod run;
