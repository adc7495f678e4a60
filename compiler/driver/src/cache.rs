//! A cache of packed parameters, by what they were packed from: a model that is compiled again, for another target or with another
//! context, is not quantized again.
//!
//! An entry's name is the SHA-256 of everything its bytes depend on: the program that runs, the numbers of the parameter and of what is
//! folded into it, the codec and its groups. So a stale entry is never found; it is only of no use. Entries are written under a temporary
//! name, and verified before use. Parameters that calibration rounds depend on all layers before them, and are not cached.
//!
//! Off unless `--cache DIR` or the variable `Q35C_CACHE` names a folder, which compiles may share at the same time.

use q35_bundle::hash::{hex, of_reader};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::model::{Param, Transform};
use q35_format::PackedSpec;
use q35_graph::{Storage, WeightView};
use q35_quantize::{BLOCK_NUMBERS, Quantized, Record, quantize, source};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The variable that names the folder.
pub const VARIABLE: &str = "Q35C_CACHE";
/// How names of entries end.
const EXTENSION: &str = "q35t";
/// Bytes before the JSON: its length.
const PREFIX: usize = 8;

/// A folder of entries.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Hash of the program that runs: another one may pack otherwise.
    program: String,
}

/// What stands before the bytes of an entry.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    record: Record,
    codes: u64,
    scales: u64,
    offsets: u64,
    /// Of codes, scales and offsets, in that order.
    sha256: String,
}

/// What a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Packed parameters.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> Diagnostic {
    Diagnostic::error(Code::CannotWrite, format!("the cache cannot be {what}: {error}")).at("folder", path.display())
}

/// The folder that the user names.
pub fn folder(option: Option<&Path>) -> Option<PathBuf> {
    option.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from))
}

/// What a folder holds; one that is not there holds nothing.
pub fn holding(folder: &Path) -> Holding {
    let sizes = entries(folder).filter_map(|path| fs::metadata(path).ok()).map(|about| about.len());
    sizes.fold(Holding::default(), |all, bytes| Holding { entries: all.entries + 1, bytes: all.bytes + bytes })
}

/// Removes every entry, and nothing else that may be in the folder.
///
/// # Errors
/// If one cannot be removed.
pub fn clear(folder: &Path) -> Result<Holding> {
    let held = holding(folder);
    entries(folder).try_for_each(fs::remove_file).map_err(|e| cannot(folder, "cleared", &e))?;
    Ok(held)
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    all.filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
}

/// Hash of the program that runs.
pub(crate) fn program() -> std::io::Result<String> {
    Ok(of_reader(File::open(std::env::current_exe()?)?)?.1)
}

impl Cache {
    /// Opens a folder, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or this program cannot be read.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| cannot(folder, "made", &e))?;
        Ok(Self { folder: folder.to_owned(), program: program().map_err(|e| cannot(folder, "tied to this program", &e))? })
    }

    /// Packs a parameter, or finds it packed: as [`quantize`].
    ///
    /// # Errors
    /// As [`quantize`]. What is wrong with an entry only means that the parameter is packed anew.
    pub fn quantize(
        &self,
        param: &Param,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Quantized> {
        let path = self.folder.join(self.key(param)).with_added_extension(EXTENSION);
        if let Some(entry) = Entry::read(&path, param) {
            let row = entry.spec.row_bytes().max(1);
            let rows = ((1 << 24) / row).max(1) * row;
            entry.codes().chunks(rows).try_for_each(&mut *sink)?;
            progress(param.source.rows() * param.source.cols());
            return Ok(entry.quantized());
        }
        let Some(mut new) = New::create(&self.folder) else { return quantize(param, sink, progress) };
        let mut both = |codes: &[u8]| {
            new.push(codes);
            sink(codes)
        };
        let quantized = quantize(param, &mut both, progress)?;
        new.finish(&quantized, &path);
        Ok(quantized)
    }

    /// The name of a parameter's entry.
    fn key(&self, param: &Param) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.program);
        let facts = format!("{} {} {} {} {:?}", param.source.rows(), param.source.cols(), param.codec, param.group, param.role);
        hash.update(facts);
        let mut buffer = Vec::new();
        numbers(&param.source, &mut buffer, &mut hash);
        for transform in &param.transforms {
            match transform {
                Transform::ScaleColumns(vector) => {
                    hash.update("columns");
                    numbers(vector, &mut buffer, &mut hash);
                }
                Transform::ScaleRows(vector) => {
                    hash.update("rows");
                    numbers(vector, &mut buffer, &mut hash);
                }
                Transform::Scale(factor) => hash.update(format!("scale {:08x}", factor.to_bits())),
                Transform::RotateInput { block, seed } => hash.update(format!("input {block} {seed}")),
                Transform::RotateOutput { block, seed } => hash.update(format!("output {block} {seed}")),
            }
        }
        hex(&hash.finalize())
    }
}

