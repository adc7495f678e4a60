//! The pass table's row type. Stages export their rows; the driver joins them into the one table that `--emit`, `--dump-after`,
//! timing, `q35c passes` and the documentation read.

use std::fmt;

/// The stages of the way from a model to a bundle, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Source-level ops as the exporter wrote them.
    Source,
    /// Model-level ops of the q35 dialect, as a petgraph.
    Graph,
    /// The q35 dialect as an MLIR module.
    Q35,
    /// The target's own dialects.
    Target,
    /// Machine code or its text form.
    Asm,
    /// The finished folder.
    Bundle,
}

impl Stage {
    /// The word the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Graph => "graph",
            Self::Q35 => "q35",
            Self::Target => "target",
            Self::Asm => "asm",
            Self::Bundle => "bundle",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of the pass table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Kebab-case, unique.
    pub name: &'static str,
    /// One line: what changes, in the imperative.
    pub purpose: &'static str,
    /// What it reads.
    pub from: Stage,
    /// What it leaves.
    pub to: Stage,
}

/// Whoever watches a compile: timing, dumps, progress.
pub trait Observer {
    /// Called before a pass starts.
    fn before(&mut self, pass: &Pass);
    /// Called when it has ended; `print` renders what it left, and is called only if somebody wants to see it.
    fn after(&mut self, pass: &Pass, print: &dyn Fn() -> String);
    /// Work done inside a pass, in the unit the pass chooses (weights, tensors, kernels).
    fn progress(&mut self, done: u64, total: u64, what: &str);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn before(&mut self, _: &Pass) {}
    fn after(&mut self, _: &Pass, _: &dyn Fn() -> String) {}
    fn progress(&mut self, _: u64, _: u64, _: &str) {}
}
