//! The layout of `weights.safetensors`: what the header says, computed before the first byte of data.
//!
//! Safetensors allows no holes between tensors, and every tensor of ours starts at a multiple of [`ALIGN`] bytes of the *file* (kernels
//! load whole vectors): the header is padded with spaces, and a tensor whose length is no multiple of [`ALIGN`] is followed by a
//! filler tensor `_align.N` of zero bytes.

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::BTreeSet;

/// Alignment of tensors in the weights file, in the arena and everywhere else a kernel looks.
pub const ALIGN: u64 = 64;

/// What is known of a tensor before its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the weights file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// `len` bytes without further structure.
    pub fn bytes(name: impl Into<String>, len: u64) -> Self {
        Self { name: name.into(), dtype: Dtype::U8, shape: vec![len] }
    }

    /// Length of the data in bytes; `None` when that is no whole number below 2^63.
    pub fn byte_len(&self) -> Option<u64> {
        let bits = self.shape.iter().try_fold(self.dtype.bitsize() as u64, |product, n| product.checked_mul(*n))?;
        (bits % 8 == 0).then_some(bits / 8)
    }
}

/// One stretch of the data part: a caller's tensor, or zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Index of the caller's tensor; `None` for a filler.
    pub(crate) tensor: Option<usize>,
    /// Length in bytes.
    pub(crate) bytes: u64,
}

/// Where everything lies in a weights file of given tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsLayout {
    /// What comes before the data: length prefix and header.
    pub header: Vec<u8>,
    /// Where each tensor begins in the file, in the order of the specs; multiples of [`ALIGN`].
    pub offsets: Vec<u64>,
    /// Length of the file.
    pub bytes: u64,
}

impl WeightsLayout {
    /// Of the file that holds these tensors in this order; `None` if they have absurd sizes or share a name.
    pub fn of(specs: &[TensorSpec]) -> Option<Self> {
        let (header, stretches) = layout(specs).ok()?;
        let (mut offsets, mut at) = (vec![0; specs.len()], header.len() as u64);
        for stretch in &stretches {
            if let Some(tensor) = stretch.tensor {
                offsets[tensor] = at;
            }
            at = at.checked_add(stretch.bytes)?;
        }
        Some(Self { header, offsets, bytes: at })
    }
}

/// Header bytes (length prefix included) and the stretches of the data part in order.
///
/// `Err` names what is wrong with the specs.
pub(crate) fn layout(specs: &[TensorSpec]) -> Result<(Vec<u8>, Vec<Stretch>), String> {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    if let Some(twice) = specs.iter().find(|s| !taken.insert(s.name.clone())) {
        return Err(format!("two tensors are named '{}'", twice.name));
    }
    let (mut infos, mut stretches, mut at, mut fillers) = (Vec::new(), Vec::new(), 0u64, 0u64);
    for (index, spec) in specs.iter().enumerate() {
        let bytes = spec.byte_len().ok_or_else(|| format!("tensor '{}' has an absurd size", spec.name))?;
        let mut place = |name: String, dtype: Dtype, shape: &[u64], bytes: u64, tensor: Option<usize>| {
            let end = at.checked_add(bytes).ok_or("the tensors have an absurd size")?;
            let shape = shape.iter().map(|n| *n as usize).collect();
            infos.push((name, TensorInfo { dtype, shape, data_offsets: (at as usize, end as usize) }));
            stretches.push(Stretch { tensor, bytes });
            at = end;
            Ok::<(), String>(())
        };
        place(spec.name.clone(), spec.dtype, &spec.shape, bytes, Some(index))?;
        let missing = bytes.next_multiple_of(ALIGN) - bytes;
        if missing > 0 {
            let name = loop {
                let name = format!("_align.{fillers}");
                fillers += 1;
                if taken.insert(name.clone()) {
                    break name;
                }
            };
            place(name, Dtype::U8, &[missing], missing, None)?;
        }
    }
    let metadata = Metadata::new(None, infos).map_err(|e| e.to_string())?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    json.resize((json.len() + 8).next_multiple_of(ALIGN as usize) - 8, b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    Ok((header, stretches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use safetensors::SafeTensors;

    proptest! {
        #[test]
        fn the_safetensors_crate_accepts_it_and_every_tensor_is_aligned(lens in prop::collection::vec(0u64..200, 0..12)) {
            let specs: Vec<_> = lens.iter().enumerate().map(|(i, n)| TensorSpec::bytes(format!("_align.{i}"), *n)).collect();
            let (mut file, stretches) = layout(&specs).unwrap();
            let data = file.len();
            file.resize(data + stretches.iter().map(|s| s.bytes as usize).sum::<usize>(), 0);
            let (header, metadata) = SafeTensors::read_metadata(&file).unwrap();
            prop_assert_eq!((header + 8) % 64, 0);
            for spec in &specs {
                let info = metadata.info(&spec.name).unwrap();
                prop_assert_eq!(info.shape.clone(), vec![spec.shape[0] as usize]);
                prop_assert_eq!((data + info.data_offsets.0) % 64, 0);
            }
            let found = WeightsLayout::of(&specs).unwrap();
            prop_assert_eq!((found.header.len(), found.bytes), (data, file.len() as u64));
            for (spec, offset) in specs.iter().zip(&found.offsets) {
                let begin = metadata.info(&spec.name).unwrap().data_offsets.0;
                prop_assert_eq!(*offset, (data + begin) as u64);
            }
        }
    }

    #[test]
    fn bad_specs_are_refused() {
        let name = |shape: &[u64]| TensorSpec { name: "t".into(), dtype: Dtype::F32, shape: shape.into() };
        assert_eq!(layout(&[name(&[u64::MAX, 2])]).unwrap_err(), "tensor 't' has an absurd size");
        assert_eq!(layout(&[name(&[1]), name(&[1])]).unwrap_err(), "two tensors are named 't'");
    }
}
