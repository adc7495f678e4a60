//! A list of problems that stays short enough to read, however broken the file is.

use q35_diag::{Code, Diagnostic, Diagnostics, Result};

/// Problems shown before the rest is only counted.
const SHOWN: usize = 100;

/// Collects diagnostics.
#[derive(Debug, Default)]
pub(crate) struct Report {
    shown: Diagnostics,
    further: u64,
}

impl Report {
    pub(crate) fn push(&mut self, diagnostic: Diagnostic) {
        if self.shown.iter().count() < SHOWN { self.shown.push(diagnostic) } else { self.further += 1 }
    }

    /// Keeps a value, or collects why there is none.
    pub(crate) fn take<T>(&mut self, result: std::result::Result<T, Diagnostic>) -> Option<T> {
        result.map_err(|d| self.push(d)).ok()
    }

    pub(crate) fn finish<T>(mut self, value: T) -> Result<T> {
        if self.further > 0 {
            self.shown.push(Diagnostic::error(Code::BadGraph, format!("{} further problems are not shown", self.further)));
        }
        self.shown.into_result(value)
    }
}
