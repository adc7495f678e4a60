//! A thin typed layer over MLIR and LLVM.
//!
//! What enters: kernels described through [`builder`], a small language over SSA values that reads almost like
//! mathematics. What leaves: object code, assembly or LLVM IR ([`llvm`]), and shared objects without undefined symbols
//! ([`link`]). In between runs the table of passes in [`pipeline`].
//!
//! The layer does not know models, weight formats or tiling: it must serve every target that is compiled by LLVM.
//! A kernel that does not verify is a compiler bug and an assertion; only what a user can cause (a missing linker, a
//! full disk) is a diagnostic.
//!
//! ```
//! use q35_mlir::builder::{FnAttrs, KernelModule};
//! use q35_mlir::context::Context;
//! use q35_mlir::types::{F32, I64, PTR};
//!
//! let context = Context::new();
//! let module = KernelModule::new(&context);
//! // y[i] = 2 x[i] + 1 for i in 0..n
//! module.function("twice_plus_one", &[PTR, PTR, I64], &FnAttrs::default(), |b, args| {
//!     let [x, y, n] = *args else { unreachable!() };
//!     b.for_(0, n, 1, |i| y.at(i * 4).store((x.at(i * 4).load(F32, 4) * 2.0) + 1.0, 4));
//! });
//! ```

pub mod builder;
pub mod context;
mod ffi;
pub mod link;
pub mod llvm;
pub mod math;
pub mod pipeline;
pub mod types;

/// The version of the LLVM and MLIR libraries linked in, e.g. `22.1.8`.
pub fn version() -> String {
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    format!("{major}.{minor}.{patch}")
}
