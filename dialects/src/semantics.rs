//! What every op defines besides its declaration: type inference, cost and reference evaluation.

use crate::attr::{Attr, Attribute, ParamName};
use crate::data::Data;
use crate::decl::{TyDecl, fields};
use crate::interp::Env;
use crate::model::Param;
use crate::ty::{Rows, Ty};
use q35_bundle::{Dim, Size};
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

/// The declaration of [`Packed`] as a type of the dialect: a parameter's, never a value's.
pub const PACKED: TyDecl = TyDecl {
    name: "packed",
    doc: "A parameter in memory: its shape and how it is stored.",
    fields: fields!(
        /// Output channels; 1 for a vector.
        rows: u64,
        /// Input columns; the length of a vector.
        cols: u64,
        /// How it is stored.
        codec: Codec,
        /// Which columns share a scale.
        group: Group,
    ),
};

impl Packed {
    /// Its parameters, in order of declaration.
    pub fn fields(&self) -> Vec<Attr> {
        [self.rows.to_attr(), self.cols.to_attr(), self.codec.to_attr(), self.group.to_attr()].into_iter().flatten().collect()
    }

    /// The type with these parameters; `None` where they do not fit.
    pub fn from_fields(fields: &[Attr]) -> Option<Self> {
        let [rows, cols, codec, group] = fields else { return None };
        Some(Self {
            rows: u64::from_attr(Some(rows))?,
            cols: u64::from_attr(Some(cols))?,
            codec: Codec::from_attr(Some(codec))?,
            group: Group::from_attr(Some(group))?,
        })
    }

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
            operations: rows.size(per_element * width),
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
        Ty::Ids { rows } => rows.size(4),
        Ty::Act { rows, width } => rows.size(4 * width),
        Ty::Quant { rows, width } => rows.size(width + 4),
        Ty::Routing { rows, choices, .. } => rows.size(8 * u64::from(choices)),
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

    /// The value, computed in the plainest way, for operands that inference accepted. Errors are those of the parameters'
    /// source and of run-time inputs that no type can exclude.
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
pub(crate) fn vector(
    params: &dyn ParamTable,
    name: &ParamName,
    wanted: &str,
    fits: impl Fn(u64) -> bool,
) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::{Append, Attention, Embed, Linear, Op};
    use q35_bundle::CacheDtype;

    /// Read, written, operations for M = 3 tokens, R = 2 logit rows, and 100 cache entries seen.
    fn cost(op: impl Into<Op>, operands: &[Ty], params: &BTreeMap<ParamName, Packed>) -> [u64; 3] {
        let op = op.into();
        let result = op.infer(operands, params).unwrap();
        let cost = op.cost(operands, &result, params);
        [cost.read, cost.written, cost.operations].map(|size| size.eval(&[3, 2, 1, 100]).unwrap())
    }

    #[test]
    fn costs_by_hand() {
        let packed = |rows, cols, codec| Packed { rows, cols, codec, group: Group::Row };
        let params = BTreeMap::from([
            ("w".into(), packed(10, 16, Codec::W8)),
            ("b".into(), packed(1, 10, Codec::F32)),
            ("t".into(), packed(50, 16, Codec::Q8)),
        ]);
        // A row of 16 weights takes 7 bytes and an f16 scale.
        let linear = Linear { weight: "w".into(), bias: Some("b".into()) };
        let quant = Ty::Quant { rows: Rows::Logits, width: 16 };
        assert_eq!(cost(linear, &[quant], &params), [2 * (16 + 4) + 10 * 9 + 10 * 4, 2 * 10 * 4, 2 * 10 * 16 * 2]);
        let embed = Embed { table: "t".into() };
        assert_eq!(cost(embed, &[Ty::Ids { rows: Rows::Tokens }], &params), [3 * (4 + 18), 3 * 16 * 4, 0]);
        let attention = |window| Attention { heads: 4, scale: 1.0, window, softcap: None, sinks: None };
        for (dtype, bytes) in [(CacheDtype::F32, 4), (CacheDtype::F16, 2)] {
            let act = |width| Ty::Act { rows: Rows::Tokens, width };
            let cache = Ty::Cache { layer: 0, kv_heads: 2, key_dim: 3, value_dim: 5, dtype };
            for (window, seen) in [(None, 100), (Some(7), 7)] {
                let expected = [3 * (12 * 4 + seen * 2 * (3 + 5) * bytes), 3 * 20 * 4, 3 * 4 * seen * (2 * 3 + 2 * 5 + 2)];
                assert_eq!(cost(attention(window), &[act(12), cache], &params), expected);
            }
            let append = Append { dtype, ..Append::plain(0, 2) };
            assert_eq!(cost(append, &[act(6), act(10)], &params), [3 * 16 * 4, 3 * 16 * bytes, 0]);
        }
    }
}
