//! Measures a bundle on this machine: tokens per second of prompts and of decoding, first-token latency, memory, energy, and how near decoding
//! comes to the read bandwidth of the memory, measured in the same run with the same number of threads.

mod energy;
mod machine;
mod plan;

pub use plan::Plan;

use crate::{Chunk, Options, Session, Want, traffic};
use energy::Meter;
use plan::{Decode, Prefill};
use q35_bundle::Bundle;
use q35_console::memory;
use q35_diag::Result;
use serde::Serialize;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Tokens in each slot when a run begins.
    pub cached: usize,
    /// Tokens per slot and run, of the shortest run.
    pub tokens: usize,
    /// Runs that were counted.
    pub runs: usize,
    /// Tokens per second of the slowest run, over all slots.
    pub min: f64,
    /// Of the median run.
    pub median: f64,
    /// Of the fastest run.
    pub max: f64,
    /// Median seconds until a run's first logits are there: of a prompt the latency of the first new token, of decoding that of each.
    pub latency_seconds: f64,
    /// Bytes of weights that a step reads: every tensor it uses, but of an embedding only a row per token, and of experts those that are chosen, at
    /// most.
    pub weight_bytes_per_step: u64,
    /// Bytes of weights read per second by the median run.
    pub weight_bytes_per_second: f64,
    /// Joules per token, of the processor's packages, where they can be read.
    pub joules_per_token: Option<f64>,
}

/// The result of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The device, in words.
    pub device: String,
    /// Prefill and decode.
    pub cases: Vec<Case>,
    /// Cases that were asked for and not measured, and why.
    pub skipped: Vec<String>,
    /// Bytes per second of a plain read of memory with the same threads, in the same run: the slowest, the median and the fastest reading.
    pub read_bytes_per_second: [f64; 3],
    /// Median seconds to hand a launch that does nothing to all threads and to wait for them.
    pub empty_launch_seconds: f64,
    /// Largest resident memory of this process, the buffer of that reading left out, where the system tells.
    pub peak_resident_bytes: Option<u64>,
}

