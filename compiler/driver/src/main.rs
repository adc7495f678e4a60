//! `q35c`: reads the command line, runs the command, turns diagnostics into stderr and an exit code.

use clap::Parser;
use q35c::cli::Cli;
use q35c::commands;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
