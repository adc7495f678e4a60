//! `--effort best`: a compile that was killed goes on where it was, and its bundle has the bytes of one that was not, on any number of threads.

use crate::determinism::files;
use crate::end_to_end::path;
use crate::program;
use libtest_mimic::Trial;
use q35_tests::corpus;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Rounded parameters after which the compile is killed.
const KEPT: usize = 3;
/// How long the compile may take to get there.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("calibration/a-killed-compile-goes-on", || Ok(killed()?))]
}

fn compile(bundle: &Path, threads: &str) -> Command {
    let example = corpus::tiny_llama();
    let mut command = program::command("q35c");
    command.args(["compile", path(&example.model), "--codec", "w8", "--quiet", "-o", path(bundle)]);
    command.args(["--effort", "best", "--sequences", "2", "--calibrate", path(&example.folder.join("calibration.txt"))]);
    command.env("RAYON_NUM_THREADS", threads).stdout(Stdio::null());
    command
}

/// The rounded parameters in a work folder, with the time of their last change.
fn rounded(work: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = entries.filter(|path| path.extension().is_some_and(|extension| extension == "rounded"));
    ours.filter_map(|path| Some((path.clone(), path.metadata().ok()?.modified().ok()?))).collect()
}

fn finish(mut command: Command) -> Result<(), String> {
    let status = command.status().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("the compile ended with {status}")) }
}

fn killed() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let [whole, stopped] = ["whole.q35", "stopped.q35"].map(|name| folder.path().join(name));
    let work = folder.path().join("stopped.q35.work");
    finish(compile(&whole, "2"))?;
    let mut child = compile(&stopped, "1").spawn().map_err(|e| e.to_string())?;
    let started = Instant::now();
    while rounded(&work).len() < KEPT {
        if started.elapsed() > PATIENCE || child.try_wait().map_err(|e| e.to_string())?.is_some() {
            return Err(format!("the compile left {} parameters", rounded(&work).len()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
    let kept = rounded(&work);
    if stopped.exists() {
        return Err("there is a bundle before the compile is through".to_owned());
    }
    let mut again = compile(&stopped, "3").spawn().map_err(|e| e.to_string())?;
    // What was kept is not rounded again.
    let mut rewritten = false;
    while again.try_wait().map_err(|e| e.to_string())?.is_none() {
        let now = rounded(&work);
        rewritten |= kept.iter().any(|(path, time)| now.iter().any(|(other, changed)| path == other && time != changed));
        std::thread::sleep(Duration::from_millis(5));
    }
    if rewritten || !again.wait().map_err(|e| e.to_string())?.success() || work.exists() {
        return Err(format!("rounded twice: {rewritten}; the work folder is still there: {}", work.exists()));
    }
    let (whole, stopped) = (files(&whole), files(&stopped));
    let different: Vec<_> = whole.keys().filter(|name| whole.get(*name) != stopped.get(*name)).collect();
    if different.is_empty() && whole.len() == stopped.len() { Ok(()) } else { Err(format!("different bytes in {different:?}")) }
}
