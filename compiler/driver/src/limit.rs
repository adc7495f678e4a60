//! `--max-memory`: a promise that is checked while the weights stream, and broken only with an error.

use q35_console::{memory, size};
use q35_diag::{Code, Diagnostic, Result};

/// How much memory a compile may use: `--max-memory`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limit(pub Option<u64>);

impl Limit {
    /// Whether the process kept the limit so far.
    ///
    /// # Errors
    /// [`Code::MemoryLimit`] if not.
    pub fn check(self) -> Result<()> {
        self.check_plan(0)
    }

    /// Whether the limit leaves room for `more` bytes beside the peak so far.
    ///
    /// # Errors
    /// [`Code::MemoryLimit`] if not.
    pub fn check_plan(self, more: u64) -> Result<()> {
        let (Some(limit), Some(peak)) = (self.0, memory::peak()) else { return Ok(()) };
        let needed = peak.saturating_add(more);
        if needed <= limit {
            return Ok(());
        }
        let what = format!("the compile needs {} of memory, and --max-memory allows {}", size::show(needed), size::show(limit));
        Err(Diagnostic::error(Code::MemoryLimit, what)
            .at("option", "--max-memory")
            .help("allow more, or leave the option out")
            .into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_or_told() {
        assert!(Limit(None).check().is_ok());
        assert!(Limit(Some(u64::MAX)).check_plan(1 << 40).is_ok());
        let text = Limit(Some(1 << 20)).check().unwrap_err().to_string();
        assert!(
            text.starts_with("error[Q35-0305]: the compile needs ") && text.contains("--max-memory allows 1.00 MiB"),
            "{text}"
        );
    }
}
