//! Whole layers: sound, and how far their schedules are from the bounds of their phases.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test may panic

mod support;

use q35_groq_check::check;
use q35_tsp::geometry::{Queue, Unit};
use q35_tsp::program::{Program, expand};
use q35_tsp::timing::Timing;
use std::collections::BTreeMap;
use support::Toy;
use support::llama::{SMALL, Shape, headers, lower};

/// The shape of the third generation's smallest model, but for its vocabulary.
const OF_8B: Shape =
    Shape { hidden: 4096, heads: 32, kv_heads: 8, dim: 128, ffn: 14_336, layers: 1, vocab: 256, folded: true, ..SMALL };
const OF_A_QUARTER: Shape = Shape { hidden: 1024, heads: 8, kv_heads: 2, ffn: 3584, ..OF_8B };

/// Cycles from the first dispatch to the last of the layer, and what its phases take at least, each by itself, one after the other: a linear
/// layer's weights enter the planes, 20480 in a cycle; of anything else, what the busiest kind of unit is given is spread evenly over its units.
fn cycles(toy: &Toy, program: &Program) -> (u32, f64) {
    let head = program.data.nodes.iter().position(|name| name.contains("select")).unwrap() as u32;
    let (mut given, mut last): (BTreeMap<(u32, Unit), u64>, u32) = Default::default();
    let mut spans: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (queue, issues) in &program.queues {
        for issue in expand(*queue, issues).unwrap() {
            let node = program.data.ops[issue.op as usize].node;
            if node < head {
                *given.entry((node, queue.unit())).or_default() += 1;
                last = last.max(issue.cycle);
                let span = spans.entry(node).or_insert((issue.cycle, issue.cycle));
                *span = (span.0.min(issue.cycle), span.1.max(issue.cycle));
            }
        }
    }
    let units = |unit| Queue::all().filter(|queue| queue.unit() == unit).count() as f64;
    let bound = |(node, name): (u32, &String)| {
        let id = toy.graph.ids().find(|id| toy.graph.node(*id).name == *name).unwrap();
        let weight = toy.graph.node(id).op.layer_weight().map(|weight| toy.params[weight]);
        let bound = match weight {
            Some(packed) => (packed.rows * packed.cols) as f64 / 20_480.0,
            None => given
                .iter()
                .filter(|((of, _), _)| *of == node)
                .map(|((_, unit), n)| *n as f64 / units(*unit))
                .fold(0.0, f64::max),
        };
        if let Some((first, last)) = spans.get(&node) {
            println!("{name:>20}: cycles {first:>5} to {last:>5}, {bound:>4.0} at least");
        }
        bound
    };
    let total = (0..head).zip(&program.data.nodes).map(bound).sum();
    (last + 1, total)
}

/// Cycles of a layer over their bound.
fn ratio(shape: Shape, context: u64) -> f64 {
    let toy = headers(shape);
    let files = lower(&toy, context, Some(1)).files;
    let program = q35_tsp::binary::read(&files["groq/program.tsp"]).unwrap();
    let violations = check(&program, &Timing::tsp1());
    assert!(violations.is_empty(), "{}", violations[0]);
    let (cycles, bound) = cycles(&toy, &program);
    // The report says the same of each phase, in whole cycles.
    let report: serde_json::Value = serde_json::from_slice(&files["groq/report.json"]).unwrap();
    let phases = report["nodes"].as_array().unwrap();
    let layer = phases.iter().take_while(|phase| phase["op"] != "select");
    let [took, least] = layer.fold([0, 0], |sums, phase| {
        assert!(phase["bound"].as_u64() > Some(0), "{phase}");
        [0, 1].map(|i| sums[i] + phase[["cycles", "bound"][i]].as_u64().unwrap())
    });
    assert_eq!(took, u64::from(cycles));
    assert!((0.0..phases.len() as f64).contains(&(least as f64 - bound)), "{least} and {bound}");
    println!("{} columns: {cycles} cycles, bound {bound:.0}, ratio {:.3}", shape.hidden, f64::from(cycles) / bound);
    f64::from(cycles) / bound
}

/// What was seen is 3.58 and 1.455. A smaller layer is further away: its weights take less, and sums over all lanes take as long.
#[test]
fn a_layer_of_an_8b_model_is_near_the_sum_of_its_bounds() {
    let found = ratio(OF_A_QUARTER, 64);
    assert!(found < 3.8, "{found}");
    if std::env::var_os("Q35_FULL").is_some() {
        let found = ratio(OF_8B, 64);
        assert!(found < 1.5, "{found}");
    }
}
