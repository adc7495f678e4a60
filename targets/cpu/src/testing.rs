//! Compiles a kernel for every level this machine has, calls it, and shows the arguments to a check.
//!
//! Buffers end where their content ends, followed by a canary; calls are split unevenly, as the executor would.

use std::ffi::{CString, c_void};

use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::llvm::{Machine, emit};

use crate::abi::{define, symbol};
use crate::kernels::{Kernel, row_bytes};
use crate::level::Level;

const ALIGN: usize = 64;
const CANARY: u8 = 0xA5;

/// The bytes of one kernel argument, 64-byte aligned.
pub(crate) struct Arg {
    storage: Vec<u8>,
    start: usize,
    len: usize,
}

impl Arg {
    /// Any bytes.
    pub(crate) fn bytes(content: &[u8]) -> Self {
        let mut storage = vec![CANARY; content.len() + 2 * ALIGN];
        let start = storage.as_ptr().align_offset(ALIGN);
        storage[start..start + content.len()].copy_from_slice(content);
        Arg { storage, start, len: content.len() }
    }

    /// f32 without padding.
    pub(crate) fn floats(content: &[f32]) -> Self {
        Self::bytes(&content.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>())
    }

    /// i32.
    pub(crate) fn ints(content: &[i32]) -> Self {
        Self::bytes(&content.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<_>>())
    }

    /// Rows of activations; the padding is NaN, so that whoever reads it shows.
    pub(crate) fn rows(content: &[f32], width: usize) -> Self {
        let stride = row_bytes(width as u64) as usize / 4;
        let mut padded = Vec::new();
        for row in content.chunks(width) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(stride), f32::NAN);
        }
        Self::floats(&padded)
    }

    /// Rows of activations to be written.
    pub(crate) fn zeros(rows: usize, width: usize) -> Self {
        Self::rows(&vec![0.0; rows * width], width)
    }

    /// The content.
    pub(crate) fn content(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// The content as f32.
    pub(crate) fn as_floats(&self) -> Vec<f32> {
        self.content().chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    fn is_intact(&self) -> bool {
        self.storage[..self.start].iter().chain(&self.storage[self.start + self.len..]).all(|&b| b == CANARY)
    }
}

/// The rows of activations without their padding, which must still be NaN.
pub(crate) fn rows(arg: &Arg, width: usize) -> Vec<f32> {
    let stride = row_bytes(width as u64) as usize / 4;
    let all = arg.as_floats();
    assert!(all.chunks(stride).all(|row| row[width..].iter().all(|v| v.is_nan())), "padding was written");
    all.chunks(stride).flat_map(|row| row[..width].to_vec()).collect()
}

/// Numbers of both signs that do not repeat, about `scale` large.
pub(crate) fn numbers(count: usize, scale: f32) -> Vec<f32> {
    let mut state = 0x9E37_79B9u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next() * scale).collect()
}

/// Asserts that every number is within `tolerance` (relative, and absolute below 1) of the exact one.
#[track_caller]
pub(crate) fn close(got: &[f32], exact: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}");
    for (at, (&got, &exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(got) - exact).abs();
        assert!(error <= tolerance * exact.abs().max(1.0), "{what}: [{at}] is {got}, not {exact}");
    }
}

/// Runs `kernel` over `tiles` tiles at every level of this machine; `check` sees the arguments afterwards.
pub(crate) fn run(
    kernel: &dyn Kernel,
    args: impl AsRef<[Arg]>,
    dims: [i64; 4],
    tiles: i64,
    check: impl Fn(Level, &[Arg]),
) {
    type Function = unsafe extern "C" fn(*const *mut c_void, *const i64, i64, i64);
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    let name = kernel.name();
    assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name} is no C identifier");
    let levels: Vec<Level> = Level::of(std::env::consts::ARCH).collect();
    for &level in &levels {
        define(&module, &name, level, |call| kernel.build(level, call));
    }
    module.lower(|_, _| ());
    let machine = if cfg!(target_arch = "aarch64") { Machine::aarch64_linux() } else { Machine::x86_64_linux() };
    let shared = q35_mlir::link::shared_object(&emit(&module, &machine).object, "libkernel.so").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libkernel.so");
    std::fs::write(&path, shared).unwrap();
    // SAFETY: the library is ours and has no initialisers.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    for level in levels.into_iter().filter(|level| level.is_here()) {
        let mut args: Vec<Arg> = args.as_ref().iter().map(|arg| Arg::bytes(arg.content())).collect();
        let addresses: Vec<*mut c_void> =
            args.iter_mut().map(|arg| arg.storage[arg.start..].as_mut_ptr().cast()).collect();
        let symbol = CString::new(symbol(&name, level)).unwrap();
        // SAFETY: kernels have this signature, and the arguments are as large as the spec and `dims` say.
        unsafe {
            let function: libloading::Symbol<'_, Function> = library.get(symbol.as_bytes_with_nul()).unwrap();
            let cut = tiles / 3;
            for (begin, end) in [(cut, tiles), (0, cut), (cut, cut)] {
                function(addresses.as_ptr(), dims.as_ptr(), begin, end);
            }
        }
        assert!(args.iter().all(Arg::is_intact), "{name} at level {level:?} writes past a buffer");
        check(level, &args);
    }
}
