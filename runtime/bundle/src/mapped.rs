//! The weights file in memory: mapped, its header validated, tensors by name.

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

/// A tensor of the weights file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first.
    pub shape: &'a [usize],
    /// The data.
    pub data: &'a [u8],
}

/// Where a tensor lies.
#[derive(Debug)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// A mapped weights file.
#[derive(Debug)]
pub(crate) struct Mapped {
    map: Mmap,
    index: BTreeMap<String, Entry>,
}

impl Mapped {
    /// Maps `file` and validates its header; `Err` says what is wrong with it.
    pub(crate) fn new(file: &File) -> Result<Self, String> {
        // SAFETY: the map is read-only. That nobody truncates or rewrites the file while it is mapped is what every user of mapped
        // files asks of the system; bundles are replaced by renaming, which leaves an open file as it was.
        let map = unsafe { Mmap::map(file) }.map_err(|e| format!("it cannot be mapped: {e}"))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| e.to_string())?;
        let data = header + 8;
        let mut index = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            index.insert(name, Entry { dtype: info.dtype, shape: info.shape.clone(), range });
        }
        Ok(Self { map, index })
    }

    /// The tensor of that name.
    pub(crate) fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let entry = self.index.get(name)?;
        Some(Tensor { dtype: entry.dtype, shape: &entry.shape, data: &self.map[entry.range.clone()] })
    }
}
