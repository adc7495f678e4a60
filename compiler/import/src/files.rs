//! Opening a model's files: everything that can be wrong with a file before its content matters.

use q35_diag::{Code, Diagnostic};
use q35_graph::Storage;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a Git LFS pointer begins with, and a length that no pointer reaches.
const LFS: (&[u8], usize) = (b"version https://git-lfs.github.com/spec/", 1024);

/// The folder that holds a file.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Maps a regular, non-empty file that is not an LFS pointer. `name` is what the user calls it. `absent` is the code for a file that is not there.
pub(crate) fn map(path: &Path, name: &str, absent: Code) -> Result<Storage, Diagnostic> {
    let unreadable = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => Diagnostic::error(absent, "there is no such file").at("file", name),
        ErrorKind::PermissionDenied => Diagnostic::error(Code::CannotRead, "no permission to read the file").at("file", name),
        _ => Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", name),
    };
    let info = std::fs::metadata(path).map_err(unreadable)?;
    if !info.is_file() {
        return Err(Diagnostic::error(Code::CannotRead, "this is not a regular file").at("file", name));
    }
    if info.len() == 0 {
        return Err(Diagnostic::error(Code::EmptyFile, "the file is empty")
            .at("file", name)
            .help("download or export it again"));
    }
    let storage = Storage::map(path).map_err(unreadable)?;
    let bytes = storage.bytes();
    if bytes.len() < LFS.1 && bytes.starts_with(LFS.0) {
        return Err(Diagnostic::error(Code::LfsPointer, "the file is a Git LFS pointer, not the data it stands for")
            .at("file", name)
            .help("run 'git lfs install && git lfs pull' in the model's repository"));
    }
    Ok(storage)
}
