//! Repository chores: `cargo xtask CHORE [ARGUMENTS]`.
//!
//! A chore writes files that are checked in, or, with `--check`, computes them again and compares. What a chore
//! prints is for people; its exit status is for machines.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod accuracy;
mod bench_peers;
mod book;
mod cache;
mod shell;
mod synth;
mod tables;
mod tools;

/// Repository chores.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Measure our codecs beside llama.cpp's types (an hour)
    Accuracy(accuracy::Options),
    /// Measure our bundles beside llama.cpp, ik_llama.cpp and ONNX Runtime, in rounds of minutes
    BenchPeers(bench_peers::Options),
    /// Make pages of HTML of docs/
    Book(book::Options),
    /// Write a checkpoint with random weights, of a shape people deploy or any other
    Synth(synth::Options),
    /// Train the tables of the codecs that have one (minutes)
    Tables(tables::Options),
}

fn main() -> ExitCode {
    let done = match Xtask::parse().chore {
        Chore::Accuracy(options) => accuracy::run(&options),
        Chore::BenchPeers(options) => bench_peers::run(&options),
        Chore::Book(options) => book::run(&options),
        Chore::Synth(options) => synth::run(&options),
        Chore::Tables(options) => tables::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Every page that people read.
    fn pages() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folders =
            ["", "docs/src", "benchmarks/accuracy", "benchmarks/speed", "compiler", "targets", "runtime", "examples", "tests"];
        let files = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).unwrap());
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|name| name == "md")).collect()
    }

    #[test]
    fn the_chores_that_pages_name_are_there() {
        let mut named = 0;
        for page in pages() {
            let text = fs::read_to_string(&page).unwrap();
            for (at, _) in text.match_indices("cargo xtask ") {
                let end = |c| ['`', '#', '\n'].contains(&c);
                let command = text[at..].split(end).next().unwrap_or_default();
                let parsed = Xtask::try_parse_from(command.split_whitespace().skip(1));
                // A sentence may name a chore and not what it works on.
                let refused = parsed.err().filter(|error| error.kind() != ErrorKind::MissingRequiredArgument);
                assert!(refused.is_none(), "{}: {command}: {}", page.display(), refused.unwrap());
                named += 1;
            }
        }
        assert!(named > 10, "{named} commands");
    }
}
