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
use q35_bundle::{Rows as Section, Size};
use q35_dialects::Rows;
use q35_format::codec::Storage;
use q35_format::table::parts;
use q35_format::{Group, PackedSpec};

/// Most inputs of a layer that multiplies integers: a decoded tile then takes 1 MiB of stack, and no sum of products of bytes exceeds 31 bits.
const MOST_INPUTS: usize = 1 << 16;

/// Static facts of a linear layer, or of several that share `x`; layers with equal facts share their kernels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// Shape `[outputs, inputs]` and storage of the (first) weight, or of each expert's.
    pub spec: PackedSpec,
    /// Outputs of further weights that differ from the first in nothing else.
    pub beside: Vec<usize>,
    /// What the rows of `y` are.
    pub rows: Rows,
    /// Whether there is a bias.
    pub bias: bool,
    /// The experts, if the weights are theirs. The rows of `y` are routed then.
    pub experts: Option<Experts>,
}

/// The experts whose weights lie one below the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Experts {
    /// How many.
    pub count: usize,
    /// Whether a row of `x` is the input of all the experts it goes to; else each routed row has its own.
    pub shared: bool,
}

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

impl Linear {
    /// A layer with one weight, for tokens, without bias.
    pub fn new(spec: PackedSpec) -> Self {
        Self { spec, beside: Vec::new(), rows: Rows::Tokens, bias: false, experts: None }
    }

    /// Outputs of each weight.
    pub fn outputs(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::once(self.spec.rows()).chain(self.beside.iter().copied())
    }

    /// Arguments that come before those of the weights: x, and for experts the routing, plain and by expert.
    pub fn inputs(&self) -> usize {
        if self.experts.is_some() { 3 } else { 1 }
    }

    /// Tiles of outputs, of all weights.
    fn tiles(&self) -> u64 {
        self.outputs().map(|outputs| outputs.div_ceil(geometry::TILE) as u64).sum()
    }

    /// This layer and another that reads the same `x`, as one, where they differ in outputs only.
    pub fn with(&self, other: &Linear) -> Option<Linear> {
        let storage = |l: &Linear| (l.spec.cols(), l.spec.codec(), l.spec.group(), l.spec.scale(), l.spec.asymmetric());
        let facts = |l: &Linear| (storage(l), l.rows, l.bias, l.experts);
        (facts(self) == facts(other))
            .then(|| Linear { beside: self.beside.iter().copied().chain(other.outputs()).collect(), ..self.clone() })
    }

    /// Its kernels, in the order in which a step lists them.
    pub fn kernels(&self) -> Vec<LinearKernel> {
        let variants: &[Variant] = match (self.spec.codec().facts().storage, self.experts) {
            (Storage::Float { .. } | Storage::Int8, None) => &[Variant::Many],
            (Storage::Float { .. } | Storage::Int8, Some(_)) => &[Variant::Single, Variant::Many],
            (Storage::Pairs { .. }, None) => &[Variant::Few, Variant::Many],
            (Storage::Pairs { .. }, Some(_)) => &[Variant::Single, Variant::Few, Variant::Many],
        };
        variants.iter().map(|&variant| LinearKernel { linear: self.clone(), variant }).collect()
    }

    /// Symbol of a variant, without prefix and level.
    fn symbol(&self, variant: Variant) -> String {
        let spec = &self.spec;
        let (section, each) = self.rows.section();
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
            name += if spec.asymmetric() { "_offsets" } else { "" };
        }
        let outputs: Vec<String> = self.outputs().map(|n| n.to_string()).collect();
        name += &format!("_{}x{}", outputs.join("_"), spec.cols());
        name += &match self.experts {
            Some(Experts { count, shared }) => format!("_{each}_of_{count}{}", if shared { "_shared" } else { "" }),
            None if each > 1 => format!("_times_{each}"),
            None => String::new(),
        };
        let last = match variant {
            Variant::Single => "_single",
            Variant::Few => "_few",
            Variant::Many => "",
        };
        for (holds, suffix) in [(self.bias, "_bias"), (section == Section::Logits, "_logits"), (true, last)] {
            name += if holds { suffix } else { "" };
        }
        name
    }

    /// Why there is no kernel for it, if there is none.
    pub fn unsupported(&self) -> Option<String> {
        let spec = &self.spec;
        match spec.codec().facts().storage {
            Storage::Pairs { window } if window > 10 && parts(spec.codec()).is_empty() => {
                Some(format!("codec {} has no kernel on the CPU", spec.codec()))
            }
            Storage::Pairs { .. } | Storage::Int8 if spec.cols() > MOST_INPUTS => {
                Some(format!("a layer with {} inputs has no kernel on the CPU, {MOST_INPUTS} are the most", spec.cols()))
            }
            _ => None,
        }
    }
}

/// A kernel of a linear layer. Arguments: x; for experts the routing and the routing by expert; then for each weight its codes, its scales
/// and offsets where the codec has them, its bias where there is one, each in the arrangement that [`geometry`] gives it, and y. Where the
/// codec has scales, x is rounded, else f32.
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

impl Kernel for LinearKernel {
    fn name(&self) -> String {
        self.linear.symbol(self.variant)
    }

    fn tiles(&self, _: Rows) -> Size {
        let tiles = self.linear.tiles();
        match (self.linear.experts, self.variant) {
            (None, _) => Size::constant(tiles),
            (Some(_), Variant::Single) => self.linear.rows.size(tiles),
            (Some(experts), Variant::Few | Variant::Many) => Size::constant(tiles * experts.count as u64),
        }
    }

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
