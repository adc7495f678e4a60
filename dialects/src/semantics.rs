//! What every op defines besides its declaration: type inference, cost and reference evaluation.

use crate::attr::ParamName;
use crate::data::Data;
use crate::interp::Env;
use crate::model::Param;
use crate::ty::Ty;
use q35_bundle::{Dim, Rows, Size};
use q35_format::{Codec, Group, PackedSpec};
use std::collections::BTreeMap;

/// Shape and storage of a parameter: all that typing and cost need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packed {
    /// Output channels; 1 for a vector.
    pub rows: u64,
    /// Input columns; the length of a vector.
    pub cols: u64,
    /// How it is stored.
    pub codec: Codec,
    /// Which columns share a scale.
    pub group: Group,
}

impl Packed {
    /// Bytes of all its sections; 0 for a shape that cannot be stored.
    pub fn bytes(&self) -> u64 {
        let spec = PackedSpec::new(self.rows as usize, self.cols as usize, self.codec, self.group);
        spec.map_or(0, |spec| spec.total_bytes() as u64)
    }
}

/// Whoever knows the parameters of a program.
pub trait ParamTable {
    /// Shape and storage of a parameter, if it exists.
    fn packed(&self, name: &ParamName) -> Option<Packed>;
}

impl ParamTable for BTreeMap<ParamName, Packed> {
    fn packed(&self, name: &ParamName) -> Option<Packed> {
        self.get(name).copied()
    }
}

impl ParamTable for BTreeMap<ParamName, Param> {
    fn packed(&self, name: &ParamName) -> Option<Packed> {
        self.get(name).map(Param::packed)
    }
}

/// What an op costs, as functions of the run-time sizes. [`Dim::Capacity`] stands for the cache entries that a token sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes read: operands, parameters (each once) and cache.
    pub read: Size,
    /// Bytes written.
    pub written: Size,
    /// Scalar operations; a multiply-add counts as two, a transcendental function as one.
    pub operations: Size,
}

impl Cost {
    /// The cost of reading the operands, writing the result, and `per_element` operations for each element of the result.
    pub(crate) fn elementwise(operands: &[Ty], result: &Ty, per_element: u64) -> Self {
        let (rows, width) = match *result {
            Ty::Rotary { half } => (Rows::Tokens, 2 * half),
            Ty::Ids { rows } => (rows, 1),
            _ => result.matrix().unwrap_or((Rows::Tokens, 0)),
        };
        Self {
            read: Size(operands.iter().flat_map(|ty| row_bytes(ty).0).collect()),
            written: row_bytes(result),
            operations: Size::per(per_element * width, rows.dim()),
        }
    }

    /// Adds parameters that are read once.
    pub(crate) fn reading<'a>(mut self, params: impl IntoIterator<Item = &'a ParamName>, table: &dyn ParamTable) -> Self {
        let bytes = params.into_iter().filter_map(|name| table.packed(name)).map(|packed| packed.bytes()).sum();
        self.read.0.push((bytes, vec![]));
        self
    }
}

/// Bytes of a value.
pub fn row_bytes(ty: &Ty) -> Size {
    match *ty {
        Ty::Ids { rows } => Size::per(4, rows.dim()),
        Ty::Act { rows, width } => Size::per(4 * width, rows.dim()),
        Ty::Quant { rows, width } => Size::per(width + 4, rows.dim()),
        Ty::Rotary { half } => Size::per(8 * half, Dim::Tokens),
        Ty::Cache { .. } => Size::default(),
    }
}

/// The meaning of an op.
pub trait Semantics {
    /// The type of the result. The operands have been checked against the declaration: their number and kinds are right.
    /// An error is a sentence about the op in terms of operand names and attributes.
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String>;

    /// What it costs, for operands and a result that inference accepted.
    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost;

    /// The value, computed in the plainest way, for operands that inference accepted. Errors are those of the parameters' source and
    /// of run-time inputs that no type can exclude.
    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data>;
}

/// Rows and width of activations.
///
/// # Panics
/// If the type is of another kind: the declaration excludes that.
pub(crate) fn matrix(ty: &Ty) -> (Rows, u64) {
    ty.matrix().unwrap_or_else(|| unreachable!("the declaration allows activations only, not {ty}"))
}

/// Shape of the parameter `name`, or the sentence that it is missing.
pub(crate) fn shape(params: &dyn ParamTable, name: &ParamName) -> Result<(u64, u64), String> {
    params.packed(name).map(|p| (p.rows, p.cols)).ok_or_else(|| format!("there is no parameter @{name}"))
}

/// Checks that the parameter `name` is a vector whose length `fits`; `wanted` says which lengths would.
pub(crate) fn vector(params: &dyn ParamTable, name: &ParamName, wanted: &str, fits: impl Fn(u64) -> bool) -> Result<(), String> {
    match shape(params, name)? {
        (1, len) if fits(len) => Ok(()),
        (1, len) => Err(format!("@{name} has {len} elements, not {wanted}")),
        (rows, cols) => Err(format!("@{name} is a {rows}x{cols} matrix, not a vector of {wanted}")),
    }
}

/// `Err(message())` unless `holds`.
pub(crate) fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message()) }
}
