//! Measures a bundle on this machine: prefill and decode tokens per second, first-token latency, memory, and how near decoding comes
//! to the read bandwidth of the memory, measured in the same run with the same number of threads.

use crate::pool::Pool;
use crate::{Chunk, Options, Session, Want};
use q35_bundle::{Binding, Bundle, Dim, Step, Variant};
use q35_console::memory;
use q35_diag::Result;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prompt lengths to measure.
const PREFILL: [usize; 2] = [128, 512];
/// Batch sizes to measure.
const BATCHES: [usize; 4] = [1, 2, 4, 8];
/// Tokens in each slot before decoding is measured.
const CONTEXT: usize = 32;
/// Tokens decoded per slot in one run.
const DECODED: usize = 32;

/// What a case does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// One prompt at once.
    Prefill,
    /// One token per slot at a time.
    Decode,
}

/// Figures of one case over all runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Case {
    /// What was run.
    pub phase: Phase,
    /// Slots.
    pub batch: usize,
    /// Tokens per slot and run.
    pub tokens: usize,
    /// Tokens per second of the slowest run, over all slots.
    pub min: f64,
    /// Of the median run.
    pub median: f64,
    /// Of the fastest run.
    pub max: f64,
}

/// The result of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The device, in words.
    pub device: String,
    /// Runs per case.
    pub runs: usize,
    /// Prefill and decode.
    pub cases: Vec<Case>,
    /// Median seconds from a prompt of the first prefill length to the logits of its first new token.
    pub first_token_seconds: f64,
    /// Bytes of weights that decoding one token reads: every tensor a step uses, but of an embedding only a row, and of experts those that are
    /// chosen.
    pub weight_bytes_per_step: u64,
    /// Bytes of weights read per second by the median of decoding at batch 1.
    pub decode_bytes_per_second: f64,
    /// Bytes per second of a plain read of memory with the same threads: the median of the runs.
    pub read_bytes_per_second: f64,
    /// Largest resident memory of this process before the bandwidth was measured, where the system tells.
    pub peak_resident_bytes: Option<u64>,
}

/// Measures `bundle`; `progress` hears the name of each case before it starts.
pub fn bench(bundle: &Arc<Bundle>, options: &Options, runs: usize, mut progress: impl FnMut(&str)) -> Result<Report> {
    let runs = runs.max(1);
    let context = bundle.manifest().model.context as usize;
    let slots = BATCHES.into_iter().max().unwrap_or(1);
    let capacity = PREFILL.into_iter().max().unwrap_or(0).max(CONTEXT + DECODED).min(context);
    let mut session = Session::new(bundle.clone(), &Options { slots, capacity, ..options.clone() })?;
    let vocab = bundle.manifest().model.vocab;
    let prompt: Vec<u32> = (0..capacity as u64).map(|i| (i * 7919 % vocab) as u32).collect();

    let mut cases = Vec::new();
    for length in PREFILL.map(|n| n.min(capacity)).into_iter().collect::<BTreeSet<_>>() {
        progress(&format!("prefill of {length} tokens"));
        let seconds = repeat(runs, || prefill(&mut session, 0, &prompt[..length]))?;
        cases.push(case(Phase::Prefill, 1, length, &seconds));
    }
    let decoded = DECODED.min(capacity.saturating_sub(CONTEXT)).max(1);
    let before = CONTEXT.min(capacity - decoded);
    for batch in BATCHES {
        progress(&format!("decoding with batch {batch}"));
        let seconds = repeat(runs, || {
            for slot in 0..batch {
                prefill(&mut session, slot, &prompt[..before])?;
            }
            let chunk = |slot| Chunk { slot, tokens: &prompt[slot % capacity..][..1], positions: None, want: Want::Last };
            let chunks: Vec<_> = (0..batch).map(chunk).collect();
            let begin = Instant::now();
            for _ in 0..decoded {
                black_box(session.step(&chunks)?);
            }
            Ok(begin.elapsed())
        })?;
        cases.push(case(Phase::Decode, batch, decoded, &seconds));
    }
    let peak_resident_bytes = memory::peak();
    progress("memory bandwidth");
    let single = |phase| cases.iter().find(|c| c.phase == phase && c.batch == 1).map_or(0.0, |c| c.median);
    let weight_bytes_per_step = weight_bytes(bundle);
    Ok(Report {
        device: session.describe(),
        runs,
        first_token_seconds: cases.first().map_or(0.0, |c| c.tokens as f64) / single(Phase::Prefill),
        weight_bytes_per_step,
        decode_bytes_per_second: single(Phase::Decode) * weight_bytes_per_step as f64,
        read_bytes_per_second: read_bandwidth(options.threads, runs),
        peak_resident_bytes,
        cases,
    })
}

