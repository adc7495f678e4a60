//! A disk that is full: one clear error, and nothing left behind.
//!
//! The disk is a tmpfs of three megabytes, mounted where the system lets an ordinary process have a mount namespace of its own.

use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::process::Command;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("disk/a-full-disk-leaves-nothing", || Ok(full_disk()?))]
}

const NAMESPACE: [&str; 4] = ["--user", "--map-root-user", "--mount", "sh"];

fn full_disk() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mount = r#"mount -t tmpfs -o size=3M none "$1""#;
    let try_mount = Command::new("unshare").args(NAMESPACE).args(["-c", mount, "sh", path(folder.path())]).output();
    if !try_mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: this system gives no mount namespace to an ordinary process");
        return Ok(());
    }
    let program = program::command("q35c");
    let script = format!(r#"{mount} && "$2" compile "$3" --codec f32 --quiet -o "$1/x.q35"; code=$?; ls -A "$1"; exit $code"#);
    let output = Command::new("unshare")
        .args(NAMESPACE)
        .args([
            "-c",
            &script,
            "sh",
            path(folder.path()),
            &program.get_program().to_string_lossy(),
            path(&corpus::tiny_llama().model),
        ])
        .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .map_err(|e| e.to_string())?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let expected = "error[Q35-0702]: the disk is full";
    match (output.status.code(), stdout.is_empty(), stderr.starts_with(expected)) {
        (Some(1), true, true) => Ok(()),
        (code, ..) => Err(format!("exit code {code:?}, left in the folder: '{stdout}', stderr:\n{stderr}")),
    }
}
