//! The README and the book: every command in them, run as printed, in a fresh folder; every link; the figures.
//!
//! A fenced block of `sh` is run, the blocks of a page one after the other in one folder, which holds nothing but the examples and the crate that
//! they build with; the commands are on the path, and a page that asks pkg-config finds the library installed. A block of `text` right after it is what it prints, on a machine without a GPU. Blocks
//! of `console` build the whole repository: continuous integration runs their commands one by one.

use crate::{install, program};
use libtest_mimic::{Failed, Trial};
use q35_tests::{corpus, watched};
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Pages with commands.
const PAGES: &[&str] = &["README.md", "examples/README.md", "docs/src/linking.md", "docs/src/report.md"];

/// Programs that commands use and a machine may lack: blocks that name one of them are then left out.
const TOOLS: &[&str] = &["pkg-config", "python3", "c++", "aarch64-linux-gnu-gcc", "qemu-aarch64"];

pub(crate) fn trials() -> Vec<Trial> {
    let commands = PAGES.iter().filter(|_| cfg!(feature = "mlir"));
    let commands = commands.map(|page| Trial::test(format!("book/{page}"), move || run_page(page).map_err(Failed::from)));
    let mut trials: Vec<Trial> = commands.collect();
    trials.push(Trial::test("book/what-builds-the-repository-is-run-too", || Ok(whole_builds()?)));
    trials.push(Trial::test("book/commands-in-sentences-are-there", || Ok(named_commands()?)));
    trials.push(Trial::test("book/links-lead-somewhere", || Ok(links()?)));
    trials.push(Trial::test("book/every-page-is-in-the-summary", || Ok(summary()?)));
    trials.push(Trial::test("book/figures-are-what-the-table-says", || Ok(figures()?)));
    trials
}

/// A fenced block of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    language: String,
    text: String,
    line: usize,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(_), true) => open = false,
            (Some(language), false) => {
                found.push(Block { language: language.to_owned(), text: String::new(), line: number + 1 });
                open = true;
            }
            (None, true) => {
                if let Some(block) = found.last_mut() {
                    let _ = writeln!(block.text, "{line}");
                }
            }
            (None, false) => {}
        }
    }
    found
}

fn run_page(page: &str) -> Result<(), String> {
    let text = fs::read_to_string(corpus::root().join(page)).map_err(|e| e.to_string())?;
    let place = Place::new().map_err(|e| e.to_string())?;
    place.install(text.contains("pkg-config"))?;
    let all = blocks(&text);
    for (at, block) in all.iter().enumerate().filter(|(_, block)| block.language == "sh") {
        let named =
            TOOLS.iter().filter(|tool| block.text.split_whitespace().any(|word| word.trim_start_matches("$(") == **tool));
        if let Some(tool) = named.copied().find(|tool| watched::run(tool, &["--version"]).is_err()) {
            eprintln!(
                "{page}:{}: SKIPPED, there is no {tool} here; scripts/test-tools.sh installs what can be had",
                block.line
            );
            continue;
        }
        let said = place.shell(&block.text).map_err(|e| format!("{page}:{}: {e}", block.line))?;
        let expected = all.get(at + 1).filter(|next| next.language == "text" && follows(&text, block, next));
        if let Some(expected) = expected.filter(|expected| expected.text != said) {
            return Err(format!("{page}:{}: it prints\n{said}", expected.line));
        }
    }
    Ok(())
}

/// Every command of a `console` block is a line of what continuous integration runs.
fn whole_builds() -> Result<(), String> {
    let read = |page: &str| fs::read_to_string(corpus::root().join(page)).map_err(|e| format!("{page}: {e}"));
    let run = read(".ci/run")?;
    let mut left_out = Vec::new();
    for page in PAGES {
        for block in blocks(&read(page)?).iter().filter(|block| block.language == "console") {
            let commands = block.text.lines().filter_map(|line| line.split('#').next()).map(str::trim);
            left_out.extend(commands.filter(|command| !run.lines().any(|line| line == *command)).map(str::to_owned));
        }
    }
    if left_out.is_empty() { Ok(()) } else { Err(format!(".ci/run leaves out {left_out:?}")) }
}

