//! A compile needs memory for one tensor, not for the model.
//!
//! The model is synthetic: a gigabyte of weights in an external-data file. The child's peak resident set, which counts the pages of the
//! mapped file that it holds, is read from the kernel while it runs.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_import::synth::{Checkpoint, Fill, Llama, Stored, shape, write_llama};
use q35_tests::corpus;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

/// What everything but the weights may take: the program itself, LLVM at work, thread stacks.
const FIXED: u64 = 300 << 20;

/// How often the largest tensor may be in memory, as f32.
const COPIES: u64 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("memory/a-gigabyte-of-weights-streams", || Ok(one_gigabyte("split")?)),
        Trial::test("memory/a-checkpoint-of-experts-streams", || Ok(checkpoint("experts", MIXTRAL, "split", 512)?)),
        Trial::test("memory/a-run-keeps-below-its-limit", || Ok(limited_run()?)),
        Trial::test("memory/405-billion-weights-are-checked-by-their-headers", || {
            Ok(headers(shape("llama-405b").ok_or("no such shape")?, Stored::Bf16, CHECK)?)
        }),
        Trial::test("memory/a-limit-is-kept-or-told", || Ok(limits()?)),
    ];
    if std::env::var_os("Q35_FULL").is_some() {
        trials.push(Trial::test("memory/20-gigabytes-of-checkpoint-stream", || {
            Ok(checkpoint("20 GB", LLAMA_10B, "split", 3 << 10)?)
        }));
        trials.push(Trial::test("memory/671-billion-weights-of-experts-are-checked-by-their-headers", || {
            Ok(headers(shape("deepseek-v3").ok_or("no such shape")?, Stored::Fp8, CHECK_EXPERTS)?)
        }));
        trials.push(Trial::test("memory/a-gigabyte-of-weights-streams-through-the-trellis", || Ok(one_gigabyte("w8")?)));
    }
    trials
}

/// Mixtral's configuration with other sizes: 300 MB in bf16.
const MIXTRAL: &str = r#"{"model_type": "mixtral", "vocab_size": 4096, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 2,
    "num_attention_heads": 16, "num_key_value_heads": 4, "num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#;

/// LLaMA 3.1 405B's configuration with fewer layers of half the width: 20 GB in bf16.
const LLAMA_10B: &str = r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 12,
    "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": true}"#;

/// Bytes per shard.
const SHARD: u64 = 5 << 30;

/// What a check may take, the program included.
const CHECK: u64 = 100 << 20;
/// The same where there are some 45 000 matrices of experts.
const CHECK_EXPERTS: u64 = 400 << 20;

/// Writes a checkpoint of holes; gives its bytes.
fn sparse(config: &str, stored: Stored, folder: &Path) -> Result<u64, String> {
    let checkpoint = Checkpoint { config, stored, fill: Fill::Zeros, shard: SHARD };
    checkpoint.write(folder, |_, _| ()).map(|written| written.bytes).map_err(|e| e.to_string())
}

/// Compiles a sparse checkpoint within so many MiB.
fn checkpoint(name: &str, config: &str, codec: &str, allowed: u64) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bytes = sparse(config, Stored::Bf16, folder.path())?;
    let out = folder.path().join("x.q35");
    let child = program::command("q35c")
        .args(["compile", path(folder.path()), "--codec", codec, "--quiet", "-o", path(&out)])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| e.to_string())?;
    let peak = peak_of(child)?;
    println!("{name}: {} MiB of weights, peak memory {} MiB, {allowed} MiB allowed", bytes >> 20, peak >> 20);
    if peak >> 20 <= allowed { Ok(()) } else { Err(format!("peak memory {} MiB, {allowed} MiB allowed", peak >> 20)) }
}

/// Compiles at several limits: whoever succeeds has kept them, whoever does not says so, and some of both happen.
fn limits() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    sparse(MIXTRAL, Stored::Bf16, folder.path())?;
    let out = folder.path().join("x.q35");
    let example = corpus::tiny_llama();
    let text = example.folder.join("calibration.txt");
    let nearest = ["compile", path(folder.path()), "--codec", "split", "--quiet", "-o", path(&out)];
    let calibrated = [
        &["compile", path(&example.model), "--quiet", "-o", path(&out), "--effort", "best", "--calibrate", path(&text)][..],
        &["--sequences", "2", "--codec", "split", "--levels", "base"],
    ]
    .concat();
    for (what, args) in [("nearest", &nearest[..]), ("calibrated", &calibrated)] {
        let mut kept = Vec::new();
        for limit in [32u64, 128, 256, 1024] {
            let child = program::command("q35c")
                .args(args)
                .args(["--max-memory", &format!("{limit}M")])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .map_err(|e| e.to_string())?;
            let (output, peak) = watch(child)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("{what}: {limit} MiB allowed, peak memory {} MiB, {}", peak >> 20, output.status);
            match output.status.code() {
                Some(0) if peak >> 20 <= limit => kept.push(limit),
                Some(0) => return Err(format!("{what}: {limit} MiB were allowed, and {} taken", peak >> 20)),
                Some(1) if said.contains("error[Q35-0305]") && !out.exists() => {}
                _ => return Err(format!("{what}: {limit} MiB were allowed: {}\n{said}", output.status)),
            }
            let _ = std::fs::remove_dir_all(&out);
        }
        if kept.contains(&32) || !kept.contains(&1024) {
            return Err(format!("{what}: of the limits, these were kept: {kept:?}"));
        }
    }
    Ok(())
}

