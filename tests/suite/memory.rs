//! A compile needs memory for one tensor, not for the model.
//!
//! The model is synthetic: a gigabyte of weights in an external-data file. The child's peak resident set, which counts the pages of the
//! mapped file that it holds, is read from the kernel while it runs.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_import::synth::{Fill, Llama, write_llama};
use std::process::{Child, Stdio};
use std::time::Duration;

/// What everything but the weights may take: the program itself, LLVM at work, thread stacks.
const FIXED: u64 = 300 << 20;

/// How often the largest tensor may be in memory, as f32.
const COPIES: u64 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("memory/a-gigabyte-of-weights-streams", || Ok(one_gigabyte("split")?))];
    if std::env::var_os("Q35_FULL").is_some() {
        trials.push(Trial::test("memory/a-gigabyte-of-weights-streams-through-the-trellis", || Ok(one_gigabyte("w8")?)));
    }
    trials
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

/// Waits for a child and gives the largest resident set it ever had. The figure only grows, so the last one read is the peak but for what
/// the child does in its last milliseconds.
fn peak_of(mut child: Child) -> Result<u64, String> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let ended = child.try_wait().map_err(|e| e.to_string())?;
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|v| v.trim().strip_suffix("kB"));
        peak = line.and_then(|kb| kb.trim().parse::<u64>().ok()).map_or(peak, |kb| peak.max(kb << 10));
        match ended {
            Some(status) if status.success() && peak > 0 => return Ok(peak),
            Some(status) => return Err(format!("the compile ended with {status}")),
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