/// Commands that sentences name, of our programs and of make: the subcommand or goal is there, and so is every option.
fn named_commands() -> Result<(), String> {
    let makefile = fs::read_to_string(corpus::root().join("Makefile")).map_err(|e| e.to_string())?;
    let (mut named, mut unknown) = (0, Vec::new());
    for page in pages() {
        let text = fs::read_to_string(&page).map_err(|e| e.to_string())?;
        for span in text.split('`').skip(1).step_by(2) {
            let words: Vec<&str> =
                span.split(|c: char| c.is_whitespace() || "=[]".contains(c)).filter(|word| !word.is_empty()).collect();
            let [program @ ("q35c" | "q35" | "make"), first, ..] = words[..] else { continue };
            named += 1;
            // A table writes a bar as `\|`.
            for name in first.split('|').map(|name| name.trim_end_matches('\\')) {
                let is_there = match program {
                    "make" => makefile.lines().any(|line| line.starts_with(&format!("{name}: "))),
                    _ => {
                        let help = program::run(program, &[name, "--help"]);
                        let known: Vec<&str> =
                            help.streams.stdout.split(|c: char| c.is_whitespace() || "=[],".contains(c)).collect();
                        help.exit == 0 && words.iter().all(|word| !word.starts_with("--") || known.contains(word))
                    }
                };
                if !is_there {
                    unknown.push(format!("{}: {span}", page.display()));
                }
            }
        }
    }
    match named {
        0..20 => Err(format!("only {named} commands are named")),
        _ if unknown.is_empty() => Ok(()),
        _ => Err(format!("there is no such command: {unknown:?}")),
    }
}

/// Where a reader works: a folder, and beside it what was built and installed.
struct Place {
    folder: tempfile::TempDir,
    installed: tempfile::TempDir,
}

impl Place {
    /// A fresh folder with the examples. That of Rust is a copy, with the versions that this repository's tests were built with.
    fn new() -> std::io::Result<Self> {
        let (root, folder, installed) = (corpus::root(), tempfile::tempdir()?, tempfile::tempdir()?);
        let examples = folder.path().join("examples");
        fs::create_dir_all(examples.join("rust/src"))?;
        for entry in fs::read_dir(root.join("examples"))?.flatten().filter(|entry| entry.file_name() != "rust") {
            symlink(entry.path(), examples.join(entry.file_name()))?;
        }
        for name in ["Cargo.toml", "build.rs", "src/main.rs"] {
            fs::copy(root.join("examples/rust").join(name), examples.join("rust").join(name))?;
        }
        fs::copy(root.join("Cargo.lock"), examples.join("rust/Cargo.lock"))?;
        for name in ["Cargo.toml", "runtime"] {
            symlink(root.join(name), folder.path().join(name))?;
        }
        Ok(Self { folder, installed })
    }

    /// Puts the commands into a folder, and installs what a program needs that links the library.
    fn install(&self, library: bool) -> Result<(), String> {
        let (build, prefix) = (self.installed.path().join("build"), self.installed.path().join("prefix"));
        fs::create_dir(&build).map_err(|e| e.to_string())?;
        install::built(&build)?;
        if library { install::install(&build, &prefix.display().to_string(), None).map(drop) } else { Ok(()) }
    }

    /// Runs commands, and gives their standard output.
    fn shell(&self, commands: &str) -> Result<String, String> {
        let with = |folder: &str, variable: &'static str| {
            let rest = std::env::var(variable).map_or_else(|_| String::new(), |rest| format!(":{rest}"));
            (variable, format!("{}{rest}", self.installed.path().join(folder).display()))
        };
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(self.folder.path())
            .envs([
                with("build", "PATH"),
                with("prefix/lib", "LD_LIBRARY_PATH"),
                with("prefix/lib/pkgconfig", "PKG_CONFIG_PATH"),
            ])
            // No card, and no network.
            .envs([("CUDA_VISIBLE_DEVICES", ""), ("CARGO_NET_OFFLINE", "true"), ("CARGO_TERM_QUIET", "true")])
            .env("CARGO_TARGET_DIR", self.installed.path().join("target"))
            .env_remove("Q35C_BLESS")
            .stdin(Stdio::null())
            .output()
            .map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(format!("ended with {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))),
        }
    }
}

