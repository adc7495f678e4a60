//! Filetests: a command line and what it must print, in one file that a person can read in review.
//!
//! ```text
//! # What this shows, in words.
//! run: q35c check $HERE/broken.onnx
//! exit: 1
//! ---- stdout
//! ...
//! ---- stderr
//! ...
//! ```
//!
//! `$HERE` is the file's folder, `$DATA` is `tests/data`, `$TMP` a fresh folder of the test. Several `run:` lines run in turn and
//! their output is joined; `exit:` (0 unless said) is that of the last one, all others must be 0. `contains:` lines, where there are
//! any, replace the comparison of the whole output: each must occur in it. `prepare:` lines make damaged files in `$TMP`
//! ([`crate::prepare`]), and `make:` lines run a program whose output does not count; they and `run:` lines take effect in the order in
//! which they stand. `list: FOLDER` appends what lies in a folder after the runs. `needs: mlir` marks what only
//! a full build can do. With `Q35C_BLESS=1` the expected output is rewritten. The runner is told how to run a program; this module only reads, compares and writes.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A parsed filetest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileTest {
    /// Lines before the expected output, as written.
    pub header: Vec<String>,
    /// Expected output.
    pub expected: Streams,
}

/// What programs print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The result of one program.
#[derive(Clone, Debug)]
pub struct Ran {
    /// What it printed.
    pub streams: Streams,
    /// Exit code; -1 if a signal ended it.
    pub exit: i32,
}

impl Ran {
    /// Standard output, if the program ended with 0; else everything it said.
    ///
    /// # Errors
    /// If it did not.
    pub fn success(self) -> Result<String, String> {
        let Streams { stdout, stderr } = self.streams;
        if self.exit == 0 { Ok(stdout) } else { Err(format!("exit code {}\n{stdout}{stderr}", self.exit)) }
    }
}

impl FileTest {
    /// Reads the text of a filetest.
    pub fn parse(text: &str) -> Self {
        let mut test = Self::default();
        let mut part = 0;
        for line in text.lines() {
            match line {
                "---- stdout" => part = 1,
                "---- stderr" => part = 2,
                _ => match part {
                    0 => test.header.push(line.to_owned()),
                    1 => test.expected.stdout += &format!("{line}\n"),
                    _ => test.expected.stderr += &format!("{line}\n"),
                },
            }
        }
        test
    }

    /// The header lines of a kind, e.g. `run`.
    pub fn lines(&self, kind: &str) -> Vec<&str> {
        self.header.iter().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(": ")).collect()
    }

    fn print(&self) -> String {
        let mut text = self.header.join("\n") + "\n";
        for (title, content) in [("stdout", &self.expected.stdout), ("stderr", &self.expected.stderr)] {
            if !content.is_empty() {
                let _ = write!(text, "---- {title}\n{content}");
            }
        }
        text
    }
}

/// Every filetest under a folder, sorted.
pub fn find(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "q35t") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Runs a filetest: `run` gets a program's name and arguments.
///
/// # Errors
/// What differs from what was expected.
pub fn check(path: &Path, data: &Path, bless: bool, run: impl Fn(&str, &[String]) -> Ran) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let mut test = FileTest::parse(&text);
    let temporary = tempfile::tempdir().map_err(|e| e.to_string())?;
    let here = path.parent().unwrap_or(Path::new("."));
    let names = [("$HERE", here), ("$DATA", data), ("$TMP", temporary.path())].map(|(n, p)| (n, p.display().to_string()));
    let concrete = |word: &str| names.iter().fold(word.to_owned(), |w, (name, path)| w.replace(name, path));
    let general = |text: &str| names.iter().fold(text.to_owned(), |t, (name, path)| t.replace(path, name));

    let mut got = Streams::default();
    let runs = test.lines("run");
    let exit: i32 = test.lines("exit").first().map_or(Ok(0), |e| e.trim().parse()).map_err(|_| "exit: is no number")?;
    if runs.is_empty() {
        return Err("no 'run:' line".to_owned());
    }
    let mut left = runs.len();
    for line in &test.header {
        let Some((kind, line)) = line.split_once(": ") else { continue };
        if kind == "prepare" {
            crate::prepare::prepare(temporary.path(), data, line)?;
        }
        if !["run", "make"].contains(&kind) {
            continue;
        }
        let words: Vec<String> = line.split_whitespace().map(concrete).collect();
        let ran = run(&words[0], &words[1..]);
        left -= usize::from(kind == "run");
        let wanted = if kind == "run" && left == 0 { exit } else { 0 };
        if ran.exit != wanted {
            let Streams { stdout, stderr } = ran.streams;
            return Err(format!("'{line}' ended with {} instead of {wanted}\n{stdout}{stderr}", ran.exit));
        }
        if kind == "run" {
            got.stdout += &general(&ran.streams.stdout);
            got.stderr += &general(&ran.streams.stderr);
        }
    }
    for folder in test.lines("list") {
        got.stdout += &format!("{folder}:{}\n", listing(Path::new(&concrete(folder))));
    }
    let contains = test.lines("contains");
    if !contains.is_empty() {
        let missing: Vec<_> = contains.iter().filter(|c| !got.stdout.contains(**c) && !got.stderr.contains(**c)).collect();
        return if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("the output lacks {missing:?}:\n{}{}", got.stdout, got.stderr))
        };
    }
    if got == test.expected {
        return Ok(());
    }
    if bless {
        test.expected = got;
        return std::fs::write(path, test.print()).map_err(|e| e.to_string());
    }
    Err(format!("{}Q35C_BLESS=1 rewrites it\n", difference(&test.expected, &got)))
}

/// Names in a folder, sorted, each after a space.
fn listing(folder: &Path) -> String {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.iter().map(|name| format!(" {name}")).collect()
}

fn difference(expected: &Streams, got: &Streams) -> String {
    let mut text = String::new();
    for (name, expected, got) in [("stdout", &expected.stdout, &got.stdout), ("stderr", &expected.stderr, &got.stderr)] {
        if expected != got {
            let same = expected.lines().zip(got.lines()).take_while(|(a, b)| a == b).count();
            let rest = |t: &str| t.lines().skip(same).take(12).fold(String::new(), |s, line| s + "    " + line + "\n");
            let _ = write!(text, "{name} differs from line {}:\n  expected\n{}  got\n{}", same + 1, rest(expected), rest(got));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(program: &str, args: &[String]) -> Ran {
        let streams = Streams { stdout: format!("{program} {}\n", args.join(" ")), stderr: String::new() };
        Ran { streams, exit: i32::from(args.iter().any(|a| a == "--fail")) }
    }

    #[test]
    fn output_is_compared_and_paths_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.q35t");
        let data = Path::new("/some/data");
        let check = |text: &str, bless| {
            std::fs::write(&path, text).unwrap();
            check(&path, data, bless, fake)
        };
        assert_eq!(check("# x\nrun: echo $DATA/a $HERE\n---- stdout\necho $DATA/a $HERE\n", false), Ok(()));
        assert!(check("run: echo a\n---- stdout\necho b\n", false).unwrap_err().contains("line 1"));
        assert!(check("run: echo --fail\n", false).unwrap_err().contains("ended with 1 instead of 0"));
        assert_eq!(check("run: echo --fail\nexit: 1\ncontains: --fail\n", false), Ok(()));
        assert!(check("run: echo\ncontains: other\n", false).unwrap_err().contains("lacks"));
        assert!(check("# nothing\n", false).is_err());
        assert_eq!(check("run: echo a\n---- stdout\nold\n", true), Ok(()));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "run: echo a\n---- stdout\necho a\n");
    }
}
