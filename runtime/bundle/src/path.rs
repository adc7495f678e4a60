//! Paths inside a bundle, as the manifest spells them: relative, forward slashes, plain names only.

use std::path::{Component, Path};

/// Name of the manifest.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The manifest's own hash, in the format of `sha256sum`.
pub(crate) const MANIFEST_HASH: &str = "manifest.sha256";
/// Name of the weights file.
pub(crate) const WEIGHTS: &str = "weights.safetensors";

/// Whether `rel` names a file below the bundle's folder on every system, and is not one of the manifest's own two files.
pub(crate) fn is_inside(rel: &str) -> bool {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(name) if !name.is_empty());
    !rel.is_empty()
        && !rel.contains(['\\', ':', '\0'])
        && Path::new(rel).components().all(plain)
        && rel.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && rel != MANIFEST
        && rel != MANIFEST_HASH
}

#[cfg(test)]
mod tests {
    use super::is_inside;

    #[test]
    fn only_plain_relative_paths_are_inside() {
        for good in ["weights.safetensors", "cpu/model.so", "a/b/c.d", "..."] {
            assert!(is_inside(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/",
            "a\\b",
            "C:x",
            "a\0b",
            "manifest.json",
            "manifest.sha256",
        ] {
            assert!(!is_inside(bad), "{bad:?}");
        }
    }
}