/// Checks a sparse checkpoint within so many bytes.
fn headers(config: &str, stored: Stored, allowed: u64) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bytes = sparse(config, stored, folder.path())?;
    let child = program::command("q35c")
        .args(["check", path(folder.path())])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| e.to_string())?;
    let peak = peak_of(child)?;
    println!("{} GiB of weights, peak memory {} MiB", bytes >> 30, peak >> 20);
    if peak <= allowed { Ok(()) } else { Err(format!("peak memory {} MiB, {} MiB allowed", peak >> 20, allowed >> 20)) }
}

fn one_gigabyte(codec: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (vocab, hidden, ffn) = (8192, 2048, 8192);
    let model = Llama { vocab, hidden, ffn, layers: 4, heads: 32, kv_heads: 8, head_dim: 64, tied: false, fill: Fill::Zeros };
    let model = write_llama(&model, folder.path()).map_err(|e| e.to_string())?;
    let data = std::fs::metadata(folder.path().join("model.onnx.data")).map_err(|e| e.to_string())?.len();
    if data < 1 << 30 {
        return Err(format!("the synthetic model has only {data} bytes"));
    }
    let child = program::command("q35c")
        .args(["compile", path(&model), "--codec", codec, "--quiet", "-o", path(&folder.path().join("x.q35"))])
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| e.to_string())?;
    let peak = peak_of(child)?;
    let allowed = FIXED + COPIES * 4 * hidden * ffn.max(vocab);
    println!("{} MiB of weights, peak memory {} MiB, {} MiB allowed", data >> 20, peak >> 20, allowed >> 20);
    if peak <= allowed { Ok(()) } else { Err(format!("peak memory {} MiB, {} MiB allowed", peak >> 20, allowed >> 20)) }
}

/// By how much less a run has to get by with than it takes of itself. The weights are about twice as much.
const LESS: u64 = 30 << 20;

/// Runs a model without a limit, and with one that does not leave room for all of its weights: the tokens are the same, and the limit holds.
fn limited_run() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let config = r#"{"model_type": "llama", "vocab_size": 4096, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}"#;
    let checkpoint = Checkpoint { config, stored: Stored::Bf16, fill: Fill::Seeded(1), shard: SHARD };
    checkpoint.write(folder.path(), |_, _| ()).map_err(|e| e.to_string())?;
    let bundle = folder.path().join("x.q35");
    program::run("q35c", &["compile", path(folder.path()), "--codec", "split", "--quiet", "-o", path(&bundle)]).success()?;
    let weights = std::fs::metadata(bundle.join("weights.safetensors")).map_err(|e| e.to_string())?.len();
    let run = |limit: &[&str]| -> Result<(String, u64), String> {
        // Four tokens at once, and then three one by one.
        let mut child = program::command("q35")
            .args(["run", path(&bundle), "--tokens", "1,2,3,4", "-n", "4", "--threads", "2"])
            .args(limit)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut stdout = child.stdout.take().ok_or("no output")?;
        let peak = peak_of(child)?;
        let mut said = String::new();
        stdout.read_to_string(&mut said).map_err(|e| e.to_string())?;
        Ok((said, peak))
    };
    let (free, most) = run(&[])?;
    let allowed = most.saturating_sub(LESS);
    let (limited, peak) = run(&["--max-memory", &allowed.to_string()])?;
    println!(
        "{} MiB of weights, peak memory {} MiB, with a limit of {} MiB {} MiB",
        weights >> 20,
        most >> 20,
        allowed >> 20,
        peak >> 20
    );
    if free != limited {
        return Err(format!("{free:?} without a limit, {limited:?} with one"));
    }
    if peak <= allowed { Ok(()) } else { Err(format!("peak memory {} KiB, {} KiB allowed", peak >> 10, allowed >> 10)) }
}

/// Waits for a child and gives the largest resident set it ever had. The figure only grows, so the last one read is the peak but for what
/// the child does in its last milliseconds.
fn peak_of(child: Child) -> Result<u64, String> {
    match watch(child)? {
        (output, peak) if output.status.success() && peak > 0 => Ok(peak),
        (output, _) => Err(format!("the compile ended with {}", output.status)),
    }
}

/// Waits for a child; what is left of its output, and its peak. What it says must fit into a pipe.
fn watch(mut child: Child) -> Result<(Output, u64), String> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let ended = child.try_wait().map_err(|e| e.to_string())?;
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|v| v.trim().strip_suffix("kB"));
        peak = line.and_then(|kb| kb.trim().parse::<u64>().ok()).map_or(peak, |kb| peak.max(kb << 10));
        if ended.is_some() {
            return child.wait_with_output().map(|output| (output, peak)).map_err(|e| e.to_string());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
