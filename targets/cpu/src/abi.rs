//! How a kernel is called.
//!
//! ```c
//! void NAME(void *const *args, const int64_t *dims, int64_t begin, int64_t end);
//! ```
//!
//! `args` are the addresses of the step's bindings in order, `dims` the run-time sizes in the order of [`Dim`], and `begin..end` the
//! tiles that this call computes. Kernels have no state and call nothing.

use crate::level::Level;
use q35_bundle::Dim;
use q35_mlir::builder::{Builder, KernelModule, Val};
use q35_mlir::types::{I64, PTR};

/// A call as its kernel sees it.
pub struct Call<'k> {
    /// Appends to the kernel's body.
    pub b: &'k Builder<'k>,
    /// The tiles this call computes.
    pub begin: Val<'k>,
    /// End of the tiles, exclusive.
    pub end: Val<'k>,
    args: Val<'k>,
    dims: Val<'k>,
}

impl<'k> Call<'k> {
    /// The address of argument `index`.
    pub fn arg(&self, index: usize) -> Val<'k> {
        self.args.at(8 * index as i64).load(PTR, 8)
    }

    /// A run-time size, i64.
    pub fn dim(&self, dim: Dim) -> Val<'k> {
        self.dims.at(8 * dim as i64).load(I64, 8)
    }

    /// The call of one tile of a kernel whose arguments start at argument `first` of this one.
    pub(crate) fn part(&self, first: usize, tile: Val<'k>) -> Self {
        Self { b: self.b, begin: tile, end: tile + 1, args: self.args.at(8 * first as i64), dims: self.dims }
    }

    /// `body(tile)` for every tile of this call.
    #[track_caller]
    pub fn for_tiles(&self, body: impl FnOnce(Val<'k>)) {
        self.b.for_(self.begin, self.end, 1, body);
    }

    /// `body(first, count)` for neighbouring tiles at a time: `most`, from a multiple of it on, where this call has them all, and else one.
    #[track_caller]
    pub(crate) fn for_neighbours(&self, most: u32, body: impl Fn(Val<'k>, u32)) {
        if most == 1 {
            return self.for_tiles(|tile| body(tile, 1));
        }
        let (b, width) = (self.b, i64::from(most));
        b.for_(self.begin.div_u(width), (self.end + (width - 1)).div_u(width), 1, |at| {
            let (first, end) = ((at * width).max(self.begin), ((at + 1) * width).min(self.end));
            let single = || b.for_(first, end, 1, |tile| body(tile, 1));
            b.if_else((end - first).eq(width), || body(first, most), single);
        });
    }
}

/// The symbol of a kernel at a level.
pub fn symbol(kernel: &str, level: Level) -> String {
    format!("{kernel}__{}", level.name())
}

/// Whether a symbol is that of a kernel at a level.
pub(crate) fn is_at(symbol: &str, level: Level) -> bool {
    symbol.rsplit_once("__").is_some_and(|(_, name)| name == level.name())
}

/// Defines the kernel `name` (without suffix) at a level.
pub fn define<F>(module: &KernelModule<'_>, name: &str, level: Level, body: F)
where
    F: for<'k> FnOnce(&Call<'k>),
{
    module.function(&symbol(name, level), &[PTR, PTR, I64, I64], &level.attributes(), |b, params| {
        let [args, dims, begin, end] = *params else { unreachable!("a kernel has four parameters") };
        body(&Call { b, begin, end, args, dims });
    });
}
