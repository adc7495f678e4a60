//! Kernels of 64-bit Arm on other machines: each call is a program that QEMU runs.

use object::{Object, ObjectSymbol};
use q35_mlir::link;
use std::collections::HashMap;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

const EMULATOR: &str = "qemu-aarch64";

/// A program with kernels.
pub(super) struct Emulated {
    program: PathBuf,
    /// Addresses by name.
    kernels: HashMap<String, u64>,
}

/// An argument of a kernel.
pub(super) enum Argument {
    Bytes(Vec<u8>),
    Same(usize),
}

/// Whether this machine has the emulator and the C compiler of LLVM; says so where it does not.
pub(super) fn is_here() -> bool {
    static HERE: LazyLock<bool> = LazyLock::new(|| {
        let runs = |program: &Path| Command::new(program).arg("--version").output().is_ok_and(|run| run.status.success());
        let here = runs(Path::new(EMULATOR)) && runs(&compiler());
        if !here {
            eprintln!("skipped: kernels for aarch64 run under {EMULATOR} (package qemu-user), and need clang beside ld.lld");
        }
        here
    });
    *HERE
}

fn compiler() -> PathBuf {
    link::find_linker().unwrap_or_default().with_file_name("clang")
}

fn run(command: &mut Command) {
    let run = command.output().unwrap();
    assert!(run.status.success(), "{command:?}: {}", String::from_utf8_lossy(&run.stderr));
}

/// What calls kernels, as an object file, which is compiled once.
fn caller() -> &'static Path {
    static CALLER: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let [source, caller] = ["caller.c", "caller.o"].map(|name| folder.path().join(name));
        std::fs::write(&source, include_str!("emulated.c")).unwrap();
        let compile = ["--target=aarch64-linux-gnu", "-O1", "-ffreestanding", "-fno-stack-protector", "-c", "-o"];
        run(Command::new(compiler()).args(compile).args([&caller, &source]));
        (folder, caller)
    });
    &CALLER.1
}

impl Emulated {
    /// A program with the kernels of an object file; none where it has none.
    pub(super) fn new(code: &[u8], folder: &Path) -> Option<Self> {
        let is_empty = !object::File::parse(code).unwrap().symbols().any(|symbol| symbol.is_global());
        if is_empty {
            return None;
        }
        let [model, program] = ["model.o", "model"].map(|name| folder.join(name));
        std::fs::write(&model, code).unwrap();
        run(Command::new(link::find_linker().unwrap()).args(["-static", "-o"]).args([&program, caller(), &model]));
        let linked = std::fs::read(&program).unwrap();
        let file = object::File::parse(&*linked).unwrap();
        let defined = file.symbols().filter(|symbol| symbol.is_global() && symbol.is_definition());
        let kernels = defined.map(|symbol| (symbol.name().unwrap().to_owned(), symbol.address())).collect();
        Some(Self { program, kernels })
    }

    /// Whether it has a kernel of this symbol.
    pub(super) fn has(&self, symbol: &str) -> bool {
        self.kernels.contains_key(symbol)
    }

    /// Calls a kernel, whose arguments are bytes or the number of an earlier argument; gives the bytes afterwards, none for the latter.
    pub(super) fn call(&self, symbol: &str, args: &[Argument], dims: [i64; 4], tiles: std::ops::Range<i64>) -> Vec<Vec<u8>> {
        let head = [&[self.kernels[symbol] as i64][..], &dims, &[tiles.start, tiles.end, args.len() as i64]].concat();
        let mut input: Vec<u8> = head.iter().flat_map(|n| n.to_le_bytes()).collect();
        for arg in args {
            match arg {
                Argument::Bytes(bytes) => {
                    input.extend((bytes.len() as i64).to_le_bytes());
                    input.extend(bytes);
                }
                Argument::Same(earlier) => input.extend((-1 - *earlier as i64).to_le_bytes()),
            }
        }
        let mut child = Command::new(EMULATOR).arg(&self.program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&input).unwrap();
        let mut output = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{symbol}: {status}");
        let mut rest = &output[..];
        let mut next = |len: usize| {
            let (arg, after) = rest.split_at(len);
            rest = after;
            arg.to_vec()
        };
        let each = |arg: &Argument| if let Argument::Bytes(bytes) = arg { next(bytes.len()) } else { vec![] };
        args.iter().map(each).collect()
    }
}
