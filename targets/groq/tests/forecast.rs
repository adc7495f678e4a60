//! Chips and speed of large models, from their shapes alone: predictions of a model of the chip.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test may panic

mod support;

use q35_target::{Request, Target};
use q35_target_groq::Groq;
use support::llama::{SMALL, Shape, headers};

/// The shape of the second generation of LLaMA models and those after it.
fn shape(layers: u32, hidden: usize, heads: usize, ffn: usize) -> Shape {
    Shape { layers, hidden, heads, kv_heads: 8, dim: 128, ffn, vocab: 128_256, ..SMALL }
}

#[test]
fn large_models_take_nodes_of_chips() {
    let models = [
        ("8B", shape(32, 4096, 32, 14_336)),
        ("70B", shape(80, 8192, 64, 28_672)),
        ("405B", shape(126, 16_384, 128, 53_248)),
        ("8 x 7B", Shape { experts: Some((8, 2)), vocab: 32_000, ..shape(32, 4096, 32, 14_336) }),
    ];
    let mut seen = Vec::new();
    for (name, shape) in models {
        let toy = headers(shape);
        let request = Request::new(&toy.graph, &toy.params, "", 8192);
        let errors = Groq.check(&request).unwrap_err().to_string();
        let numbers = errors.split_once("it needs ").and_then(|(_, rest)| {
            let (chips, rest) = rest.split_once(" chips at least, where ")?;
            let (tokens, _) = rest.split_once(" tokens/s are predicted")?;
            Some((chips.parse::<u64>().ok()?, tokens.parse::<u64>().ok()?))
        });
        let Some((chips, tokens)) = numbers else { panic!("{errors}") };
        println!("{name:>7}: {chips} chips, {tokens} tokens/s");
        seen.push((chips, tokens));
    }
    assert!(seen.iter().all(|(chips, _)| chips.is_multiple_of(8)), "{seen:?}");
    // Larger models take more chips and are slower; a mixture is as large as all of its experts, and as slow as those it chooses.
    assert!(seen[0].0 < seen[3].0 && seen[3].0 < seen[1].0 && seen[1].0 < seen[2].0, "{seen:?}");
    assert!(seen[0].1 > seen[3].1 && seen[3].1 > seen[1].1 && seen[1].1 > seen[2].1, "{seen:?}");
}

/// Of 2048 columns, 64 pairs are left over after three full tiles: five output vectors share a tile of them as long as their weights are bytes, so
/// that dense tiles take more memory, not less.
#[test]
fn a_dense_layer_may_be_the_larger_one() {
    let shape = Shape { layers: 22, hidden: 2048, heads: 32, kv_heads: 4, dim: 64, ffn: 5632, vocab: 32_000, ..SMALL };
    let toy = headers(shape);
    let outlook = Groq.outlook(&Request::new(&toy.graph, &toy.params, "", 64)).unwrap();
    let chips: u64 = outlook[0].1.parse().unwrap();
    // 1.03 billion weights in four bits or three and a half, and a chip holds some 184 MB.
    assert!((3..6).contains(&chips), "{outlook:?}");
}

/// All entries of the cache are visited, so that a longer context takes longer.
#[test]
fn attention_takes_as_long_as_the_context() {
    let toy = headers(shape(8, 4096, 32, 14_336));
    let rate = |context| {
        let outlook = Groq.outlook(&Request::new(&toy.graph, &toy.params, "", context)).unwrap();
        outlook[1].1.split_once(" tokens/s").unwrap().0.parse::<f64>().unwrap()
    };
    let [short, long, longer] = [64, 1024, 2048].map(rate);
    assert!(short > 2.0 * long && long > 1.5 * longer && long < 2.5 * longer, "{short} {long} {longer}");
}
