//! Other programs: run to their end, stdout kept, stderr the user's.

use std::process::{Command, Stdio};

/// What a program wrote to stdout, if it ended well.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|e| format!("{name} does not start: {e}"))?;
    if !output.status.success() {
        return Err(format!("{name} ended with {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{name} does not print text"))
}

/// The JSON that a program printed.
pub(crate) fn json<T: serde::de::DeserializeOwned>(command: &mut Command) -> Result<T, String> {
    let text = run(command)?;
    serde_json::from_str(&text).map_err(|e| format!("{}: not the JSON expected: {e}", command.get_program().to_string_lossy()))
}
