//! Rules S1 to S5. A moving vector is an interval on a diagonal of space and time: its key is the stream and time less way, its start the
//! position where it was driven, counted in the direction of the stream.
//!
//! A vector belongs to the macro-op of the instruction that drove it. An ALU that only masks words by a constant is transparent: each byte
//! belongs to whom it belonged to before. So activations can ride to a plane beside the weights of another macro-op, whose load
//! swallows them: that is sound where their own macro-op multiplies with them in the same cycle.

use crate::{Event, Found};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{EDGE, Queue, STREAMS, Stream};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, BTreeSet};

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
        Instr::Write { input, .. } | Instr::Multiply { input, .. } | Instr::Send { input } => (now(input, 1), vec![]),
        Instr::Receive { out } => (vec![], later(out, 1, timing.receive)),
        Instr::Gather { map, out, .. } => (now(map, 1), later(out, 1, timing.read)),
        Instr::Scatter { map, input, .. } => ([now(map, 1), now(input, 1)].into_iter().flatten().collect(), vec![]),
        Instr::SetMap { map } => (now(map, 2), vec![]),
        Instr::Permute { input, out } => (now(input, 1), later(out, 1, timing.permute)),
        Instr::Transpose { input, out } => (now(input, 16), later(out, 16, timing.transpose)),
        Instr::Load { input } | Instr::Install { input } => (now(input, 16), vec![]),
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
        Instr::Deskew {} | Instr::Repeat { .. } => (vec![], vec![]),
    }
}

/// A vector on its diagonal: where it starts, who drove it, the macro-op it belongs to, whether someone used it.
struct Span<'a> {
    start: i32,
    driver: &'a Event,
    owner: u32,
    used: bool,
}

/// A stream and a diagonal on it.
type Key = (Stream, i64);

/// What stands on a diagonal at a position.
fn at<'s, 'a>(spans: &'s mut BTreeMap<Key, Vec<Span<'a>>>, key: &Key, way: i32) -> Option<&'s mut Span<'a>> {
    let spans = spans.get_mut(key).map(Vec::as_mut_slice).unwrap_or_default();
    spans.iter_mut().rfind(|span| span.start <= way && way <= EDGE)
}

/// The streams of an instruction that only masks words: where they come from, and where they go.
fn transparent(event: &Event) -> Option<(Stream, Stream)> {
    match event.issue.instr {
        Instr::Compute { op: AluOp::And, a: Source::Word(from), b: Source::Constant(_), out: Sink::Word(to) } => {
            Some((from, to))
        }
        _ => None,
    }
}

/// Who drove what an instruction takes from a stream, by queue and cycle of dispatch.
pub(crate) type Drivers<'a> = BTreeMap<(Queue, i64, Stream), &'a Event>;

/// Checks, and gives who drove what ALUs use, memory keeps and links take.
pub(crate) fn check<'a>(events: &'a [Event], timing: &Timing, found: &mut Found) -> Drivers<'a> {
    let mut drivers = Drivers::new();
    let mut diagonals: BTreeMap<Key, Vec<Span<'_>>> = BTreeMap::new();
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
                    diagonals.entry(key).or_default().push(Span {
                        start: way,
                        driver: event,
                        owner: event.issue.op,
                        used: false,
                    });
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
    for event in events {
        let Some((from, to)) = transparent(event) else { continue };
        let streams = STREAMS.saturating_sub(from.number.max(to.number)).min(4);
        for i in 0..streams {
            let (key, driven) = ((from.plus(i), event.cycle - timing.enter), (to.plus(i), event.cycle + timing.op));
            let owner = at(&mut diagonals, &key, 0).map(|span| span.owner);
            if let (Some(owner), Some(span)) = (owner, at(&mut diagonals, &driven, 0)) {
                span.owner = owner;
            }
        }
    }
    let multiplied: BTreeSet<(Key, i32, u32)> = uses
        .iter()
        .filter(|(.., event)| matches!(event.issue.instr, Instr::Multiply { .. }))
        .map(|(key, way, event)| (*key, *way, event.issue.op))
        .collect();
    for (key, way, event) in uses {
        match at(&mut diagonals, &key, way) {
            Some(span) => {
                span.used = true;
                if matches!(event.issue.instr, Instr::Compute { .. } | Instr::Write { .. } | Instr::Send { .. }) {
                    drivers.insert((event.queue, event.cycle, key.0), span.driver);
                }
                let rides = matches!(event.issue.instr, Instr::Load { .. } | Instr::Install { .. })
                    && multiplied.contains(&(key, way, span.owner));
                let map = matches!(event.issue.instr, Instr::Gather { map, .. } if map == key.0);
                let read = matches!(span.driver.issue.instr, Instr::Read { .. });
                found.unless(!map || read, "S5", || format!("{event}: its addresses do not come from memory: {}", span.driver));
                let own = span.owner == event.issue.op || transparent(event).is_some() || rides;
                found.unless(own, "S4", || format!("{event}: {} carries what belongs to another macro-op", key.0));
            }
            None => found.unless(false, "S2", || format!("{event}: nothing stands on {}", key.0)),
        }
    }
    for ((stream, _), spans) in &diagonals {
        for span in spans {
            found.unless(span.used, "S3", || format!("{}: nobody uses {stream}", span.driver));
        }
    }
    drivers
}
