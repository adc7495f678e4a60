//! A toy model in C behind a real bundle, and what it must compute, in plain Rust over one sequence at a time.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use q35_bundle::*;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;

pub const VOCAB: usize = 10;
pub const CONTEXT: usize = 64;

/// The embedding and the head: small numbers without pattern.
pub fn table() -> Vec<[f32; 4]> {
    (0..VOCAB).map(|v| [0, 1, 2, 3].map(|c| ((v * 31 + c * 17 + 5) % 23) as f32 / 16.0 - 0.7)).collect()
}

/// One entry of the cache: key and value of both heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    pub key: [[f32; 2]; 2],
    pub value: [[f32; 2]; 2],
}

/// Continues a sequence; returns the logits of every token.
pub fn reference(cache: &mut Vec<Entry>, tokens: &[u32], positions: &[u32]) -> Vec<Vec<f32>> {
    let table = table();
    let one = |(token, position): (&u32, &u32)| {
        let x = table[*token as usize];
        let value = [[x[0], x[1]], [x[2], x[3]]];
        cache.push(Entry { key: value.map(|head| head.map(|v| *position as f32 + v)), value });
        let mut y = x;
        for (column, y) in y.iter_mut().enumerate() {
            for (j, entry) in cache.iter().enumerate() {
                let (head, age) = (column / 2, cache.len() - 1 - j);
                *y += entry.key[head][0] * entry.value[head][column % 2] / (1 + age) as f32;
            }
        }
        table.iter().map(|row| row.iter().zip(y).map(|(a, b)| b * a).sum()).collect()
    };
    tokens.iter().zip(positions).map(one).collect()
}

/// Logits after each of `tokens`, positions counted from 0.
pub fn logits(tokens: &[u32]) -> Vec<Vec<f32>> {
    reference(&mut vec![], tokens, &(0..tokens.len() as u32).collect::<Vec<_>>())
}

/// Greedy continuation.
pub fn greedy(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut all = prompt.to_vec();
    for _ in 0..count {
        let last = logits(&all).pop().unwrap();
        let best = (0..VOCAB).rev().max_by(|a, b| last[*a].total_cmp(&last[*b])).unwrap();
        all.push(best as u32);
    }
    all.split_off(prompt.len())
}

fn port(name: &str, role: Role, dtype: &str) -> Port {
    Port { name: name.into(), role, dtype: dtype.into() }
}

/// The interface of a graph with a cache, a mask, and an input that it hands back.
pub fn interface(positions: PositionRule) -> Interface {
    Interface {
        inputs: vec![
            port("input_ids", Role::TokenIds, "i64"),
            port("attention_mask", Role::AttentionMask, "i64"),
            port("position_ids", Role::PositionIds, "i64"),
            port("past.0.key", Role::PastKey(0), "f32"),
            port("past.0.value", Role::PastValue(0), "f32"),
            port("window", Role::Passive(None), "i64"),
        ],
        outputs: vec![
            port("logits", Role::Logits, "f32"),
            port("present.0.key", Role::PresentKey(0), "f32"),
            port("present.0.value", Role::PresentValue(0), "f32"),
            port("window_out", Role::Passive(Some("window".into())), "i64"),
        ],
        positions,
    }
}

