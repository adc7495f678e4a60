//! Results: text on stdout, files that appear when they are complete.

use q35_bundle::cannot_write;
use q35_diag::{Code, Diagnostic, Result};
use serde::Serialize;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Prints at once. A reader that closed the pipe has seen what it wanted: the program ends there.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result.map_err(|e| cannot_write(Path::new("stdout"), &e))?),
    }
}

/// Prints a JSON object.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value).map_err(|e| cannot_write(Path::new("stdout"), &e.into()))?;
    print(&format!("{json}\n"))
}

/// Writes a file under a temporary name and renames it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|e| {
        let _ = fs::remove_file(&temporary);
        cannot_write(path, &e).into()
    })
}

/// Reads a file that the user named.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| {
        Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", path.display()).into()
    })
}
