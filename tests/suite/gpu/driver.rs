//! What the runtime says to the CUDA driver, and what it makes of the answers. A stand-in takes the driver's place (`driver.c`): it computes
//! nothing, and so this says nothing of results, but all of order, sizes and faults.

use super::{compiled, path, text};
use crate::program;
use q35_bundle::Bundle;
use q35_tests::corpus;
use q35_tests::filetest::{Ran, Streams};
use std::path::Path;
use std::process::Command;

/// Runs the bundle on three tokens, and so many more less one, with a stand-in for the driver in `folder`, and reads its log.
fn run(folder: &Path, bundle: &Path, count: u32, settings: &[(&str, &str)]) -> Result<(Ran, Vec<String>), String> {
    let (library, log) = (folder.join("libcuda.so.1"), folder.join("log"));
    if !library.exists() {
        let source = corpus::root().join("tests/suite/gpu/driver.c");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path(&library), path(&source)])
            .output()
            .map_err(text)?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        std::fs::copy(&library, folder.join("libcuda.so")).map_err(text)?;
    }
    let _ = std::fs::remove_file(&log);
    let mut command = program::command("q35");
    command.args(["run", path(bundle), "--tokens", "1,2,3", "-n", &count.to_string(), "--temperature", "0"]);
    command.env("LD_LIBRARY_PATH", folder).env("STAND_IN_LOG", &log).envs(settings.iter().copied());
    let output = command.output().map_err(text)?;
    let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let streams = Streams { stdout: words(&output.stdout), stderr: words(&output.stderr) };
    let ran = Ran { streams, exit: output.status.code().unwrap_or(-1) };
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    Ok((ran, log.lines().map(str::to_owned).collect()))
}

pub(super) fn a_run_calls_the_driver_in_order() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let (_, bundle) = compiled("cuda")?;
    let (ran, log) = run(folder.path(), bundle, 2, &[])?;
    if ran.exit != 0 {
        return Err(ran.streams.stderr);
    }
    let manifest = Bundle::open(bundle).map_err(text)?.manifest().clone();
    let of = |name: &str| log.iter().filter(|line| line.split(' ').next() == Some(name)).collect::<Vec<_>>();
    let mut wrong = Vec::new();
    let mut expect = |what: &str, holds: bool| {
        if !holds {
            wrong.push(what.to_owned())
        }
    };
    expect("the kernels of the best level are loaded", of("cuModuleLoadData") == ["cuModuleLoadData sm_90a"]);
    // Three prompt tokens in one step, then one more; nothing computes, so every logit is 0 and the first token is taken.
    expect("every step is launched twice", of("cuLaunchKernel").len() == 2 * manifest.steps.len());
    expect("of every token only its number comes back", of("cuMemcpyDtoH") == ["cuMemcpyDtoH 64"; 2]);
    expect("grids and groups are flat", of("cuLaunchKernel").iter().all(|line| line.matches("*1*1").count() == 2));
    let bytes: u64 = manifest.files["weights.safetensors"].bytes;
    let copied: u64 = of("cuMemcpyHtoD").iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    expect("the weights are copied once", (bytes / 10 * 9..bytes + 4096).contains(&copied));
    expect("the context is released at the end", log.last().is_some_and(|line| line.starts_with("cuDevicePrimaryCtxRelease")));
    expect("the tokens are the stand-in's", ran.streams.stdout.trim() == "0,0");
    if wrong.is_empty() { Ok(()) } else { Err(format!("not so: {wrong:?}\n{}\n{}", ran.streams.stdout, log.join("\n"))) }
}

