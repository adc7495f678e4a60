//! Operator sets: which versions of which set this compiler has read the definition of.

use super::proto::OperatorSet;
use q35_diag::{Code, Diagnostic};
use std::collections::BTreeMap;

/// Supported versions, first to last. A set that is not listed may appear with any version: whether its ops mean anything is decided later.
const SUPPORTED: &[(&str, i64, i64)] = &[("", 7, 24), ("com.microsoft", 1, 1)];

/// Versions by operator set.
pub(super) type Opsets = BTreeMap<String, i64>;

/// The canonical name of an operator set: the standard one is `""`.
pub(super) fn domain(written: &str) -> &str {
    if written == "ai.onnx" { "" } else { written }
}

/// The versions a model or a local function imports.
pub(super) fn imports(entries: &[OperatorSet]) -> Opsets {
    entries.iter().map(|e| (domain(&e.domain).to_owned(), e.version)).collect()
}

/// The version of `domain` that is in force; 1 if none is imported, as for the contributed ops that many files use undeclared.
pub(super) fn version(opsets: &Opsets, domain: &str) -> i64 {
    opsets.get(domain).copied().unwrap_or(1)
}

/// Whether an op of `domain` at `version` can be read at all.
pub(super) fn check(domain: &str, version: i64) -> Result<(), Diagnostic> {
    match SUPPORTED.iter().find(|row| row.0 == domain) {
        Some(&(_, first, last)) if !(first..=last).contains(&version) => {
            let set = if domain.is_empty() { "ai.onnx" } else { domain };
            let range = if first == last { format!("version {first} is") } else { format!("versions {first} to {last} are") };
            let what = format!("the model uses version {version} of operator set '{set}'; {range} supported");
            Err(Diagnostic::error(Code::UnsupportedOpset, what).help("export the model again with another opset version"))
        }
        _ => Ok(()),
    }
}
