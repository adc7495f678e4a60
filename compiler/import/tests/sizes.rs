//! Opening the largest models there are costs what their headers cost. They are opened in a process of their own, which has its peak to itself.
#![allow(clippy::unwrap_used)] // a test may panic

use q35_import::synth::{Checkpoint, Fill, Stored, shape};
use std::path::Path;
use std::process::Command;

/// Makes this program open a folder.
const OPEN: &str = "Q35_TEST_OPEN";

/// Bytes that a graph may take, beside those of the headers' text.
const ALLOWED: u64 = 100 << 20;

/// The largest resident set this process ever had.
fn peak() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Opens a model, and says what it took.
fn open(folder: &Path) {
    let model = q35_import::open(folder).unwrap_or_else(|e| panic!("{e}"));
    model.graph.check().unwrap();
    println!("{} nodes, peak {:?} MiB", model.graph.len(), peak().map(|p| p >> 20));
    assert!(peak().is_none_or(|peak| peak < ALLOWED), "{:?}", peak());
}

#[test]
fn the_largest_models_open_for_the_price_of_their_headers() {
    if let Some(folder) = std::env::var_os(OPEN) {
        return open(Path::new(&folder));
    }
    for (name, stored, bytes) in [("llama-405b", Stored::Bf16, 811 << 30), ("deepseek-v3", Stored::Fp8, 671 << 30)] {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint { config: shape(name).unwrap(), stored, fill: Fill::Zeros, shard: 5 << 30 };
        let total = checkpoint.write(dir.path(), |_, _| ()).unwrap().bytes;
        assert!(total.abs_diff(bytes) < bytes / 8, "{name} has {total} bytes");
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program).arg("--nocapture").env(OPEN, dir.path()).output().unwrap();
        let said = [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        println!("{name}: {said}");
        assert!(child.status.success(), "{name}: {said}");
    }
}
