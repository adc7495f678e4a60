//! Repository chores: `cargo xtask CHORE [ARGUMENTS]`.
//!
//! A chore writes files that are checked in, or, with `--check`, computes them again and compares. What a chore
//! prints is for people; its exit status is for machines.

use std::process::ExitCode;

mod accuracy;
mod bench_peers;
mod book;
mod cache;
mod shell;
mod synth;
mod tables;
mod tools;

/// Does a chore on the arguments after its name.
type Chore = fn(&[String]) -> Result<(), String>;

/// Name, what it does, and the function that does it.
const CHORES: [(&str, &str, Chore); 5] = [
    (
        "accuracy",
        "measure our codecs beside llama.cpp's types (an hour); --quick, --ablation, --no-peers, --known, --model FOLDER",
        accuracy::run,
    ),
    (
        "bench-peers",
        "measure our bundles beside llama.cpp, ik_llama.cpp and ONNX Runtime, in rounds of minutes; --help",
        bench_peers::run,
    ),
    ("book", "make pages of HTML of docs/, in target/book or the folder named", book::run),
    ("synth", "write a checkpoint with random weights, of a shape people deploy or any other; --help", synth::run),
    ("tables", "train the pair tables of w7 to w12 and a11 (minutes); --check compares with those checked in", tables::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chore = arguments.first().and_then(|name| CHORES.iter().find(|chore| chore.0 == name));
    let Some((_, _, run)) = chore else {
        eprintln!("usage: cargo xtask CHORE [ARGUMENTS]");
        for (name, summary, _) in CHORES {
            eprintln!("  {name:<12} {summary}");
        }
        return ExitCode::from(2);
    };
    match run(&arguments[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
