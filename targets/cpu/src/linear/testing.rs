//! What the tests of kernels share: compiling, loading, and memory that faults when a kernel leaves it.

use super::emulated::{self, Argument, Emulated};
use crate::level::{Isa, Level};
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::{link, llvm};
use std::ffi::{CString, c_void};

/// Compiled kernels: in this process, or in an emulator.
pub(crate) struct Loaded {
    library: libloading::Library,
    emulated: Option<Emulated>,
    _folder: tempfile::TempDir,
}

/// The levels of all architectures: the kernels themselves where this machine or an emulator can run them, else in plain IR.
pub(crate) fn levels() -> impl Iterator<Item = Level> {
    Level::all().map(|level| if can_run(level) { level } else { level.plain() })
}

/// Whether kernels of this level run on this machine or in an emulator.
pub(crate) fn can_run(level: Level) -> bool {
    level.is_here() || is_emulated(level) && emulated::is_here()
}

/// Whether a level runs in the emulator, if it runs.
fn is_emulated(level: Level) -> bool {
    level.isa() == Isa::DotProd && !level.is_here()
}

/// The machine that tests run on.
pub(crate) fn machine() -> llvm::Machine {
    if cfg!(target_arch = "aarch64") { llvm::Machine::aarch64_linux() } else { llvm::Machine::x86_64_linux() }
}

/// Compiles what `build` defines for some levels, and loads it.
pub(crate) fn compile(build: impl Fn(&KernelModule<'_>, &[Level])) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    let (there, here): (Vec<Level>, Vec<Level>) = levels().partition(|level| is_emulated(*level));
    let object = |levels: &[Level], machine: &llvm::Machine| {
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        build(&module, levels);
        module.lower(|_, _| ());
        llvm::emit(&module, machine).object
    };
    let emulated = Emulated::new(&object(&there, &llvm::Machine::aarch64_linux()), folder.path());
    let path = folder.path().join("kernels.so");
    std::fs::write(&path, link::shared_object(&object(&here, &machine()), "kernels.so").unwrap()).unwrap();
    // SAFETY: the library is ours and has no initialisers.
    let library = unsafe { libloading::Library::new(&path) }.unwrap();
    Loaded { library, emulated, _folder: folder }
}

impl Loaded {
    /// Calls a kernel. `dims` are tokens, logit rows, slots and capacity.
    pub(crate) fn call(&self, name: &str, level: Level, args: &[&Guarded], dims: [i64; 4], tiles: std::ops::Range<i64>) {
        type Kernel = unsafe extern "C" fn(*const *mut c_void, *const i64, i64, i64);
        let symbol = crate::abi::symbol(name, level);
        if let Some(emulated) = self.emulated.as_ref().filter(|emulated| emulated.has(&symbol)) {
            let argument =
                |(at, arg): (usize, &&Guarded)| match args[..at].iter().position(|earlier| earlier.start == arg.start) {
                    Some(earlier) if arg.bytes > 0 => Argument::Same(earlier),
                    _ => Argument::Bytes(arg.read()),
                };
            let arguments: Vec<Argument> = args.iter().enumerate().map(argument).collect();
            let after = emulated.call(&symbol, &arguments, dims, tiles);
            return args.iter().zip(after).filter(|(_, bytes)| !bytes.is_empty()).for_each(|(arg, bytes)| arg.write(&bytes));
        }
        let symbol = CString::new(symbol).unwrap();
        let args: Vec<*mut c_void> = args.iter().map(|arg| arg.start.cast()).collect();
        // SAFETY: the symbol is a kernel; what it may touch is what the arguments own, and it faults elsewhere.
        unsafe {
            let kernel: libloading::Symbol<'_, Kernel> = self.library.get(symbol.as_bytes_with_nul()).unwrap();
            kernel(args.as_ptr(), dims.as_ptr(), tiles.start, tiles.end);
        }
    }
}

/// Memory that ends where an unreadable page begins.
pub(crate) struct Guarded {
    map: *mut u8,
    map_bytes: usize,
    start: *mut u8,
    bytes: usize,
}

impl Guarded {
    /// A copy of `data`.
    pub(crate) fn new<T: Copy>(data: &[T]) -> Self {
        // SAFETY: sysconf has no preconditions.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = size_of_val(data);
        let used = bytes.next_multiple_of(page);
        let map_bytes = used + page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping of `map_bytes`; its last page is made inaccessible before it is handed out, and the copy
        // ends where that page starts.
        unsafe {
            let map = libc::mmap(std::ptr::null_mut(), map_bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            let map: *mut u8 = map.cast();
            assert_eq!(libc::mprotect(map.add(used).cast(), page, libc::PROT_NONE), 0);
            let start = map.add(used - bytes);
            std::ptr::copy_nonoverlapping(data.as_ptr().cast(), start, bytes);
            Self { map, map_bytes, start, bytes }
        }
    }

    /// What it holds now.
    pub(crate) fn read<T: Copy>(&self) -> Vec<T> {
        // SAFETY: the memory is initialised, and every bit pattern is a number; unaligned reads are made as such.
        (0..self.bytes / size_of::<T>()).map(|at| unsafe { self.start.cast::<T>().add(at).read_unaligned() }).collect()
    }
}

impl Guarded {
    /// Overwrites it.
    fn write(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes);
        // SAFETY: the mapping is ours and as long as that; kernels write to it too, so nobody relies on what it held.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, self.bytes) };
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody keeps an address into it.
        unsafe { libc::munmap(self.map.cast(), self.map_bytes) };
    }
}

/// A small generator of numbers that look random (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [-1, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Numbers in [-1, 1).
    pub(crate) fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}
