//! Rules S1 to S4. A moving vector is an interval on a diagonal of space and time: its key is the stream and time less way, its start the
//! position where it was driven, counted in the direction of the stream.

use crate::{Event, Found};
use q35_tsp::geometry::{EDGE, STREAMS, Stream};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;

/// Streams from one on: how many, from when on they are touched.
struct Port {
    first: Stream,
    count: u8,
    cycle: i64,
}

/// What an instruction samples, and what it drives.
fn ports(event: &Event, timing: &Timing) -> (Vec<Port>, Vec<Port>) {
    let now = |first: Stream, count: u8| vec![Port { first, count, cycle: event.cycle }];
    let later = |first: Stream, count: u8, after: i64| vec![Port { first, count, cycle: event.cycle + after }];
    match event.issue.instr {
        Instr::Read { out, .. } => (vec![], later(out, 1, timing.read)),
        Instr::Write { input, .. } | Instr::Multiply { input, .. } => (now(input, 1), vec![]),
        Instr::Gather { map, out, .. } => (now(map, 1), later(out, 1, timing.read)),
        Instr::Scatter { map, input, .. } => ([now(map, 1), now(input, 1)].into_iter().flatten().collect(), vec![]),
        Instr::SetMap { map } => (now(map, 2), vec![]),
        Instr::Permute { input, out } => (now(input, 1), later(out, 1, timing.permute)),
        Instr::Transpose { input, out } => (now(input, 16), later(out, 16, timing.transpose)),
        Instr::Load { input } => (now(input, 16), vec![]),
        Instr::Emit { out, .. } => (vec![], later(out, 4, timing.result)),
        Instr::Compute { op, a, b, out } => {
            let operand = |source: &Source| match source {
                Source::Word(first) => Some(Port { first: *first, count: 4, cycle: event.cycle - timing.enter }),
                Source::Byte(first) => Some(Port { first: *first, count: 1, cycle: event.cycle - timing.enter }),
                Source::Constant(_) | Source::Alu(_) => None,
            };
            let drives = match out {
                Sink::Nothing => vec![],
                Sink::Word(first) => later(first, 4, timing.op),
                Sink::Byte(first) => later(first, 1, timing.op),
            };
            ([a, b].iter().take(op.arity()).filter_map(operand).collect(), drives)
        }
        Instr::Install {} | Instr::Repeat { .. } => (vec![], vec![]),
    }
}

/// A vector on its diagonal: where it starts, who drove it, whether someone used it.
struct Span<'a> {
    start: i32,
    driver: &'a Event,
    used: bool,
}

pub(crate) fn check(events: &[Event], timing: &Timing, found: &mut Found) {
    let mut diagonals: BTreeMap<(Stream, i64), Vec<Span<'_>>> = BTreeMap::new();
    let mut uses = Vec::new();
    for event in events {
        let (samples, drives) = ports(event, timing);
        let position = event.queue.position();
        for (port, drives) in samples.iter().map(|p| (p, false)).chain(drives.iter().map(|p| (p, true))) {
            let aligned = port.first.number.is_multiple_of(port.count) && port.first.number + port.count <= STREAMS;
            found.unless(aligned, "S1", || format!("{event}: {} is not the first of {}", port.first, port.count));
            for i in 0..port.count.min(STREAMS.saturating_sub(port.first.number)) {
                let stream = port.first.plus(i);
                let way = stream.to.sign() * position;
                let key = (stream, port.cycle - i64::from(way));
                if drives {
                    diagonals.entry(key).or_default().push(Span { start: way, driver: event, used: false });
                } else {
                    uses.push((key, way, event));
                }
            }
        }
    }
    for ((stream, _), spans) in &mut diagonals {
        spans.sort_by_key(|span| span.start);
        for pair in spans.windows(2) {
            found.unless(pair[0].start != pair[1].start, "S1", || {
                format!("{stream} is driven twice: {}, and {}", pair[0].driver, pair[1].driver)
            });
        }
    }
    for (key, way, event) in uses {
        let spans = diagonals.get_mut(&key).map(Vec::as_mut_slice).unwrap_or_default();
        match spans.iter_mut().rfind(|span| span.start <= way && way <= EDGE) {
            Some(span) => {
                span.used = true;
                found.unless(span.driver.issue.op == event.issue.op, "S4", || {
                    format!("{event}: {} carries what belongs to another macro-op", key.0)
                });
            }
            None => found.unless(false, "S2", || format!("{event}: nothing stands on {}", key.0)),
        }
    }
    for ((stream, _), spans) in &diagonals {
        for span in spans {
            found.unless(span.used, "S3", || format!("{}: nobody uses {stream}", span.driver));
        }
    }
}
