//! The targets for GPUs where there is no GPU: a whole model decodes lane by lane what the reference evaluation decodes, `ptxas` takes every
//! kernel, code objects say what they need, and the runtime's calls of the drivers are heard by stand-ins.

mod assembler;
mod decode;
mod driver;
mod headers;
mod hip;
mod objects;

use crate::program;
use libtest_mimic::{Failed, Trial};
use q35_tests::corpus::{self, Example};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Examples that together have what architectures differ in: windows, biases, joined projections, norms of heads. All of them with
/// `Q35_FULL=1`.
const EXAMPLES: [&str; 5] = [
    "llama-gqa--dynamo-fp16",
    "mistral-sw--hf-cache",
    "phi3--dynamo-cache",
    "qwen2moe--dynamo-batched-cache",
    "qwen3--dynamo-op24-cache",
];

/// One of every set of instructions, by target and feature level.
static LEVELS: [(&str, &str); 3] = [("cuda", "sm_80"), ("rocm", "gfx942"), ("rocm", "gfx1100")];

pub(crate) fn trials() -> Vec<Trial> {
    type Row = (&'static str, fn() -> Result<(), String>);
    let table: [Row; 15] = [
        ("greedy-tokens", || decode::greedy_tokens("cuda", "sm_80")),
        ("greedy-tokens/gfx942", || decode::greedy_tokens("rocm", "gfx942")),
        ("greedy-tokens/gfx1100", || decode::greedy_tokens("rocm", "gfx1100")),
        ("ptxas", assembler::every_kernel_assembles),
        ("code-objects", objects::every_kernel_is_what_the_host_calls),
        ("layer-headers", headers::layers_are_called_as_the_header_says),
        ("no-hip", hip::a_machine_without_hip_says_so),
        ("hip-calls", hip::a_run_calls_hip_in_order),
        ("hip-graphs", hip::decoding_is_recorded),
        ("hip-faults", hip::every_fault_of_hip_is_a_diagnostic),
        ("hip-application", hip::applications_call_hip_in_order),
        ("no-driver", driver::a_machine_without_a_driver_says_so),
        ("driver-calls", driver::a_run_calls_the_driver_in_order),
        ("driver-graphs", driver::decoding_is_recorded_where_the_driver_can),
        ("driver-faults", driver::every_fault_of_the_driver_is_a_diagnostic),
    ];
    let named = table.into_iter().map(|(name, run)| Trial::test(format!("gpu/{name}"), move || run().map_err(Failed::from)));
    let all = std::env::var_os("Q35_FULL").is_some();
    let with_kernels = |example: &Example| !example.name.starts_with("deepseek");
    let examples = corpus::dense().into_iter().chain(corpus::experts()).filter(with_kernels);
    let examples = examples.filter(|example| all || EXAMPLES.contains(&example.name.as_str()));
    let stored = |example: Example| {
        let levels = if all { &LEVELS[..] } else { &LEVELS[..1] };
        levels.iter().map(move |&(target, level)| {
            let example = example.clone();
            Trial::test(format!("gpu/stored-tokens/{level}/{}", example.name), move || {
                decode::stored_tokens(target, level, &example).map_err(Failed::from)
            })
        })
    };
    named.chain(examples.flat_map(stored)).collect()
}

/// The LLVM that `q35c` has, as a table of what it made of kernels names it.
fn llvm() -> String {
    let doctor = program::run("q35c", &["doctor"]).streams.stdout;
    let line = doctor.lines().find(|line| line.contains("LLVM")).and_then(|line| line.split(',').next()).unwrap_or_default();
    format!("LLVM {}", line.split_whitespace().last().unwrap_or_default())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("the tests' own paths are UTF-8"))
}

/// The small model in the default codec, compiled once per target for all tests: the folder that [`compile`] fills, and the bundle.
fn compiled(target: &str) -> Result<&'static (tempfile::TempDir, PathBuf), String> {
    type Compiled = OnceLock<Result<(tempfile::TempDir, PathBuf), String>>;
    static CUDA: Compiled = OnceLock::new();
    static ROCM: Compiled = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().map_err(text)?;
        let bundle = compile(target, folder.path(), &corpus::tiny_llama().model, "w8", &[])?;
        Ok((folder, bundle))
    };
    let compiled = if target == "cuda" { &CUDA } else { &ROCM };
    compiled.get_or_init(make).as_ref().map_err(String::clone)
}

/// Compiles a model; the LLVM IR of its kernels is the one file in the folder `dumps`.
fn compile(target: &str, folder: &Path, model: &Path, codec: &str, more: &[&str]) -> Result<PathBuf, String> {
    let (bundle, dumps) = (folder.join(format!("{codec}.q35")), folder.join("dumps"));
    let mut args = vec!["compile", path(model), "--target", target, "--codec", codec, "--quiet", "-o", path(&bundle)];
    let pass = format!("{target}-compile");
    args.extend(["--dump-after", &pass, "--dump-dir", path(&dumps)]);
    args.extend(more);
    program::run("q35c", &args).success()?;
    Ok(bundle)
}
