//! The resident set of this process, at present and at its peak, from the kernel's own book-keeping. Where the system keeps no such book there is no figure.

/// Largest resident set in bytes since the process started.
pub fn peak() -> Option<u64> {
    field("VmHWM:")
}

/// Resident set in bytes at present.
pub fn current() -> Option<u64> {
    field("VmRSS:")
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
    fn an_allocation_shows() {
        let before = peak().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(current().unwrap() >= 64 << 20);
        assert!(peak().unwrap() >= before.max(64 << 20));
        drop(block);
        assert!(total().unwrap() >= available().unwrap());
    }
}
