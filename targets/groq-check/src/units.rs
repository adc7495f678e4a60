//! Rules V, P, X and N: ALUs, permutors, planes.

use crate::{Event, Found};
use q35_tsp::geometry::{COLUMNS_PER_LOAD, LANES, Side, Unit, linked};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, BTreeSet};

/// Products that one accumulator may gain without leaving 32 bits: each is of 320 pairs of bytes.
const MOST_PRODUCTS: i64 = i32::MAX as i64 / (LANES as i64 * 128 * 128);

pub(crate) fn check(events: &[Event], timing: &Timing, found: &mut Found) {
    alus(events, timing, found);
    for side in Side::ALL {
        let mine = |event: &&Event| event.queue.unit() == Unit::Permute && event.queue.side() == side;
        permutor(&events.iter().filter(mine).collect::<Vec<_>>(), timing, found);
    }
    for plane in 0..q35_tsp::geometry::PLANES {
        let units = [Unit::Weights, Unit::Activations, Unit::Results];
        let mine = |event: &&Event| units.contains(&event.queue.unit()) && event.queue.index() == plane;
        let mine: Vec<&Event> = events.iter().filter(mine).collect();
        weights(&mine, timing, found);
        accumulators(&mine, timing, found);
    }
}

fn alus(events: &[Event], timing: &Timing, found: &mut Found) {
    let mut results: BTreeMap<(u8, i64), (&Event, bool)> = BTreeMap::new();
    let computes = || events.iter().filter(|event| event.queue.unit() == Unit::Alu);
    for event in computes() {
        let driven = !matches!(event.issue.instr, Instr::Compute { out: Sink::Nothing, .. });
        results.insert((event.queue.index(), event.cycle + timing.op), (event, driven));
    }
    for event in computes() {
        let Instr::Compute { op, a, b, .. } = event.issue.instr else { continue };
        for source in [a, b].into_iter().take(op.arity()) {
            let Source::Alu(from) = source else { continue };
            found.unless(linked(from, event.queue.index()), "V1", || format!("{event}: alu{from:02} is not linked to it"));
            match results.get_mut(&(from, event.cycle)) {
                Some((_, used)) => *used = true,
                None => found.unless(false, "V1", || format!("{event}: alu{from:02} has no result in this cycle")),
            }
        }
    }
    for (event, used) in results.values() {
        found.unless(*used, "V2", || format!("{event}: nobody uses the result"));
    }
}

fn permutor(events: &[&Event], timing: &Timing, found: &mut Found) {
    let is_map = |event: &&&Event| matches!(event.issue.instr, Instr::SetMap { .. });
    let maps: Vec<(i64, &Event)> = events.iter().filter(is_map).map(|event| (event.cycle + timing.map, *event)).collect();
    let mut used = BTreeSet::new();
    for event in events.iter().filter(|event| !is_map(event)) {
        match maps.iter().rposition(|(from, _)| *from <= event.cycle) {
            Some(map) => drop(used.insert(map)),
            None => found.unless(false, "P1", || format!("{event}: there is no map yet")),
        }
    }
    for (at, (_, event)) in maps.iter().enumerate() {
        found.unless(used.contains(&at), "P1", || format!("{event}: nobody uses the map"));
    }
}

fn weights(events: &[&Event], timing: &Timing, found: &mut Found) {
    let cycles = |wanted: fn(&Instr) -> bool, after: i64| -> Vec<(i64, &Event)> {
        let mine = events.iter().filter(|event| wanted(&event.issue.instr));
        mine.map(|event| (event.cycle + after, *event)).collect()
    };
    // When columns are in the buffer, and when it moves into the array: at once with the last columns.
    let installs = cycles(|instr| matches!(instr, Instr::Install { .. }), timing.weights);
    let loads = cycles(|instr| matches!(instr, Instr::Load { .. } | Instr::Install { .. }), timing.weights);
    let multiplies = cycles(|instr| matches!(instr, Instr::Multiply { .. }), 0);
    let mut after = i64::MIN;
    for (at, (install, event)) in installs.iter().enumerate() {
        let mine = |(load, _): &&(i64, &Event)| (after..=*install).contains(load);
        let columns = loads.iter().filter(mine).count() * COLUMNS_PER_LOAD;
        found.unless((1..=LANES).contains(&columns), "X1", || format!("{event}: {columns} columns"));
        for (_, load) in loads.iter().filter(mine) {
            found.unless(load.issue.op == event.issue.op, "X1", || format!("{event}: installs another macro-op's {load}"));
        }
        let next = installs.get(at + 1).map_or(i64::MAX, |(next, _)| *next);
        let users: Vec<&(i64, &Event)> = multiplies.iter().filter(|(cycle, _)| (*install..next).contains(cycle)).collect();
        found.unless(!users.is_empty(), "X2", || format!("{event}: nobody uses the weights"));
        for (cycle, user) in users {
            found.unless(user.issue.op == event.issue.op, "X2", || format!("{user}: meets another macro-op's weights"));
            let whole = install + timing.install <= *cycle && cycle + timing.multiply <= next;
            found.unless(whole, "X2", || format!("{event}: the multiplication in cycle {cycle} meets changing weights"));
        }
        after = install + 1;
    }
    let last = installs.last().map_or(i64::MIN, |(install, _)| *install);
    let first = installs.first().map_or(i64::MAX, |(install, _)| *install);
    for (load, event) in loads {
        found.unless(load <= last, "X1", || format!("{event}: never installed"));
    }
    for (multiply, event) in multiplies {
        found.unless(multiply >= first, "X2", || format!("{event}: no weights yet"));
    }
}

fn accumulators(events: &[&Event], timing: &Timing, found: &mut Found) {
    /// Products so far, when the last is through, whether it was emitted.
    struct Sum {
        products: i64,
        through: i64,
        emitted: bool,
    }
    let mut sums: BTreeMap<u8, Sum> = BTreeMap::new();
    for event in events {
        match event.issue.instr {
            Instr::Multiply { accumulator, add, .. } => {
                found.unless(i64::from(accumulator) < timing.accumulators, "X3", || {
                    format!("{event}: there is no such accumulator")
                });
                found.unless(add < 2, "X3", || format!("{event}: neither sets nor adds"));
                let through = event.cycle + timing.multiply;
                let before = sums.get(&accumulator);
                let products = if add == 0 {
                    found.unless(before.is_none_or(|sum| sum.emitted), "X3", || format!("{event}: loses a sum"));
                    1
                } else {
                    found.unless(before.is_some_and(|sum| !sum.emitted), "X3", || format!("{event}: adds to nothing"));
                    before.map_or(0, |sum| sum.products) + 1
                };
                found.unless(products <= MOST_PRODUCTS, "N1", || format!("{event}: the sum can leave 32 bits"));
                sums.insert(accumulator, Sum { products, through, emitted: false });
            }
            Instr::Emit { accumulator, .. } => {
                let whole = sums.get(&accumulator).is_some_and(|sum| sum.through <= event.cycle && !sum.emitted);
                found.unless(whole, "X3", || format!("{event}: the sum is not complete, or was emitted before"));
                if let Some(sum) = sums.get_mut(&accumulator) {
                    sum.emitted = true;
                }
            }
            _ => {}
        }
    }
    for (accumulator, sum) in sums {
        found.unless(sum.emitted, "X3", || format!("the sum in accumulator {accumulator} is never emitted"));
    }
}
