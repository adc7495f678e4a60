//! Linear layers: `y[m, n] = sum over k of x[m, k] W[n, k], plus bias[n]`.
//!
//! What enters is a [`Linear`]: the shape and storage of `W`. What leaves are kernels. Layers that share `x` share a kernel. Weights are decoded inside the kernel, never to
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

/// Static facts of a linear layer, or of several that share `x`; layers with equal facts share their kernels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// Shape `[outputs, inputs]` and storage of the (first) weight.
    pub spec: PackedSpec,
    /// Outputs of further weights that differ from the first in nothing else.
    pub beside: Vec<usize>,
    /// What the rows of `x` are.
    pub rows: Rows,
    /// Whether there is a bias.
    pub bias: bool,
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
    /// A layer with one weight, for tokens, without bias.
    pub fn new(spec: PackedSpec) -> Self {
        Self { spec, beside: Vec::new(), rows: Rows::Tokens, bias: false }
    }

    /// Outputs of each weight.
    pub fn outputs(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::once(self.spec.rows()).chain(self.beside.iter().copied())
    }

    /// This layer and another that reads the same `x`, as one, where they differ in outputs only.
    pub fn with(&self, other: &Linear) -> Option<Linear> {
        let facts = |l: &Linear| (l.spec.cols(), l.spec.codec(), l.spec.group(), l.spec.scale(), l.rows, l.bias);
        (facts(self) == facts(other))
            .then(|| Linear { beside: self.beside.iter().copied().chain(other.outputs()).collect(), ..self.clone() })
    }

    /// Its kernels, in the order in which a step lists them.
    pub fn kernels(&self) -> Vec<LinearKernel> {
        let variants: &[Variant] = match self.spec.codec().facts().storage {
            Storage::Pairs { .. } => &[Variant::Few, Variant::Many],
            Storage::Float { .. } | Storage::Int8 => &[Variant::Many],
        };
        variants.iter().map(|&variant| LinearKernel { linear: self.clone(), variant }).collect()
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
        let outputs: Vec<String> = self.outputs().map(|n| n.to_string()).collect();
        name += &format!("_{}x{}", outputs.join("_"), spec.cols());
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

/// A kernel of a linear layer. Arguments: x; then for each weight its codes, its scales where the codec has them, its bias where there is one,
/// each in the arrangement that [`geometry`] gives it, and y. Where the codec has scales, x is rounded, else f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        Size::constant(self.linear.outputs().map(|outputs| outputs.div_ceil(geometry::TILE) as u64).sum())
    }

    fn build(&self, level: Level, call: &Call<'_>) {
        let codec = self.linear.spec.codec();
        let frame = Frame::new(call, level, self.linear.clone());
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
