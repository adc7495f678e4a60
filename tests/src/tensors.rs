//! Stored tensors, as plain vectors of f32.

use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// A tensor of numbers; integers beyond 2^24 would round, and the stored cases have none.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Row-major elements.
    pub values: Vec<f32>,
}

impl Numbers {
    /// The elements as integers.
    pub fn integers(&self) -> Vec<i64> {
        self.values.iter().map(|v| *v as i64).collect()
    }
}

/// Every tensor of a safetensors file.
///
/// # Panics
/// If the file cannot be read: the tests' own data is broken.
pub fn read(path: &Path) -> BTreeMap<String, Numbers> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let values = decode(view.dtype(), view.data());
        assert_eq!(values.len(), view.shape().iter().product::<usize>(), "{name}");
        (name, Numbers { shape: view.shape().to_vec(), values })
    });
    tensors.collect()
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|raw| f(*raw)).collect()
    }
    match dtype {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |raw| half::f16::from_le_bytes(raw).to_f32()),
        Dtype::BF16 => each(bytes, |raw| half::bf16::from_le_bytes(raw).to_f32()),
        Dtype::F64 => each(bytes, |raw| f64::from_le_bytes(raw) as f32),
        Dtype::I64 => each(bytes, |raw| i64::from_le_bytes(raw) as f32),
        Dtype::I32 => each(bytes, |raw| i32::from_le_bytes(raw) as f32),
        Dtype::U8 | Dtype::BOOL => each(bytes, |[raw]: [u8; 1]| f32::from(raw)),
        other => panic!("no stored case uses {other:?}"),
    }
}
