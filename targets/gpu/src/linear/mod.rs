//! Linear layers: `y[m, n] = sum over k of x[m, k] W[n, k], plus bias[n]`.
//!
//! What enters is a [`Linear`]: the shape and storage of `W`. What leaves are kernels. Layers that share `x` share a kernel. Weights are
//! decoded between memory and the matrix instruction and never written anywhere; `x` is f16 there, sums are f32. Weights stored as floats
//! meet f32 activations without matrix instructions: those codecs exist to separate errors, not for speed.
//!
//! | module | idea |
//! | --- | --- |
//! | [`geometry`] | where things lie in memory |
//! | `fragment` | weights from memory to the operands of a matrix instruction |
//! | `matrix` | 3.5-bit and 8-bit weights: matrix instructions, columns or rows shared among waves |
//! | `float` | weights stored as floats: a wave per output |
//! | `weights` | the arguments of a kernel, weight by weight |
//!
//! A token's outputs are the same bits whatever other tokens are in the step and whichever of the variants runs.

mod float;
mod fragment;
pub mod geometry;
mod matrix;
mod weights;

pub(crate) use float::stored;

use crate::abi::Call;
use crate::isa::Isa;
use crate::kernels::Kernel;
use matrix::Division;
use q35_bundle::{Dim, Rows, Size};
use q35_format::codec::Storage;
use q35_format::{Group, PackedSpec, ScaleType};

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
    /// Tokens of one matrix instruction.
    Few,
    /// Tokens of some matrix instructions.
    Some,
    /// Any number of tokens.
    Many,
}

impl Variant {
    /// Matrix instructions whose tokens share a decoded weight.
    fn instructions(self) -> u32 {
        match self {
            Variant::Few => 1,
            Variant::Some | Variant::Many => 4,
        }
    }

    /// How a group's waves share its work.
    fn division(self) -> Division {
        match self {
            Variant::Few | Variant::Some => Division::Columns,
            Variant::Many => Division::Rows,
        }
    }

    /// The most rows it is meant for (more give right results, slowly).
    fn max_rows(self, isa: &dyn Isa) -> Option<u64> {
        (self != Variant::Many).then(|| u64::from(self.instructions() * isa.matrix().tokens))
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

    /// Whether `x` is packed f16, as opposed to f32.
    pub fn takes_packed(&self) -> bool {
        self.spec.codec().has_scales()
    }

    /// Its kernels and the most rows each is meant for, in the order in which a step lists them.
    pub fn kernels(&self, isa: &dyn Isa) -> Vec<(LinearKernel, Option<u64>)> {
        let variants: &[Variant] =
            if self.takes_packed() { &[Variant::Few, Variant::Some, Variant::Many] } else { &[Variant::Many] };
        let kernel = |&variant: &Variant| (LinearKernel { linear: self.clone(), variant }, variant.max_rows(isa));
        variants.iter().map(kernel).collect()
    }

    /// Why there is no kernel for it, if there is none.
    pub fn unsupported(&self) -> Option<String> {
        let spec = &self.spec;
        if spec.asymmetric() {
            return Some("offsets beside scales have no kernel on GPUs".to_owned());
        }
        let grouped = spec.groups() > 1 && spec.scale() == ScaleType::F32;
        grouped.then(|| "scales of groups in f32 have no kernel on GPUs".to_owned())
    }
}

/// A kernel of a linear layer. Arguments: x; then for each weight its codes, its scales where the codec has them, its bias where there is one,
/// each in the arrangement that [`geometry`] gives it, and y.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinearKernel {
    /// The layer.
    pub linear: Linear,
    /// Which of its kernels.
    pub variant: Variant,
}

impl Kernel for LinearKernel {
    fn name(&self) -> String {
        let spec = &self.linear.spec;
        let mut name = format!("linear_{}", spec.codec());
        if spec.codec().has_scales() {
            name += &match spec.group() {
                Group::Row => "_row".to_owned(),
                Group::Columns(columns) => format!("_g{columns}"),
            };
            name += match spec.scale() {
                ScaleType::F16 => "",
                ScaleType::F32 => "_s32",
            };
        }
        let outputs: Vec<String> = self.linear.outputs().map(|n| n.to_string()).collect();
        name += &format!("_{}x{}", outputs.join("_"), spec.cols());
        let suffixes = [
            (self.linear.bias, "_bias"),
            (self.linear.rows == Rows::Logits, "_logits"),
            (self.variant == Variant::Few, "_few"),
            (self.variant == Variant::Some, "_some"),
        ];
        suffixes.into_iter().filter(|(holds, _)| *holds).for_each(|(_, suffix)| name += suffix);
        name
    }

    fn args(&self) -> usize {
        let linear = &self.linear;
        let each = 2 + usize::from(linear.takes_packed()) + usize::from(linear.bias);
        1 + each * linear.outputs().count()
    }

    fn tiles(&self, _: Dim) -> Size {
        let (rows, groups) = match self.linear.takes_packed() {
            true => (matrix::rows(self.variant), matrix::token_groups(self.variant) as u64),
            false => (float::ROWS, 1),
        };
        Size::constant(self.linear.outputs().map(|outputs| outputs.div_ceil(rows) as u64 * groups).sum())
    }

    fn threads(&self, isa: &dyn Isa) -> u32 {
        match self.linear.spec.codec().facts().storage {
            Storage::Float { .. } => isa.wave() * float::ROWS as u32,
            _ => isa.wave() * matrix::waves(&self.linear.spec, self.variant),
        }
    }

    fn build(&self, call: &Call<'_>) {
        match self.linear.spec.codec().facts().storage {
            Storage::Float { .. } => float::build(call, &self.linear),
            _ => matrix::build(call, &self.linear, self.variant),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
