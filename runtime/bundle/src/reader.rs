//! Opens a bundle and proves it sound before anyone runs it.
//!
//! In this order: schema, manifest's hash, file names, lengths and hashes (files in parallel), header of the weights file, and
//! the manifest's own consistency (module `check`). Whatever passes can be indexed without further checks.

use crate::check::check;
use crate::hash;
use crate::mapped::{Mapped, Tensor};
use crate::path::{MANIFEST, MANIFEST_HASH, WEIGHTS, is_inside};
use crate::{FileEntry, Manifest, SCHEMA};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use serde::Deserialize;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Largest manifest that is read at all.
const LARGEST_MANIFEST: u64 = 1 << 30;
/// Largest of the small files (tokenizer, settings) that is read at all.
const LARGEST_TEXT: u64 = 1 << 30;

/// How much of a bundle is compared with its hashes when it is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Every byte.
    #[default]
    All,
    /// Every byte but the weights', of which the length alone is compared: a fast start for very large models.
    SkipWeights,
}

/// An opened bundle: everything in it exists and is what the compiler wrote.
#[derive(Debug)]
pub struct Bundle {
    root: PathBuf,
    manifest: Manifest,
    weights: Mapped,
}

impl Bundle {
    /// Opens the folder `path` and verifies all of it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Verify::All)
    }

    /// Opens the folder `path`.
    pub fn open_with(path: &Path, verify: Verify) -> Result<Self> {
        let root = fs::canonicalize(path)
            .map_err(|e| not_a_bundle(format!("the bundle cannot be opened: {e}")).at("bundle", path.display()))?;
        let manifest = read_manifest(&root).map_err(|d| d.at("bundle", path.display()))?;
        let mut found = check_files(&root, &manifest, verify);
        if found.has_errors() {
            return Err(found);
        }
        let weights = open_inside(&root, WEIGHTS)
            .map_err(|e| e.to_string())
            .and_then(|file| Mapped::new(&file))
            .map_err(|e| not_a_bundle(format!("the weights cannot be used: {e}")).at("file", WEIGHTS))?;
        found.extend(check(&manifest, &|name| weights.tensor(name).map(|t| t.data)));
        found.into_result(Self { root, manifest, weights })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Everything it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A tensor of the weights file.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.weights.tensor(name)
    }

    /// Lets the system begin to read the bytes `range` of a tensor, which will be needed soon; what lies outside the tensor is left out.
    pub fn read_ahead(&self, tensor: &str, range: Range<usize>) {
        self.weights.read_ahead(tensor, range);
    }

    /// Takes the bytes `range` of a tensor out of this process's memory. Reading them brings them back from the file.
    pub fn release(&self, tensor: &str, range: Range<usize>) {
        self.weights.release(tensor, range);
    }

    /// Where the file `rel` lies; `None` when the bundle has none of that name.
    pub fn path(&self, rel: &str) -> Option<PathBuf> {
        self.manifest.files.contains_key(rel).then(|| self.root.join(rel))
    }

    /// Content of a small file, such as `tokenizer.json`; `None` when the bundle has none of that name.
    pub fn read(&self, rel: &str) -> Result<Option<Vec<u8>>> {
        match self.manifest.files.get(rel) {
            None => Ok(None),
            Some(entry) if entry.bytes > LARGEST_TEXT => {
                Err(Diagnostic::error(Code::AbsurdSize, format!("the file has {} bytes", entry.bytes)).at("file", rel).into())
            }
            Some(_) => fs::read(self.root.join(rel)).map(Some).map_err(|e| cannot_read(rel, &e).into()),
        }
    }
}

fn not_a_bundle(what: String) -> Diagnostic {
    Diagnostic::error(Code::NotABundle, what)
}

fn cannot_read(rel: &str, error: &io::Error) -> Diagnostic {
    let code = if error.kind() == io::ErrorKind::NotFound { Code::MissingFile } else { Code::CannotRead };
    Diagnostic::error(code, format!("the file cannot be read: {error}")).at("file", rel)
}

