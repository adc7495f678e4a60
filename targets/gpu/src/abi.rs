//! How a kernel is called.
//!
//! A kernel's parameters are the addresses of the step's bindings in order, then the run-time sizes as i64 in the order of [`Dim`]. A
//! group of threads computes one tile: the group's number is the tile's. Kernels keep no state between launches and call nothing.

use crate::isa::Isa;
use crate::kernels::Kernel;
use q35_bundle::Dim;
use q35_mlir::builder::{Builder, KernelModule, Val};
use q35_mlir::types::{Elem, I64, Ty};

/// The address space of memory that all groups see.
const GLOBAL: Ty = Ty { elem: Elem::Ptr(1), lanes: 1 };

/// A call as its kernel sees it.
#[derive(Clone)]
pub struct Call<'k> {
    /// Appends to the kernel's body.
    pub b: &'k Builder<'k>,
    /// The GPU's instructions.
    pub isa: &'static dyn Isa,
    /// The tile of this group, i64.
    pub tile: Val<'k>,
    /// The thread's number in its group, i64.
    pub thread: Val<'k>,
    /// Threads of a group.
    pub threads: u32,
    args: Vec<Val<'k>>,
    dims: Vec<Val<'k>>,
}

impl<'k> Call<'k> {
    /// The address of argument `index`.
    pub fn arg(&self, index: usize) -> Val<'k> {
        self.args[index]
    }

    /// A run-time size, i64.
    pub fn dim(&self, dim: Dim) -> Val<'k> {
        self.dims[dim as usize]
    }

    /// The call of a kernel whose arguments are some of this one's.
    pub(crate) fn part(&self, args: std::ops::Range<usize>) -> Self {
        Self { args: self.args[args].to_vec(), ..self.clone() }
    }
}

/// Defines a kernel under `symbol`.
pub fn define(module: &KernelModule<'_>, symbol: &str, isa: &'static dyn Isa, kernel: &dyn Kernel) {
    let threads = kernel.threads(isa);
    let params = [vec![GLOBAL; kernel.args()], vec![I64; Dim::ALL.len()]].concat();
    module.function(symbol, &params, &isa.attributes(threads), |b, params| {
        let (args, dims) = params.split_at(kernel.args());
        let (tile, thread) = (isa.group(b).to_u(I64), isa.thread(b).to_u(I64));
        kernel.build(&Call { b, isa, tile, thread, threads, args: args.to_vec(), dims: dims.to_vec() });
    });
}
