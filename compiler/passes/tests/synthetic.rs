//! Models of the size people deploy, without their weights.
#![allow(clippy::unwrap_used)] // a test may panic

use q35_import::synth::{Fill, Llama, write_llama};
use q35_passes::raise::{Options, raise};

#[test]
fn a_model_of_seven_billion_weights_raises() {
    let folder = tempfile::tempdir().unwrap();
    let llama = Llama {
        vocab: 32000,
        hidden: 4096,
        ffn: 11008,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        tied: false,
        fill: Fill::Zeros,
    };
    let path = write_llama(&llama, folder.path()).unwrap();
    let imported = q35_import::open(&path).unwrap();
    let started = std::time::Instant::now();
    let model = raise(&imported.graph, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
    println!("raised in {:?}", started.elapsed());
    assert_eq!((model.facts.layers, model.facts.hidden, model.facts.vocab), (32, 4096, 32000));
    let attention = 4096 * 4096 * 2 + 2 * 1024 * 4096;
    let weights = 32 * (attention + 3 * 4096 * 11008 + 2 * 4096) + 2 * 32000 * 4096 + 4096 + 64;
    assert_eq!(model.facts.parameters, weights);
}
