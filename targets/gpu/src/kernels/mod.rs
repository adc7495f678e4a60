//! The kernels that are not matrix products: one file, one kernel.
//!
//! What enters: a spec with every static fact of a step. What leaves: a body for [`abi::define`](crate::abi::define). Conventions that
//! hold for all of them:
//!
//! 1. Arguments are the op's operands in order (ids, then parameters where the op has them), then the result.
//! 2. A tile is one row of the result, whatever the rows count, unless [`Kernel::tiles`] says otherwise.
//! 3. A row of activations is f32 and starts at a multiple of [`act_stride`]; the bytes after the row are neither read nor written.
//! 4. Rows are independent: the result does not depend on which other rows there are.
//! 5. All threads of a group arrive at every barrier: control that depends on the thread holds none.

mod append;
mod attention;
mod chain;
mod columns;
mod embed;
mod hadamard;
mod pack;
mod pointwise;
mod rms_norm;
mod rope;

pub use append::Append;
pub use attention::Attention;
pub use chain::Chain;
pub use columns::{Columns, Select};
pub use embed::{Embed, Table};
pub use hadamard::Hadamard;
pub use pack::Pack;
pub use pointwise::{Operation, Pointwise};
pub use rms_norm::{NormWeight, RmsNorm};
pub use rope::{Rope, Rotary};

use crate::abi::Call;
use crate::isa::Isa;
use crate::linear::geometry::act_stride;
use q35_bundle::{Dim, Size};
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I32, I64};

/// Threads of a group that works on rows.
pub(crate) const ROW_THREADS: u32 = 256;

/// A kernel with all its static facts.
pub trait Kernel {
    /// Symbol without prefix: a C identifier, the same exactly for equal specs.
    fn name(&self) -> String;

    /// How many arguments it takes.
    fn args(&self) -> usize;

    /// How many tiles a step over `rows` has: one group of threads each.
    fn tiles(&self, rows: Dim) -> Size {
        Size::per(1, rows)
    }

    /// Threads of a group: whole waves.
    fn threads(&self, _: &dyn Isa) -> u32 {
        ROW_THREADS
    }

    /// Bytes of memory that the threads of a group share, where they are many.
    fn shared_bytes(&self) -> u32 {
        0
    }

    /// Builds the body.
    fn build(&self, call: &Call<'_>);
}

/// The address of row `row` of a buffer of activations `width` wide.
pub(crate) fn row_at<'k>(buffer: Val<'k>, row: Val<'k>, width: u64) -> Val<'k> {
    buffer.at(row * act_stride(width as usize) as i64)
}

/// Element `at` of a row of f32.
fn element<'k>(row: Val<'k>, at: Val<'k>) -> Val<'k> {
    row.at(at * 4).load(F32, 4)
}

/// Writes element `at` of a row of f32.
fn set<'k>(row: Val<'k>, at: Val<'k>, value: Val<'k>) {
    row.at(at * 4).store(value, 4);
}

/// Entry `at` of an i32 array, as i64.
fn entry<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 4).load(I32, 4).to(I64)
}

/// A float as part of a symbol: its bits in hexadecimal.
fn bits(value: f32) -> String {
    format!("{:08x}", value.to_bits())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
