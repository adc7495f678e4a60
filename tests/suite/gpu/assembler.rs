//! `ptxas` on every kernel of the small model, for every architecture: what it uses, and that nothing is spilled.

use super::{compile, compiled, llvm, path, text as words};
use q35_tests::corpus;
use std::path::PathBuf;
use std::process::Command;

/// The assembler, if this machine has it: named by `Q35_PTXAS`, where `scripts/ptxas.sh` puts it, or on the path.
fn ptxas() -> Option<PathBuf> {
    let named = std::env::var_os("Q35_PTXAS").map(PathBuf::from);
    let candidates = named.into_iter().chain([corpus::root().join("target/tools/ptxas"), PathBuf::from("ptxas")]);
    candidates.into_iter().find(|program| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success()))
}

/// Registers, spills and shared memory of every kernel, from what `ptxas -v` says.
fn resources(report: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut kernel = "";
    let mut spills = "";
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default();
        } else if line.contains("bytes spill stores") {
            spills = line.trim();
        } else if let Some((_, used)) = line.split_once(": Used ") {
            let spilled = if spills.contains(" 0 bytes spill stores") { "" } else { ", SPILLS" };
            let parts = used.split(", ").filter(|part| part.contains("registers") || part.contains("smem"));
            found.push((kernel.to_owned(), parts.collect::<Vec<_>>().join(", ") + spilled));
        }
    }
    found
}

pub(super) fn every_kernel_assembles() -> Result<(), String> {
    let Some(ptxas) = ptxas() else {
        eprintln!("gpu/ptxas: SKIPPED, there is no ptxas here; scripts/ptxas.sh fetches one");
        return Ok(());
    };
    let folder = tempfile::tempdir().map_err(words)?;
    let mut table = String::new();
    for (codec, more) in [("w8", &[][..]), ("w12", &[]), ("split", &["--group", "64"]), ("q8", &[]), ("f16", &[])] {
        let bundle = if codec == "w8" {
            compiled("cuda")?.1.clone()
        } else {
            compile("cuda", folder.path(), &corpus::tiny_llama().model, codec, more)?
        };
        for architecture in ["sm_80", "sm_89", "sm_90a"] {
            let file = bundle.join(format!("cuda/kernels-{architecture}.ptx"));
            let args = ["-v", "-arch", architecture, "-o", "/dev/null", path(&file)];
            let output = Command::new(&ptxas).args(args).output().map_err(words)?;
            let report = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            if !output.status.success() {
                return Err(format!("ptxas refuses {codec} for {architecture}:\n{report}"));
            }
            for (kernel, used) in resources(&report) {
                table += &format!("{architecture} {kernel}: {used}\n");
            }
        }
    }
    let mut lines: Vec<&str> = table.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    let spilling: Vec<&&str> = lines.iter().filter(|line| line.contains("SPILLS")).collect();
    if !spilling.is_empty() {
        return Err(format!("kernels spill registers: {spilling:#?}"));
    }
    // Another assembler or another LLVM has other figures, which say nothing about the kernels.
    let version = Command::new(&ptxas).arg("--version").output().map_err(words)?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let release = version.split_whitespace().rfind(|word| word.starts_with('V')).unwrap_or_default();
    let tools = format!("ptxas {release}, {}", llvm());
    let golden = corpus::root().join("tests/golden/cuda-kernels.txt");
    let text = format!("{tools}\n{}\n", lines.join("\n"));
    if std::env::var_os("Q35C_BLESS").is_some() {
        return std::fs::write(&golden, text).map_err(words);
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    if expected.lines().next() != Some(tools.as_str()) {
        eprintln!("gpu/ptxas: figures are NOT COMPARED, they are of {:?} and this is {tools}", expected.lines().next());
        return Ok(());
    }
    if text == expected {
        Ok(())
    } else {
        Err(format!("registers and shared memory are not those of {}:\n{text}", golden.display()))
    }
}
