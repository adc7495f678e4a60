//! The CUDA target where there is no GPU: a whole model decodes lane by lane what the reference evaluation decodes, `ptxas` takes every
//! kernel, and the runtime's calls of the driver are heard by a stand-in.

mod assembler;
mod decode;
mod driver;

use crate::program;
use libtest_mimic::{Failed, Trial};
use q35_tests::corpus::{self, Example};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Examples that together have what architectures differ in: windows, biases, joined projections, norms of heads. All of them with
/// `Q35_FULL=1`.
const EXAMPLES: [&str; 4] =
    ["llama-gqa--dynamo-fp16", "mistral-sw--hf-cache", "phi3--dynamo-cache", "qwen3--dynamo-op24-cache"];

pub(crate) fn trials() -> Vec<Trial> {
    type Row = (&'static str, fn() -> Result<(), String>);
    let table: [Row; 5] = [
        ("greedy-tokens", decode::greedy_tokens),
        ("ptxas", assembler::every_kernel_assembles),
        ("no-driver", driver::a_machine_without_a_driver_says_so),
        ("driver-calls", driver::a_run_calls_the_driver_in_order),
        ("driver-faults", driver::every_fault_of_the_driver_is_a_diagnostic),
    ];
    let named = table.into_iter().map(|(name, run)| Trial::test(format!("gpu/{name}"), move || run().map_err(Failed::from)));
    let all = std::env::var_os("Q35_FULL").is_some();
    let examples = corpus::dense().into_iter().filter(|example| all || EXAMPLES.contains(&example.name.as_str()));
    let stored = |example: Example| {
        Trial::test(format!("gpu/stored-tokens/{}", example.name), move || {
            decode::stored_tokens(&example).map_err(Failed::from)
        })
    };
    named.chain(examples.map(stored)).collect()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("the tests' own paths are UTF-8"))
}

/// The small model in the default codec, compiled once for all tests: the folder that [`compile`] fills, and the bundle.
fn compiled() -> Result<&'static (tempfile::TempDir, PathBuf), String> {
    static COMPILED: OnceLock<Result<(tempfile::TempDir, PathBuf), String>> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().map_err(text)?;
        let bundle = compile(folder.path(), &corpus::tiny_llama().model, "w8", &[])?;
        Ok((folder, bundle))
    };
    COMPILED.get_or_init(make).as_ref().map_err(String::clone)
}

/// Compiles a model for CUDA; the LLVM IR of its kernels is the one file in the folder `dumps`.
fn compile(folder: &Path, model: &Path, codec: &str, more: &[&str]) -> Result<PathBuf, String> {
    let (bundle, dumps) = (folder.join(format!("{codec}.q35")), folder.join("dumps"));
    let mut args = vec!["compile", path(model), "--target", "cuda", "--codec", codec, "--quiet", "-o", path(&bundle)];
    args.extend(["--dump-after", "cuda-compile", "--dump-dir", path(&dumps)]);
    args.extend(more);
    program::run("q35c", &args).success()?;
    Ok(bundle)
}
