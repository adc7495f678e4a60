//! Rules L1 to L6: what goes from chip to chip. Cycles of several chips are compared on the clock that they have in common.

use crate::streams::Drivers;
use crate::{Event, Found};
use q35_tsp::geometry::{Queue, Unit};
use q35_tsp::isa::Instr;
use q35_tsp::program::{Carried, Data, Place, Program};
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;

/// A vector at one end of a link: who sends or receives it, and the byte of which carried vector it is, if it is one.
pub(crate) struct Flit {
    link: u8,
    /// On the common clock.
    cycle: i64,
    what: String,
    byte: Option<(usize, u8)>,
}

/// What a chip sends and receives.
#[derive(Default)]
pub(crate) struct Traffic {
    sends: Vec<Flit>,
    receives: Vec<Flit>,
}

/// The byte of a carried vector that lies at a place.
fn byte(carried: &[Carried], place: Place) -> Option<(usize, u8)> {
    carried.iter().enumerate().find_map(|(at, carried)| {
        let Carried { quad, .. } = carried;
        let number = place.slice.number.checked_sub(4 * (quad.group % 11)).filter(|number| *number < 4)?;
        (quad.side == place.slice.side && quad.address == place.address).then_some((at, number))
    })
}

/// The rules of one chip's queues; gives what it sends and receives.
pub(crate) fn check(events: &[Event], drivers: &Drivers<'_>, data: &Data, timing: &Timing, found: &mut Found) -> Traffic {
    let mut traffic = Traffic::default();
    let mut busy: BTreeMap<Queue, i64> = BTreeMap::new();
    let mut deskewed: BTreeMap<Queue, i64> = BTreeMap::new();
    // Where what was received is kept.
    let kept: BTreeMap<(Queue, i64), Place> = events
        .iter()
        .filter_map(|event| {
            let Instr::Write { address, input } = event.issue.instr else { return None };
            let driver = drivers.get(&(event.queue, event.cycle, input))?;
            Some(((driver.queue, driver.cycle), Place { slice: event.queue.slice(), address }))
        })
        .collect();
    let start = i64::try_from(data.start).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
    for event in events.iter().filter(|event| event.queue.unit() == Unit::Link) {
        let link = event.queue.index();
        let ready = matches!(event.issue.instr, Instr::Deskew {}) || deskewed.contains_key(&event.queue);
        found.unless(ready, "L1", || format!("{event}: the link is not deskewed"));
        let flit = |byte| Flit { link, cycle: start + event.cycle, what: event.to_string(), byte };
        match event.issue.instr {
            Instr::Deskew {} => {
                let first = event.cycle == 0 && start % timing.epoch == 0;
                found.unless(first, "L1", || format!("{event}: not in cycle 0, where an epoch begins"));
                let again = deskewed.insert(event.queue, event.cycle).is_some();
                found.unless(!again, "L1", || format!("{event}: the link is deskewed twice"));
            }
            Instr::Send { input } => {
                let free = busy.insert(event.queue, event.cycle + timing.link).is_none_or(|until| until <= event.cycle);
                found.unless(free, "L2", || format!("{event}: the link is still taken by the vector before"));
                let read = drivers.get(&(event.queue, event.cycle, input)).and_then(|driver| match driver.issue.instr {
                    Instr::Read { address, .. } => Some(Place { slice: driver.queue.slice(), address }),
                    _ => None,
                });
                traffic.sends.push(flit(read.and_then(|place| byte(&data.sent, place))));
            }
            Instr::Receive { .. } => {
                let place = kept.get(&(event.queue, event.cycle));
                traffic.receives.push(flit(place.and_then(|place| byte(&data.received, *place))));
            }
            _ => {}
        }
    }
    for (what, queue) in data.links.iter().map(|end| (end.link, Queue::link(end.link))) {
        found.unless(deskewed.contains_key(&queue), "L1", || format!("link {what} is never deskewed"));
    }
    traffic
}

