//! The structure of a GGUF file: a header, values, and where each tensor lies.

use super::metadata::Metadata;
use crate::encodings::blocks::{Blocks, FORMATS};
use q35_diag::{Code, Diagnostic};
use q35_graph::{DType, Storage, Tensor};
use std::collections::BTreeMap;

/// The first bytes, and the versions that are read.
const MAGIC: &[u8] = b"GGUF";
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Where tensors begin if the file does not say.
const ALIGNMENT: u64 = 32;
const LARGEST_ALIGNMENT: u64 = 1 << 20;

/// Keys and names are short; texts may be templates of chats.
const LONGEST_TEXT: u64 = 1 << 24;

/// No tensor has more dimensions, nor takes a tebibyte.
const MOST_DIMS: u32 = 4;
const MAX_BYTES: u64 = 1 << 40;

/// Tensors whose elements are stored as themselves.
const PLAIN: &[(u32, DType)] = &[(0, DType::F32), (1, DType::F16), (30, DType::Bf16)];

/// A file, read but for its tensors' bytes.
pub(super) struct File {
    pub(super) metadata: Metadata,
    /// By name: the tensor, or why it cannot be read.
    pub(super) tensors: BTreeMap<String, Result<Tensor, Diagnostic>>,
}

/// A tensor as the file declares it.
struct Declared {
    name: String,
    /// Outermost first.
    dims: Vec<u64>,
    ty: u32,
    offset: u64,
}

/// Reads the structure.
pub(super) fn read(storage: Storage) -> Result<File, Diagnostic> {
    let mut cursor = Cursor { bytes: storage.bytes(), at: 0 };
    if cursor.take(Some(4)).ok() != Some(MAGIC) {
        return Err(Diagnostic::error(Code::NotAModel, "the file is no GGUF file"));
    }
    let version = cursor.u32()?;
    if !VERSIONS.contains(&version) {
        let what = match VERSIONS.contains(&version.swap_bytes()) {
            true => "the file is written for big-endian machines".to_owned(),
            false => format!("the file has version {version} of the format; versions 2 and 3 are read"),
        };
        return Err(Diagnostic::error(Code::UnsupportedForm, what).help("convert the model again"));
    }
    let (tensors, values) = (cursor.u64()?, cursor.u64()?);
    let metadata = Metadata::read(&mut cursor, values)?;
    let mut declared = Vec::new();
    for _ in 0..tensors {
        declared.push(declaration(&mut cursor)?);
    }
    let alignment = metadata.size("general.alignment")?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > LARGEST_ALIGNMENT {
        return Err(Diagnostic::error(Code::BadConfig, format!("'general.alignment' is {alignment}")));
    }
    let start = (cursor.at as u64).next_multiple_of(alignment);
    let mut all = BTreeMap::new();
    for tensor in declared {
        let name = tensor.name.clone();
        let placed = placed(tensor, start, &storage).map_err(|problem| problem.at("tensor", &name));
        if all.insert(name.clone(), placed).is_some() {
            return Err(Diagnostic::error(Code::BadTensor, format!("the tensor '{name}' is there twice")));
        }
    }
    Ok(File { metadata, tensors: all })
}

fn declaration(cursor: &mut Cursor) -> Result<Declared, Diagnostic> {
    let name = cursor.text()?;
    let rank = cursor.u32()?;
    if rank > MOST_DIMS {
        return Err(Diagnostic::error(Code::BadTensor, format!("it has {rank} dimensions")).at("tensor", name));
    }
    let mut dims = (0..rank).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>()?;
    // The file has the innermost first.
    dims.reverse();
    Ok(Declared { name, dims, ty: cursor.u32()?, offset: cursor.u64()? })
}

/// A tensor over the file's bytes.
fn placed(tensor: Declared, start: u64, storage: &Storage) -> Result<Tensor, Diagnostic> {
    let Declared { dims, ty, offset, .. } = tensor;
    let format = FORMATS.iter().find(|f| f.id == ty);
    let plain = PLAIN.iter().find(|row| row.0 == ty).map(|row| row.1);
    let absurd = || Diagnostic::error(Code::AbsurdSize, format!("its dimensions {dims:?} are larger than any tensor's can be"));
    let count = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(absurd)?;
    let bytes = match (plain, format) {
        (Some(dtype), _) => dtype.byte_len(count),
        (None, Some(format)) => {
            if !dims.last().is_some_and(|cols| cols.is_multiple_of(format.numbers as u64)) || count == 0 {
                let what = format!("its dimensions {dims:?} are no rows of whole {} blocks", format.name);
                return Err(Diagnostic::error(Code::BadTensor, what));
            }
            (count / format.numbers as u64).checked_mul(format.bytes as u64)
        }
        (None, None) => {
            let what = format!("its type has number {ty}, which is not supported");
            return Err(Diagnostic::error(Code::UnsupportedForm, what).help("convert the model to a common type, such as Q8_0"));
        }
    };
    let bytes = bytes.filter(|n| *n < MAX_BYTES).ok_or_else(absurd)?;
    let outside =
        || Diagnostic::error(Code::Truncated, "its bytes lie past the end of the file").help("download it again, completely");
    let at = start.checked_add(offset).ok_or_else(outside)?;
    match (plain, format) {
        (Some(dtype), _) => Tensor::new(dtype, dims, storage.clone(), at).map_err(|_| outside()),
        (None, Some(format)) => {
            let raw = Tensor::new(DType::U8, vec![bytes], storage.clone(), at).map_err(|_| outside())?;
            Blocks::new(raw, format).and_then(|blocks| Tensor::decoded(dims, blocks)).ok_or_else(outside)
        }
        (None, None) => Err(outside()),
    }
}

/// A place in the file.
pub(super) struct Cursor<'f> {
    bytes: &'f [u8],
    at: usize,
}

impl<'f> Cursor<'f> {
    /// The next bytes; `None` is more than any file has.
    fn take(&mut self, count: Option<u64>) -> Result<&'f [u8], Diagnostic> {
        let end = count.and_then(|n| usize::try_from(n).ok()).and_then(|n| self.at.checked_add(n));
        match end.and_then(|end| Some((self.bytes.get(self.at..end)?, end))) {
            Some((bytes, end)) => {
                self.at = end;
                Ok(bytes)
            }
            None => Err(Diagnostic::error(Code::Truncated, "the file ends before its header does")
                .help("download it again, completely")),
        }
    }

    /// Goes past bytes.
    pub(super) fn skip(&mut self, count: Option<u64>) -> Result<(), Diagnostic> {
        self.take(count).map(|_| ())
    }

    /// So many bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Diagnostic> {
        let mut raw = [0; N];
        raw.copy_from_slice(self.take(Some(N as u64))?);
        Ok(raw)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Diagnostic> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Diagnostic> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A text with its length before it; bytes that are no text become replacement characters.
    pub(super) fn text(&mut self) -> Result<String, Diagnostic> {
        let length = self.u64()?;
        if length > LONGEST_TEXT {
            return Err(Diagnostic::error(Code::AbsurdSize, format!("a text has {length} bytes; none has")));
        }
        Ok(String::from_utf8_lossy(self.take(Some(length))?).into_owned())
    }
}