/// Opens `rel` below `root`, wherever symbolic links lead: never outside.
fn open_inside(root: &Path, rel: &str) -> io::Result<File> {
    let path = fs::canonicalize(root.join(rel))?;
    if !path.starts_with(root) || !path.is_file() {
        return Err(io::Error::other("it lies outside the bundle, or is no file"));
    }
    File::open(path)
}

/// The manifest, once its schema and its hash are known to be right.
fn read_manifest(root: &Path) -> std::result::Result<Manifest, Diagnostic> {
    let read = |rel: &str| -> std::result::Result<Vec<u8>, Diagnostic> {
        let mut bytes = Vec::new();
        let limited = open_inside(root, rel).map(|file| file.take(LARGEST_MANIFEST + 1));
        limited
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|e| not_a_bundle(format!("the bundle has no usable {rel}: {e}")))?;
        match bytes.len() as u64 > LARGEST_MANIFEST {
            true => Err(Diagnostic::error(Code::AbsurdSize, format!("{rel} has more than {LARGEST_MANIFEST} bytes"))),
            false => Ok(bytes),
        }
    };

    #[derive(Deserialize)]
    struct Head {
        schema: u64,
    }
    let json = read(MANIFEST)?;
    let malformed = |e: serde_json::Error| not_a_bundle(format!("{MANIFEST} is malformed: {e}"));
    let schema = serde_json::from_slice::<Head>(&json).map_err(malformed)?.schema;
    if schema != u64::from(SCHEMA) {
        return Err(Diagnostic::error(
            Code::SchemaVersion,
            format!("the bundle has schema version {schema}, and this program reads version {SCHEMA}"),
        )
        .help("compile the model again with the q35c that belongs to this program"));
    }
    let expected = format!("{}  {MANIFEST}\n", hash::of_bytes(&json));
    if read(MANIFEST_HASH)? != expected.as_bytes() {
        return Err(Diagnostic::error(Code::Damaged, format!("{MANIFEST} does not match {MANIFEST_HASH}"))
            .help("copy or compile the bundle again"));
    }
    serde_json::from_slice(&json).map_err(malformed)
}

/// Names, lengths and hashes of all files, the largest ones side by side.
fn check_files(root: &Path, manifest: &Manifest, verify: Verify) -> Diagnostics {
    let mut found = Diagnostics::new();
    if !manifest.files.contains_key(WEIGHTS) {
        found.push(not_a_bundle(format!("the manifest lists no {WEIGHTS}")));
    }
    let entries: Vec<_> = manifest.files.iter().collect();
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(entries.len());
    let share = |worker: usize| -> Vec<_> {
        let mine = entries.iter().enumerate().skip(worker).step_by(workers);
        mine.filter_map(|(i, (rel, entry))| Some((i, check_file(root, rel, entry, verify).err()?))).collect()
    };
    let mut wrong: Vec<(usize, Diagnostic)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn({
                    let share = &share;
                    move || share(worker)
                })
            })
            .collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    wrong.sort_by_key(|(i, _)| *i);
    found.extend(wrong.into_iter().map(|(_, diagnostic)| diagnostic));
    found
}

fn check_file(root: &Path, rel: &str, entry: &FileEntry, verify: Verify) -> std::result::Result<(), Diagnostic> {
    if !is_inside(rel) {
        return Err(
            Diagnostic::error(Code::PathEscapes, "the manifest names a file outside the bundle").at("file", rel.escape_debug())
        );
    }
    let damaged =
        |what: String| Diagnostic::error(Code::Damaged, what).at("file", rel).help("copy or compile the bundle again");
    let file = open_inside(root, rel).map_err(|e| cannot_read(rel, &e))?;
    let bytes = file.metadata().map_err(|e| cannot_read(rel, &e))?.len();
    if bytes != entry.bytes {
        return Err(damaged(format!("the file has {bytes} bytes instead of {}", entry.bytes)));
    }
    if verify == Verify::SkipWeights && rel == WEIGHTS {
        return Ok(());
    }
    let (_, sha256) = hash::of_reader(file).map_err(|e| cannot_read(rel, &e))?;
    match sha256 == entry.sha256 {
        true => Ok(()),
        false => Err(damaged("the content is not what was compiled".to_owned())),
    }
}