/// One warm-up, then the seconds of each run, ascending.
fn repeat(runs: usize, mut run: impl FnMut() -> Result<Duration>) -> Result<Vec<f64>> {
    run()?;
    let mut seconds = (0..runs).map(|_| run().map(|d| d.as_secs_f64())).collect::<Result<Vec<_>>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

fn case(phase: Phase, batch: usize, tokens: usize, ascending: &[f64]) -> Case {
    let rate = |seconds: f64| (batch * tokens) as f64 / seconds;
    let (first, last) = (ascending[0], ascending[ascending.len() - 1]);
    Case { phase, batch, tokens, min: rate(last), median: rate(ascending[ascending.len() / 2]), max: rate(first) }
}

fn prefill(session: &mut Session, slot: usize, tokens: &[u32]) -> Result<Duration> {
    session.truncate(slot, 0);
    let begin = Instant::now();
    black_box(session.step(&[Chunk { slot, tokens, positions: None, want: Want::Last }])?);
    Ok(begin.elapsed())
}

/// Bytes of the distinct tensors that decoding one token reads: not those of launches that gather rows of an embedding table, and of the
/// weights of experts the share that one token chooses.
fn weight_bytes(bundle: &Bundle) -> u64 {
    let steps = bundle.manifest().steps.iter().filter(|step| step.op.split('+').all(|op| op != "embed"));
    let mut read: BTreeMap<&str, f64> = BTreeMap::new();
    for step in steps {
        for arg in &step.args {
            if let Binding::Weight(name) = arg {
                read.insert(name, share(step));
            }
        }
    }
    let bytes = |(name, share): (&str, f64)| Some(bundle.tensor(name)?.data.len() as f64 * share);
    read.into_iter().filter_map(bytes).sum::<f64>() as u64
}

/// How much of what it may read a step of one row does read: a kernel for few rows that has fewer tiles than the one for many leaves
/// the weights of the others alone.
fn share(step: &Step) -> f64 {
    let dims = [1; Dim::ALL.len()];
    let tiles = |variant: &Variant| variant.tiles.eval(&dims).unwrap_or(0) as f64;
    let [first, .., last] = &step.variants[..] else { return 1.0 };
    (tiles(first) / tiles(last).max(1.0)).min(1.0)
}

/// Bytes per second at which all threads together read a buffer larger than any cache.
fn read_bandwidth(threads: Option<usize>, runs: usize) -> f64 {
    const PIECES: usize = 256;
    let wanted = memory::available().map_or(256 << 20, |free| (free / 4).min(1 << 30));
    let piece = (wanted as usize / 8 / PIECES).max(1 << 14);
    let buffer = Arc::new(vec![1u64; piece * PIECES]);
    let mut pool = Pool::new(threads);
    let mut seconds: Vec<f64> = (0..=runs)
        .map(|_| {
            let buffer = buffer.clone();
            let begin = Instant::now();
            pool.run(PIECES, move |n| {
                let mut sums = [0u64; 32];
                for words in buffer[n * piece..][..piece].chunks_exact(32) {
                    sums.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
                }
                black_box(sums);
            });
            begin.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    (buffer.len() * 8) as f64 / seconds[seconds.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_bundle::{Rows, Size};

    #[test]
    fn of_experts_only_the_chosen_ones_are_read() {
        let step = |tiles: &[Size]| {
            let variant = |tiles: &Size| Variant { max_rows: None, kernel: String::new(), tiles: tiles.clone() };
            let variants = tiles.iter().map(variant).collect();
            Step { node: String::new(), op: String::new(), rows: Rows::Tokens, variants, args: vec![] }
        };
        let (two_of_eight, all) = (Size::per(2 * 24, Dim::Tokens), Size::constant(8 * 24));
        assert_eq!(share(&step(&[two_of_eight, all.clone()])), 0.25);
        assert_eq!(share(&step(&[all.clone(), all.clone()])), 1.0);
        assert_eq!(share(&step(&[all])), 1.0);
    }
}
