//! One module per command. Each takes its options and gives the text for stdout, or diagnostics.

pub mod cache;
pub mod check;
pub mod compare;
pub mod compile;
pub mod doctor;
pub mod export;
pub mod passes;
pub mod targets;

use crate::cli::{Cli, Command};
use clap::CommandFactory;
use q35_diag::{Code, Diagnostic, Result};

/// What a command leaves.
#[derive(Clone, Debug)]
pub struct Output {
    /// For stdout.
    pub text: String,
    /// Whether what was asked for is so: a check that finds a problem ends well, but without success.
    pub success: bool,
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        Self { text, success: true }
    }
}

/// Runs a command.
pub fn run(command: &Command) -> Result<Output> {
    match command {
        Command::Check(options) => check::run(options),
        Command::Compare(options) => compare::run(options).map(Output::from),
        Command::Compile(options) => compile::run(options).map(Output::from),
        Command::Export(options) => export::run(options).map(Output::from),
        Command::Targets(options) => targets::run(options).map(Output::from),
        Command::Passes(options) => passes::run(options).map(Output::from),
        Command::Doctor(options) => doctor::run(options),
        Command::Cache(options) => cache::run(options).map(Output::from),
        Command::Man { folder } => manual(folder).map(|()| String::new().into()),
        Command::Completions { shell } => Ok(completions(*shell).into()),
    }
}

fn completions(shell: clap_complete::Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "q35c", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// A page for the program, and one for each command.
fn manual(folder: &std::path::Path) -> Result<()> {
    let cannot =
        |e| Diagnostic::error(Code::CannotWrite, format!("the pages cannot be written: {e}")).at("folder", folder.display());
    clap_mangen::generate_to(Cli::command(), folder).map_err(cannot)?;
    Ok(())
}

/// A value as indented JSON with a line end.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Diagnostic::error(Code::CannotWrite, format!("the result cannot be written as JSON: {e}")))?;
    Ok(text + "\n")
}
