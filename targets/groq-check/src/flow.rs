//! Rule F1. What is written is followed back through the ALUs to where it comes from.

use crate::streams::Drivers;
use crate::{Event, Found};
use q35_tsp::flow;
use q35_tsp::geometry::{Queue, Stream};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::Data;
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;

pub(crate) fn check(events: &[Event], drivers: &Drivers<'_>, data: &Data, timing: &Timing, found: &mut Found) {
    let driver = |event: &Event, stream: Stream| drivers.get(&(event.queue, event.cycle, stream)).copied();
    // By ALU and cycle of dispatch.
    let mut values: BTreeMap<(Queue, i64), u32> = BTreeMap::new();
    let mut flows = vec![0u32; data.ops.len()];
    for event in events {
        match event.issue.instr {
            Instr::Compute { op, a, b, .. } => {
                let operand = |source: Source| match source {
                    Source::Constant(word) => Some(flow::constant(word)),
                    Source::Alu(alu) => values.get(&(Queue::alu(alu % 16), event.cycle - timing.op)).copied(),
                    Source::Word(stream) | Source::Byte(stream) => {
                        let driver = driver(event, stream)?;
                        match driver.issue.instr {
                            Instr::Read { address, .. } => Some(flow::read(driver.queue, address)),
                            Instr::Emit { accumulator, .. } => Some(flow::sum(driver.queue.index(), accumulator)),
                            _ => None,
                        }
                    }
                };
                let operands = [a, b].map(|source| operand(source).unwrap_or(0));
                values.insert((event.queue, event.cycle), flow::result(op, operands));
            }
            Instr::Write { address, input } => {
                let Some(driver) = driver(event, input) else { continue };
                let Instr::Compute { out: Sink::Word(first) | Sink::Byte(first), .. } = driver.issue.instr else { continue };
                let value = values.get(&(driver.queue, driver.cycle)).copied().unwrap_or(0);
                let stored = flow::stored(event.queue, address, input.number.wrapping_sub(first.number), value);
                if let Some(flow) = flows.get_mut(event.issue.op as usize) {
                    *flow = flow.wrapping_add(stored);
                }
            }
            _ => {}
        }
    }
    for (number, (op, flow)) in data.ops.iter().zip(flows).enumerate() {
        found.unless(op.flow == flow, "F1", || format!("macro-op {number} does not compute what it claims to"));
    }
}