/// Measures `bundle` as `plan` says; `progress` hears the name of each case before it starts.
pub fn bench(bundle: &Arc<Bundle>, options: &Options, plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Report> {
    let facts = &bundle.manifest().model;
    let mut report = Report {
        device: String::new(),
        cases: Vec::new(),
        skipped: Vec::new(),
        read_bytes_per_second: [0.0; 3],
        empty_launch_seconds: machine::empty_launch(options.threads),
        peak_resident_bytes: None,
    };
    let meter = Meter::open();
    let feasible = plan.feasible(
        facts.context as usize,
        bundle.manifest().plan.cache_entry_bytes(),
        memory::available(),
        &mut report.skipped,
    );
    let prompt: Vec<u32> = (0..facts.context).map(|i| (i * 7919 % facts.vocab) as u32).collect();

    if let Some(capacity) = feasible.prefill.iter().map(|case| case.tokens).max() {
        let mut session = Session::new(bundle.clone(), &Options { slots: 1, capacity, ..options.clone() })?;
        report.device = session.describe();
        for Prefill { tokens } in feasible.prefill {
            progress(&format!("prefill of {tokens} tokens"));
            let runs = repeat(plan, &meter, || {
                session.truncate(0, 0);
                let begin = Instant::now();
                black_box(session.step(&[Chunk { slot: 0, tokens: &prompt[..tokens], positions: None, want: Want::Last }])?);
                Ok(Run { elapsed: begin.elapsed(), steps: 1 })
            })?;
            // A prompt longer than what the device takes at once comes in several steps.
            let steps = tokens.div_ceil(session.max_tokens()) as u64;
            let bytes = traffic::of_step(bundle, tokens.min(session.max_tokens()) as u64, 1) * steps;
            report.cases.push(runs.case(Phase::Prefill, 1, 0, tokens, bytes));
        }
    }
    for Decode { batch, cached } in feasible.decode {
        progress(&format!("decoding with batch {batch} after {cached} tokens"));
        let capacity = cached + plan.decoded;
        let mut session = Session::new(bundle.clone(), &Options { slots: batch, capacity, ..options.clone() })?;
        report.device = session.describe();
        for slot in 0..batch {
            fill(&mut session, slot, cached)?;
        }
        let runs = repeat(plan, &meter, || {
            (0..batch).for_each(|slot| session.truncate(slot, cached));
            let begin = Instant::now();
            let mut steps = 0;
            while steps < plan.decoded && (steps == 0 || begin.elapsed() < plan.longest_run()) {
                let token = |slot: usize| &prompt[(slot * 31 + steps) % prompt.len()..][..1];
                let chunk = |slot| Chunk { slot, tokens: token(slot), positions: None, want: Want::Last };
                black_box(session.step(&(0..batch).map(chunk).collect::<Vec<_>>())?);
                steps += 1;
            }
            Ok(Run { elapsed: begin.elapsed(), steps })
        })?;
        let bytes = traffic::of_step(bundle, batch as u64, batch as u64);
        report.cases.push(runs.case(Phase::Decode, batch, cached, 1, bytes));
    }
    // The largest figure so far is the cases': the buffer comes after them.
    report.peak_resident_bytes = memory::peak();
    progress("memory bandwidth");
    report.read_bytes_per_second = machine::read_bandwidth(options.threads, plan.runs.max(3));
    Ok(report)
}

/// Fills a slot with entries as a model would make them, as far as time is concerned: small numbers of both signs.
fn fill(session: &mut Session, slot: usize, count: usize) -> Result<()> {
    let layers = session.bundle().manifest().plan.cache.clone();
    session.fill(slot, count, |layer, part| {
        let layer = &layers[layer];
        let numbers = layer.kv_heads as usize * count * layer.columns(part) as usize;
        (0..numbers).map(|n| (n.wrapping_mul(2_654_435_761) >> 8 & 0xffff) as f32 / 65_536.0 - 0.5).collect()
    })
}

/// One run.
struct Run {
    elapsed: Duration,
    steps: usize,
}

/// All runs of a case.
struct Runs {
    /// Seconds per step, ascending.
    seconds: Vec<f64>,
    /// Steps of the shortest run.
    steps: usize,
    /// Joules per step.
    joules: Option<f64>,
}

/// One run to warm up, and then as many as the plan says, or as its time allows: one at least.
fn repeat(plan: &Plan, meter: &Meter, mut run: impl FnMut() -> Result<Run>) -> Result<Runs> {
    let begin = Instant::now();
    let warm = run()?;
    let mut runs = Vec::new();
    let before = meter.joules();
    while runs.len() < plan.runs && (runs.is_empty() || begin.elapsed() + warm.elapsed < plan.longest_case) {
        runs.push(run()?);
    }
    let spent = before.zip(meter.joules()).map(|(before, after)| meter.between(before, after));
    let steps: usize = runs.iter().map(|run| run.steps).sum();
    let mut seconds: Vec<f64> = runs.iter().map(|run| run.elapsed.as_secs_f64() / run.steps as f64).collect();
    seconds.sort_by(f64::total_cmp);
    let joules = spent.map(|joules| joules / steps as f64);
    Ok(Runs { seconds, steps: runs.iter().map(|run| run.steps).min().unwrap_or(0), joules })
}

impl Runs {
    /// The figures of a case whose steps take `tokens` tokens of each slot and read so many bytes.
    fn case(&self, phase: Phase, batch: usize, cached: usize, tokens: usize, weight_bytes_per_step: u64) -> Case {
        let all = (batch * tokens) as f64;
        let (fastest, slowest) = (self.seconds[0], self.seconds[self.seconds.len() - 1]);
        let median = self.seconds[self.seconds.len() / 2];
        Case {
            phase,
            batch,
            cached,
            tokens: tokens * self.steps,
            runs: self.seconds.len(),
            min: all / slowest,
            median: all / median,
            max: all / fastest,
            latency_seconds: median,
            weight_bytes_per_step,
            weight_bytes_per_second: weight_bytes_per_step as f64 / median,
            joules_per_token: self.joules.map(|joules| joules / all),
        }
    }
}
