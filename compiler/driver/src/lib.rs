//! The `q35c` command as a library: the stages joined into one compile, and the commands around it.
//!
//! What enters is a model's path and options; what leaves is a bundle, a listing or diagnostics. The order of the stages is in
//! [`pipeline`], the table of passes in [`passes`], what the user can type in [`cli`].
//!
//! This crate must not know ONNX spellings, number formats or machine code: it calls the crates that do.

pub mod account;
pub mod arrange;
pub mod budget;
pub mod cache;
pub mod calibrate;
pub mod cli;
pub mod commands;
pub mod divergence;
pub mod export;
pub mod layer;
pub mod limit;
pub mod passes;
pub mod pipeline;
pub mod predict;
pub mod prompt;
pub mod q35;
pub mod report;
pub mod settings;
pub mod sharing;
pub mod stored;
pub mod summary;
pub mod targets;
pub mod values;
pub mod watch;
pub mod weights;

pub use q35_console::{memory, size, table};

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// The whole program: reads the command line, runs the command, prints its result or its diagnostics.
///
/// Exit codes: 0 done, 1 a user-level error or an unsuccessful check, 2 wrong usage.
pub fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match commands::run(&cli.command) {
        Ok(output) => {
            let mut stdout = std::io::stdout().lock();
            // A reader that closed the pipe has seen what it wanted.
            let _ = stdout.write_all(output.text.as_bytes()).and_then(|()| stdout.flush());
            ExitCode::from(u8::from(!output.success))
        }
        Err(diagnostics) => {
            eprintln!("{diagnostics}");
            ExitCode::from(1)
        }
    }
}
