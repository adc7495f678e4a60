//! Linear layers: `y[m, n] = sum over k of x[m, k] W[n, k], plus bias[n]`.
//!
//! What enters is a [`Linear`]: the shape and storage of `W`. What leaves are kernels. Layers that share `x` share a kernel. Weights are decoded inside the kernel, never to
//! memory that outlives a tile. A kernel's tiles are [`TILE`](geometry::TILE) outputs each, for all rows of `x` that meet the weight.
//!
//! In a layer of experts a routed row meets the weight of its expert alone, and no other weight is read. For few tokens a tile is sixteen
//! outputs of one routed row; for more, of all rows that go to one expert, which a sorting kernel has listed.
//!
//! | module | idea |
//! | --- | --- |
//! | [`geometry`] | where things lie in memory |
//! | `frame` | arguments, chunks of rows, the last steps of an output |
//! | `rows` | which rows meet which weights |
//! | `float` | weights stored as floats |
//! | `integer` | bytes that stand for weights times rounded activations |
//! | `panel` | 8-bit weights; 3.5-bit weights, many rows: decode a tile, then as 8-bit weights |
//! | `stream` | 3.5-bit weights, few rows: decode in registers |
//! | `decode`, `dot` | the two steps inside, per level |
//! | `peak` | what the second step can do at best |
//!
//! For one level, a row's outputs are the same bits whatever other rows are in the step and whichever of the variants runs.

mod decode;
mod dot;
mod float;
mod frame;
pub mod geometry;
mod integer;
mod panel;
mod peak;
mod rows;
mod stream;

pub use peak::Peak;

use crate::abi::Call;
use crate::kernels::Kernel;
use crate::level::{Isa, Level};
use frame::Frame;
use q35_bundle::Size;
use q35_dialects::Rows;
use q35_format::codec::Storage;
use q35_format::table::parts;
use q35_launch::Spec;

pub use q35_launch::spec::{Experts, Linear};

/// Most inputs of a layer that multiplies integers: a decoded tile then takes 1 MiB of stack, and no sum of products of bytes exceeds 31 bits.
const MOST_INPUTS: usize = 1 << 16;

/// Which kernel of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Of experts: routed rows one at a time.
    Single,
    /// Up to a few rows that meet a weight.
    Few,
    /// Any number of rows.
    Many,
}

/// The kernels of a layer, in the order in which a step lists them, or why there are none.
pub fn kernels(linear: &Linear) -> Result<Vec<LinearKernel>, String> {
    let spec = &linear.spec;
    let storage = spec.codec().facts().storage;
    match storage {
        Storage::Pairs { window } if window > 10 && parts(spec.codec()).is_empty() => {
            return Err(format!("codec {} has no kernel on the CPU", spec.codec()));
        }
        Storage::Pairs { .. } | Storage::Int8 if spec.cols() > MOST_INPUTS => {
            let inputs = spec.cols();
            return Err(format!("a layer with {inputs} inputs has no kernel on the CPU, {MOST_INPUTS} are the most"));
        }
        _ => (),
    }
    let variants: &[Variant] = match (storage, linear.experts) {
        (Storage::Float { .. } | Storage::Int8, None) => &[Variant::Many],
        (Storage::Float { .. } | Storage::Int8, Some(_)) => &[Variant::Single, Variant::Many],
        (Storage::Pairs { .. }, None) => &[Variant::Few, Variant::Many],
        (Storage::Pairs { .. }, Some(_)) => &[Variant::Single, Variant::Few, Variant::Many],
    };
    Ok(variants.iter().map(|&variant| LinearKernel { linear: linear.clone(), variant }).collect())
}

/// A kernel of a linear layer. Weights, scales and biases are in the arrangement that [`geometry`] gives them. Where the codec has scales, x is
/// rounded, else f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinearKernel {
    /// The layer.
    pub linear: Linear,
    /// Which of its kernels.
    pub variant: Variant,
}

impl LinearKernel {
    /// The most tokens, or rows of logits, that it is meant for; more give right results, slowly.
    pub fn max_rows(&self) -> Option<u64> {
        /// Rows of an expert, on average, up to which decoding it anew for every few rows costs less than decoding it to memory.
        const FEW_OF_EXPERT: u64 = 32;
        // Tokens that give half of the experts a row, which seldom two share.
        let half = self.linear.experts.map(|experts| (experts.count as u64 / (2 * self.linear.rows.section().1)).max(1));
        match (self.variant, half) {
            (Variant::Many, _) => None,
            (Variant::Single, half) => half,
            (Variant::Few, None) => Some(stream::MOST as u64),
            (Variant::Few, Some(half)) => Some(2 * FEW_OF_EXPERT * half),
        }
    }
}

impl Spec for LinearKernel {
    fn name(&self) -> String {
        self.linear.symbol(match self.variant {
            Variant::Single => "_single",
            Variant::Few => "_few",
            Variant::Many => "",
        })
    }

    fn args(&self) -> usize {
        self.linear.args()
    }

    fn tiles(&self, _: Rows) -> Size {
        let tiles = self.linear.tiles(geometry::TILE);
        match (self.linear.experts, self.variant) {
            (None, _) => Size::constant(tiles),
            (Some(_), Variant::Single) => self.linear.rows.size(tiles),
            (Some(experts), Variant::Few | Variant::Many) => Size::constant(tiles * experts.count as u64),
        }
    }
}

impl Kernel for LinearKernel {
    fn build(&self, level: Level, call: &Call<'_>) {
        let codec = self.linear.spec.codec();
        let frame = Frame::new(call, level, self);
        match (codec.facts().storage, self.variant) {
            (Storage::Float { .. }, _) => float::build(call, &frame),
            (Storage::Int8, _) => panel::build_stored(call, &frame, codec),
            (Storage::Pairs { window }, Variant::Single | Variant::Few) if level.isa() != Isa::Base => {
                stream::build(call, &frame, codec, window);
            }
            (Storage::Pairs { window }, _) => panel::build(call, &frame, codec, window),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod emulated;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
