//! What a target gives: its kernels, and how they read weights.

use crate::spec::{Any, Attention, Linear, Spec};
use q35_format::{Codec, PackedSpec};
use q35_target::{Arrangement, Section};
use std::rc::Rc;

/// A kernel and the most rows it is meant for.
pub struct Choice<K: ?Sized> {
    /// The kernel.
    pub kernel: Rc<K>,
    /// The most rows (more give right results, slowly); `None` for any number.
    pub max_rows: Option<u64>,
}

impl<K: ?Sized> Clone for Choice<K> {
    fn clone(&self) -> Self {
        Self { kernel: self.kernel.clone(), max_rows: self.max_rows }
    }
}

impl<K: ?Sized> From<Rc<K>> for Choice<K> {
    fn from(kernel: Rc<K>) -> Self {
        Self { kernel, max_rows: None }
    }
}

/// Attention by several kernels, which differ in rounding: those for few tokens share the entries of a token's head, and leave the results to another.
pub struct Split<K: ?Sized> {
    /// The kernels, in the order in which a step lists them. Their arguments are the spec's, then the room for parts.
    pub choices: Vec<Choice<K>>,
    /// What makes a row of the result of parts, where the kernel for the number of tokens has left any. Arguments: the parts, the sinks where there
    /// are any, the result.
    pub join: Rc<K>,
    /// Bytes of a token's parts.
    pub bytes: u64,
}

/// The form in which kernels multiply activations with weights that have scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Rounded to integers by an op of the program, which other targets and the reference evaluation see too.
    Rounded,
    /// In a form of the target's own, which is made where it is first needed.
    Packed,
}

/// How kernels read a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Row by row, as it is.
    Rows,
    /// As the weight of a linear layer.
    Tiles,
    /// As the weights of so many experts, one below the other.
    Stacked(usize),
    /// So many vectors in one, a tile of outputs at a time.
    PaddedVectors(usize),
}

/// A target's kernels.
///
/// Methods that refuse give the reason, which follows the words that the target cannot run a node.
pub trait Kernels {
    /// A kernel as the target builds it.
    type Kernel: ?Sized + Spec;

    /// Where the kernels run, in diagnostics: "on the CPU".
    fn place(&self) -> &'static str;

    /// The kernel of an op, or why there is none.
    fn kernel(&self, spec: Any) -> Result<Rc<Self::Kernel>, String>;

    /// The kernels of attention, where the target has several; else it is asked for one as for every op.
    fn split(&self, _spec: &Attention) -> Option<Split<Self::Kernel>> {
        None
    }

    /// The kernels of a linear layer, in the order in which a step lists them, or why there are none.
    fn linear(&self, linear: &Linear) -> Result<Vec<Choice<Self::Kernel>>, String>;

    /// The form in which linear layers take activations.
    fn operand(&self) -> Operand;

    /// The kernel that makes this form of a row of `width` activations.
    fn to_operand(&self, width: u64) -> Rc<Self::Kernel>;

    /// Bytes of a row of `width` activations in this form.
    fn operand_stride(&self, width: usize) -> usize;

    /// Kernels that work row by row as one, or `None` where they are too many for one.
    fn chain(&self, parts: Vec<Rc<Self::Kernel>>) -> Option<Rc<Self::Kernel>>;

    /// The kernel that takes from every row of `width` logits the column of the largest, where the target has one: an i32 in a row of
    /// [`layout::ALIGN`](crate::layout::ALIGN) bytes of its own. Arguments: the logits, the columns.
    fn choose(&self, _width: u64) -> Option<Rc<Self::Kernel>> {
        None
    }

    /// Whether linear layers read weights in this codec row by row, as they are.
    fn reads_rows(&self, codec: Codec) -> bool;

    /// The arrangement of a section of a parameter for a use.
    fn arrangement(&self, spec: &PackedSpec, section: Section, used: Use) -> Arrangement;
}

/// The codecs that linear layers of a target may have.
pub fn codecs(kernels: &impl Kernels) -> Vec<Codec> {
    let supported = |codec: &Codec| {
        let spec = PackedSpec::new(1, 1, *codec, q35_format::Group::Row);
        spec.is_ok_and(|spec| kernels.linear(&Linear::new(spec)).is_ok())
    };
    Codec::all().filter(supported).collect()
}
