//! The work folder of a compile with `--effort best`: what has been rounded is on disk at once, and a compile that was stopped goes on where it was.
//!
//! The folder lies beside the bundle and goes when the bundle is complete. A parameter is one file, written under another name and renamed: safetensors with its codes, scales and offsets, and the
//! record. What a parameter becomes depends on everything before it, so each file carries the hash of all of that: the program that runs, the options, the sequences, and the numbers of all parameters up to its own,
//! in order of execution. A file whose hash is another is as good as none.

use crate::cache;
use q35_bundle::cannot_write;
use q35_bundle::hash::hex;
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::ParamName;
use q35_format::{Packed, PackedSpec};
use q35_quantize::{Quantized, Record};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// Sections of a file, in the order of [`Packed`]'s.
const SECTIONS: [&str; 3] = ["codes", "scales", "offsets"];
const EXTENSION: &str = "rounded";

/// The folder of one compile.
pub struct Work {
    folder: PathBuf,
    /// Of all that was followed.
    hash: Sha256,
    files: BTreeMap<ParamName, PathBuf>,
}

/// Beside the bundle.
fn folder(bundle: &Path) -> PathBuf {
    bundle.with_added_extension("work")
}

impl Work {
    /// The folder of the compile of `bundle`; made if it is not there. `options` and `sequences` are what the result depends on beside the model.
    ///
    /// # Errors
    /// [`Code::CannotWrite`] if it cannot be made.
    pub fn open(bundle: &Path, options: &BTreeMap<String, String>, sequences: &[Vec<u32>]) -> Result<Self> {
        let folder = folder(bundle);
        fs::create_dir_all(&folder).map_err(|e| cannot_write(&folder, &e))?;
        let mut hash = Sha256::new();
        hash.update(cache::program().map_err(|e| cannot_write(&folder, &e))?);
        for (name, value) in options {
            hash.update(format!("{name}={value}\n"));
        }
        for sequence in sequences {
            hash.update((sequence.len() as u64).to_le_bytes());
            sequence.iter().for_each(|token| hash.update(token.to_le_bytes()));
        }
        Ok(Self { folder, hash, files: BTreeMap::new() })
    }

    /// Says that the next parameter has these numbers.
    pub fn follow(&mut self, name: &ParamName, numbers: &[f32]) {
        self.hash.update(format!("{name} {}\n", numbers.len()));
        for some in numbers.chunks(1 << 14) {
            self.hash.update(some.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
    }

    /// What the parameter that was followed last became before the compile was stopped.
    pub fn find(&mut self, name: &ParamName, spec: PackedSpec) -> Option<(Quantized, Packed)> {
        let path = self.path(name);
        let (record, packed) = load(&path, &self.key(), spec)?;
        self.files.insert(name.clone(), path);
        Some((Quantized { spec, scales: packed.scales.clone(), offsets: packed.offsets.clone(), record }, packed))
    }

    /// Keeps what the parameter that was followed last became.
    ///
    /// # Errors
    /// [`Code::CannotWrite`], [`Code::DiskFull`].
    pub fn keep(&mut self, name: &ParamName, record: &Record, packed: &Packed) -> Result<()> {
        let path = self.path(name);
        let record = serde_json::to_string(record).unwrap_or_else(|error| unreachable!("numbers and names are JSON: {error}"));
        let metadata: HashMap<String, String> = [("key".to_owned(), self.key()), ("record".to_owned(), record)].into();
        let sections = [&packed.codes, &packed.scales, &packed.offsets];
        let tensors = SECTIONS.into_iter().zip(sections).map(|(name, bytes)| {
            let tensor = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
            (name, tensor.unwrap_or_else(|error| unreachable!("bytes are as many as they are: {error}")))
        });
        let partial = path.with_extension("partial");
        let failed = |e: safetensors::SafeTensorError| cannot_write(&path, &std::io::Error::other(e));
        safetensors::serialize_to_file(tensors, Some(metadata), &partial).map_err(failed)?;
        fs::rename(&partial, &path).map_err(|e| cannot_write(&path, &e))?;
        self.files.insert(name.clone(), path);
        Ok(())
    }

    /// The codes of a parameter that was kept or found.
    ///
    /// # Errors
    /// [`Code::CannotRead`] if somebody took its file away.
    pub fn codes(&self, name: &ParamName) -> Result<Vec<u8>> {
        let lost = |what: String| Diagnostic::error(Code::CannotRead, what).at("file", self.path(name).display());
        let path = self.files.get(name).ok_or_else(|| lost("the parameter was not kept".to_owned()))?;
        let bytes = fs::read(path).map_err(|e| lost(format!("the file cannot be read: {e}")))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| lost(format!("the file was changed: {e}")))?;
        let codes = tensors.tensor(SECTIONS[0]).map_err(|e| lost(format!("the file was changed: {e}")))?;
        Ok(codes.data().to_vec())
    }

    /// Takes the folder away, unless something else is in it.
    pub fn remove(self) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let ours = |path: &PathBuf| path.extension().is_some_and(|extension| extension == EXTENSION || extension == "partial");
        // What cannot be removed is left: the bundle is complete.
        entries.filter(ours).for_each(|path| drop(fs::remove_file(path)));
        let _ = fs::remove_dir(&self.folder);
    }

