//! Which CPU features this machine has, by the names that bundles use.

macro_rules! features {
    ($($arch:literal $detect:ident { $($name:literal $spelling:tt)* })*) => {
        /// Whether this machine has the feature; an unknown name is a feature it lacks.
        pub(super) fn present(feature: &str) -> bool {
            match feature {
                $($(#[cfg(target_arch = $arch)] $name => std::arch::$detect!($spelling),)*)*
                _ => false,
            }
        }
    };
}

features! {
    "x86_64" is_x86_feature_detected {
        "sse3" "sse3" "ssse3" "ssse3" "sse41" "sse4.1" "sse42" "sse4.2" "popcnt" "popcnt" "f16c" "f16c" "fma" "fma"
        "avx" "avx" "avx2" "avx2" "bmi1" "bmi1" "bmi2" "bmi2" "lzcnt" "lzcnt" "avxvnni" "avxvnni"
        "avx512f" "avx512f" "avx512bw" "avx512bw" "avx512cd" "avx512cd" "avx512dq" "avx512dq" "avx512vl" "avx512vl"
        "avx512vbmi" "avx512vbmi" "avx512vbmi2" "avx512vbmi2" "avx512vnni" "avx512vnni" "avx512bf16" "avx512bf16" "avx512fp16" "avx512fp16"
        "gfni" "gfni"
    }
    "aarch64" is_aarch64_feature_detected {
        "neon" "neon" "fp16" "fp16" "bf16" "bf16" "dotprod" "dotprod" "i8mm" "i8mm" "sve" "sve" "sve2" "sve2"
    }
}

#[cfg(test)]
mod tests {
    use super::present;

    /// The oracle is the kernel's own list.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn agrees_with_the_kernel() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|l| l.starts_with("flags")).unwrap();
        for (ours, kernels) in [
            ("avx2", "avx2"),
            ("fma", "fma"),
            ("avx512f", "avx512f"),
            ("avx512vbmi", "avx512vbmi"),
            ("avx512vnni", "avx512_vnni"),
            ("sse42", "sse4_2"),
        ] {
            assert_eq!(present(ours), flags.split_whitespace().any(|f| f == kernels), "{ours}");
        }
        assert!(!present("neon") && !present("telepathy"));
    }
}
