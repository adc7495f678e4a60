//! Which weights stay in memory, where not all of them may.
//!
//! Weights are mapped from their file, so the system reads them when a kernel does. With a limit, the first tensors of the program stay, as many
//! as fit. The others are streamed: a launch that reads them is cut into pieces, the next piece is read from the file while one is computed, and
//! what was read is given back. Since a program reads its weights in one order every time, keeping those that were used last would keep none.
//!
//! What counts is this process's resident set. The system may hold more of the file in its cache, which it takes back when somebody needs memory.

use crate::traffic;
use q35_bundle::{Binding, Bundle};
use q35_console::{memory, size};
use q35_diag::{Code, Diagnostic};
use std::collections::BTreeSet;

/// Bytes that are computed with at a time, at least and at most.
const SMALLEST_PIECE: u64 = 1 << 20;
const LARGEST_PIECE: u64 = 32 << 20;
/// Pieces that may be in memory at once: what one launch has read, what it reads, and what threads are ahead by.
const AT_ONCE: u64 = 3;
/// What the program may still take beside its blocks: code that has not run yet, stacks, text.
const SLACK: u64 = 12 << 20;

/// A tensor that does not stay.
#[derive(Debug)]
struct Streamed {
    tensor: String,
    bytes: u64,
}

/// What does not stay, by step.
#[derive(Debug)]
pub(super) struct Residency {
    steps: Vec<Vec<Streamed>>,
    /// Bytes of a piece.
    piece: u64,
}

impl Residency {
    /// Divides the weights of a program, for a process that has `blocks` bytes of memory it has not used yet.
    pub(super) fn new(bundle: &Bundle, limit: u64, blocks: u64) -> Result<Self, Diagnostic> {
        let taken = memory::current().unwrap_or(0).saturating_add(blocks).saturating_add(SLACK);
        let least = taken.saturating_add(AT_ONCE * SMALLEST_PIECE);
        if limit < least {
            let what = format!(
                "the program, its cache and its working memory take {}, and streaming weights needs {} more; --max-memory allows {}",
                size::show(taken),
                size::show(AT_ONCE * SMALLEST_PIECE),
                size::show(limit)
            );
            return Err(Diagnostic::error(Code::MemoryLimit, what)
                .at("option", "--max-memory")
                .help(format!("allow {} or more, or shorten the context", size::show(least.next_multiple_of(1 << 20)))));
        }
        Ok(Self::within(bundle, limit - taken))
    }

    /// Divides the weights of a program where they may take `budget` bytes.
    fn within(bundle: &Bundle, budget: u64) -> Self {
        let piece = (budget / 8).clamp(SMALLEST_PIECE, LARGEST_PIECE);
        let mut left = budget.saturating_sub(AT_ONCE * piece);
        let mut kept = BTreeSet::new();
        let steps = bundle.manifest().steps.iter().map(|step| {
            let mut streamed = Vec::new();
            for arg in &step.args {
                let Binding::Weight(name) = arg else { continue };
                let bytes = bundle.tensor(name).map_or(0, |tensor| tensor.data.len() as u64);
                if !kept.contains(name) && bytes <= left {
                    left -= bytes;
                    kept.insert(name);
                } else if !kept.contains(name) {
                    streamed.push(Streamed { tensor: name.clone(), bytes });
                }
            }
            streamed
        });
        Self { steps: steps.collect(), piece }
    }

    /// Bytes that do not stay.
    pub(super) fn streamed(&self) -> u64 {
        let distinct: BTreeSet<(&str, u64)> = self.steps.iter().flatten().map(|s| (s.tensor.as_str(), s.bytes)).collect();
        distinct.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Into how many pieces to cut a launch of so many tiles.
    pub(super) fn pieces(&self, step: usize, tiles: u64) -> u64 {
        let bytes: u64 = self.steps[step].iter().map(|streamed| streamed.bytes).sum();
        bytes.div_ceil(self.piece).clamp(1, tiles.max(1))
    }

    /// Lets the system read what comes after piece `piece` of `pieces` of a step: the next piece, or the first of the next step that has any. Not
    /// of steps that read only a part which depends on their input.
    pub(super) fn read_ahead(&self, bundle: &Bundle, step: usize, piece: u64, pieces: u64) {
        if piece + 1 < pieces {
            return self.read(bundle, step, piece + 1, pieces);
        }
        let count = self.steps.len();
        let later = (1..=count).map(|by| (step + by) % count);
        if let Some(next) = later.filter(|step| !self.steps[*step].is_empty()).find(|step| Self::reads_all(bundle, *step)) {
            self.read(bundle, next, 0, self.pieces(next, u64::MAX));
        }
    }

    fn reads_all(bundle: &Bundle, step: usize) -> bool {
        let step = &bundle.manifest().steps[step];
        !traffic::is_gather(step) && traffic::share(step, [1; 4]) >= 1.0
    }

    /// Lets the system read a piece of a step's tensors, which its tiles go through from the first to the last.
    fn read(&self, bundle: &Bundle, step: usize, piece: u64, pieces: u64) {
        if !Self::reads_all(bundle, step) {
            return;
        }
        for Streamed { tensor, bytes } in &self.steps[step] {
            let bound = |n: u64| (u128::from(*bytes) * u128::from(n) / u128::from(pieces)) as usize;
            bundle.read_ahead(tensor, bound(piece)..bound(piece + 1));
        }
    }

    /// Gives back what a step has read.
    pub(super) fn release(&self, bundle: &Bundle, step: usize) {
        for streamed in &self.steps[step] {
            bundle.release(&streamed.tensor, 0..streamed.bytes as usize);
        }
    }
}
