//! The parts of the ONNX protobuf schema that a compiler reads, as message types.
//!
//! Field numbers are those of ONNX IR version 13 and earlier; fields that are not named here (documentation, training, device placement) are skipped
//! while decoding. `bytes` fields share the decoded buffer, so tensor data in a mapped file is never copied.

pub(crate) mod build;
mod graph;
mod tensor;
mod types;

pub(crate) use graph::{Attribute, Function, Graph, Model, Node, OperatorSet, kind};
pub(crate) use tensor::{Entry, SparseTensor, Tensor};
pub(crate) use types::{Dimension, DimensionValue, Shape, TensorType, Type, ValueInfo};

/// Element types by their ONNX number.
pub(crate) const DTYPES: &[(i32, &str, Option<q35_graph::DType>)] = {
    use q35_graph::DType as D;
    &[
        (1, "float", Some(D::F32)),
        (2, "uint8", Some(D::U8)),
        (3, "int8", Some(D::I8)),
        (4, "uint16", Some(D::U16)),
        (5, "int16", Some(D::I16)),
        (6, "int32", Some(D::I32)),
        (7, "int64", Some(D::I64)),
        (8, "string", None),
        (9, "bool", Some(D::Bool)),
        (10, "float16", Some(D::F16)),
        (11, "double", Some(D::F64)),
        (12, "uint32", Some(D::U32)),
        (13, "uint64", Some(D::U64)),
        (14, "complex64", None),
        (15, "complex128", None),
        (16, "bfloat16", Some(D::Bf16)),
        (17, "float8e4m3fn", Some(D::F8E4M3)),
        (18, "float8e4m3fnuz", None),
        (19, "float8e5m2", Some(D::F8E5M2)),
        (20, "float8e5m2fnuz", None),
        (21, "uint4", Some(D::U4)),
        (22, "int4", Some(D::I4)),
        (23, "float4e2m1", None),
        (24, "float8e8m0", None),
        (25, "uint2", None),
        (26, "int2", None),
    ]
};
