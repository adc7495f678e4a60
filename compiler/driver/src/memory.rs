//! The peak resident set of this process, from the kernel's own book-keeping. Where the system keeps no such book there is no figure.

use crate::size;
use q35_diag::{Code, Diagnostic, Result};

/// Largest resident set in bytes since the process started.
pub fn peak() -> Option<u64> {
    field("VmHWM:")
}

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
        let (Some(limit), Some(peak)) = (self.0, peak()) else { return Ok(()) };
        let needed = peak.saturating_add(more);
        if needed <= limit {
            return Ok(());
        }
        let what = format!("the compile needs {} of memory, and --max-memory allows {}", size::show(needed), size::show(limit));
        Err(Diagnostic::error(Code::MemoryLimit, what).at("option", "--max-memory").help("allow more, or leave the option out").into())
    }
}

/// Bytes of memory this machine could still give to programs.
pub fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    kilobytes(&text, "MemAvailable:")
}

/// Bytes of memory this machine has.
pub fn total() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    kilobytes(&text, "MemTotal:")
}

fn field(name: &str) -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_or_told() {
        assert!(Limit(None).check().is_ok());
        assert!(Limit(Some(u64::MAX)).check_plan(1 << 40).is_ok());
        let text = Limit(Some(1 << 20)).check().unwrap_err().to_string();
        assert!(text.starts_with("error[Q35-0305]: the compile needs ") && text.contains("--max-memory allows 1.00 MiB"), "{text}");
    }

    #[test]
    fn an_allocation_shows() {
        let before = peak().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak().unwrap() >= before.max(64 << 20));
        drop(block);
        assert!(total().unwrap() >= available().unwrap());
    }
}
