//! `TensorProto` becomes a [`Tensor`]: over the model file's own pages where the data is raw, over an external file's where it is external, and
//! over owned memory only where it is spelled out in typed fields.

use super::external::External;
use super::proto::{self, DTYPES};
use crate::report::Report;
use bytes::Bytes;
use q35_diag::{Code, Diagnostic};
use q35_graph::{DType, Storage, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// No tensor of any model takes a tebibyte.
const MAX_BYTES: u64 = 1 << 40;

/// `data_location` of a tensor whose data is external.
const EXTERNAL: i32 = 1;

/// Reads the tensors of one model file.
pub(super) struct Tensors {
    file: Storage,
    external: External,
    /// Tensors that somebody else has read already.
    ready: BTreeMap<String, Tensor>,
}

impl Tensors {
    pub(super) fn new(file: Storage, external: External) -> Self {
        Self { file, external, ready: BTreeMap::new() }
    }

    /// For a graph that has no file: its tensors, by name, but for small constants.
    pub(super) fn ready(ready: BTreeMap<String, Tensor>) -> Self {
        Self { ready, ..Self::new(Vec::new().into(), External::new(Path::new(""))) }
    }

    /// Reports what was wrong with external files.
    pub(super) fn finish(self, report: &mut Report) {
        self.external.finish(report);
    }

    /// Makes a tensor that is called `name`. `None` if something is wrong with it, which has been or will be reported.
    pub(super) fn read(&mut self, proto: &proto::Tensor, name: &str, report: &mut Report) -> Option<Tensor> {
        if let Some(tensor) = self.ready.get(name) {
            return Some(tensor.clone());
        }
        report.take(self.try_read(proto, name).map_err(|problem| problem.at("tensor", name))).flatten()
    }

    fn try_read(&mut self, proto: &proto::Tensor, name: &str) -> Result<Option<Tensor>, Diagnostic> {
        let dtype = dtype(proto.data_type)?;
        let dims: Vec<u64> = proto.dims.iter().map(|&d| u64::try_from(d)).collect::<Result<_, _>>().map_err(|_| {
            Diagnostic::error(Code::BadTensor, format!("its dimensions are {:?}, and one is negative", proto.dims))
        })?;
        let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = count.and_then(|n| dtype.byte_len(n)).filter(|n| *n < MAX_BYTES).ok_or_else(|| {
            Diagnostic::error(Code::AbsurdSize, format!("its type {}{dims:?} is larger than any tensor can be", dtype.name()))
        })?;
        let (storage, offset) = match &proto.raw_data {
            _ if proto.data_location == EXTERNAL => match self.external.find(name, bytes, &proto.external_data)? {
                Some(found) => found,
                None => return Ok(None),
            },
            Some(raw) => {
                expect_bytes(raw.len(), bytes, dtype, &dims)?;
                self.place(raw)
            }
            None => {
                let data = typed_data(proto, dtype);
                expect_bytes(data.len(), bytes, dtype, &dims)?;
                (Storage::from(data), 0)
            }
        };
        let outside = |_| Diagnostic::error(Code::DataOutOfFile, "its bytes lie outside their file");
        Tensor::new(dtype, dims, storage, offset).map(Some).map_err(outside)
    }

    /// Where bytes that were decoded from the file lie in it.
    fn place(&self, raw: &Bytes) -> (Storage, u64) {
        let file = self.file.bytes();
        let offset = raw.as_ptr().addr().wrapping_sub(file.as_ptr().addr());
        match offset.checked_add(raw.len()) {
            Some(end) if end <= file.len() => (self.file.clone(), offset as u64),
            _ => (Storage::from(raw.to_vec()), 0),
        }
    }
}

/// The element type behind an ONNX number.
fn dtype(number: i32) -> Result<DType, Diagnostic> {
    match DTYPES.iter().find(|row| row.0 == number) {
        Some((_, _, Some(dtype))) => Ok(*dtype),
        Some((_, name, None)) => {
            Err(Diagnostic::error(Code::UnsupportedForm, format!("its element type '{name}' is not supported")))
        }
        None => Err(Diagnostic::error(Code::BadTensor, format!("its element type has number {number}, which means nothing"))),
    }
}

fn expect_bytes(found: usize, expected: u64, dtype: DType, dims: &[u64]) -> Result<(), Diagnostic> {
    if found as u64 == expected {
        return Ok(());
    }
    let what = format!("its type {}{dims:?} takes {expected} bytes, but it has {found} bytes of data", dtype.name());
    Err(Diagnostic::error(Code::BadTensor, what))
}

/// The bytes of a tensor whose elements are listed one by one, in the field that its type prescribes: narrow types in `int32_data`, one entry per
/// stored unit (a pair for 4-bit types), wide unsigned ones in `uint64_data`.
fn typed_data(proto: &proto::Tensor, dtype: DType) -> Vec<u8> {
    fn bytes<T: Copy, const N: usize>(values: &[T], encode: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|&v| encode(v)).collect()
    }
    match dtype {
        DType::F32 => bytes(&proto.float_data, f32::to_le_bytes),
        DType::F64 => bytes(&proto.double_data, f64::to_le_bytes),
        DType::I64 => bytes(&proto.int64_data, i64::to_le_bytes),
        DType::U64 => bytes(&proto.uint64_data, u64::to_le_bytes),
        DType::U32 => bytes(&proto.uint64_data, |v| (v as u32).to_le_bytes()),
        DType::I32 => bytes(&proto.int32_data, i32::to_le_bytes),
        _ if dtype.bits() == 16 => bytes(&proto.int32_data, |v| (v as u16).to_le_bytes()),
        _ => bytes(&proto.int32_data, |v| [v as u8]),
    }
}
