//! What `make install` puts beside the command: completions and manual pages.

use crate::args::Cli;
use crate::output;
use clap::CommandFactory;
use q35_diag::{Code, Diagnostic, Result};
use std::path::Path;

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "q35", &mut text);
    output::print(&String::from_utf8_lossy(&text))
}

/// Writes a page for the command, and one for each of its own.
pub(crate) fn manual(folder: &Path) -> Result<()> {
    let cannot =
        |e| Diagnostic::error(Code::CannotWrite, format!("the pages cannot be written: {e}")).at("folder", folder.display());
    Ok(clap_mangen::generate_to(Cli::command(), folder).map_err(cannot)?)
}