    /// Where a parameter is: names are the model's own and may not be those of files.
    fn path(&self, name: &ParamName) -> PathBuf {
        let digest = Sha256::digest(name.to_string());
        self.folder.join(format!("{}.{EXTENSION}", hex(&digest[..12])))
    }

    fn key(&self) -> String {
        hex(&self.hash.clone().finalize())
    }
}

/// The record and the sections of a file that has this key.
fn load(path: &Path, key: &str, spec: PackedSpec) -> Option<(Record, Packed)> {
    let bytes = fs::read(path).ok()?;
    let (_, header) = SafeTensors::read_metadata(&bytes).ok()?;
    let metadata = header.metadata().as_ref()?;
    if metadata.get("key")? != key {
        return None;
    }
    let record = serde_json::from_str(metadata.get("record")?).ok()?;
    let tensors = SafeTensors::deserialize(&bytes).ok()?;
    let section = |name| Some(tensors.tensor(name).ok()?.data().to_vec());
    let packed = Packed { spec, codes: section(SECTIONS[0])?, scales: section(SECTIONS[1])?, offsets: section(SECTIONS[2])? };
    packed.view().ok()?;
    Some((record, packed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::{Codec, Group, encode::encode};
    use q35_quantize::WorstRow;

    fn record() -> Record {
        Record {
            source: None,
            effective_bits: 3.6,
            relative_error: 0.125,
            snr_db: Some(18.06),
            worst_row: WorstRow { row: 2, relative_error: 0.25 },
            accumulator_bound: Some(1 << 20),
            calibrated: None,
        }
    }

    /// A reader that is one bit off for one float in many shows in a thousand; serde_json needs a feature for that.
    #[test]
    fn floats_of_records_come_back_to_the_last_bit() {
        for step in 1u32..1000 {
            let x = f64::from(step).sqrt() / 7.0;
            let worst_row = WorstRow { row: step.into(), relative_error: x.exp() };
            let record =
                Record { effective_bits: x, relative_error: x.sin().abs(), snr_db: Some(-x.ln()), worst_row, ..record() };
            assert_eq!(serde_json::from_str::<Record>(&serde_json::to_string(&record).unwrap()).unwrap(), record);
        }
    }

    #[test]
    fn what_was_kept_is_found_by_the_same_compile_only() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("m.q35");
        let spec = PackedSpec::new(4, 70, Codec::W8, Group::Row).unwrap();
        let numbers: Vec<f32> = (0..280).map(|i| ((i * 37 % 101) as f32 - 50.0) / 30.0).collect();
        let packed = encode(spec, &numbers).unwrap();
        let options = |codec: &str| BTreeMap::from([("codec".to_owned(), codec.to_owned())]);
        let open = |codec, tokens: &[u32], before: f32| {
            let mut work = Work::open(&bundle, &options(codec), &[tokens.to_vec()]).unwrap();
            work.follow(&"before".into(), &[before]);
            work.follow(&"w".into(), &numbers);
            work
        };
        let name: ParamName = "w".into();
        let mut work = open("w8", &[1, 2], 1.0);
        assert!(work.find(&name, spec).is_none());
        work.keep(&name, &record(), &packed).unwrap();
        assert_eq!(work.codes(&name).unwrap(), packed.codes);
        let mut again = open("w8", &[1, 2], 1.0);
        let (quantized, found) = again.find(&name, spec).unwrap();
        assert_eq!((quantized.record, &found), (record(), &packed));
        assert_eq!(again.codes(&name).unwrap(), packed.codes);
        for mut other in [open("w9", &[1, 2], 1.0), open("w8", &[1, 3], 1.0), open("w8", &[1, 2], 1.5)] {
            assert!(other.find(&name, spec).is_none());
        }
        // A damaged file is none.
        let path = again.path(&name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(open("w8", &[1, 2], 1.0).find(&name, spec).is_none());
        // A file of somebody else stays, and so does the folder.
        let other = folder(&bundle).join("notes.txt");
        fs::write(&other, "").unwrap();
        open("w8", &[1, 2], 1.0).remove();
        assert!(other.exists() && !path.exists());
        fs::remove_file(&other).unwrap();
        open("w8", &[1, 2], 1.0).remove();
        assert!(!folder(&bundle).exists());
    }
}
