//! What is measured, and what of it this machine and this bundle allow.

use std::time::Duration;

/// What to measure, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Lengths of prompts.
    pub prefill: Vec<usize>,
    /// Sequences that are decoded together.
    pub batches: Vec<usize>,
    /// Tokens that each of them has in its cache; every length is measured with every batch.
    pub cached: Vec<usize>,
    /// Tokens that a run decodes per slot, at most.
    pub decoded: usize,
    /// Runs per case, at most.
    pub runs: usize,
    /// Time for the runs of one case; one is made however long it takes.
    pub longest_case: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            prefill: vec![128, 512, 2048],
            batches: vec![1, 2, 4, 8, 16],
            cached: vec![128, 1024, 4096],
            decoded: 32,
            runs: 5,
            longest_case: Duration::from_secs(10),
        }
    }
}

/// A prompt of so many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefill {
    pub(super) tokens: usize,
}

/// One token at a time for each of some sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decode {
    pub(super) batch: usize,
    pub(super) cached: usize,
}

/// What can be measured.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Feasible {
    pub(super) prefill: Vec<Prefill>,
    pub(super) decode: Vec<Decode>,
}

impl Plan {
    /// Time after which a run of decoding ends although it has not decoded as much as it should.
    pub(super) fn longest_run(&self) -> Duration {
        self.longest_case / (self.runs as u32 + 1)
    }

    /// What fits into a context of so many tokens and, if it is known, into the memory that is free. The rest is named in `skipped`.
    pub(super) fn feasible(&self, context: usize, entry: u64, free: Option<u64>, skipped: &mut Vec<String>) -> Feasible {
        let mut prefill: Vec<Prefill> = Vec::new();
        for &tokens in &self.prefill {
            match tokens <= context {
                true => prefill.push(Prefill { tokens }),
                false => skipped.push(format!("prefill of {tokens} tokens: the context has {context}")),
            }
        }
        let capacity = |cached: usize| cached.saturating_add(self.decoded);
        let (cached, longer): (Vec<usize>, Vec<usize>) = self.cached.iter().partition(|cached| capacity(**cached) <= context);
        let too_long =
            |cached: usize| format!("decoding after {cached} tokens: {} in a context of {context}", capacity(cached));
        skipped.extend(longer.into_iter().map(too_long));
        let mut decode = Vec::new();
        for &batch in &self.batches {
            for &cached in &cached {
                let cache = (batch as u64).saturating_mul(capacity(cached) as u64).saturating_mul(entry);
                match free.is_some_and(|free| cache > free / 2) {
                    false => decode.push(Decode { batch, cached }),
                    true => {
                        let size = q35_console::size::show(cache);
                        skipped.push(format!("decoding with batch {batch} after {cached} tokens: the cache would have {size}"));
                    }
                }
            }
        }
        Feasible { prefill, decode }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named() {
        let plan = Plan { prefill: vec![8, 100], batches: vec![1, 4], cached: vec![8, 40], decoded: 24, ..Plan::default() };
        let mut skipped = Vec::new();
        let found = plan.feasible(64, 1 << 10, Some(200 << 10), &mut skipped);
        let case = |batch, cached| Decode { batch, cached };
        assert_eq!(found, Feasible { prefill: vec![Prefill { tokens: 8 }], decode: vec![case(1, 8), case(1, 40)] });
        assert_eq!(
            skipped,
            [
                "prefill of 100 tokens: the context has 64",
                "decoding with batch 4 after 8 tokens: the cache would have 128 KiB",
                "decoding with batch 4 after 40 tokens: the cache would have 256 KiB"
            ]
        );
        let mut skipped = Vec::new();
        assert_eq!(plan.feasible(63, 1, None, &mut skipped).decode, [case(1, 8), case(4, 8)]);
        assert_eq!(skipped[1], "decoding after 40 tokens: 64 in a context of 63");
    }
}
