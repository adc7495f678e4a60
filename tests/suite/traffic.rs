//! What decoding reads of a mixture of experts, counted in pages.
//!
//! Before a step all weights are taken out of the process's memory; after it, the pages that the kernels brought back are counted. The kernel's own
//! book is the oracle: neither the runtime's figures nor its routing are asked.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_bundle::{Binding, Bundle};
use q35_import::synth::{Checkpoint, Fill, Stored};
use q35_runtime::{Chunk, Options, Session, Want, traffic};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

const PAGE: usize = 4096;

/// Eight experts in each of two layers, two of them per token. A matrix of one takes 900 KB, and the system maps 64 KB around what is read.
const MIXTRAL: &str = r#"{"model_type": "mixtral", "vocab_size": 1024, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5}"#;
const EXPERTS: usize = 8;
const CHOSEN: usize = 2;

pub(crate) fn trials() -> Vec<Trial> {
    if !cfg!(target_os = "linux") {
        return vec![];
    }
    vec![Trial::test("traffic/decoding-reads-the-chosen-experts", || Ok(chosen()?))]
}

/// Which bytes of every weight are in memory, a page at a time.
fn resident(bundle: &Bundle) -> std::io::Result<BTreeMap<String, Vec<bool>>> {
    let pages = File::open("/proc/self/pagemap")?;
    let steps = bundle.manifest().steps.iter().flat_map(|step| &step.args);
    let names = steps.filter_map(|arg| if let Binding::Weight(name) = arg { Some(name) } else { None });
    let mut found = BTreeMap::new();
    for name in names {
        let data = bundle.tensor(name).map_or(&[][..], |tensor| tensor.data);
        // Whole pages of this tensor alone.
        let (start, end) = ((data.as_ptr() as usize).div_ceil(PAGE), (data.as_ptr() as usize + data.len()) / PAGE);
        let mut entries = vec![0; end.saturating_sub(start) * 8];
        pages.read_exact_at(&mut entries, start as u64 * 8)?;
        let present = entries.as_chunks::<8>().0.iter().map(|entry| u64::from_ne_bytes(*entry) >> 63 == 1).collect();
        found.insert(name.clone(), present);
    }
    Ok(found)
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
    let mut step = |tokens: &[u32]| -> Result<BTreeMap<String, Vec<bool>>, String> {
        for (name, tensor) in bundle.manifest().steps.iter().flat_map(|step| &step.args).filter_map(|arg| match arg {
            Binding::Weight(name) => Some((name, bundle.tensor(name)?)),
            _ => None,
        }) {
            bundle.release(name, 0..tensor.data.len());
        }
        let chunk = |(slot, token)| Chunk { slot, tokens: std::slice::from_ref(token), positions: None, want: Want::Last };
        session.step(&tokens.iter().enumerate().map(chunk).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
        resident(&bundle).map_err(|e| e.to_string())
    };
    // The first step reads the file; from the second on, what is counted is what is touched.
    step(&[1])?;
    let single = step(&[2])?;
    let mut stacks = 0;
    for (name, pages) in single.iter().filter(|(_, pages)| pages.len() > 1000) {
        let each = pages.len() / EXPERTS;
        let share = |expert: usize| {
            let pages = &pages[expert * each..][..each];
            pages.iter().filter(|present| **present).count() as f64 / each as f64
        };
        let shares: Vec<f64> = (0..EXPERTS).map(share).collect();
        println!("{name}: {shares:.2?}");
        let (read, left) = (shares.iter().filter(|s| **s > 0.95).count(), shares.iter().filter(|s| **s < 0.2).count());
        if (read, left) != (CHOSEN, EXPERTS - CHOSEN) {
            return Err(format!("of the experts in {name}, these shares were read: {shares:.2?}"));
        }
        stacks += 1;
    }
    let bytes =
        |pages: &BTreeMap<String, Vec<bool>>| (pages.values().flatten().filter(|present| **present).count() * PAGE) as f64;
    for (count, found) in [(1, bytes(&single)), (8, bytes(&step(&[3, 5, 8, 13, 21, 34, 55, 89])?))] {
        // The figure that measurements report: for one token it is exact, for more of them it is a bound.
        let told = traffic::of_step(&bundle, count, count) as f64;
        println!("{count} tokens: {found} bytes touched, {told} told");
        if found > 1.15 * told || (count == 1 && found < 0.9 * told) {
            return Err(format!("{count} tokens touched {found} bytes of weights, and {told} are told"));
        }
    }
    if stacks == 0 { Err("no weight has the size of the experts'".into()) } else { Ok(()) }
}
