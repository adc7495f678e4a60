//! Writes a bundle under a temporary name beside its place and renames it when it is complete.
//!
//! What enters: files, one stream of tensors, and at the end the manifest. What leaves: the folder, or nothing: dropping a writer
//! that was not finished removes what it wrote. An existing *bundle* of that name is replaced; any other folder is left alone.

use crate::hash::{Hashing, of_bytes};
use crate::path::{MANIFEST, MANIFEST_HASH, WEIGHTS, is_inside};
use crate::tensors::{Stretch, TensorSpec, layout};
use crate::{FileEntry, Manifest};
use q35_diag::{Code, Diagnostic, Result};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// A bundle being written.
pub struct BundleWriter {
    out: PathBuf,
    temporary: PathBuf,
    files: BTreeMap<String, FileEntry>,
    finished: bool,
}

/// The diagnostic for a failed write of `path`.
pub fn cannot_write(path: &Path, error: &io::Error) -> Diagnostic {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    match full {
        true => Diagnostic::error(Code::DiskFull, "the disk is full")
            .help("free some space, or choose an output folder on another disk"),
        false => Diagnostic::error(Code::CannotWrite, format!("cannot write: {error}")),
    }
    .at("file", path.display())
}

/// A name beside `out` that nobody else uses: process id and a random number.
fn sibling(out: &Path, purpose: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let random = RandomState::new().hash_one(std::process::id());
    out.with_file_name(format!(".{name}.{purpose}-{}-{random:016x}", std::process::id()))
}

/// Whether `out` may be replaced: it is absent, an empty folder, or a folder with a manifest of ours.
fn may_replace(out: &Path) -> bool {
    match fs::symlink_metadata(out) {
        Err(e) => e.kind() == io::ErrorKind::NotFound,
        Ok(meta) if !meta.is_dir() => false,
        Ok(_) => {
            let empty = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
            empty || (out.join(MANIFEST).is_file() && out.join(MANIFEST_HASH).is_file())
        }
    }
}

impl BundleWriter {
    /// Starts a bundle that will appear at `out`. Missing parent folders are made.
    pub fn create(out: &Path) -> Result<Self> {
        if out.file_name().is_none() {
            return Err(Diagnostic::error(Code::CannotWrite, "this is not the name of a folder")
                .at("bundle", out.display())
                .into());
        }
        if !may_replace(out) {
            return Err(Diagnostic::error(Code::CannotWrite, "something that is not a bundle is already there")
                .at("bundle", out.display())
                .help("remove it, or choose another name")
                .into());
        }
        let temporary = sibling(out, "partial");
        let parent = temporary.parent().unwrap_or(Path::new(""));
        let made = match parent.as_os_str().is_empty() {
            true => Ok(()),
            false => fs::create_dir_all(parent),
        };
        made.and_then(|()| fs::create_dir(&temporary)).map_err(|e| cannot_write(out, &e))?;
        Ok(Self { out: out.to_owned(), temporary, files: BTreeMap::new(), finished: false })
    }

    /// Where the bundle will appear.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Adds the file `rel` with everything that `content` yields.
    ///
    /// # Panics
    /// When `rel` leaves the bundle or was added before: both are mistakes of the caller.
    pub fn add_file(&mut self, rel: &str, mut content: impl Read) -> Result<()> {
        let mut file = self.open(rel)?;
        io::copy(&mut content, &mut file).map_err(|e| self.failed(rel, &e))?;
        self.close(rel, file)
    }

