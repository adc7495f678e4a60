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
const OF_8B: Shape = Shape { hidden: 4096, heads: 32, kv_heads: 8, dim: 128, ffn: 14_336, layers: 1, vocab: 256, ..SMALL };
const OF_A_QUARTER: Shape = Shape { hidden: 1024, heads: 8, kv_heads: 2, ffn: 3584, ..OF_8B };

/// Cycles that the phases of a layer take at least, each by itself, one after the other: a linear layer's weights enter the planes, 20480 in a
/// cycle; of anything else, what the busiest kind of unit is given is spread evenly over its units.
fn bounds(toy: &Toy, program: &Program) -> f64 {
    let mut given: BTreeMap<(u32, Unit), u64> = BTreeMap::new();
    for (queue, issues) in &program.queues {
        for issue in expand(*queue, issues).unwrap() {
            *given.entry((program.data.ops[issue.op as usize].node, queue.unit())).or_default() += 1;
        }
    }
    let units = |unit| Queue::all().filter(|queue| queue.unit() == unit).count() as f64;
    let mut total = 0.0;
    for (node, name) in (0u32..).zip(&program.data.nodes) {
        let id = toy.graph.ids().find(|id| toy.graph.node(*id).name == *name).unwrap();
        let weight = toy.graph.node(id).op.layer_weight().map(|weight| toy.params[weight]);
        total += match weight {
            Some(packed) => (packed.rows * packed.cols) as f64 / 20_480.0,
            None => given
                .iter()
                .filter(|((of, _), _)| *of == node)
                .map(|((_, unit), n)| *n as f64 / units(*unit))
                .fold(0.0, f64::max),
        };
    }
    total
}

/// Cycles of a step over their bound, both without what stands behind the layer.
fn ratio(shape: Shape, context: u64) -> f64 {
    let toy = headers(shape);
    let files = lower(&toy, context, Some(1)).files;
    let program = q35_tsp::binary::read(&files["groq/program.tsp"]).unwrap();
    let violations = check(&program, &Timing::tsp1());
    assert!(violations.is_empty(), "{}", violations[0]);
    let (cycles, bound) = (f64::from(program.data.cycles), bounds(&toy, &program));
    println!("{} columns: {cycles} cycles, bound {bound:.0}, ratio {:.3}", shape.hidden, cycles / bound);
    cycles / bound
}

#[test]
fn a_layer_of_an_8b_model_is_near_the_sum_of_its_bounds() {
    let found = ratio(OF_A_QUARTER, 64);
    assert!(found < 5.3, "{found}");
    if std::env::var_os("Q35_FULL").is_some() {
        let found = ratio(OF_8B, 64);
        assert!(found < 1.9, "{found}");
    }
}