pub(super) fn decoding_is_recorded_where_the_driver_can() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let (_, bundle) = compiled("cuda")?;
    let steps = Bundle::open(bundle).map_err(text)?.manifest().steps.len();
    // The prompt, a token, one that is recorded, two more. Where nothing can be recorded all are launched; where the recording is lost, its launches
    // come again.
    let cases = [
        (("STAND_IN_DRIVER", "12040"), [2, 1, 3]),
        (("STAND_IN_DRIVER", "11030"), [5, 0, 0]),
        (("STAND_IN_FAIL", "cuStreamCreate=2"), [5, 0, 0]),
        (("STAND_IN_FAIL", "cuStreamBeginCapture=900"), [5, 0, 0]),
        (("STAND_IN_FAIL", "cuStreamEndCapture=901"), [5, 1, 0]),
        (("STAND_IN_FAIL", "cuGraphInstantiate=2"), [5, 1, 0]),
    ];
    for (setting, [launched, recorded, replayed]) in cases {
        let (ran, log) = run(folder.path(), bundle, 5, &[setting])?;
        let calls = |name: &str| log.iter().filter(|line| line.split(' ').next() == Some(name)).count();
        let found = [calls("cuLaunchKernel"), calls("RECORDED"), calls("cuGraphLaunch")];
        if found != [launched * steps, recorded * steps, replayed] || ran.streams.stdout.trim() != "0,0,0,0,0" {
            return Err(format!("{setting:?}: {found:?} of {steps} steps\n{}\n{}", ran.streams.stderr, log.join("\n")));
        }
    }
    let (ran, _) = run(folder.path(), bundle, 5, &[("STAND_IN_FAIL", "cuGraphLaunch=700")])?;
    let stderr = ran.streams.stderr;
    if ran.exit != 1 || !stderr.contains("error[Q35-0606]: recorded launches cannot be started") {
        return Err(stderr);
    }
    Ok(())
}

pub(super) fn every_fault_of_the_driver_is_a_diagnostic() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let (_, bundle) = compiled("cuda")?;
    let cases = [
        (("STAND_IN_FAIL", "cuInit=100"), "Q35-0504", "check with nvidia-smi"),
        (("STAND_IN_FAIL", "cuDeviceGet=100"), "Q35-0504", "the card cannot be opened"),
        (("STAND_IN_FAIL", "cuDriverGetVersion=1"), "Q35-0606", "the card cannot be opened"),
        (("STAND_IN_FAIL", "cuDeviceGetName=1"), "Q35-0606", "the card cannot be opened"),
        (("STAND_IN_FAIL", "cuDeviceGetAttribute=1"), "Q35-0606", "the card cannot be opened"),
        (("STAND_IN_FAIL", "cuDevicePrimaryCtxRetain=2"), "Q35-0305", "the card cannot be opened"),
        (("STAND_IN_FAIL", "cuModuleLoadData=222"), "Q35-0504", "the driver does not take the kernels"),
        (("STAND_IN_FAIL", "cuModuleGetFunction=500"), "Q35-0501", "the kernels lack"),
        (("STAND_IN_FAIL", "cuMemAlloc=2"), "Q35-0305", "where 1000 of 2000 are free"),
        (("STAND_IN_FAIL", "cuMemsetD8=700"), "Q35-0606", "cannot be cleared"),
        (("STAND_IN_FAIL", "cuMemcpyHtoD=700"), "Q35-0606", "cannot be copied to the card"),
        (("STAND_IN_FAIL", "cuLaunchKernel=700"), "Q35-0606", "kernel 'embed"),
        (("STAND_IN_FAIL", "cuMemcpyDtoH=700"), "Q35-0606", "at node"),
        (("STAND_IN_CAPABILITY", "75"), "Q35-0504", "needs at least compute capability 8.0, and Stand-in has 7.5"),
        (("STAND_IN_DRIVER", "10020"), "Q35-0504", "needs a driver for CUDA 11.0 or later, and this one is for 10.2"),
    ];
    let mut wrong = String::new();
    for (setting, code, words) in cases {
        let (ran, _) = run(folder.path(), bundle, 2, &[setting])?;
        let stderr = &ran.streams.stderr;
        if ran.exit != 1 || !stderr.contains(&format!("error[{code}]")) || !stderr.contains(words) {
            wrong += &format!("{setting:?} should give {code} with '{words}', and gives exit {}: {stderr}\n", ran.exit);
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

pub(super) fn a_machine_without_a_driver_says_so() -> Result<(), String> {
    let (_, bundle) = compiled("cuda")?;
    let ran = program::run("q35", &["run", path(bundle), "--tokens", "1,2", "-n", "1"]);
    let expected = "there is no CUDA driver on this machine: its library 'libcuda' cannot be loaded";
    // A machine that has one cannot show it.
    if ran.exit == 0 || (ran.exit == 1 && ran.streams.stderr.contains(expected)) {
        return Ok(());
    }
    Err(format!("exit {}, {}", ran.exit, ran.streams.stderr))
}
