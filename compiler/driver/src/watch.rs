//! Watching a compile: progress on stderr, dumps into a folder, time and memory per pass.
//!
//! What enters are the [`Observer`] calls of the passes; what leaves is text on stderr, files in the dump folder and the list of
//! [`Timing`]s. Nothing here reaches the bundle: a compile gives the same bytes however it is watched.

use crate::memory;
use crate::size;
use crate::table::{Align, Table};
use q35_console::Progress;
use q35_diag::{Code, Diagnostic, Diagnostics};
use q35_graph::{Observer, Pass, Stage};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Which passes' results are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DumpAfter {
    /// Every pass.
    All,
    /// The pass of this name.
    Pass(String),
}

/// Where dumps go and what is dumped.
#[derive(Clone, Debug)]
pub struct Dumps {
    /// Folder, made when the first file is written.
    pub folder: PathBuf,
    /// Which passes.
    pub after: DumpAfter,
}

/// What one pass took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The pass.
    pub pass: Pass,
    /// Wall time.
    pub time: Duration,
    /// Peak resident set of the process by the end of the pass, in bytes.
    pub peak: Option<u64>,
}

/// How much is said while working.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Nothing.
    Quiet,
    /// One line per pass, and a bar with an estimate where stderr is a terminal.
    Normal,
}

/// The driver's [`Observer`].
pub struct Watch {
    verbosity: Verbosity,
    dumps: Option<Dumps>,
    problems: Diagnostics,
    timings: Vec<Timing>,
    started: Vec<Instant>,
    bar: Progress,
}

impl Watch {
    /// Watches with the given talkativeness and dumps.
    pub fn new(verbosity: Verbosity, dumps: Option<Dumps>) -> Self {
        Self {
            verbosity,
            dumps,
            problems: Diagnostics::new(),
            timings: Vec::new(),
            started: Vec::new(),
            bar: Progress::default(),
        }
    }

    /// What every pass took so far, in order.
    pub fn timings(&self) -> &[Timing] {
        &self.timings
    }

    /// The timings as an aligned table.
    pub fn timing_table(&self) -> String {
        let mut table = Table::new(&[
            ("pass", Align::Left),
            ("leaves", Align::Left),
            ("time", Align::Right),
            ("peak memory", Align::Right),
        ]);
        for timing in &self.timings {
            table.row([
                timing.pass.name.to_owned(),
                timing.pass.to.to_string(),
                format!("{:.1} ms", timing.time.as_secs_f64() * 1e3),
                timing.peak.map_or_else(|| "?".to_owned(), size::show),
            ]);
        }
        table.to_string()
    }

    /// Dump files that could not be written.
    pub fn into_problems(self) -> Diagnostics {
        self.problems
    }

    fn wanted(&self, pass: &Pass) -> Option<PathBuf> {
        let dumps = self.dumps.as_ref()?;
        let wanted = match &dumps.after {
            DumpAfter::All => true,
            DumpAfter::Pass(name) => name == pass.name,
        };
        wanted.then(|| dumps.folder.clone())
    }

    fn dump(&mut self, pass: &Pass, print: &dyn Fn() -> String) {
        let Some(folder) = self.wanted(pass) else { return };
        let extension = match pass.to {
            Stage::Source | Stage::Graph | Stage::Bundle => "txt",
            Stage::Q35 | Stage::Target => "mlir",
            Stage::Asm => "s",
        };
        let path = folder.join(format!("{:03}-{}.{extension}", self.timings.len(), pass.name));
        if let Err(e) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, print())) {
            self.problems.push(
                Diagnostic::error(Code::CannotWrite, format!("a dump cannot be written: {e}")).at("file", path.display()),
            );
        }
    }
}

impl Observer for Watch {
    fn before(&mut self, _: &Pass) {
        self.started.push(Instant::now());
    }

    fn after(&mut self, pass: &Pass, print: &dyn Fn() -> String) {
        self.bar.finish();
        let time = self.started.pop().map_or(Duration::ZERO, |t| t.elapsed());
        self.timings.push(Timing { pass: *pass, time, peak: memory::peak() });
        if self.verbosity == Verbosity::Normal {
            eprintln!("{:>9.1} ms  {}", time.as_secs_f64() * 1e3, pass.name);
        }
        self.dump(pass, print);
    }

    fn progress(&mut self, done: u64, total: u64, what: &str) {
        if self.verbosity == Verbosity::Normal {
            self.bar.at(done, total, what);
        }
    }
}

/// Keeps the text of what the last pass of a stage left, and passes everything on.
pub struct Capture<'a> {
    stage: Stage,
    inner: &'a mut dyn Observer,
    text: String,
}

impl<'a> Capture<'a> {
    /// Captures a stage.
    pub fn new(stage: Stage, inner: &'a mut dyn Observer) -> Self {
        Self { stage, inner, text: String::new() }
    }

    /// What the last pass of the stage left; empty if none ran.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Observer for Capture<'_> {
    fn before(&mut self, pass: &Pass) {
        self.inner.before(pass);
    }

    fn after(&mut self, pass: &Pass, print: &dyn Fn() -> String) {
        if pass.to == self.stage {
            self.text = print();
        }
        self.inner.after(pass, print);
    }

    fn progress(&mut self, done: u64, total: u64, what: &str) {
        self.inner.progress(done, total, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Pass = Pass { name: "one", purpose: "", from: Stage::Source, to: Stage::Graph };
    const TWO: Pass = Pass { name: "two", purpose: "", from: Stage::Graph, to: Stage::Q35 };

    fn watched(after: DumpAfter, folder: PathBuf) -> Watch {
        let mut watch = Watch::new(Verbosity::Quiet, Some(Dumps { folder, after }));
        for pass in [ONE, TWO] {
            watch.before(&pass);
            watch.after(&pass, &|| format!("left by {}", pass.name));
        }
        watch
    }

    #[test]
    fn dumps_are_numbered_by_pass() {
        let dir = tempfile::tempdir().unwrap();
        let watch = watched(DumpAfter::All, dir.path().join("d"));
        assert_eq!(watch.timings().iter().map(|t| t.pass.name).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("d/001-one.txt")).unwrap(), "left by one");
        assert_eq!(std::fs::read_to_string(dir.path().join("d/002-two.mlir")).unwrap(), "left by two");
        assert!(watch.into_problems().is_empty());
    }

    #[test]
    fn a_stage_can_be_captured() {
        let mut watch = Watch::new(Verbosity::Quiet, None);
        let mut capture = Capture::new(Stage::Graph, &mut watch);
        for pass in [ONE, TWO] {
            capture.before(&pass);
            capture.after(&pass, &|| pass.name.to_owned());
        }
        assert_eq!(capture.into_text(), "one");
        assert_eq!(watch.timings().len(), 2);
    }

    #[test]
    fn one_pass_can_be_picked_and_a_bad_folder_is_told() {
        let dir = tempfile::tempdir().unwrap();
        watched(DumpAfter::Pass("two".into()), dir.path().join("d"));
        assert_eq!(std::fs::read_dir(dir.path().join("d")).unwrap().count(), 1);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let problems = watched(DumpAfter::All, dir.path().join("file/d")).into_problems();
        assert!(problems.to_string().starts_with("error[Q35-0701]: a dump cannot be written:"), "{problems}");
    }
}
