//! A typed, checked range of a [`Storage`].

use crate::{DType, Decode, Storage};
use half::{bf16, f16};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Row-major elements: dense somewhere in a [`Storage`], little-endian, not necessarily aligned; or behind a [`Decode`].
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    dims: Vec<u64>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    /// At a byte offset.
    Stored(Storage, usize),
    /// Of type f32 when read.
    Decoded(Arc<dyn Decode>),
}

/// Why a tensor cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorError {
    /// The product of the dimensions does not fit in 63 bits.
    TooLarge,
    /// The bytes end at `end`, the storage at `available`.
    OutOfRange {
        /// First byte past the tensor.
        end: u64,
        /// Bytes there are.
        available: u64,
    },
}

impl Tensor {
    /// A tensor over `storage` from byte `offset` on. Nothing is read or allocated.
    pub fn new(dtype: DType, dims: Vec<u64>, storage: Storage, offset: u64) -> Result<Self, TensorError> {
        let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or(TensorError::TooLarge)?;
        let bytes = dtype.byte_len(count).filter(|b| *b < 1 << 62).ok_or(TensorError::TooLarge)?;
        let end = offset.checked_add(bytes).ok_or(TensorError::TooLarge)?;
        let available = storage.bytes().len() as u64;
        if end > available {
            return Err(TensorError::OutOfRange { end, available });
        }
        Ok(Self { dtype, dims, data: Data::Stored(storage, offset as usize) })
    }

    /// A tensor of type f32 whose numbers are decoded when they are read. `None` if there are not as many as `dims` says.
    pub fn decoded(dims: Vec<u64>, numbers: impl Decode + 'static) -> Option<Self> {
        let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d))?;
        (count == numbers.count() && DType::F32.byte_len(count).is_some_and(|b| b < 1 << 62)).then(|| Self {
            dtype: DType::F32,
            dims,
            data: Data::Decoded(Arc::new(numbers)),
        })
    }

    /// A tensor of numbers in owned memory.
    ///
    /// # Panics
    /// If `values` does not hold as many elements as `dims` says.
    pub fn from_f32(dims: Vec<u64>, values: &[f32]) -> Self {
        assert_eq!(dims.iter().product::<u64>(), values.len() as u64);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DType::F32, dims, data: Data::Stored(bytes.into(), 0) }
    }

    /// A tensor of integers in owned memory.
    ///
    /// # Panics
    /// If `values` does not hold as many elements as `dims` says.
    pub fn from_i64(dims: Vec<u64>, values: &[i64]) -> Self {
        assert_eq!(dims.iter().product::<u64>(), values.len() as u64);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DType::I64, dims, data: Data::Stored(bytes.into(), 0) }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn dims(&self) -> &[u64] {
        &self.dims
    }

    /// Number of elements.
    pub fn count(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The bytes this tensor covers; none if its numbers are decoded.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Stored(storage, offset) => &storage.bytes()[self.byte_range(*offset)],
            Data::Decoded(_) => &[],
        }
    }

    /// What elements are stored as, and whether that is a rounding of what was trained to few bits.
    pub fn stored(&self) -> (DType, bool) {
        match &self.data {
            Data::Stored(..) => (self.dtype, !self.dtype.is_float()),
            Data::Decoded(numbers) => numbers.stored(),
        }
    }

    /// Gives the pages of this tensor back, see [`Storage::release`].
    pub fn release(&self) {
        match &self.data {
            Data::Stored(storage, offset) => storage.release(self.byte_range(*offset)),
            Data::Decoded(numbers) => numbers.release(0..numbers.count()),
        }
    }

    /// Identity of the elements, for finding two names of one weight: an address, and a byte range there.
    pub fn identity(&self) -> (usize, Range<usize>) {
        match &self.data {
            Data::Stored(storage, offset) => (storage.bytes().as_ptr() as usize, self.byte_range(*offset)),
            Data::Decoded(numbers) => (Arc::as_ptr(numbers).addr(), 0..0),
        }
    }

    /// Same bytes, other dimensions.
    ///
    /// # Panics
    /// If the number of elements differs.
    pub fn reshaped(&self, dims: Vec<u64>) -> Self {
        assert_eq!(dims.iter().product::<u64>(), self.count());
        Self { dims, ..self.clone() }
    }

    /// Element `at` (flat, row-major) as a number; integers beyond 2^53 round.
    ///
    /// # Panics
    /// If `at` is out of range.
    pub fn number(&self, at: u64) -> f64 {
        if let Data::Decoded(numbers) = &self.data {
            assert!(at < numbers.count());
            let mut one = [0.0];
            numbers.read(at, &mut one);
            return one[0].into();
        }
        let bytes = self.bytes();
        let at = at as usize;
        macro_rules! le {
            ($t:ty) => {{
                const N: usize = size_of::<$t>();
                let mut raw = [0u8; N];
                raw.copy_from_slice(&bytes[at * N..at * N + N]);
                <$t>::from_le_bytes(raw)
            }};
        }
        match self.dtype {
            DType::F32 => le!(f32).into(),
            DType::F64 => le!(f64),
            DType::F16 => le!(f16).to_f64(),
            DType::Bf16 => le!(bf16).to_f64(),
            DType::F8E4M3 => f8_to_f64(bytes[at], 4, 3),
            DType::F8E5M2 => f8_to_f64(bytes[at], 5, 2),
            DType::Bool => f64::from(u8::from(bytes[at] != 0)),
            DType::U4 => f64::from(bytes[at / 2] >> (4 * (at % 2)) & 15),
            DType::I4 => f64::from((bytes[at / 2] << (4 * (1 - at % 2))) as i8 >> 4),
            DType::U8 => bytes[at].into(),
            DType::I8 => (bytes[at] as i8).into(),
            DType::U16 => le!(u16).into(),
            DType::I16 => le!(i16).into(),
            DType::U32 => le!(u32).into(),
            DType::I32 => le!(i32).into(),
            DType::U64 => le!(u64) as f64,
            DType::I64 => le!(i64) as f64,
        }
    }

    /// Reads elements from `start` on (flat, row-major) as f32.
    ///
    /// # Panics
    /// If any is out of range.
    pub fn read(&self, start: u64, out: &mut [f32]) {
        let end = start.checked_add(out.len() as u64);
        assert!(end.is_some_and(|end| end <= self.count()), "elements from {start} on are outside {:?}", self.dims);
        if let Data::Decoded(numbers) = &self.data {
            return numbers.read(start, out);
        }
        let size = (self.dtype.bits() / 8) as usize;
        let Some(decode) = self.dtype.as_f32() else {
            return out.iter_mut().zip(start..).for_each(|(x, at)| *x = self.number(at) as f32);
        };
        let bytes = &self.bytes()[start as usize * size..][..out.len() * size];
        out.iter_mut().zip(bytes.chunks_exact(size)).for_each(|(x, raw)| *x = decode(raw));
    }

    /// Element `at` (flat, row-major) as an integer; numbers truncate.
    ///
    /// # Panics
    /// If `at` is out of range.
    pub fn integer(&self, at: u64) -> i64 {
        match self.dtype {
            DType::I64 => {
                let mut raw = [0u8; 8];
                raw.copy_from_slice(&self.bytes()[at as usize * 8..at as usize * 8 + 8]);
                i64::from_le_bytes(raw)
            }
            _ => self.number(at) as i64,
        }
    }

    fn byte_range(&self, offset: usize) -> Range<usize> {
        let len = self.dtype.byte_len(self.count()).unwrap_or(0) as usize;
        offset..offset + len
    }
}

