//! The programs under test, as child processes of this binary.

use q35_tests::filetest::{Ran, Streams};
use std::ffi::OsStr;
use std::process::{Command, ExitCode};

const VARIABLE: &str = "Q35_TEST_AS";

/// Runs as one of the programs, if the environment asks for it.
pub(crate) fn become_program() -> Option<ExitCode> {
    match std::env::var(VARIABLE).ok()?.as_str() {
        "q35c" => Some(q35c::main()),
        "q35" => Some(q35::main()),
        other => panic!("{VARIABLE}={other} names no program"),
    }
}

/// Puts a program into a folder of the `PATH`, under its own name.
pub(crate) fn install(program: &str, folder: &std::path::Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let path = folder.join(program);
    std::fs::write(&path, format!("#!/bin/sh\n{VARIABLE}={program} exec '{}' \"$@\"\n", this.display()))
        .map_err(|e| e.to_string())?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).map_err(|e| e.to_string())
}

/// A command that starts a program.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    command.env(VARIABLE, program).env_remove("Q35C_BLESS").stdin(std::process::Stdio::null());
    command
}

/// Runs a program to its end.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Ran {
    let output = command(program).args(args).output().expect("this binary can be started");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran {
        streams: Streams { stdout: text(output.stdout), stderr: text(output.stderr) },
        exit: output.status.code().unwrap_or(-1),
    }
}
