//! Results by the hash of all they depend on.

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What is said of a result that is not there and not to be made.
pub(crate) const UNKNOWN: &str = "not measured yet";

/// A folder of results.
pub(crate) struct Cache {
    folder: PathBuf,
    /// Whether a result that is not there stays so.
    known_only: bool,
}

/// A hash in the making: parts are told apart by their lengths.
#[derive(Clone, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// With one more text.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
        self
    }

    /// With the content of a file, or of all files of a folder in the order of their names.
    pub(crate) fn path(self, path: &Path) -> Result<Self, String> {
        let cannot = |e| format!("{} cannot be read: {e}", path.display());
        if !path.is_dir() {
            let bytes = fs::read(path).map_err(cannot)?;
            return Ok(self.text(&hex(&Sha256::digest(&bytes))));
        }
        let mut files: Vec<PathBuf> =
            fs::read_dir(path).map_err(cannot)?.filter_map(|entry| Some(entry.ok()?.path())).filter(|p| p.is_file()).collect();
        files.sort();
        files.iter().try_fold(self, |key, file| key.text(&file.file_name().unwrap_or_default().to_string_lossy()).path(file))
    }

    /// Sixteen digits.
    pub(crate) fn name(&self) -> String {
        hex(&self.0.clone().finalize())[..16].to_owned()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Cache {
    /// In `folder`, which is made if it is not there.
    pub(crate) fn open(folder: &Path, known_only: bool) -> Result<Self, String> {
        fs::create_dir_all(folder).map_err(|e| format!("{} cannot be made: {e}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), known_only })
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A place for a file or folder that `key` and `extension` name.
    pub(crate) fn place(&self, key: &Key, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", key.name()))
    }

    /// The result under `key`; made and kept if there is none.
    pub(crate) fn result<T: Serialize + DeserializeOwned>(
        &self,
        key: &Key,
        what: &str,
        make: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let path = self.place(key, "json");
        if let Some(known) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(known);
        }
        if self.known_only {
            return Err(UNKNOWN.to_owned());
        }
        eprintln!("{what}");
        let result = make()?;
        let text = serde_json::to_string(&result).map_err(|e| e.to_string())?;
        self.keep(&path, text.as_bytes())?;
        Ok(result)
    }

    /// The file under `key`; made if there is none. `make` writes to a path that is renamed when it is through.
    pub(crate) fn file(
        &self,
        key: &Key,
        extension: &str,
        what: &str,
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let path = self.place(key, extension);
        if !path.exists() {
            eprintln!("{what}");
            let partial = self.place(key, &format!("partial.{extension}"));
            make(&partial)?;
            fs::rename(&partial, &path).map_err(|e| format!("{} cannot be renamed: {e}", partial.display()))?;
        }
        Ok(path)
    }

    fn keep(&self, path: &Path, bytes: &[u8]) -> Result<(), String> {
        let partial = path.with_extension("partial");
        fs::write(&partial, bytes)
            .and_then(|()| fs::rename(&partial, path))
            .map_err(|e| format!("{} cannot be written: {e}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_made_once_and_again_when_an_input_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), false).unwrap();
        let input = folder.path().join("input");
        let mut made = 0;
        for content in ["a", "a", "b"] {
            fs::write(&input, content).unwrap();
            let key = Key::default().text("row").path(&input).unwrap();
            let result = cache.result(&key, "making", || {
                made += 1;
                Ok(content.to_owned())
            });
            assert_eq!(result.unwrap(), content);
        }
        assert_eq!(made, 2);
        // A failure is not kept.
        let key = Key::default().text("fails");
        assert_eq!(cache.result::<String>(&key, "", || Err("no".to_owned())), Err("no".to_owned()));
        let known = Cache::open(folder.path(), true).unwrap();
        assert_eq!(known.result(&key, "", || Ok("yes".to_owned())), Err(UNKNOWN.to_owned()));
        assert_eq!(cache.result(&key, "", || Ok("yes".to_owned())), Ok("yes".to_owned()));
        assert_eq!(known.result(&key, "", || Ok("other".to_owned())), Ok("yes".to_owned()));
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        assert_ne!(Key::default().text("ab").text("c").name(), Key::default().text("a").text("bc").name());
    }
}
