//! Compiles a module for this machine, links it and loads it into the test process.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::CString;

use q35_mlir::builder::KernelModule;
use q35_mlir::{link, llvm};

pub(crate) struct Loaded {
    pub(crate) library: libloading::Library,
    pub(crate) emitted: llvm::Emitted,
    _folder: tempfile::TempDir,
}

/// The baseline of the machine the test runs on.
pub(crate) fn machine() -> llvm::Machine {
    if cfg!(target_arch = "aarch64") { llvm::Machine::aarch64_linux() } else { llvm::Machine::x86_64_linux() }
}

pub(crate) fn load(mut module: KernelModule<'_>) -> Loaded {
    module.lower(|_, _| ());
    let emitted = llvm::emit(&module, &machine());
    load_object(&emitted.object.clone(), emitted)
}

/// Two parts, whose second one has the functions named.
pub(crate) fn load_in_parts(mut module: KernelModule<'_>, second: &[&str]) -> Loaded {
    module.lower(|_, _| ());
    let mut parts = llvm::emit_parts(&module, &machine(), 2, &|name| usize::from(second.contains(&name)));
    let joined = link::joined(&[&parts[0].object, &parts[1].object]).unwrap();
    load_object(&joined, parts.remove(0))
}

fn load_object(object: &[u8], emitted: llvm::Emitted) -> Loaded {
    let shared = link::shared_object(object, "libtest.so").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libtest.so");
    std::fs::write(&path, shared).unwrap();
    // SAFETY: the library is ours and has no initialisers.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    Loaded { library, emitted, _folder: folder }
}

impl Loaded {
    /// Calls `name(x, y, n)`.
    pub(crate) fn call<X, Y>(&self, name: &str, x: &[X], y: &mut [Y]) {
        type F = unsafe extern "C" fn(*const u8, *mut u8, i64);
        let symbol = CString::new(name).unwrap();
        // SAFETY: every function the tests define has this signature and touches x[0..n] and y[0..n] only.
        unsafe {
            let function: libloading::Symbol<'_, F> = self.library.get(symbol.as_bytes_with_nul()).unwrap();
            function(x.as_ptr().cast(), y.as_mut_ptr().cast(), y.len() as i64);
        }
    }
}