pub fn manifest() -> Manifest {
    let arena = |offset_per_row| Binding::Arena { rows: Rows::Tokens, offset_per_row };
    let cache = |part| Binding::Cache { layer: 0, part };
    let step = |op: &str, args: Vec<Binding>| Step {
        node: format!("toy.{op}"),
        op: op.into(),
        rows: Rows::Tokens,
        variants: vec![Variant { max_rows: None, kernel: op.into(), tiles: Size::per(1, Dim::Tokens) }],
        args,
    };
    use Input::*;
    let (table, tiles) = (|| Binding::Weight("table".into()), Size::constant(VOCAB as u64));
    Manifest {
        schema: SCHEMA,
        compiler: "by hand".into(),
        options: Default::default(),
        model: ModelFacts {
            name: "toy".into(),
            vocab: VOCAB as u64,
            hidden: 4,
            layers: 1,
            context: CONTEXT as u64,
            parameters: 40,
        },
        interface: interface(PositionRule::Given),
        device: Device::Cpu(CpuDevice {
            arch: std::env::consts::ARCH.into(),
            object: "cpu/model.so".into(),
            prefix: "toy_".into(),
            levels: vec![
                Level { name: "mind".into(), requires: vec!["telepathy".into()] },
                Level { name: "base".into(), requires: vec![] },
            ],
        }),
        plan: MemoryPlan {
            bytes_per_token: 128,
            bytes_per_logit_row: 128,
            cache: vec![CacheLayer { kv_heads: 2, key_dim: 2, value_dim: 2, window: None, dtype: CacheDtype::F32 }],
            logits_offset_per_row: 64,
            chosen_offset_per_row: None,
        },
        steps: vec![
            step("embed", vec![Binding::Input(Tokens), table(), arena(0)]),
            step(
                "append",
                vec![
                    arena(0),
                    Binding::Input(Positions),
                    Binding::Input(Slots),
                    Binding::Input(Index),
                    cache(CachePart::Key),
                    cache(CachePart::Value),
                ],
            ),
            step(
                "mix",
                vec![
                    arena(0),
                    Binding::Input(Slots),
                    Binding::Input(Index),
                    cache(CachePart::Key),
                    cache(CachePart::Value),
                    arena(64),
                ],
            ),
            Step {
                rows: Rows::Logits,
                variants: vec![
                    Variant { max_rows: Some(2), kernel: "head_few".into(), tiles: tiles.clone() },
                    Variant { max_rows: None, kernel: "head_many".into(), tiles },
                ],
                ..step(
                    "linear",
                    vec![
                        arena(64),
                        Binding::Input(LogitRows),
                        table(),
                        Binding::Arena { rows: Rows::Logits, offset_per_row: 64 },
                    ],
                )
            },
        ],
        weights: [(
            "table".to_owned(),
            WeightEntry { codec: "f32".into(), shape: [VOCAB as u64, 4], group: 0, effective_bits: 32.0 },
        )]
        .into(),
        files: Default::default(),
    }
}

/// The shared object, compiled once per test program.
fn object() -> &'static [u8] {
    static OBJECT: OnceLock<Vec<u8>> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/toy/kernels.c");
        let out = dir.path().join("toy.so");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let status = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-ffp-contract=off", "-o"])
            .args([&out, &source])
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::read(out).unwrap()
    })
}

/// Writes a bundle with the toy's object and weights, and further files.
pub fn write(out: &Path, manifest: Manifest, files: &[(&str, &[u8])]) -> PathBuf {
    let mut bundle = BundleWriter::create(out).unwrap();
    let mut weights =
        bundle.weights(&[TensorSpec { name: "table".into(), dtype: Dtype::F32, shape: vec![VOCAB as u64, 4] }]).unwrap();
    let bytes: Vec<u8> = table().iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    weights.write("table", &bytes).unwrap();
    weights.finish().unwrap();
    bundle.add_file("cpu/model.so", object()).unwrap();
    for (rel, bytes) in files {
        bundle.add_file(rel, *bytes).unwrap();
    }
    bundle.finish(manifest).unwrap()
}

/// A bundle of the given manifest, opened, and the folder that must outlive it.
pub fn bundle_of(manifest: Manifest) -> (TempDir, Arc<Bundle>) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("toy.q35"), manifest, &[]);
    (dir, Arc::new(Bundle::open(&path).unwrap()))
}

pub fn bundle() -> (TempDir, Arc<Bundle>) {
    bundle_of(manifest())
}

/// A tokenizer whose token `n` is the word `wn`, bytes of a character for 8 and 9, and `w0` special.
pub const TOKENIZER: &str = r#"{"version":"1.0","truncation":null,"padding":null,"normalizer":null,"post_processor":null,
    "added_tokens":[{"id":0,"content":"w0","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "pre_tokenizer":{"type":"WhitespaceSplit"},"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"}]},
    "model":{"type":"WordLevel","unk_token":"w1","vocab":{"w0":0,"w1":1,"w2":2,"w3":3,"w4":4,"w5":5,"w6":6,"w7":7,"<0xC3>":8,"<0xA9>":9}}}"#;
