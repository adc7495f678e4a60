//! Files a filetest needs and nobody wants to check in: copies of examples, damaged in one stated way.
//!
//! | line | effect in the test's fresh folder |
//! | --- | --- |
//! | `copy EXAMPLE` | the files of `tests/data/EXAMPLE` |
//! | `write FILE TEXT` | a file holding the text; `\n` ends a line |
//! | `remove FILE` | |
//! | `truncate FILE BYTES` | cut, or extended with zeros |
//! | `poke FILE OFFSET HEX` | bytes overwritten; `end-N` counts from the end |
//! | `flip FILE OFFSET` | one bit inverted |
//! | `replace FILE OLD NEW` | every occurrence of a text by one as long |

use std::fs;
use std::path::Path;

type Step = fn(&Path, &Path, &[&str]) -> Result<(), String>;

const STEPS: &[(&str, usize, Step)] = &[
    ("copy", 1, copy),
    ("write", 2, write),
    ("remove", 1, |folder, _, args| fs::remove_file(folder.join(args[0])).map_err(text)),
    ("truncate", 2, truncate),
    ("poke", 3, poke),
    ("flip", 2, flip),
    ("replace", 3, replace),
];

/// Carries out one line in `folder`.
///
/// # Errors
/// What is wrong with the line, or what the system said.
pub fn prepare(folder: &Path, data: &Path, line: &str) -> Result<(), String> {
    let name = line.split(' ').next().unwrap_or_default();
    let (_, arity, step) = STEPS.iter().find(|(n, ..)| *n == name).ok_or_else(|| format!("no such preparation: '{line}'"))?;
    let words: Vec<&str> = line.splitn(arity + 1, ' ').skip(1).collect();
    if words.len() != *arity {
        return Err(format!("'{line}' needs {arity} arguments"));
    }
    step(folder, data, &words).map_err(|e| format!("'{line}': {e}"))
}

fn text(e: std::io::Error) -> String {
    e.to_string()
}

fn copy(folder: &Path, data: &Path, args: &[&str]) -> Result<(), String> {
    for entry in fs::read_dir(data.join(args[0])).map_err(text)? {
        let entry = entry.map_err(text)?;
        let bytes = fs::read(entry.path()).map_err(text)?;
        fs::write(folder.join(entry.file_name()), bytes).map_err(text)?;
    }
    Ok(())
}

fn write(folder: &Path, _: &Path, args: &[&str]) -> Result<(), String> {
    fs::write(folder.join(args[0]), args[1].replace("\\n", "\n")).map_err(text)
}

fn truncate(folder: &Path, _: &Path, args: &[&str]) -> Result<(), String> {
    let bytes = args[1].parse().map_err(|_| "no number of bytes")?;
    let file = fs::OpenOptions::new().write(true).open(folder.join(args[0])).map_err(text)?;
    file.set_len(bytes).map_err(text)
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>) -> Result<(), String>) -> Result<(), String> {
    let mut bytes = fs::read(path).map_err(text)?;
    change(&mut bytes)?;
    fs::write(path, bytes).map_err(text)
}

/// `len` bytes at a written offset.
fn place<'a>(bytes: &'a mut [u8], offset: &str, len: usize) -> Result<&'a mut [u8], String> {
    let (from_end, number) = offset.strip_prefix("end-").map_or((false, offset), |n| (true, n));
    let number: usize = number.parse().map_err(|_| "no offset")?;
    let start = if from_end { bytes.len().checked_sub(number) } else { Some(number) };
    start.and_then(|start| bytes.get_mut(start..start + len)).ok_or_else(|| "outside the file".to_owned())
}

fn poke(folder: &Path, _: &Path, args: &[&str]) -> Result<(), String> {
    let hex: Result<Vec<u8>, _> = (0..args[2].len() / 2).map(|i| u8::from_str_radix(&args[2][2 * i..2 * i + 2], 16)).collect();
    let hex = hex.map_err(|e| e.to_string())?;
    edit(&folder.join(args[0]), |bytes| {
        place(bytes, args[1], hex.len())?.copy_from_slice(&hex);
        Ok(())
    })
}

fn flip(folder: &Path, _: &Path, args: &[&str]) -> Result<(), String> {
    edit(&folder.join(args[0]), |bytes| {
        place(bytes, args[1], 1)?[0] ^= 1;
        Ok(())
    })
}

fn replace(folder: &Path, _: &Path, args: &[&str]) -> Result<(), String> {
    let (old, new) = (args[1].as_bytes(), args[2].as_bytes());
    if old.len() != new.len() || old.is_empty() {
        return Err("the texts differ in length".to_owned());
    }
    edit(&folder.join(args[0]), |bytes| {
        let places: Vec<usize> =
            (0..bytes.len().saturating_sub(old.len() - 1)).filter(|at| bytes[*at..].starts_with(old)).collect();
        if places.is_empty() {
            return Err("the text does not occur".to_owned());
        }
        places.into_iter().for_each(|at| bytes[at..at + old.len()].copy_from_slice(new));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_does_what_the_table_says() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("x")).unwrap();
        fs::write(data.join("x/a"), "abcabd").unwrap();
        let read = || String::from_utf8(fs::read(dir.path().join("a")).unwrap()).unwrap();
        let step = |line: &str| prepare(dir.path(), &data, line);
        step("copy x").unwrap();
        step("replace a ab xy").unwrap();
        assert_eq!(read(), "xycxyd");
        step("poke a end-2 5a").unwrap();
        step("poke a 0 4142").unwrap();
        assert_eq!(read(), "ABcxZd");
        step("flip a 2").unwrap();
        step("flip a end-3").unwrap();
        assert_eq!(read(), "ABbyZd");
        step("flip a 2").unwrap();
        step("truncate a 3").unwrap();
        assert_eq!(read(), "ABc");
        step("write a one two\\n").unwrap();
        assert_eq!(read(), "one two\n");
        step("remove a").unwrap();
        for bad in ["remove a", "burn a", "poke a 1", "copy y", "replace a b cc"] {
            assert!(step(bad).is_err(), "{bad}");
        }
    }
}
