//! Programs in C that link what a compile leaves, and nothing else: the answers of the object's own executor beside those of the runtime,
//! every wrong call, a header that belongs to another object.

use crate::end_to_end::{compile, path};
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("link/a-c-program-says-what-the-runtime-says", || Ok(same_tokens()?)),
        Trial::test("link/two-models-in-one-program", || Ok(two_models()?)),
    ]
}

/// Two models with different prefixes and codecs.
struct Compiled {
    folder: TempDir,
    tiny: PathBuf,
    other: PathBuf,
}

/// Every wrong call has its status, a header of another object is told by the linker, and an object needs nothing and keeps nothing.
fn two_models() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let example = corpus::tiny_llama();
    let tiny = compile(&example, folder.path(), "tiny.q35", &["--codec", "split", "--prefix", "tiny_"])?;
    let other = compile(&example, folder.path(), "other.q35", &["--codec", "q8", "--prefix", "other_"])?;
    // The header of the second one is included beside that of the first.
    std::fs::create_dir(tiny.join("cpu/other")).map_err(|e| e.to_string())?;
    std::fs::copy(other.join("cpu/model.h"), tiny.join("cpu/other/model.h")).map_err(|e| e.to_string())?;
    let compiled = Compiled { folder, tiny, other };
    wrong_calls(&compiled)?;
    other_header(&compiled)?;
    symbols(&compiled)
}

/// Runs a program to its end: what it printed, or everything it said.
pub(crate) fn run(program: impl AsRef<OsStr>, args: &[&str]) -> Result<String, String> {
    let name = program.as_ref().display().to_string();
    let output = Command::new(&program).args(args).output().map_err(|e| format!("{name}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{name} ended with {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))),
    }
}

/// Compiles a C program with every warning an error.
pub(crate) fn cc(source: &Path, args: &[&str], out: &Path) -> Result<(), String> {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let common = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", path(source)];
    run(compiler, &[&common[..], args, &["-lm", "-lpthread", "-o", path(out)]].concat()).map(drop)
}

fn same_tokens() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bundle = compile(&corpus::tiny_llama(), folder.path(), "tiny.q35", &["--codec", "w8"])?;
    let (object, include) = (bundle.join("cpu/model.o"), format!("-I{}", bundle.join("cpu").display()));
    let program_path = folder.path().join("generate");
    cc(&corpus::root().join("examples/c/generate.c"), &[path(&object), &include], &program_path)?;
    let weights = bundle.join("weights.safetensors");
    // A prompt longer than the steps that the program asks for.
    let prompt: Vec<String> = (0..70).map(|n| (n * 37 % 4000 + 1).to_string()).collect();
    let words: Vec<&str> = prompt.iter().map(String::as_str).collect();
    let said = run(&program_path, &[&[path(&weights), "12"], &words[..]].concat())?;
    let expected = program::run("q35", &["run", path(&bundle), "--tokens", &prompt.join(","), "-n", "12"]).success()?;
    if said == expected { Ok(()) } else { Err(format!("the program says {said}, the runtime {expected}")) }
}

fn wrong_calls(Compiled { folder, tiny, other }: &Compiled) -> Result<(), String> {
    let program = folder.path().join("bad_input");
    let objects = [tiny.join("cpu/model.o"), other.join("cpu/model.o")];
    let include = format!("-I{}", tiny.join("cpu").display());
    let source = corpus::root().join("tests/suite/link/bad_input.c");
    cc(&source, &[path(&objects[0]), path(&objects[1]), &include], &program)?;
    let weights = [tiny.join("weights.safetensors"), other.join("weights.safetensors")];
    let args = [path(&weights[0]), path(&weights[1])];
    run(&program, &args)?;
    match Command::new("valgrind").arg("--version").output() {
        Ok(_) => {
            let checked = ["--quiet", "--error-exitcode=9", path(&program)];
            run("valgrind", &[&checked[..], &args].concat()).map(drop)
        }
        Err(_) => {
            println!("valgrind is not on this machine: the program ran without it");
            Ok(())
        }
    }
}

fn other_header(Compiled { folder, tiny, other }: &Compiled) -> Result<(), String> {
    // A header of the right prefix from another compile.
    let wrong = folder.path().join("wrong");
    std::fs::create_dir(&wrong).map_err(|e| e.to_string())?;
    let header = std::fs::read_to_string(other.join("cpu/model.h")).map_err(|e| e.to_string())?;
    std::fs::write(wrong.join("model.h"), header.replace("other_", "tiny_")).map_err(|e| e.to_string())?;
    let source = wrong.join("main.c");
    std::fs::write(&source, "#include \"model.h\"\nint main(void) { return (int)tiny_vocab() == 0; }\n")
        .map_err(|e| e.to_string())?;
    let object = tiny.join("cpu/model.o");
    let told = cc(&source, &[path(&object), &format!("-I{}", wrong.display())], &wrong.join("main"));
    cc(&source, &[path(&object), &format!("-I{}", tiny.join("cpu").display())], &wrong.join("main"))?;
    match told {
        Err(text) if text.contains("tiny_abi_1_model_h_and_model_o_are_of_one_compile_") => Ok(()),
        Err(text) => Err(format!("the linker says\n{text}")),
        Ok(()) => Err("it links".to_owned()),
    }
}

/// No undefined symbols, no writable data, and no symbol without the prefix.
fn symbols(Compiled { tiny, .. }: &Compiled) -> Result<(), String> {
    let listing = run("nm", &["--extern-only", path(&tiny.join("cpu/model.o"))])?;
    let wrong: Vec<&str> = listing
        .lines()
        .filter(|line| {
            let mut words = line.split_whitespace().rev();
            let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let linker = name == "_GLOBAL_OFFSET_TABLE_";
            !linker && (!name.starts_with("tiny_") || !["T", "R"].contains(&kind))
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
}
