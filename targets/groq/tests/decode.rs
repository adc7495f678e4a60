//! Whole decode steps: the simulator, from the emitted bytes, against the interpreter.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test may panic

mod support;

use q35_dialects::interp::{Session, StepInput};
use q35_dialects::q35::RopeStyle;
use q35_groq_check::check;
use q35_tsp::timing::Timing;
use q35_tsp_sim::{Chip, host};
use support::Toy;
use support::llama::{SMALL, Shape, compile, llama};

/// Integers are exact; floats differ by a few units in the last place, unless a rounding to 8 bits falls between the two.
const TOLERANCE: f32 = 1e-5;

/// Decodes tokens and compares logits with the interpreter's, relative to the largest.
fn compare(toy: &Toy, context: u64, tokens: &[u32], tolerance: f32) {
    let program = compile(toy, context);
    let violations = check(&program, &Timing::tsp1());
    assert!(violations.is_empty(), "{}", violations[0]);
    let mut chip = Chip::new(&program, Timing::tsp1()).unwrap();
    host::load(&mut chip, &program.data, toy).unwrap();
    let mut session = Session::new(&toy.graph, &toy.values);
    let vocab = toy.values.get(&"head".into()).unwrap().shape().0;
    for (entry, token) in (0u32..).zip(tokens) {
        let step = host::Step { token: *token, position: entry, entry };
        host::feed(&mut chip, &program.data, toy, step).unwrap();
        chip.run().unwrap_or_else(|fault| panic!("{fault}"));
        let mut logits = vec![f32::NAN; vocab];
        host::logits(&chip, &program.data, &mut logits).unwrap();
        let expected = session.step(&StepInput::sequence(&[*token], entry)).unwrap().data;
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let error = expected.iter().zip(&logits).map(|(a, b)| (a - b).abs() / largest).fold(0f32, f32::max);
        assert!(error <= tolerance, "token {entry}: error {error} of {largest}\n{logits:?}\n{expected:?}");
    }
}

#[test]
fn a_small_llama_decodes_as_the_interpreter_says() {
    compare(&llama(SMALL, 1), 11, &[3, 69, 0, 12, 12, 40], TOLERANCE);
}

#[test]
fn heads_of_one_group_norms_of_heads_and_turned_neighbours() {
    let shape = Shape { heads: 2, style: RopeStyle::Interleaved, head_norm: true, layers: 1, ..SMALL };
    compare(&llama(shape, 2), 16, &[1, 2, 3], TOLERANCE);
}

/// Heads that share a cache stand in rounds: beside one another where there is room, three of a group that cannot be halved, and rotated after.
#[test]
fn heads_in_rounds() {
    let shape = |heads, kv_heads| Shape { hidden: 128, heads, kv_heads, dim: 128, layers: 1, ..SMALL };
    compare(&llama(shape(12, 4), 4), 70, &[5, 60], TOLERANCE);
    compare(&llama(Shape { turned: true, head_norm: true, ..shape(16, 2) }, 5), 11, &[5, 60], TOLERANCE);
    compare(&llama(Shape { turned: true, ..shape(12, 2) }, 5), 11, &[5], TOLERANCE);
}

/// Activations that are packed: what is left over after full tiles is shared by output vectors, or by few of them, or nothing is left. Those that
/// experts read are not.
#[test]
fn packed_activations() {
    let shape = |hidden, ffn| Shape { hidden, heads: 2, kv_heads: 2, dim: 32, ffn, layers: 1, folded: true, ..SMALL };
    compare(&llama(shape(2048, 2560), 8), 11, &[5, 60], TOLERANCE);
    compare(&llama(Shape { experts: Some((4, 2)), ..shape(2176, 64) }, 8), 11, &[5], TOLERANCE);
}

/// More than one chunk of 512 columns everywhere, rotations over several vectors, a cache of several blocks.
#[test]
fn wide_layers() {
    let shape = Shape { hidden: 1024, heads: 10, kv_heads: 5, dim: 64, ffn: 1536, layers: 1, vocab: 600, ..SMALL };
    compare(&llama(shape, 3), 40, &[500, 2], TOLERANCE);
}

/// Experts that are no power of two, chosen by both scorings; and as many as fill more than one superlane's lanes.
#[test]
fn mixtures_of_experts() {
    for (experts, choices) in [(6, 2), (40, 3)] {
        let shape = Shape { experts: Some((experts, choices)), ..SMALL };
        compare(&llama(shape, 6), 11, &[3, 69, 0, 12], TOLERANCE);
    }
}

#[test]
fn the_same_model_gives_the_same_program() {
    assert_eq!(compile(&llama(SMALL, 1), 11), compile(&llama(SMALL, 1), 11));
}