    /// Starts the weights file: the header is written now, the tensors follow in the order of `specs`.
    pub fn weights(&mut self, specs: &[TensorSpec]) -> Result<WeightsWriter<'_>> {
        let (header, stretches) = layout(specs)
            .map_err(|what| Diagnostic::error(Code::AbsurdSize, what).at("file", self.out.join(WEIGHTS).display()))?;
        let mut file = self.open(WEIGHTS)?;
        file.write_all(&header).map_err(|e| self.failed(WEIGHTS, &e))?;
        let names = specs.iter().map(|s| s.name.clone()).collect();
        Ok(WeightsWriter { bundle: self, file, names, rest: stretches.into_iter().collect() })
    }

    /// Writes the manifest, its `files` filled in, and puts the bundle in its place. Returns that place.
    pub fn finish(mut self, mut manifest: Manifest) -> Result<PathBuf> {
        manifest.files = std::mem::take(&mut self.files);
        let mut json = serde_json::to_vec_pretty(&manifest).map_err(|e| self.failed(MANIFEST, &e.into()))?;
        json.push(b'\n');
        for (rel, bytes) in [(MANIFEST_HASH, format!("{}  {MANIFEST}\n", of_bytes(&json)).as_bytes()), (MANIFEST, &json)] {
            fs::write(self.temporary.join(rel), bytes).map_err(|e| self.failed(rel, &e))?;
        }
        self.put_in_place().map_err(|e| cannot_write(&self.out, &e))?;
        self.finished = true;
        Ok(self.out.clone())
    }

    /// Puts the folder in its place without a manifest: files that belong together, and are no bundle. Returns that place.
    pub fn finish_files(mut self) -> Result<PathBuf> {
        self.put_in_place().map_err(|e| cannot_write(&self.out, &e))?;
        self.finished = true;
        Ok(self.out.clone())
    }

    /// Renames the temporary folder; what was there before is moved aside first and removed last.
    fn put_in_place(&self) -> io::Result<()> {
        if fs::symlink_metadata(&self.out).is_err() {
            return fs::rename(&self.temporary, &self.out);
        }
        if !may_replace(&self.out) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is not a bundle is already there"));
        }
        let old = sibling(&self.out, "replaced");
        fs::rename(&self.out, &old)?;
        match fs::rename(&self.temporary, &self.out) {
            Ok(()) => fs::remove_dir_all(&old),
            Err(e) => fs::rename(&old, &self.out).and(Err(e)),
        }
    }

    fn open(&mut self, rel: &str) -> Result<Hashing<BufWriter<File>>> {
        assert!(is_inside(rel), "'{rel}' is not a path inside a bundle");
        assert!(!self.files.contains_key(rel), "'{rel}' was added before");
        let path = self.temporary.join(rel);
        let parent = path.parent().unwrap_or(&self.temporary);
        let file = fs::create_dir_all(parent).and_then(|()| File::create(&path)).map_err(|e| self.failed(rel, &e))?;
        Ok(Hashing::new(BufWriter::with_capacity(1 << 20, file)))
    }

    fn close(&mut self, rel: &str, file: Hashing<BufWriter<File>>) -> Result<()> {
        let (mut writer, (bytes, sha256)) = file.finish();
        writer.flush().map_err(|e| self.failed(rel, &e))?;
        self.files.insert(rel.to_owned(), FileEntry { bytes, sha256 });
        Ok(())
    }

    fn failed(&self, rel: &str, error: &io::Error) -> Diagnostic {
        cannot_write(&self.out.join(rel), error)
    }
}

impl Drop for BundleWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// The weights file being written; see [`BundleWriter::weights`].
pub struct WeightsWriter<'a> {
    bundle: &'a mut BundleWriter,
    file: Hashing<BufWriter<File>>,
    names: Vec<String>,
    rest: VecDeque<Stretch>,
}

impl WeightsWriter<'_> {
    /// Appends a piece of tensor `name`, whose earlier pieces and whose predecessors have been written completely.
    ///
    /// # Panics
    /// When it is not the turn of `name`, or `piece` is longer than what is left of it: mistakes of the caller.
    pub fn write(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.skip_done()?;
        let current = self.rest.front_mut().unwrap_or_else(|| panic!("tensor '{name}' was not announced"));
        let turn = current.tensor.map(|t| self.names[t].as_str());
        assert_eq!(turn, Some(name), "tensor out of turn");
        assert!(piece.len() as u64 <= current.bytes, "tensor '{name}' is longer than announced");
        current.bytes -= piece.len() as u64;
        self.file.write_all(piece).map_err(|e| self.bundle.failed(WEIGHTS, &e).into())
    }

    /// Ends the file.
    ///
    /// # Panics
    /// When a tensor is incomplete: a mistake of the caller.
    pub fn finish(mut self) -> Result<()> {
        self.skip_done()?;
        if let Some(Stretch { tensor: Some(t), .. }) = self.rest.front() {
            panic!("tensor '{}' is incomplete", self.names[*t]);
        }
        self.bundle.close(WEIGHTS, self.file)
    }

    /// Leaves complete tensors behind and writes the fillers after them.
    fn skip_done(&mut self) -> Result<()> {
        while let Some(front) = self.rest.front() {
            if front.tensor.is_some() && front.bytes > 0 {
                break;
            }
            let zeros = vec![0; front.bytes as usize];
            self.file.write_all(&zeros).map_err(|e| self.bundle.failed(WEIGHTS, &e))?;
            self.rest.pop_front();
        }
        Ok(())
    }
}
