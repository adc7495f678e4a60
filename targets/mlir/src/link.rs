//! From object files to one, and to a shared object, with LLVM's linker.
//!
//! What enters is position-independent code without undefined symbols (checked here: kernels call nothing); what leaves are
//! objects whose bytes depend on what entered and the soname only: no build id, no paths, no search for libraries. Calls
//! of a shared object to itself stay inside it, whatever else a program has loaded under the same names.

use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSymbol};
use q35_diag::{Code, Diagnostic};

/// Names that position-independent objects refer to and the linker itself provides.
const LINKER_PROVIDED: &[&str] = &["", "_GLOBAL_OFFSET_TABLE_"];

/// The names an object file refers to but does not define, sorted.
///
/// # Panics
/// If `object` is not an object file: it comes from our own emitter.
pub fn undefined_symbols(object: &[u8]) -> Vec<String> {
    let file = object::File::parse(object).unwrap_or_else(|error| panic!("not an object file: {error}"));
    let mut names: Vec<String> = file
        .symbols()
        .filter(|symbol| symbol.is_undefined())
        .filter_map(|symbol| symbol.name().ok())
        .filter(|name| !LINKER_PROVIDED.contains(name))
        .map(str::to_string)
        .collect();
    names.sort();
    names
}

/// Where LLVM's ELF linker is: under the prefix in the environment variable `LLVM_SYS_221_PREFIX`, under the prefix the compiler was built with, in
/// Debian's place, or on the `PATH`.
pub fn find_linker() -> Option<PathBuf> {
    let prefixes = [
        std::env::var_os("LLVM_SYS_221_PREFIX").map(PathBuf::from),
        option_env!("LLVM_SYS_221_PREFIX").map(PathBuf::from),
        Some(PathBuf::from("/usr/lib/llvm-22")),
    ];
    let in_prefix = prefixes.into_iter().flatten().map(|prefix| prefix.join("bin/ld.lld"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> =
        std::env::split_paths(&path).flat_map(|folder| ["ld.lld-22", "ld.lld"].map(|name| folder.join(name))).collect();
    in_prefix.chain(on_path).find(|candidate| candidate.is_file())
}

/// Links one object file into a shared object called `soname`.
///
/// # Panics
/// If the object has undefined symbols: a kernel called something it must not.
pub fn shared_object(object: &[u8], soname: &str) -> Result<Vec<u8>, Diagnostic> {
    let undefined = undefined_symbols(object);
    assert!(undefined.is_empty(), "kernels refer to {undefined:?}");
    let shared = ["-shared", "-Bsymbolic", "--no-undefined", "--hash-style=gnu", "-z", "noexecstack", "-soname", soname];
    link_with(&linker()?, &[object], &shared)
}

/// One object file of several, whose symbols may refer to each other's.
pub fn joined(objects: &[&[u8]]) -> Result<Vec<u8>, Diagnostic> {
    link_with(&linker()?, objects, &["--relocatable"])
}

fn linker() -> Result<PathBuf, Diagnostic> {
    find_linker().ok_or_else(|| {
        Diagnostic::error(Code::ToolMissing, "LLVM 22's linker, ld.lld, is not on this machine")
            .help("install the package lld-22, or set LLVM_SYS_221_PREFIX to the LLVM 22 prefix")
    })
}

fn link_with(linker: &Path, objects: &[&[u8]], options: &[&str]) -> Result<Vec<u8>, Diagnostic> {
    let place = |error: std::io::Error| {
        Diagnostic::error(Code::CannotWrite, format!("the linker's temporary files cannot be written: {error}"))
            .at("folder", std::env::temp_dir().display())
    };
    let folder = tempfile::tempdir().map_err(place)?;
    let output = folder.path().join("output");
    let inputs: Vec<PathBuf> = (0..objects.len()).map(|at| folder.path().join(format!("{at}.o"))).collect();
    for (input, object) in inputs.iter().zip(objects) {
        std::fs::write(input, object).map_err(place)?;
    }
    let run = Command::new(linker)
        .args(["--build-id=none", "--threads=1"])
        .args(options)
        .arg("-o")
        .arg(&output)
        .args(&inputs)
        .output()
        .map_err(|error| {
            Diagnostic::error(Code::ToolFailed, format!("the linker cannot be started: {error}")).at("file", linker.display())
        })?;
    if !run.status.success() {
        let words = String::from_utf8_lossy(&run.stderr);
        return Err(
            Diagnostic::error(Code::ToolFailed, format!("the linker failed: {}", words.trim())).at("file", linker.display())
        );
    }
    std::fs::read(&output).map_err(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_that_cannot_run_is_a_diagnostic() {
        let error = link_with(Path::new("/nonexistent/ld.lld"), &[b""], &["-shared"]).unwrap_err();
        assert_eq!(error.code, Code::ToolFailed);
        assert_eq!(error.place.as_deref(), Some("file '/nonexistent/ld.lld'"));
    }

    #[test]
    fn what_the_linker_says_is_passed_on() {
        let error = shared_object_of_garbage();
        assert_eq!(error.code, Code::ToolFailed);
        assert!(error.what.starts_with("the linker failed: "), "{}", error.what);
    }

    fn shared_object_of_garbage() -> Diagnostic {
        let linker = find_linker().expect("the tests need LLVM 22's ld.lld");
        link_with(&linker, &[b"not an object"], &["-shared"]).unwrap_err()
    }
}