/// Hashes the numbers of a view, a block of rows at a time.
fn numbers(view: &WeightView, buffer: &mut Vec<f32>, hash: &mut Sha256) {
    let rows_at_once = (BLOCK_NUMBERS as u64 / view.cols().max(1)).max(1);
    let mut first = 0;
    while first < view.rows() {
        let rows = first..(first + rows_at_once).min(view.rows());
        buffer.resize(((rows.end - rows.start) * view.cols()) as usize, 0.0);
        view.read_rows(rows.clone(), buffer);
        let mut bytes = Vec::with_capacity(1 << 16);
        for piece in buffer.chunks(1 << 14) {
            bytes.clear();
            piece.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            hash.update(&bytes);
        }
        first = rows.end;
    }
    view.release();
}

/// An entry that fits its parameter and has not been damaged.
struct Entry {
    storage: Storage,
    spec: PackedSpec,
    head: Head,
    record: Record,
    data: usize,
}

impl Entry {
    fn read(path: &Path, param: &Param) -> Option<Self> {
        let storage = Storage::map(path).ok()?;
        let bytes = storage.bytes();
        let json = usize::try_from(u64::from_le_bytes(bytes.get(..PREFIX)?.try_into().ok()?)).ok()?;
        let data = PREFIX.checked_add(json)?;
        let head: Head = serde_json::from_slice(bytes.get(PREFIX..data)?).ok()?;
        let (rows, cols) = (usize::try_from(param.source.rows()).ok()?, usize::try_from(param.source.cols()).ok()?);
        let spec = PackedSpec::new(rows, cols, param.codec, param.group).ok()?;
        let length = head.codes.checked_add(head.scales)?.checked_add(head.offsets)?;
        let body = bytes.get(data..)?;
        let sound = body.len() as u64 == length
            && head.codes == (spec.row_bytes() as u64).checked_mul(param.source.rows())?
            && hex(&Sha256::digest(body)) == head.sha256;
        // Where the numbers were, the parameter says: equal numbers may be stored in more than one way.
        let record = Record { source: source(param), ..head.record.clone() };
        sound.then_some(Self { storage, spec, head, record, data })
    }

    fn part(&self, range: Range<u64>) -> &[u8] {
        &self.storage.bytes()[self.data + range.start as usize..self.data + range.end as usize]
    }

    fn codes(&self) -> &[u8] {
        self.part(0..self.head.codes)
    }

    fn quantized(self) -> Quantized {
        let Head { codes, scales, offsets, .. } = self.head;
        Quantized {
            spec: self.spec,
            scales: self.part(codes..codes + scales).to_vec(),
            offsets: self.part(codes + scales..codes + scales + offsets).to_vec(),
            record: self.record,
        }
    }
}

/// An entry being written. Whatever goes wrong with it, a full disk for one, costs the entry and nothing else.
struct New {
    file: Option<(BufWriter<File>, PathBuf)>,
    hash: Sha256,
    codes: u64,
}

impl New {
    fn create(folder: &Path) -> Option<Self> {
        use std::hash::{BuildHasher, RandomState};
        let name = format!(".{}-{:016x}.partial", std::process::id(), RandomState::new().hash_one(0));
        let path = folder.join(name);
        let file = File::create_new(&path).ok()?;
        Some(Self { file: Some((BufWriter::with_capacity(1 << 20, file), path)), hash: Sha256::new(), codes: 0 })
    }

