//! Linear layers: `y[m, n] = sum over k of x[m, k] W[n, k], plus bias[n]`.
//!
//! What enters is a [`Linear`]: the shape and storage of `W`. What leaves are kernels. Layers that share `x` share a kernel. Weights are
//! decoded between memory and the matrix instruction and never written anywhere; `x` is f16 there, sums are f32. Weights stored as floats
//! meet f32 activations without matrix instructions: those codecs exist to separate errors, not for speed. In a layer of experts a routed row
//! meets the weight of its expert alone, and no other weight is read.
//!
//! | module | idea |
//! | --- | --- |
//! | [`geometry`] | where things lie in memory |
//! | `fragment` | weights from memory to the operands of a matrix instruction |
//! | `matrix` | 3.5-bit and 8-bit weights: matrix instructions, columns or rows shared among waves |
//! | `float` | weights stored as floats: a wave per output |
//! | `weights` | the arguments of a kernel, weight by weight |
//! | `rows` | which rows meet which weights |
//!
//! A token's outputs are the same bits whatever other tokens are in the step and whichever of the variants runs.

mod float;
mod fragment;
pub mod geometry;
mod matrix;
mod rows;
mod weights;

pub(crate) use fragment::seats;

use crate::abi::Call;
use crate::isa::Isa;
use crate::kernels::Kernel;
use matrix::Division;
use q35_bundle::Size;
use q35_dialects::Rows;
use q35_format::ScaleType;
use q35_format::codec::Storage;
use q35_launch::Spec;
use q35_launch::spec::Linear;

/// Which kernel of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Of experts: routed rows one at a time.
    Single,
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
            Variant::Single | Variant::Few => 1,
            Variant::Some | Variant::Many => 4,
        }
    }

    /// How a group's waves share its work.
    fn division(self) -> Division {
        match self {
            Variant::Single | Variant::Few | Variant::Some => Division::Columns,
            Variant::Many => Division::Rows,
        }
    }

    /// The most rows it is meant for (more give right results, slowly).
    fn max_rows(self, linear: &Linear, isa: &dyn Isa) -> Option<u64> {
        let together = u64::from(self.instructions() * isa.matrix().tokens);
        // Tokens that give every expert one row, on average.
        let each = linear.experts.map(|experts| (experts.count as u64 / linear.rows.section().1).max(1));
        match (self, each) {
            (Variant::Many, _) => None,
            // Fewer than two rows seldom share an expert.
            (Variant::Single, each) => Some((each.unwrap_or(1) / 2).max(1)),
            (_, each) => Some(together * each.unwrap_or(1)),
        }
    }
}

/// The kernels of a layer and the most rows each is meant for, in the order in which a step lists them, or why there are none.
pub fn kernels(linear: &Linear, isa: &dyn Isa) -> Result<Vec<(LinearKernel, Option<u64>)>, String> {
    let spec = &linear.spec;
    if spec.asymmetric() {
        return Err("offsets beside scales have no kernel on GPUs".to_owned());
    }
    if spec.groups() > 1 && spec.scale() == ScaleType::F32 {
        return Err("scales of groups in f32 have no kernel on GPUs".to_owned());
    }
    let variants: &[Variant] = match (linear.takes_operand(), linear.experts) {
        (false, _) => &[Variant::Many],
        (true, None) => &[Variant::Few, Variant::Some, Variant::Many],
        (true, Some(_)) => &[Variant::Single, Variant::Some, Variant::Many],
    };
    let kernel = |&variant: &Variant| (LinearKernel { linear: linear.clone(), variant }, variant.max_rows(linear, isa));
    Ok(variants.iter().map(kernel).collect())
}

/// A kernel of a linear layer. Weights, scales and biases are in the arrangement that [`geometry`] gives them. Where the codec has scales, x is
/// packed, else f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinearKernel {
    /// The layer.
    pub linear: Linear,
    /// Which of its kernels.
    pub variant: Variant,
}

impl Spec for LinearKernel {
    fn name(&self) -> String {
        self.linear.symbol(match self.variant {
            Variant::Single => "_single",
            Variant::Few => "_few",
            Variant::Some => "_some",
            Variant::Many => "",
        })
    }

    fn args(&self) -> usize {
        self.linear.args()
    }

    fn tiles(&self, _: Rows) -> Size {
        let (rows, groups) = match self.linear.takes_operand() {
            true => (matrix::rows(self.variant), matrix::token_groups(self.variant) as u64),
            false => (float::ROWS, 1),
        };
        let tiles = self.linear.tiles(rows) * groups;
        match (self.linear.experts, self.variant) {
            (None, _) => Size::constant(tiles),
            (Some(_), Variant::Single) => self.linear.rows.size(tiles),
            (Some(experts), _) => Size::constant(tiles * experts.count as u64),
        }
    }
}

impl Kernel for LinearKernel {
    fn threads(&self, isa: &dyn Isa) -> u32 {
        match self.linear.spec.codec().facts().storage {
            Storage::Float { .. } => isa.wave() * float::ROWS as u32,
            _ => isa.wave() * matrix::waves(&self.linear.spec, self.variant),
        }
    }

    fn stream_bytes(&self, isa: &dyn Isa) -> Option<f64> {
        let storage = self.linear.spec.codec().facts().storage;
        let instructions = geometry::STEPS as f64 * f64::from(self.variant.instructions());
        self.linear.takes_operand().then(|| geometry::block_bytes(storage, isa.matrix()) as f64 / instructions)
    }

    fn build(&self, call: &Call<'_>) {
        match self.linear.spec.codec().facts().storage {
            Storage::Float { .. } => float::build(call, self),
            _ => matrix::build(call, self),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
