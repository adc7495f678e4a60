//! Programs of C under watch: run plain, with the sanitizers for addresses, leaks and undefined behaviour, and under valgrind.
//!
//! What enters: arguments for the compiler, and then for the program. What leaves: what the program printed each time, or everything it
//! said when it ended badly once. Sanitizers see the program's own code and what it asks of the C library; valgrind sees every
//! instruction, those of a linked object or library included. Its processor has AVX2 and no AVX-512 and says so, and an object takes the
//! level of its kernels from there.
//!
//! A watch that this machine lacks is left out, and that is said; `scripts/test-tools.sh` installs what can be had.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Every warning is an error, and lines have numbers.
const STRICT: [&str; 6] = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g"];
/// What the sanitized program is compiled with: the first fault ends it.
const SANITIZERS: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
/// Errors and lost memory give the program another exit code than it has.
const VALGRIND: [&str; 4] = ["--quiet", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"];

/// A program that was built to be watched.
#[derive(Clone, Debug)]
pub struct Watched {
    plain: PathBuf,
    sanitized: Option<PathBuf>,
}

impl Watched {
    /// Builds the program `out`, and beside it the one with sanitizers: [`compile`] says what `arguments` are.
    ///
    /// # Errors
    /// What the compiler says.
    pub fn build(out: &Path, arguments: &[&str]) -> Result<Self, String> {
        compile(out, arguments)?;
        let sanitized = out.with_added_extension("sanitized");
        let sanitized = match sanitizers() {
            true => Some(compile(&sanitized, &[&SANITIZERS[..], arguments].concat()).map(|()| sanitized)?),
            false => None,
        };
        Ok(Self { plain: out.to_owned(), sanitized })
    }

    /// Runs it in every way with `input` on its standard input; gives what it printed each time.
    ///
    /// # Errors
    /// What it said when it did not end with 0, the reports of sanitizers and valgrind included.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<String>, String> {
        let name = self.plain.display().to_string();
        let mut said = vec![run_with(&self.plain, arguments, input)?];
        match &self.sanitized {
            Some(program) => said.push(run_with(program, arguments, input)?),
            None => eprintln!("{name}: NOT RUN WITH SANITIZERS, the compiler has none here"),
        }
        match valgrind() {
            true => said.push(run_with("valgrind", &[&VALGRIND[..], &[&name], arguments].concat(), input)?),
            false => eprintln!("{name}: NOT RUN UNDER VALGRIND, which is not here; scripts/test-tools.sh installs it"),
        }
        Ok(said)
    }
}

/// Compiles and links a program of C, strictly: sources, objects, folders and libraries, as `cc` takes them. `CC` names another compiler.
///
/// # Errors
/// What the compiler says.
pub fn compile(out: &Path, arguments: &[&str]) -> Result<(), String> {
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let out = out.to_str().unwrap_or_else(|| panic!("the tests' own paths are UTF-8"));
    run(compiler, &[&STRICT[..], arguments, &["-lm", "-lpthread", "-o", out]].concat()).map(drop)
}

/// Runs a program to its end: what it printed.
///
/// # Errors
/// Everything it said, if it did not end with 0.
pub fn run(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String, String> {
    run_with(program, arguments, "")
}

fn run_with(program: impl AsRef<OsStr>, arguments: &[&str], input: &str) -> Result<String, String> {
    let name = program.as_ref().display().to_string();
    let failed = |e: std::io::Error| format!("{name}: {e}");
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    // A program that does not read ends nothing here. What is sent is less than a pipe holds.
    let _ = child.stdin.take().map(|mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{name} ended with {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))),
    }
}

/// Whether the compiler makes programs with sanitizers, and they run.
fn sanitizers() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let tried = || -> Option<String> {
            let folder = tempfile::tempdir().ok()?;
            let (source, program) = (folder.path().join("none.c"), folder.path().join("none"));
            std::fs::write(&source, "int main(void) { return 0; }\n").ok()?;
            compile(&program, &[&SANITIZERS[..], &[source.to_str()?]].concat()).ok()?;
            run(program, &[]).ok()
        };
        tried().is_some()
    })
}

/// Whether valgrind is here.
fn valgrind() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| run("valgrind", &["--version"]).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of `main`, and which words of which watch find its fault.
    /// The pointer is volatile, or the compiler would see the fault before the watch does.
    const FAULTS: [(&str, &str, bool); 4] = [
        ("char *volatile p = malloc(8); int known = p[8] == 77; free(p); return known;", "heap-buffer-overflow", true),
        ("volatile int big = 2147483647; big += argc; return 0;", "signed integer overflow", true),
        ("char *volatile p = malloc(8); p = NULL; return p != NULL;", "detected memory leaks", true),
        // No sanitizer of GCC's knows what was never written.
        ("char *volatile p = malloc(8); int known = p[0] == 77; free(p); return known;", "uninitialised", false),
    ];

    #[test]
    fn every_kind_of_fault_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        for (at, (body, report, by_sanitizers)) in FAULTS.into_iter().enumerate() {
            if !(if by_sanitizers { sanitizers() } else { valgrind() }) {
                continue;
            }
            let (source, program) = (folder.path().join(format!("{at}.c")), folder.path().join(format!("fault{at}")));
            let text = format!("#include <stdlib.h>\nint main(int argc, char **argv) {{ (void)argv; (void)argc; {body} }}\n");
            std::fs::write(&source, text).unwrap();
            let said = Watched::build(&program, &[source.to_str().unwrap()]).unwrap().run(&[], "").unwrap_err();
            assert!(said.contains(report), "{body}: {said}");
        }
    }

    #[test]
    fn a_sound_program_says_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("echo.c");
        let text =
            "#include <stdio.h>\nint main(int argc, char **argv) { printf(\"%s%c\", argv[argc - 1], getchar()); return 0; }\n";
        std::fs::write(&source, text).unwrap();
        let echo = Watched::build(&folder.path().join("echo"), &[source.to_str().unwrap()]).unwrap();
        let said = echo.run(&["a"], "b").unwrap();
        assert!(!said.is_empty() && said.iter().all(|said| said == "ab"), "{said:?}");
    }
}