impl DType {
    /// How an element's bytes become a number, for the types that weights are usually stored in.
    pub(crate) fn as_f32(self) -> Option<fn(&[u8]) -> f32> {
        match self {
            Self::F32 => Some(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => Some(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Bf16 => Some(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::F8E4M3 => Some(|b| f8_to_f64(b[0], 4, 3) as f32),
            Self::F8E5M2 => Some(|b| f8_to_f64(b[0], 5, 2) as f32),
            _ => None,
        }
    }
}

/// An 8-bit float with the given exponent and mantissa widths; `e4m3` is the variant without infinities.
fn f8_to_f64(byte: u8, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let bias = (1i32 << (exponent_bits - 1)) - 1;
    let exponent = i32::from(byte >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = f64::from(byte & ((1 << mantissa_bits) - 1)) / f64::from(1u32 << mantissa_bits);
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let top = (1 << exponent_bits) - 1;
    match (exponent, exponent_bits) {
        (0, _) => sign * mantissa * 2f64.powi(1 - bias),
        (e, 4) if e == top && byte & 7 == 7 => f64::NAN,
        (e, 5) if e == top => {
            if mantissa == 0.0 {
                sign * f64::INFINITY
            } else {
                f64::NAN
            }
        }
        (e, _) => sign * (1.0 + mantissa) * 2f64.powi(e - bias),
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Data::Stored(storage, offset) => {
                write!(f, "Tensor({}{:?} at {offset} of {storage:?})", self.dtype.name(), self.dims)
            }
            Data::Decoded(numbers) => write!(f, "Tensor({:?} decoded from {:?})", self.dims, numbers.stored().0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_anything_else() {
        let empty = || Storage::from(vec![0u8; 8]);
        assert_eq!(Tensor::new(DType::F32, vec![1 << 40, 1 << 40], empty(), 0).unwrap_err(), TensorError::TooLarge);
        assert_eq!(
            Tensor::new(DType::F32, vec![2], empty(), 4).unwrap_err(),
            TensorError::OutOfRange { end: 12, available: 8 }
        );
        assert!(Tensor::new(DType::F32, vec![1], empty(), 4).is_ok());
    }

    #[test]
    fn small_types_decode() {
        let t = |dtype, bytes: Vec<u8>, n| Tensor::new(dtype, vec![n], bytes.into(), 0).unwrap();
        let nibbles = t(DType::I4, vec![0x7F, 0x18], 4);
        assert_eq!((0..4).map(|i| nibbles.integer(i)).collect::<Vec<_>>(), [-1, 7, -8, 1]);
        let f8 = t(DType::F8E4M3, vec![0x38, 0xB8, 0x01, 0x7E], 4);
        assert_eq!((0..4).map(|i| f8.number(i)).collect::<Vec<_>>(), [1.0, -1.0, 2f64.powi(-9), 448.0]);
        assert_eq!(t(DType::F8E5M2, vec![0x7B], 1).number(0), 57344.0);
    }
}
