//! Where libq35rt is: cargo makes it, as a dependency of the tests in all of its forms, beside their binary.

use std::path::PathBuf;

/// The forms that programs link.
pub(crate) const FILES: [&str; 2] = ["libq35rt.a", "libq35rt.so"];

/// The folder that holds them.
///
/// # Errors
/// If one is missing.
pub(crate) fn folder() -> Result<PathBuf, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let folder = this.parent().map(PathBuf::from).unwrap_or_default();
    match FILES.iter().find(|file| !folder.join(file).is_file()) {
        None => Ok(folder),
        Some(file) => Err(format!("cargo left no {file} in {}", folder.display())),
    }
}
