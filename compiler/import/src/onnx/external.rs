//! External data: tensors whose bytes lie in files beside the model.
//!
//! A location comes from outside and is trusted for nothing: it must be a relative path without `..`, and what it finally names, links resolved,
//! must lie in the model's folder as named or in the folder the model file itself resolves to (model caches link every file of a model
//! into one folder of blobs). Each file is mapped once. Problems are gathered per file, because one missing file is one problem however many
//! tensors it held.

use super::proto::Entry;
use crate::files;
use crate::report::Report;
use q35_diag::{Code, Diagnostic};
use q35_graph::Storage;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// The external files of one model.
pub(crate) struct External {
    folder: PathBuf,
    roots: Vec<PathBuf>,
    mapped: BTreeMap<PathBuf, Storage>,
    files: BTreeMap<String, State>,
}

/// One location and what its tensors asked of it.
struct State {
    storage: Result<Storage, Diagnostic>,
    tensors: u64,
    first: String,
    short: Option<Short>,
}

/// Tensors past the end of a file: how many, the first, and the end of the last.
struct Short {
    tensors: u64,
    first: String,
    end: u64,
}

impl External {
    /// For the model file at `model`.
    pub(crate) fn new(model: &Path) -> Self {
        let folder = files::folder_of(model);
        let resolved = model.canonicalize().ok().map(|m| files::folder_of(&m));
        let roots = folder.canonicalize().ok().into_iter().chain(resolved).collect();
        Self { folder, roots, mapped: BTreeMap::new(), files: BTreeMap::new() }
    }

    /// The storage and offset of `bytes` bytes that `entries` describe. `None` when there is a problem that [`External::finish`] will report.
    pub(super) fn find(&mut self, tensor: &str, bytes: u64, entries: &[Entry]) -> Result<Option<(Storage, u64)>, Diagnostic> {
        let entry =
            |key: &str| entries.iter().rev().find(|e| e.key == key).map(|e| String::from_utf8_lossy(&e.value).into_owned());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => text.trim().parse::<u64>().map(Some).map_err(|_| {
                Diagnostic::error(
                    Code::BadTensor,
                    format!("the {key} of its external data is '{text}', which is not a number of bytes"),
                )
            }),
        };
        let location = entry("location")
            .filter(|l| !l.is_empty())
            .ok_or_else(|| Diagnostic::error(Code::BadTensor, "its data is external, but no location is given"))?;
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?.unwrap_or(bytes));
        if length != bytes {
            return Err(Diagnostic::error(
                Code::BadTensor,
                format!("its type takes {bytes} bytes, but {length} bytes of external data are given"),
            ));
        }
        let end = offset.checked_add(bytes).ok_or_else(|| {
            Diagnostic::error(
                Code::DataOutOfFile,
                format!("its data starts at byte {offset} of '{location}', further than any file reaches"),
            )
        })?;
        if !self.files.contains_key(&location) {
            let storage = self.file(&location);
            self.files.insert(location.clone(), State { storage, tensors: 0, first: tensor.to_owned(), short: None });
        }
        let Some(state) = self.files.get_mut(&location) else { return Ok(None) };
        state.tensors += 1;
        let Ok(storage) = &state.storage else { return Ok(None) };
        if end > storage.bytes().len() as u64 {
            let short = state.short.get_or_insert_with(|| Short { tensors: 0, first: tensor.to_owned(), end: 0 });
            short.tensors += 1;
            short.end = short.end.max(end);
            return Ok(None);
        }
        Ok(Some((storage.clone(), offset)))
    }

    /// Maps the file at `location`, once.
    pub(crate) fn file(&mut self, location: &str) -> Result<Storage, Diagnostic> {
        let escapes = || {
            Diagnostic::error(Code::PathEscapes, "an external-data location leaves the model's folder")
                .at("file", location)
                .help("keep external data beside the model file; a location must be a relative path without '..'")
        };
        let relative = Path::new(location);
        let plain = |c| matches!(c, Component::Normal(_) | Component::CurDir);
        if !relative.components().all(plain) || location.contains(['\0', '\\']) {
            return Err(escapes());
        }
        let path = self.folder.join(relative);
        let resolved = match path.canonicalize() {
            Ok(resolved) => resolved,
            Err(_) => return files::map(&path, location, Code::MissingFile),
        };
        if !self.roots.iter().any(|root| resolved.starts_with(root)) {
            return Err(escapes());
        }
        if let Some(storage) = self.mapped.get(&resolved) {
            return Ok(storage.clone());
        }
        let storage = files::map(&resolved, location, Code::MissingFile)?;
        self.mapped.insert(resolved, storage.clone());
        Ok(storage)
    }

    /// Reports what was wrong with the files, in order of their names.
    pub(super) fn finish(self, report: &mut Report) {
        let tensors =
            |n: u64, first: &str| if n == 1 { format!("tensor '{first}'") } else { format!("{n} tensors, first '{first}'") };
        for (location, state) in self.files {
            match (state.storage, state.short) {
                (Err(mut problem), _) => {
                    problem.what = format!("{} (data of {})", problem.what, tensors(state.tensors, &state.first));
                    report.push(problem);
                }
                (Ok(storage), Some(short)) => report.push(
                    Diagnostic::error(
                        Code::Truncated,
                        format!(
                            "the file ends at byte {}, but the model needs it up to byte {} ({})",
                            storage.bytes().len(),
                            short.end,
                            tensors(short.tensors, &short.first)
                        ),
                    )
                    .at("file", location)
                    .help("download or export it again, completely"),
                ),
                (Ok(_), None) => {}
            }
        }
    }
}
