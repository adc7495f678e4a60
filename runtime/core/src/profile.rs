//! Where the time of steps goes: every launch with its beginning and its end, as a Chrome trace and as sums over launches of one kind.
//!
//! A [`Recorder`] is handed over with a session's options and asked when the work is done. While it records, machines that launch without waiting
//! are waited for after every launch, so that a span is what its launch took.

use crate::traffic;
use q35_bundle::{Bundle, Step};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Records what a session does. Copies record into the same place.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Recording>);

#[derive(Debug)]
struct Recording {
    start: Instant,
    spans: Mutex<Vec<Span>>,
}

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A step of the device over so many tokens, logits of so many of them wanted.
    Step { tokens: u64, rows: u64 },
    /// A launch in such a step, by its place in the manifest.
    Launch { step: usize, tokens: u64, rows: u64 },
}

/// Nanoseconds since the recorder was made.
#[derive(Clone, Copy, Debug)]
struct Span {
    what: What,
    begin: u64,
    nanos: u64,
}

/// Launches of one op over about as many rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// The q35 op, or ops, that the launches implement.
    pub op: String,
    /// Rows of a launch: a number, or a power of two and the numbers up to the next.
    pub rows: String,
    /// How many there were.
    pub launches: usize,
    /// Seconds that they took together.
    pub seconds: f64,
    /// Bytes of weights that they read, at most.
    pub weight_bytes: u64,
}

/// What a session did, in sums.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Steps of the device.
    pub steps: usize,
    /// Seconds that they took.
    pub seconds: f64,
    /// Kinds of launches, the longest first.
    pub kinds: Vec<Kind>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self(Arc::new(Recording { start: Instant::now(), spans: Mutex::default() }))
    }
}

impl Recorder {
    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.0.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work`; records it if there is a recorder.
    pub(crate) fn around<T>(recorder: Option<&Self>, what: What, work: impl FnOnce() -> T) -> T {
        let Some(recorder) = recorder else { return work() };
        let nanos = || u64::try_from(recorder.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let begin = nanos();
        let result = work();
        let end = nanos();
        recorder.spans().push(Span { what, begin, nanos: end - begin });
        result
    }

    /// Everything recorded so far, in the format of Chrome's trace viewer: one track of steps, one of launches.
    pub fn chrome_trace(&self, bundle: &Bundle) -> Vec<u8> {
        let name =
            |id: u32, name: &str| json!({ "name": "thread_name", "ph": "M", "pid": 1, "tid": id, "args": { "name": name } });
        let mut events = vec![name(1, "steps"), name(2, "launches")];
        events.extend(self.spans().iter().map(|span| span.event(bundle)));
        let trace = json!({ "displayTimeUnit": "ns", "traceEvents": events });
        trace.to_string().into_bytes()
    }

    /// Sums over everything recorded so far.
    pub fn summary(&self, bundle: &Bundle) -> Summary {
        let mut summary = Summary { steps: 0, seconds: 0.0, kinds: Vec::new() };
        let mut kinds: BTreeMap<(&str, u64), Kind> = BTreeMap::new();
        for span in &*self.spans() {
            let seconds = span.nanos as f64 / 1e9;
            match span.what {
                What::Step { .. } => {
                    summary.steps += 1;
                    summary.seconds += seconds;
                }
                What::Launch { step, tokens, rows } => {
                    let step = &bundle.manifest().steps[step];
                    let size = size(rows_of(step, tokens, rows));
                    let kind = kinds.entry((&step.op, size)).or_insert_with(|| Kind {
                        op: step.op.clone(),
                        rows: if size < EXACT { size.to_string() } else { format!("{size}-{}", 2 * size - 1) },
                        launches: 0,
                        seconds: 0.0,
                        weight_bytes: 0,
                    });
                    kind.launches += 1;
                    kind.seconds += seconds;
                    kind.weight_bytes += traffic::of_launch(bundle, step, tokens, rows);
                }
            }
        }
        summary.kinds = kinds.into_values().collect();
        summary.kinds.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        summary
    }
}

/// Numbers of rows below this are kinds of their own.
const EXACT: u64 = 16;

/// Rows of a launch as its kind has them: themselves, or the power of two below.
fn size(rows: u64) -> u64 {
    if rows < EXACT { rows } else { 1 << rows.ilog2() }
}

fn rows_of(step: &Step, tokens: u64, rows: u64) -> u64 {
    [tokens, rows, 1, 1][step.rows.dim() as usize]
}

impl Span {
    fn event(&self, bundle: &Bundle) -> Value {
        let (name, track, args) = match self.what {
            What::Step { tokens, rows } => (format!("{tokens} tokens"), 1, json!({ "tokens": tokens, "logits": rows })),
            What::Launch { step, tokens, rows } => {
                let step = &bundle.manifest().steps[step];
                let bytes = traffic::of_launch(bundle, step, tokens, rows);
                (step.op.clone(), 2, json!({ "node": step.node, "rows": rows_of(step, tokens, rows), "weight_bytes": bytes }))
            }
        };
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let (begin, lasted) = (micros(self.begin), micros(self.nanos));
        json!({ "name": name, "ph": "X", "pid": 1, "tid": track, "ts": begin, "dur": lasted, "args": args })
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn numbers_of_rows_are_gathered_by_powers_of_two() {
        assert_eq!([0, 1, 15, 16, 31, 32, 1000].map(size), [0, 1, 15, 16, 16, 32, 512]);
    }
}