/// The rules between chips.
pub(crate) fn across(programs: &[Program], traffic: &[Traffic], timing: &Timing, found: &mut Found) {
    let mut carried = vec![0; programs.len()];
    let mut taken: BTreeMap<(usize, u8, i64), bool> = BTreeMap::new();
    let receives = traffic.iter().enumerate().flat_map(|(chip, t)| t.receives.iter().map(move |flit| (chip, flit)));
    let receives: BTreeMap<(usize, u8, i64), &Flit> =
        receives.map(|(chip, flit)| ((chip, flit.link, flit.cycle), flit)).collect();
    for (chip, (Program { data, .. }, Traffic { sends, .. })) in programs.iter().zip(traffic).enumerate() {
        found.unless(data.chip as usize == chip, "L3", || format!("the program of chip {chip} is for chip {}", data.chip));
        for flit in sends {
            let what = || format!("chip {chip}, {}", flit.what);
            let Some(end) = data.links.iter().find(|end| end.link == flit.link) else {
                found.unless(false, "L3", || format!("{}: the link leads nowhere", what()));
                continue;
            };
            found.unless(end.chip as usize > chip, "L6", || format!("{}: goes back to chip {}", what(), end.chip));
            let to = end.chip as usize;
            let back = programs.get(to).map(|program| &program.data).filter(|data| {
                data.links.iter().any(|back| (back.link, back.chip as usize, back.end) == (end.end, chip, end.link))
            });
            let Some(there) = back else {
                found.unless(false, "L3", || format!("{}: the link does not lead back from chip {to}", what()));
                continue;
            };
            let key = (to, end.end, flit.cycle + timing.hop);
            let Some(receive) = receives.get(&key) else {
                found.unless(false, "L3", || format!("{}: chip {to} does not receive it {} cycles later", what(), timing.hop));
                continue;
            };
            taken.insert(key, true);
            let lanes = |carried: &[Carried], at: usize| carried.get(at).map(|carried| carried.lanes.clone());
            let same = flit.byte.is_some()
                && flit.byte == receive.byte
                && flit.byte.is_some_and(|(at, _)| lanes(&data.sent, at) == lanes(&there.received, at));
            found.unless(same, "L4", || format!("{}: is not what chip {to} keeps, by {}", what(), receive.what));
            carried[chip] += usize::from(same);
        }
        waiting(chip, sends, timing, found);
    }
    for (key, flit) in &receives {
        found.unless(taken.contains_key(key), "L3", || format!("chip {}, {}: nothing was sent", key.0, flit.what));
    }
    for (chip, Program { data, .. }) in programs.iter().enumerate() {
        // Each was found at both ends, so it is enough that there are as many as there should be.
        let whole = carried[chip] == 4 * data.sent.len();
        found.unless(whole, "L4", || format!("chip {chip} sends {} of {} vectors", carried[chip], 4 * data.sent.len()));
        let before = chip.checked_sub(1).map_or(0, |before| programs[before].data.sent.len());
        found.unless(data.received.len() == before, "L4", || format!("chip {chip} expects what nobody sends"));
    }
}

/// Whether what waits at the end of a link has room there, and is there when it is received, whatever the latency.
fn waiting(chip: usize, sends: &[Flit], timing: &Timing, found: &mut Found) {
    found.unless(timing.latency_max <= timing.hop, "L5", || "a vector can come later than it is received".to_owned());
    let mut links: BTreeMap<u8, Vec<&Flit>> = BTreeMap::new();
    sends.iter().for_each(|flit| links.entry(flit.link).or_default().push(flit));
    for flits in links.values() {
        for (at, last) in flits.iter().enumerate() {
            // The last one is there as early as it can be; those that have not been received by then wait with it.
            let then = last.cycle + timing.latency_min;
            let waiting = flits[..=at].iter().filter(|flit| flit.cycle + timing.hop >= then).count() as i64;
            found.unless(waiting <= timing.buffer, "L5", || format!("chip {chip}, {}: {waiting} vectors wait", last.what));
        }
    }
}
