//! The shared object of a bundle and the only calls into it.
//!
//! A kernel is `void kernel(void *const *args, const int64_t *dims, int64_t begin, int64_t end)`: it computes the tiles
//! `begin..end`; `dims` is indexed by [`q35_bundle::Dim`].

use libloading::Library;
use q35_bundle::{Bundle, CpuDevice};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use std::ffi::c_void;

type Entry = unsafe extern "C" fn(args: *const *mut c_void, dims: *const i64, begin: i64, end: i64);

/// A kernel of the bundle. It never outlives the [`Object`] in a launch, because a launch waits for all of its calls.
#[derive(Clone, Copy)]
pub(super) struct Kernel(Entry);

/// Addresses and sizes for one launch.
pub(super) struct Arguments {
    addresses: Vec<*mut c_void>,
    dims: [i64; 4],
}

// SAFETY: the addresses are only handed to kernels, which write disjoint tiles and read what nobody writes during a launch.
unsafe impl Send for Arguments {}
// SAFETY: as above; the structure itself is never changed.
unsafe impl Sync for Arguments {}

impl Arguments {
    /// The caller keeps the memory behind `addresses` alive and untouched during the launch.
    pub(super) fn new(addresses: Vec<*mut u8>, dims: [i64; 4]) -> Self {
        Self { addresses: addresses.into_iter().map(<*mut u8>::cast).collect(), dims }
    }
}

impl Kernel {
    /// Computes the tiles `begin..end`.
    pub(super) fn call(self, arguments: &Arguments, begin: i64, end: i64) {
        // SAFETY: the bundle's code was compiled for exactly these arguments: their number and order come from the same manifest,
        // whose bindings, sizes and hashes were verified when the bundle was opened, and ranges of tiles are disjoint.
        unsafe { self.0(arguments.addresses.as_ptr(), arguments.dims.as_ptr(), begin, end) }
    }
}

/// A loaded shared object with the kernels of every step.
pub(super) struct Object {
    kernels: Vec<Vec<Kernel>>,
    _library: Library,
}

impl Object {
    /// Loads the object of `device` and finds the kernels of `level`. All missing ones are reported.
    pub(super) fn load(bundle: &Bundle, device: &CpuDevice, level: &str) -> Result<Self> {
        let path = bundle.path(&device.object).unwrap_or_else(|| unreachable!("checked when the bundle was opened"));
        // SAFETY: loading runs the object's initialisers; it is the code that the user asked us to run, verified against its hash.
        let library = unsafe { Library::new(&path) }.map_err(|e| {
            Diagnostic::error(Code::CannotRead, format!("the shared object cannot be loaded: {e}")).at("file", &device.object)
        })?;
        let mut found = Diagnostics::new();
        let mut find = |kernel: &str| {
            let symbol = format!("{}{kernel}__{level}", device.prefix);
            // SAFETY: the symbol is a kernel of the type above: compiler and runtime share that convention under one schema version.
            match unsafe { library.get::<Entry>(symbol.as_str()) } {
                Ok(entry) => Some(Kernel(*entry)),
                Err(_) => {
                    found.push(
                        Diagnostic::error(Code::NotABundle, format!("the shared object lacks the kernel '{symbol}'"))
                            .at("file", &device.object),
                    );
                    None
                }
            }
        };
        let steps = &bundle.manifest().steps;
        let kernels = steps.iter().map(|step| step.variants.iter().filter_map(|v| find(&v.kernel)).collect()).collect();
        found.into_result(Self { kernels, _library: library })
    }

    /// The kernel of a variant of a step.
    pub(super) fn kernel(&self, step: usize, variant: usize) -> Kernel {
        self.kernels[step][variant]
    }
}
