//! What the runtime, and the host program part of a bundle, say to AMD's HIP runtime, and what they make of the answers. A stand-in takes its
//! place (`hip.c`): it computes nothing, and so this says nothing of results, but all of order, sizes, faults, and of what is given back.

use super::{compiled, path, text};
use crate::program;
use q35_bundle::{Bundle, Manifest};
use q35_tests::corpus;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with the stand-in under the names that programs look for.
fn stand_in() -> Result<tempfile::TempDir, String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let library = folder.path().join("libamdhip64.so");
    let source = corpus::root().join("tests/suite/gpu/hip.c");
    let flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libamdhip64.so.6", "-o"];
    run(Command::new("cc").args(flags).args([&library, &source]))?;
    std::fs::copy(&library, folder.path().join("libamdhip64.so.6")).map_err(text)?;
    Ok(folder)
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(text)?;
    if output.status.success() { Ok(output) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// A program's end with the stand-in.
struct Heard {
    output: Output,
    log: Vec<String>,
}

impl Heard {
    fn of(command: &mut Command, folder: &Path, settings: &[(&str, &str)]) -> Result<Self, String> {
        let log = folder.join("log");
        let _ = std::fs::remove_file(&log);
        let command = command.env("LD_LIBRARY_PATH", folder).env("STAND_IN_LOG", &log).envs(settings.iter().copied());
        let output = command.output().map_err(text)?;
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(Self { output, log: log.lines().map(str::to_owned).collect() })
    }

    fn calls(&self, name: &str) -> Vec<&String> {
        self.log.iter().filter(|line| line.split(' ').next() == Some(name)).collect()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// What is not as it must be at the end of every run, right or wrong.
    fn leaks(&self, failed: &str) -> Vec<String> {
        let mut found: Vec<String> = self.calls("WRONG").into_iter().cloned().collect();
        for (taken, given) in [
            ("hipMalloc", "hipFree"),
            ("hipModuleLoadData", "hipModuleUnload"),
            ("hipStreamCreate", "hipStreamDestroy"),
            ("hipStreamEndCapture", "hipGraphDestroy"),
            ("hipGraphInstantiate", "hipGraphExecDestroy"),
        ] {
            // A call that failed took nothing.
            let taken_count = self.calls(taken).len() - usize::from(failed == taken && !self.calls(taken).is_empty());
            if taken_count != self.calls(given).len() {
                found.push(format!("{taken} {taken_count} times, {given} {}", self.calls(given).len()));
            }
        }
        found
    }

    /// What is not as a run must be of `launched` steps of a model's list.
    fn wrong(&self, manifest: &Manifest, launched: usize) -> Vec<String> {
        let mut wrong = self.leaks("");
        let mut expect = |what: &str, holds: bool| {
            if !holds {
                wrong.push(what.to_owned());
            }
        };
        let launches = self.calls("hipModuleLaunchKernel");
        expect("the code object is loaded once", self.calls("hipModuleLoadData") == ["hipModuleLoadData ELF"]);
        expect("every step is launched as often as it has to be", launches.len() == launched);
        expect("grids and groups are flat", launches.iter().all(|line| line.matches("*1*1").count() == 2));
        let bytes: u64 = manifest.files["weights.safetensors"].bytes;
        let sizes = self.calls("hipMemcpyHtoD").into_iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        expect("the weights are copied once", (bytes / 10 * 9..bytes + 4096).contains(&sizes.sum()));
        wrong
    }
}

fn told(wrong: Vec<String>, heard: &Heard) -> Result<(), String> {
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:#?}\n{}\n{}", heard.stderr(), heard.log.join("\n"))) }
}

/// The `q35` command on three tokens, and so many more less one.
fn q35(bundle: &Path, count: u32) -> Command {
    let mut command = program::command("q35");
    command.args(["run", path(bundle), "--tokens", "1,2,3", "-n", &count.to_string(), "--temperature", "0"]);
    command
}

pub(super) fn a_run_calls_hip_in_order() -> Result<(), String> {
    let (folder, (_, bundle)) = (stand_in()?, compiled("rocm")?);
    let manifest = Bundle::open(bundle).map_err(text)?.manifest().clone();
    for architecture in ["gfx942:sramecc+:xnack-", "gfx90a:sramecc+:xnack-", "gfx1100"] {
        let heard = Heard::of(&mut q35(bundle, 2), folder.path(), &[("STAND_IN_ARCH", architecture)])?;
        let mut wrong = heard.wrong(&manifest, 2 * manifest.steps.len());
        if heard.calls("hipMemcpyDtoH") != ["hipMemcpyDtoH 64"; 2] {
            wrong.push("of every token only its number comes back".to_owned());
        }
        if String::from_utf8_lossy(&heard.output.stdout).trim() != "0,0" {
            wrong.push("the tokens are the stand-in's".to_owned());
        }
        told(wrong, &heard)?;
    }
    Ok(())
}

pub(super) fn decoding_is_recorded() -> Result<(), String> {
    let (folder, (_, bundle)) = (stand_in()?, compiled("rocm")?);
    let steps = Bundle::open(bundle).map_err(text)?.manifest().steps.len();
    // The prompt, a token, one that is recorded, two more; all launched where nothing can be recorded, and again where the recording is lost.
    let cases = [
        ("", [2, 1, 3]),
        ("hipStreamCreate=2", [5, 0, 0]),
        ("hipStreamBeginCapture=900", [5, 0, 0]),
        ("hipStreamEndCapture=901", [5, 1, 0]),
        ("hipGraphInstantiate=2", [5, 1, 0]),
    ];
    for (fault, [launched, recorded, replayed]) in cases {
        let heard = Heard::of(&mut q35(bundle, 5), folder.path(), &[("STAND_IN_FAIL", fault)])?;
        let mut wrong = heard.leaks(fault.split('=').next().unwrap_or_default());
        let found = ["hipModuleLaunchKernel", "RECORDED", "hipGraphLaunch"].map(|name| heard.calls(name).len());
        if found != [launched * steps, recorded * steps, replayed] {
            wrong.push(format!("{fault}: {found:?} of {steps} steps"));
        }
        if String::from_utf8_lossy(&heard.output.stdout).trim() != "0,0,0,0,0" {
            wrong.push("the tokens are the stand-in's".to_owned());
        }
        told(wrong, &heard)?;
    }
    let heard = Heard::of(&mut q35(bundle, 5), folder.path(), &[("STAND_IN_FAIL", "hipGraphLaunch=700")])?;
    let mut wrong = heard.leaks("hipGraphLaunch");
    if !heard.stderr().contains("error[Q35-0606]: recorded launches cannot be started") {
        wrong.push("a fault of recorded launches is told".to_owned());
    }
    told(wrong, &heard)
}

pub(super) fn every_fault_of_hip_is_a_diagnostic() -> Result<(), String> {
    let (folder, (_, bundle)) = (stand_in()?, compiled("rocm")?);
    let cases = [
        ("hipInit=100", "Q35-0504", "check with rocminfo"),
        ("hipSetDevice=101", "Q35-0606", "the card cannot be used"),
        ("hipGetDeviceProperties=1", "Q35-0606", "the card cannot be opened"),
        ("hipModuleLoadData=209", "Q35-0504", "the driver does not take the kernels"),
        ("hipModuleGetFunction=500", "Q35-0501", "the kernels lack"),
        ("hipMalloc=2", "Q35-0305", "where 1000 of 2000 are free"),
        ("hipMemset=700", "Q35-0606", "cannot be cleared"),
        ("hipMemcpyHtoD=700", "Q35-0606", "cannot be copied to the card"),
        ("hipModuleLaunchKernel=700", "Q35-0606", "kernel 'embed"),
        ("hipMemcpyDtoH=700", "Q35-0606", "at node"),
    ];
    let mut wrong = String::new();
    for (fault, code, words) in cases {
        let heard = Heard::of(&mut q35(bundle, 2), folder.path(), &[("STAND_IN_FAIL", fault)])?;
        let stderr = heard.stderr();
        if heard.output.status.code() != Some(1) || !stderr.contains(&format!("error[{code}]")) || !stderr.contains(words) {
            wrong += &format!("{fault} should give {code} with '{words}': {stderr}\n");
        }
        let leaks = heard.leaks(fault.split('=').next().unwrap_or_default());
        if !leaks.is_empty() {
            wrong += &format!("{fault}: {leaks:?}\n");
        }
    }
    let heard = Heard::of(&mut q35(bundle, 2), folder.path(), &[("STAND_IN_ARCH", "gfx906")])?;
    if !heard.stderr().contains("needs a card of that architecture, and Stand-in is gfx906") {
        wrong += &heard.stderr();
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

pub(super) fn a_machine_without_hip_says_so() -> Result<(), String> {
    let (_, bundle) = compiled("rocm")?;
    let ran = program::run("q35", &["run", path(bundle), "--tokens", "1,2", "-n", "1"]);
    let expected = "there is no HIP runtime on this machine: its library 'libamdhip64' cannot be loaded";
    // A machine that has one cannot show it.
    if ran.exit == 0 || (ran.exit == 1 && ran.streams.stderr.contains(expected)) {
        return Ok(());
    }
    Err(format!("exit {}, {}", ran.exit, ran.streams.stderr))
}

/// Where HIP's headers are, if this machine has them: named by `Q35_HIP_HEADERS`, or where Debian's package puts them.
fn headers() -> Option<PathBuf> {
    let named = std::env::var_os("Q35_HIP_HEADERS").map(PathBuf::from);
    let mut folders = named.into_iter().chain(["/usr/include", "/opt/rocm/include"].map(PathBuf::from));
    folders.find(|folder| folder.join("hip/hip_runtime_api.h").is_file())
}

const APPLICATION: &str = r#"
#include "q35_model.h"
#include <cstdio>
#include <vector>

int main(int, char **args) {
    q35_model *model = nullptr;
    std::vector<float> logits(Q35_VOCAB);
    const int32_t ids[] = {1, 2, 3}, positions[] = {0, 1, 2}, slots[] = {0, 0, 0}, more[] = {3}, last[] = {2}, first[] = {0};
    int failed = q35_open(&model, args[1], 1, 64, 8);
    failed = failed || q35_step(model, 3, ids, positions, slots, positions, 1, last, logits.data());
    failed = failed || q35_step(model, 1, ids, more, slots, more, 1, first, logits.data());
    const int32_t after[] = {4};
    int32_t chosen = -1;
    failed = failed || q35_choose(model, 1, ids, after, slots, after, 1, first, &chosen) || chosen != 0;
    if (failed) std::fprintf(stderr, "error: %s\n", q35_error(model));
    q35_close(model);
    return failed;
}
"#;

/// The host program part of the bundle, compiled with HIP's headers into an application, which is then run.
pub(super) fn applications_call_hip_in_order() -> Result<(), String> {
    let Some(headers) = headers() else {
        eprintln!("gpu/hip-application: SKIPPED, HIP's headers are not here; they come with libamdhip64-dev");
        return Ok(());
    };
    let (folder, (_, bundle)) = (stand_in()?, compiled("rocm")?);
    let (main, program) = (folder.path().join("main.cpp"), folder.path().join("main"));
    std::fs::write(&main, APPLICATION).map_err(text)?;
    let mut compiler = Command::new("c++");
    // HIP 5's own headers have unused parameters.
    compiler.args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-D__HIP_PLATFORM_AMD__", "-isystem"]).arg(&headers);
    compiler.arg("-I").arg(bundle.join("rocm")).arg("-o").args([&program, &main, &bundle.join("rocm/q35_model.hip.cpp")]);
    run(compiler.arg("-L").arg(folder.path()).arg("-lamdhip64"))?;
    let manifest = Bundle::open(bundle).map_err(text)?.manifest().clone();
    let application = || {
        let mut command = Command::new(&program);
        command.arg(bundle);
        command
    };
    // The stand-in's two layouts of properties: the header's version decides which is called.
    let heard = Heard::of(&mut application(), folder.path(), &[])?;
    if !heard.output.status.success() {
        return Err(heard.stderr());
    }
    // Two steps leave the choice of tokens to their caller.
    told(heard.wrong(&manifest, 3 * manifest.steps.len() - 2), &heard)?;
    let mut wrong = String::new();
    for (fault, words) in [
        ("hipInit=100", "HIP: "),
        ("hipSetDevice=101", "the card: "),
        ("hipGetDeviceProperties=1", "the card: "),
        ("hipModuleLoadData=209", "rocm/kernels-gfx942.hsaco: "),
        ("hipModuleGetFunction=500", "embed"),
        ("hipMalloc=2", "memory for "),
        ("hipMemset=700", "memory for "),
        ("hipMemcpyHtoD=700", "it failed as it was asked to"),
        ("hipModuleLaunchKernel=700", "it failed as it was asked to"),
        ("hipMemcpyDtoH=700", "the logits: "),
    ] {
        let heard = Heard::of(&mut application(), folder.path(), &[("STAND_IN_FAIL", fault)])?;
        let (stderr, leaks) = (heard.stderr(), heard.leaks(fault.split('=').next().unwrap_or_default()));
        if heard.output.status.code() != Some(1) || !stderr.contains(words) || !leaks.is_empty() {
            wrong += &format!("{fault} should give '{words}': {stderr} {leaks:?}\n");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
