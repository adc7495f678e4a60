//! What decoding reads of a mixture of experts, counted in pages.
//!
//! The processor marks every page that it touches. Before a step the marks of the weights are cleared, after it they are counted: neither the
//! runtime's figures nor its routing are asked.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_bundle::{Binding, Bundle};
use q35_import::synth::{Checkpoint, Fill, Stored};
use q35_runtime::{Chunk, Options, Session, Want, traffic};
use std::fs;
use std::hint::black_box;
use std::sync::Arc;

/// Bytes of a page, or less.
const PAGE: usize = 4096;

/// Eight experts in each of two layers, two of them per token. They are nine tenths of the weights.
const MIXTRAL: &str = r#"{"model_type": "mixtral", "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5}"#;

pub(crate) fn trials() -> Vec<Trial> {
    // Not every system lets a process clear its marks.
    if fs::write("/proc/self/clear_refs", "1").is_err() {
        return vec![];
    }
    vec![Trial::test("traffic/decoding-reads-the-chosen-experts", || Ok(chosen()?))]
}

/// Bytes of the mapped weights that have been touched since the marks were cleared.
fn touched() -> Result<u64, String> {
    let maps = fs::read_to_string("/proc/self/smaps").map_err(|e| e.to_string())?;
    let (mut weights, mut total) = (false, 0);
    for line in maps.lines() {
        match line.split_once(':') {
            Some(("Referenced", size)) if weights => {
                let kilobytes = size.trim().strip_suffix("kB").and_then(|n| n.trim().parse::<u64>().ok());
                total += kilobytes.ok_or_else(|| format!("no size in '{line}'"))? << 10;
            }
            // The line that begins a mapping has its range, and its file at the end.
            Some((range, _)) if range.contains('-') => weights = line.ends_with("/weights.safetensors"),
            _ => {}
        }
    }
    Ok(total)
}

/// Reads every weight, so that a step brings no page into memory beside those that it touches.
fn read_all(bundle: &Bundle) -> u64 {
    let args = bundle.manifest().steps.iter().flat_map(|step| &step.args);
    let data = args.filter_map(|arg| if let Binding::Weight(name) = arg { bundle.tensor(name) } else { None });
    data.map(|tensor| {
        black_box(tensor.data.iter().step_by(PAGE).fold(0u8, |sum, byte| sum ^ byte));
        tensor.data.len() as u64
    })
    .sum()
}

fn chosen() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let checkpoint = Checkpoint { config: MIXTRAL, stored: Stored::Bf16, fill: Fill::Seeded(1), shard: 5 << 30 };
    checkpoint.write(folder.path(), |_, _| ()).map_err(|e| e.to_string())?;
    let out = folder.path().join("x.q35");
    program::run("q35c", &["compile", path(folder.path()), "--codec", "split", "--quiet", "-o", path(&out)]).success()?;
    let bundle = Arc::new(Bundle::open(&out).map_err(|e| e.to_string())?);
    let options = Options { slots: 8, capacity: 16, threads: Some(2), ..Options::default() };
    let mut session = Session::new(bundle.clone(), &options).map_err(|e| e.to_string())?;
    let all = read_all(&bundle);
    let mut step = |tokens: &[u32]| -> Result<u64, String> {
        fs::write("/proc/self/clear_refs", "1").map_err(|e| e.to_string())?;
        let chunk = |(slot, token)| Chunk { slot, tokens: std::slice::from_ref(token), positions: None, want: Want::Last };
        session.step(&tokens.iter().enumerate().map(chunk).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        touched()
    };
    let (one, eight) = (step(&[2])?, step(&[3, 5, 8, 13, 21, 34, 55, 89])?);
    // What measurements report: for one token it is exact, for more of them it is a bound.
    let [told, bound] = [1, 8].map(|tokens| traffic::of_step(&bundle, tokens, tokens));
    println!("{all} bytes of weights; one token touches {one}, {told} told; eight touch {eight}, at most {bound} told");
    let within = |found: u64, low: f64, high: f64| (low..=high).contains(&(found as f64));
    let (told, bound, all) = (told as f64, bound as f64, all as f64);
    match within(one, 0.97 * told, 1.05 * told) && within(eight, told, 1.05 * bound) && told < 0.4 * all {
        true => Ok(()),
        false => {
            Err(format!("one token touched {one} bytes of {all}, and {told} are told; eight touched {eight}, {bound} told"))
        }
    }
}