    fn push(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.codes += bytes.len() as u64;
        self.write(bytes);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.file.as_mut().is_some_and(|(file, _)| file.write_all(bytes).is_err()) {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        if let Some((_, path)) = self.file.take() {
            let _ = fs::remove_file(path);
        }
    }

    /// The head comes first in an entry, and is known last: the entry is put together in a second file.
    fn finish(mut self, quantized: &Quantized, path: &Path) {
        let codes = self.codes;
        for section in [&quantized.scales, &quantized.offsets] {
            self.hash.update(section);
            self.write(section);
        }
        let head = Head {
            record: quantized.record.clone(),
            codes,
            scales: quantized.scales.len() as u64,
            offsets: quantized.offsets.len() as u64,
            sha256: hex(&self.hash.clone().finalize()),
        };
        if self.put(&head, path).is_none() {
            self.give_up();
        }
    }

    fn put(&mut self, head: &Head, path: &Path) -> Option<()> {
        let (body, body_path) = self.file.as_mut()?;
        body.flush().ok()?;
        let json = serde_json::to_vec(head).ok()?;
        let whole = body_path.with_added_extension("whole");
        let written = File::create_new(&whole).and_then(|mut to| {
            to.write_all(&(json.len() as u64).to_le_bytes())?;
            to.write_all(&json)?;
            std::io::copy(&mut File::open(&*body_path)?, &mut to)?;
            fs::rename(&whole, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&whole);
        }
        fs::remove_file(&*body_path).ok()?;
        self.file = None;
        Some(())
    }
}

impl Drop for New {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_dialects::model::ParamRole;
    use q35_format::{Codec, Group};
    use q35_graph::{Axis, Tensor};

    fn param(seed: f32) -> Param {
        let numbers: Vec<f32> = (0..40 * 64).map(|n| ((n * 37 % 101) as f32 - 50.0) * seed).collect();
        let view = WeightView::dense(
            Tensor::from_f32(vec![40, 64], &numbers),
            0,
            Axis { len: 40, stride: 64 },
            Axis { len: 64, stride: 1 },
        );
        let mut param = Param::new(view.unwrap(), ParamRole::Linear, "w");
        (param.codec, param.group) = (Codec::W7, Group::Row);
        param
    }

    fn packed(cache: &Cache, param: &Param) -> (Vec<u8>, Quantized) {
        let mut codes = Vec::new();
        let mut sink = |piece: &[u8]| {
            codes.extend_from_slice(piece);
            Ok(())
        };
        let quantized = cache.quantize(param, &mut sink, &mut |_| ()).unwrap();
        (codes, quantized)
    }

    #[test]
    fn what_is_found_is_what_was_packed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let first = packed(&cache, &param(0.01));
        let held = holding(&cache.folder);
        assert_eq!(held.entries, 1);
        assert_eq!(packed(&cache, &param(0.01)), first);
        assert_eq!(holding(&cache.folder), held);
        // Another number, another codec, another transform: another entry.
        let mut others = [param(0.02), param(0.01), param(0.01)];
        others[1].codec = Codec::W8;
        others[2].transforms.push(Transform::RotateInput { block: 64, seed: 1 });
        for (at, other) in others.iter().enumerate() {
            assert_ne!(packed(&cache, other), first);
            assert_eq!(holding(&cache.folder).entries, 2 + at as u64);
        }
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 4, "nothing temporary is left");
        fs::write(cache.folder.join("mine.txt"), "x").unwrap();
        assert_eq!(clear(&cache.folder).unwrap().entries, 4);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1, "what is not the cache's stays");
    }

    #[test]
    fn a_damaged_entry_is_packed_anew() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let first = packed(&cache, &param(0.01));
        let path = entries(folder.path()).next().unwrap();
        let whole = fs::read(&path).unwrap();
        for damage in [0, 9, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[damage] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert_eq!(packed(&cache, &param(0.01)), first, "byte {damage}");
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(packed(&cache, &param(0.01)), first);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
