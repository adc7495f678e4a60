//! What a kernel did wrong, and where.

use std::fmt;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An address outside every buffer.
    OutOfBounds,
    /// An address that is no multiple of the stated alignment.
    Misaligned,
    /// A byte that nothing has written is read.
    Uninitialised,
    /// Two threads touch a byte, one of them writing, with nothing between them.
    Race,
    /// A write to memory that the launch may only read.
    ReadOnly,
    /// Lanes wait for others that never come.
    Divergence,
    /// A division by zero, or control that may not arrive here.
    Undefined,
    /// More instructions than the launch may take.
    Endless,
    /// The launch does not fit the kernel.
    BadLaunch,
}

/// The first thing that a kernel may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: Kind,
    /// Details.
    pub what: String,
    /// Kernel, block, thread and instruction.
    pub place: String,
}

impl Fault {
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), place: String::new() }
    }

    pub(crate) fn at(mut self, place: impl FnOnce() -> String) -> Self {
        if self.place.is_empty() {
            self.place = place();
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} (in {})", self.kind, self.what, self.place)
    }
}

impl std::error::Error for Fault {}
