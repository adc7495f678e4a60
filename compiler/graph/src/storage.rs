//! Bytes behind tensors: memory-mapped files that can give their pages back, or owned memory.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Shared, immutable bytes. Cloning is cheap.
#[derive(Clone)]
pub enum Storage {
    /// Owned memory.
    Memory(Arc<[u8]>),
    /// A whole file, mapped read-only.
    File(Arc<MappedFile>),
}

/// A file mapped read-only.
pub struct MappedFile {
    path: PathBuf,
    map: Option<memmap2::Mmap>,
}

impl Storage {
    /// Maps a whole file. An empty file is allowed and has no bytes.
    pub fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let map = if file.metadata()?.len() == 0 {
            None
        } else {
            // SAFETY: the map is read-only; a file that another process truncates meanwhile faults, as for every mapped reader.
            Some(unsafe { memmap2::Mmap::map(&file)? })
        };
        Ok(Self::File(Arc::new(MappedFile { path: path.to_owned(), map })))
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Memory(bytes) => bytes,
            Self::File(file) => file.map.as_deref().unwrap_or(&[]),
        }
    }

    /// The mapped file's path, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Memory(_) => None,
            Self::File(file) => Some(&file.path),
        }
    }

    /// Tells the kernel that the pages wholly inside `range` are not needed at present, so that they leave this process's resident
    /// set. Reading them again is allowed and reloads them. Does nothing for owned memory.
    pub fn release(&self, range: Range<usize>) {
        const PAGE: usize = 4096;
        if let Self::File(file) = self
            && let Some(map) = &file.map
        {
            let start = range.start.div_ceil(PAGE) * PAGE;
            let end = if range.end >= map.len() { map.len() } else { range.end / PAGE * PAGE };
            if start < end {
                // SAFETY: the range lies inside this live mapping; the mapping is shared and read-only, so dropping its pages loses nothing.
                unsafe { libc::madvise(map.as_ptr().add(start) as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
            }
        }
    }
}

impl From<Vec<u8>> for Storage {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Memory(bytes.into())
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(bytes) => write!(f, "Memory({} bytes)", bytes.len()),
            Self::File(file) => write!(f, "File({:?}, {} bytes)", file.path, self.bytes().len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let content: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let storage = Storage::map(&path).unwrap();
        assert_eq!(storage.bytes(), content);
        storage.release(100..49_000);
        assert_eq!(storage.bytes(), content);
    }

    #[test]
    fn an_empty_file_has_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"").unwrap();
        assert!(Storage::map(&path).unwrap().bytes().is_empty());
    }
}
