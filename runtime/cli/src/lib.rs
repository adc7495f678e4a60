//! The `q35` command: runs, judges, measures and describes bundles.
//!
//! stdout is the result, stderr is progress. Exit codes: 0 done, 1 a user-level error, 2 wrong usage. What the user can type is in
//! [`args`]; each command is a module that turns its arguments into text on stdout or diagnostics.

mod args;
mod bench;
mod eval;
mod figures;
mod inspect;
mod output;
mod pages;
mod profile;
mod run;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// The whole program: reads the command line, runs the command, prints its result or its diagnostics.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { folder } => pages::manual(&folder),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(diagnostics) => {
            eprintln!("{diagnostics}");
            ExitCode::from(1)
        }
    }
}
