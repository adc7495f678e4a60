//! Source-level ops: what an importer leaves, names and attributes as the model file has them.
//!
//! An importer inlines local functions and turns `Constant` nodes and initializers into [`SourceOp::Const`]; everything else stays as
//! written. Shapes are those the file records; nothing is inferred here.

use crate::{DType, Graph, Tensor};
use std::collections::BTreeMap;

/// A graph as imported.
pub type SourceGraph = Graph<SourceOp, SourceType>;

/// What a model file says about a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceType {
    /// The value's name in the file; empty if it has none.
    pub name: String,
    /// Element type, if recorded.
    pub dtype: Option<DType>,
    /// Dimensions, if recorded.
    pub dims: Option<Vec<Dim>>,
}

/// A recorded dimension.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dim {
    /// A number.
    Fixed(u64),
    /// A name or an expression such as `past_sequence_length + sequence_length`, as written.
    Named(String),
    /// Nothing was said.
    Unknown,
}

/// One source-level op.
#[derive(Clone, Debug)]
pub enum SourceOp {
    /// An input of the graph.
    Input,
    /// An initializer or constant.
    Const(Tensor),
    /// An op of some operator set.
    Call(Call),
}

/// An op of an operator set, as the file spells it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Operator set; the standard one is `""`.
    pub domain: String,
    /// Op type.
    pub op: String,
    /// Version of the operator set that the model imports.
    pub version: i64,
    /// Attributes by name.
    pub attrs: BTreeMap<String, Attr>,
}

/// An attribute's value.
#[derive(Clone, Debug)]
pub enum Attr {
    /// One integer.
    Int(i64),
    /// One number.
    Float(f32),
    /// One string.
    Str(String),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Strings.
    Strs(Vec<String>),
    /// A tensor.
    Tensor(Tensor),
    /// A subgraph.
    Graph(Box<Body>),
}

/// A subgraph of a call.
///
/// Values of the outer graph that it reads come as its last inputs, and as the last operands of the call, in the same order. All
/// subgraphs of a call have the same such inputs, whichever of them reads which.
#[derive(Clone, Debug)]
pub struct Body {
    /// The subgraph; it reads nothing but its inputs.
    pub graph: SourceGraph,
    /// How many of its last inputs are values of the outer graph.
    pub captured: usize,
}

impl Call {
    /// An integer attribute, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        match self.attrs.get(name) {
            Some(Attr::Int(v)) => *v,
            _ => default,
        }
    }

    /// A number attribute, or `default`.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        match self.attrs.get(name) {
            Some(Attr::Float(v)) => *v,
            _ => default,
        }
    }

    /// An integer-list attribute, if present.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attrs.get(name) {
            Some(Attr::Ints(v)) => Some(v),
            _ => None,
        }
    }

    /// A string attribute, if present.
    pub fn str(&self, name: &str) -> Option<&str> {
        match self.attrs.get(name) {
            Some(Attr::Str(v)) => Some(v),
            _ => None,
        }
    }
}