/// Whether nothing but an empty line is between two blocks.
fn follows(page: &str, first: &Block, second: &Block) -> bool {
    let end = first.line + first.text.lines().count() + 1;
    page.lines().skip(end).take(second.line - 1 - end).all(str::is_empty)
}

/// Every page of the repository that people read.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![corpus::root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.') || name == "target" || name == "node_modules";
            if path.is_dir() && !path.is_symlink() && !hidden {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn links() -> Result<(), String> {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).map_err(|e| e.to_string())?;
        let folder = page.parent().unwrap_or(Path::new("."));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = file.is_empty() || file.contains("://") || file.contains(' ');
            if !elsewhere && !folder.join(file).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n")) }
}

/// A page that the summary leaves out is in no book.
fn summary() -> Result<(), String> {
    let folder = corpus::root().join("docs/src");
    let summary = fs::read_to_string(folder.join("SUMMARY.md")).map_err(|e| e.to_string())?;
    let names = fs::read_dir(&folder)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left_out: Vec<String> = names
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md" && !summary.contains(&format!("]({name})")))
        .collect();
    if left_out.is_empty() { Ok(()) } else { Err(format!("SUMMARY.md leaves out {left_out:?}")) }
}

fn figures() -> Result<(), String> {
    let path = corpus::root().join("docs/src/figures/container.svg");
    let figure = container();
    if std::env::var_os("Q35C_BLESS").is_some() {
        fs::write(&path, &figure).map_err(|e| e.to_string())?;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == figure {
        Ok(())
    } else {
        Err("docs/src/figures/container.svg is not up to date; Q35C_BLESS=1 refreshes it".into())
    }
}

/// The stream of a row: four containers of seven bits, the two weights of each, and the windows of `w8`.
fn container() -> String {
    use q35_format::{Codec, codec::CONTAINER_BITS};
    const CELL: usize = 26;
    const LEFT: usize = 20;
    const CONTAINERS: usize = 4;
    let bits = CONTAINER_BITS as usize;
    let window = Codec::W8.window().map_or(bits, |window| window as usize);
    let at = |bit: usize| LEFT + CELL * bit;
    let (width, height) = (at(CONTAINERS * bits) + LEFT, 190);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\" text-anchor=\"middle\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let shades = ["#dbe9f6", "#f6e7d0"];
    for container in 0..CONTAINERS {
        let (x, y, shade) = (at(container * bits), 50, shades[container % 2]);
        let middle = x + CELL * bits / 2;
        for bit in 0..bits {
            let (x, number) = (x + CELL * bit, container * bits + bit);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\" fill=\"{shade}\" stroke=\"#888\"/>"
            );
            let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\" font-size=\"11\">{number}</text>", x + CELL / 2, y + 17);
        }
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"22\">container {container}</text>");
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"40\" fill=\"#555\">w{}, w{}</text>", 2 * container, 2 * container + 1);
        let end = (container * bits + window).min(CONTAINERS * bits);
        let (from, to, y) = (x + 3, at(end) - 3, 96 + 22 * (container % 2));
        let _ = writeln!(
            svg,
            "<path d=\"M{from} {} V{y} H{to} V{}\" fill=\"none\" stroke=\"#333\" stroke-width=\"1.5\"/>",
            y - 8,
            y - 8
        );
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">window {container}</text>", (from + to) / 2, y + 15);
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\" text-anchor=\"start\" fill=\"#555\">bits of a row's stream; a window of w8 is {window} bits: {} of its container, {} of the next</text>",
        height - 14,
        bits,
        window - bits
    );
    svg + "</svg>\n"
}
