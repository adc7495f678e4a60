//! The weights file in memory: mapped, its header validated, tensors by name.

use memmap2::{Advice, Mmap, UncheckedAdvice};
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

    /// Lets the system begin to read bytes `range` of a tensor. It may decline.
    pub(crate) fn read_ahead(&self, name: &str, range: Range<usize>) {
        if let Some((start, length)) = self.inside(name, range) {
            let _ = self.map.advise_range(Advice::WillNeed, start, length);
        }
    }

    /// Takes the bytes `range` of a tensor out of this process's memory, until they are read again.
    pub(crate) fn release(&self, name: &str, range: Range<usize>) {
        if let Some((start, length)) = self.inside(name, range) {
            // SAFETY: the map is of a file, shared and read-only: pages that are given up come back from the file with the same content.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, length) };
        }
    }

    /// Start and length in the file of what `range` has of a tensor, if that is anything.
    fn inside(&self, name: &str, range: Range<usize>) -> Option<(usize, usize)> {
        let tensor = &self.index.get(name)?.range;
        let end = tensor.end.min(tensor.start.saturating_add(range.end));
        let start = tensor.start.saturating_add(range.start);
        (start < end).then(|| (start, end - start))
    }
}
