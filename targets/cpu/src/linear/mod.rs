//! Linear layers: `y[m, n] = sum over k of x[m, k] W[n, k], plus bias[n]`.
//!
//! What enters is a [`Linear`]: the shape and storage of `W`. What leaves are kernels. Weights are decoded inside the kernel, never to
//! memory that outlives a tile. A kernel's tiles are [`TILE`](geometry::TILE) outputs each, for all rows of `x`.
//!
//! | module | idea |
//! | --- | --- |
//! | [`geometry`] | where things lie in memory |
//! | `frame` | arguments, chunks of tokens, the last steps of an output |
//! | `float` | weights stored as floats |
//! | `integer` | 8-bit weights times rounded activations |
//! | `panel` | 3.5-bit weights, many tokens: decode a tile, then as 8-bit weights |
//! | `stream` | 3.5-bit weights, few tokens: decode in registers |
//! | `decode`, `dot` | the instructions underneath |
//!
//! For one level, a token's outputs are the same bits whatever other tokens are in the step and whichever of the variants runs.

mod decode;
mod dot;
mod float;
mod frame;
pub mod geometry;
mod integer;
mod panel;
mod stream;

use crate::abi::Call;
use crate::kernels::Kernel;
use crate::level::Level;
use frame::Frame;
use q35_bundle::{Dim, Rows, Size};
use q35_format::codec::Storage;
use q35_format::{Group, PackedSpec};

/// Most inputs of a layer that multiplies integers: a decoded tile then takes 1 MiB of stack, and no sum of products of bytes exceeds 31 bits.
const MOST_INPUTS: usize = 1 << 16;

/// Static facts of a linear layer; layers with equal facts share their kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// Shape `[outputs, inputs]` and storage of the weight.
    pub spec: PackedSpec,
    /// What the rows of `x` are.
    pub rows: Rows,
    /// Whether there is a bias.
    pub bias: bool,
}

/// One argument of a linear kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// Activations: rounded for codecs with scales, else f32.
    Input,
    /// The weight's codes, in the arrangement [`geometry::codes`].
    Codes,
    /// The weight's scales, in the arrangement [`geometry::scales`].
    Scales,
    /// f32, in the arrangement [`geometry::vector`].
    Bias,
    /// f32 activations.
    Output,
}

/// Which kernel of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Up to [`Variant::max_rows`] tokens.
    Few,
    /// Any number of tokens.
    Many,
}

impl Variant {
    /// The most rows it is meant for (more give right results, slowly).
    pub fn max_rows(self) -> Option<u64> {
        match self {
            Variant::Few => Some(stream::MOST as u64),
            Variant::Many => None,
        }
    }
}

impl Linear {
    /// The kernel's arguments in order.
    pub fn arguments(&self) -> Vec<Argument> {
        use Argument::{Bias, Codes, Input, Output, Scales};
        let has = |argument: &Argument| match argument {
            Scales => self.spec.codec().has_scales(),
            Bias => self.bias,
            _ => true,
        };
        [Input, Codes, Scales, Bias, Output].into_iter().filter(has).collect()
    }

    /// Its kernels, in the order in which a step lists them.
    pub fn kernels(&self) -> Vec<LinearKernel> {
        let variants: &[Variant] = match self.spec.codec().facts().storage {
            Storage::Pairs { .. } => &[Variant::Few, Variant::Many],
            Storage::Float { .. } | Storage::Int8 => &[Variant::Many],
        };
        variants.iter().map(|&variant| LinearKernel { linear: *self, variant }).collect()
    }

    /// Symbol of a variant, without prefix and level.
    fn symbol(&self, variant: Variant) -> String {
        let spec = &self.spec;
        let mut name = format!("linear_{}", spec.codec());
        if spec.codec().has_scales() {
            name += &match spec.group() {
                Group::Row => "_row".to_owned(),
                Group::Columns(columns) => format!("_g{columns}"),
            };
            name += match spec.scale() {
                q35_format::ScaleType::F16 => "",
                q35_format::ScaleType::F32 => "_s32",
            };
        }
        name += &format!("_{}x{}", spec.rows(), spec.cols());
        for (holds, suffix) in [(self.bias, "_bias"), (self.rows == Rows::Logits, "_logits"), (variant == Variant::Few, "_few")]
        {
            name += if holds { suffix } else { "" };
        }
        name
    }

    /// Why there is no kernel for it, if there is none.
    pub fn unsupported(&self) -> Option<String> {
        let spec = &self.spec;
        match spec.codec().facts().storage {
            Storage::Pairs { window } if window > 10 => Some(format!("codec {} has no kernel on the CPU", spec.codec())),
            Storage::Pairs { .. } | Storage::Int8 if spec.cols() > MOST_INPUTS => {
                Some(format!("a layer with {} inputs has no kernel on the CPU, {MOST_INPUTS} are the most", spec.cols()))
            }
            _ if spec.asymmetric() => Some("offsets beside scales have no kernel on the CPU".to_owned()),
            _ => None,
        }
    }
}

/// A kernel of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearKernel {
    /// The layer.
    pub linear: Linear,
    /// Which of its kernels.
    pub variant: Variant,
}

impl Kernel for LinearKernel {
    fn name(&self) -> String {
        self.linear.symbol(self.variant)
    }

    fn tiles(&self, _: Dim) -> Size {
        Size::constant(self.linear.spec.rows().div_ceil(geometry::TILE) as u64)
    }

    fn build(&self, level: Level, call: &Call<'_>) {
        let codec = self.linear.spec.codec();
        let frame = Frame::new(call, level, self.linear);
        match (codec.facts().storage, self.variant, level) {
            (Storage::Float { .. }, ..) => float::build(call, &frame),
            (Storage::Int8, ..) => panel::build_stored(call, &frame),
            (Storage::Pairs { window }, Variant::Few, Level::Avx512) => stream::build(call, &frame, codec, window),
            (Storage::Pairs { window }, ..) => panel::build(call, &frame, codec, window),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
pub(crate) mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
