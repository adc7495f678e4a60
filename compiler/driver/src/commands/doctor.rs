//! `q35c doctor`: what this machine has of what a compile and its result need, and what to do about the rest.

use super::Output;
use crate::cli::Json;
use crate::table::{Align, Table};
use crate::{memory, size};
use q35_diag::Result;

/// One thing looked at.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// Whether it is good enough to compile.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do, where something is missing.
    pub help: Option<&'static str>,
}

/// Looks at everything.
pub fn run(options: &Json) -> Result<Output> {
    let findings = [toolchain(), vec![processor(), ram()]].concat();
    let success = findings.iter().all(|f| f.ok);
    let text = if options.json { super::json(&findings)? } else { listing(&findings) };
    Ok(Output { text, success })
}

fn listing(findings: &[Finding]) -> String {
    let mut table = Table::bare(&[Align::Left; 3]);
    for finding in findings {
        table.row([if finding.ok { "OK" } else { "MISSING" }, finding.what, &finding.found]);
        if let Some(help) = finding.help {
            table.row(["", "", help]);
        }
    }
    table.to_string()
}

#[cfg(feature = "mlir")]
fn toolchain() -> Vec<Finding> {
    let linker = q35_mlir::link::find_linker();
    vec![
        Finding { what: "LLVM and MLIR", ok: true, found: format!("{}, built in", q35_mlir::version()), help: None },
        Finding {
            what: "linker",
            ok: linker.is_some(),
            help: linker.is_none().then_some("install the package lld-22, or set LLVM_SYS_221_PREFIX to the prefix of LLVM 22"),
            found: linker.map_or_else(|| "no ld.lld".to_owned(), |path| path.display().to_string()),
        },
    ]
}

#[cfg(not(feature = "mlir"))]
fn toolchain() -> Vec<Finding> {
    vec![Finding {
        what: "LLVM and MLIR",
        ok: false,
        found: "this q35c was built without them".to_owned(),
        help: Some(
            "run scripts/setup.sh and build with the default feature 'mlir'; check, compare and --emit graph work as it is",
        ),
    }]
}

#[cfg(target_arch = "x86_64")]
macro_rules! detected {
    ($($feature:tt)*) => { [$(($feature, std::is_x86_feature_detected!($feature))),*] };
}

/// The best feature level that this machine has.
#[cfg(all(feature = "mlir", target_arch = "x86_64"))]
fn level() -> Option<&'static str> {
    use q35_target_cpu::level::Level;
    Level::of(std::env::consts::ARCH).find(|level| level.is_here()).map(Level::name)
}

#[cfg(all(not(feature = "mlir"), target_arch = "x86_64"))]
fn level() -> Option<&'static str> {
    None
}

/// What the processor can do of what kernels ask for, and hence which of a bundle's feature levels would run here.
#[cfg(target_arch = "x86_64")]
fn processor() -> Finding {
    let features = detected!("ssse3" "sse4.1" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vbmi" "avx512vnni");
    let has: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let level = level().map_or(String::new(), |level| format!("CPU bundles run at level '{level}'; "));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Finding {
        what: "processor",
        ok: true,
        found: format!("{threads} threads; {level}{}", has.join(" ")),
        help: (!has.contains(&"avx2")).then_some("the faster levels of CPU bundles need AVX2, or AVX-512 with VBMI and VNNI"),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> Finding {
    Finding { what: "processor", ok: false, found: std::env::consts::ARCH.to_owned(), help: Some("CPU bundles are for x86_64") }
}

fn ram() -> Finding {
    let found = match (memory::available(), memory::total()) {
        (Some(free), Some(all)) => format!("{} free of {}", size::show(free), size::show(all)),
        _ => "unknown on this system".to_owned(),
    };
    Finding { what: "memory", ok: true, found, help: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_stands_under_what_is_missing() {
        let findings = [
            Finding { what: "a", ok: true, found: "1".into(), help: None },
            Finding { what: "linker", ok: false, found: "none".into(), help: Some("get one") },
        ];
        assert_eq!(listing(&findings), "OK       a       1\nMISSING  linker  none\n                 get one\n");
    }
}
