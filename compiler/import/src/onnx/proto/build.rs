//! Messages made by hand: the few constructors that graph writers need.

#[cfg(any(test, feature = "synth"))]
use super::Entry;
use super::{Attribute, Dimension, DimensionValue, Shape, Tensor, TensorType, Type, ValueInfo, kind};

/// ONNX number of `float`.
pub(crate) const FLOAT: i32 = 1;
/// ONNX number of `int64`.
pub(crate) const INT64: i32 = 7;
/// ONNX number of `bool`.
pub(crate) const BOOL: i32 = 9;

impl Attribute {
    /// An attribute of the given kind without a value.
    pub(crate) fn of_kind(name: &str, r#type: i32) -> Self {
        Self { name: name.to_owned(), r#type, ..Self::default() }
    }

    /// An integer.
    pub(crate) fn int(name: &str, i: i64) -> Self {
        Self { i, ..Self::of_kind(name, kind::INT) }
    }

    /// A string.
    pub(crate) fn string(name: &str, s: &'static str) -> Self {
        Self { s: s.into(), ..Self::of_kind(name, kind::STRING) }
    }

    /// A list of integers.
    pub(crate) fn ints(name: &str, ints: &[i64]) -> Self {
        Self { ints: ints.to_vec(), ..Self::of_kind(name, kind::INTS) }
    }
}

impl Tensor {
    /// A tensor with its bytes inside the file.
    pub(crate) fn raw(name: &str, data_type: i32, dims: &[i64], data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), data_type, dims: dims.to_vec(), raw_data: Some(data.into()), ..Self::default() }
    }

    /// Integers: a vector, or a scalar if `dims` is empty.
    pub(crate) fn i64s(name: &str, dims: &[i64], values: &[i64]) -> Self {
        Self::raw(name, INT64, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Numbers: a vector, or a scalar if `dims` is empty.
    pub(crate) fn f32s(name: &str, dims: &[i64], values: &[f32]) -> Self {
        Self::raw(name, FLOAT, dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// A tensor whose bytes another file holds, as `location`, `offset`, `length` say.
    #[cfg(any(test, feature = "synth"))]
    pub(crate) fn external(name: &str, data_type: i32, dims: &[i64], entries: &[(&str, &str)]) -> Self {
        let external_data =
            entries.iter().map(|(k, v)| Entry { key: (*k).to_owned(), value: (*v).to_owned().into() }).collect();
        Self { name: name.to_owned(), data_type, dims: dims.to_vec(), data_location: 1, external_data, ..Self::default() }
    }
}

impl ValueInfo {
    /// A tensor; a dimension that is no number is a symbol.
    pub(crate) fn tensor(name: &str, elem_type: i32, dims: &[&str]) -> Self {
        let value = |d: &str| d.parse().map_or_else(|_| DimensionValue::Param(d.to_owned()), DimensionValue::Value);
        let shape = Shape { dim: dims.iter().map(|d| Dimension { value: Some(value(d)) }).collect() };
        Self { name: name.to_owned(), r#type: Some(Type { tensor_type: Some(TensorType { elem_type, shape: Some(shape) }) }) }
    }
}
