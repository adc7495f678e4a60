//! The kernels that are not matrix products: one file, one kernel.
//!
//! What enters: a spec with every static fact of a step. What leaves: a body for [`abi::define`](crate::abi::define), the same
//! source for every feature level. Conventions that hold for all of them:
//!
//! 1. Arguments are the op's operands in order (ids, then parameters where the op has them), then the result.
//! 2. A tile is one row of the result, whatever the rows count, unless [`Kernel::tiles`] says otherwise.
//! 3. A row of activations is f32 and starts at a multiple of [`row_bytes`]; the bytes after the row are neither read nor written.
//! 4. Rows are independent: the result does not depend on how tiles are split among calls.
//! 5. A kernel may be given the same buffer as operand and result where its documentation says "in place".

mod append;
mod attention;
mod columns;
mod embed;
mod hadamard;
mod pointwise;
mod quantize;
mod rms_norm;
mod rope;
mod rotary;
mod select;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod testing;

pub use append::Append;
pub use attention::Attention;
pub use embed::{Embed, Table};
pub use hadamard::Hadamard;
pub use pointwise::{Operation, Pointwise};
pub use quantize::{Quantize, quant_row_bytes};
pub use rms_norm::{NormWeight, RmsNorm};
pub use rope::Rope;
pub use rotary::Rotary;
pub use select::{Columns, Select};

use q35_bundle::{Dim, Size};
use q35_mlir::builder::Val;
use q35_mlir::types::{I32, I64};

use crate::abi::Call;
use crate::level::Level;

/// A kernel with all its static facts.
pub trait Kernel {
    /// Symbol without prefix and suffix: a C identifier, the same exactly for equal specs.
    fn name(&self) -> String;

    /// How many tiles a step over `rows` has.
    fn tiles(&self, rows: Dim) -> Size {
        Size::per(1, rows)
    }

    /// Builds the body.
    fn build(&self, level: Level, call: &Call<'_>);
}

/// Bytes from one row of `width` f32 activations to the next.
pub const fn row_bytes(width: u64) -> u64 {
    (4 * width).next_multiple_of(64)
}

/// f32 lanes that a level computes at once.
fn lanes(level: Level) -> u32 {
    match level {
        Level::Avx512 => 16,
        Level::Base => 4,
    }
}

/// The address of row `row` of a buffer of activations `width` wide.
fn row_at<'k>(buffer: Val<'k>, row: Val<'k>, width: u64) -> Val<'k> {
    buffer.at(row * row_bytes(width) as i64)
}

/// Entry `at` of an i32 array, as i64.
fn entry<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 4).load(I32, 4).to(I64)
}

/// A float as part of a symbol: its bits in hexadecimal.
fn bits(value: f32) -> String {
    format!("{:08x}", value.to_bits())
}
