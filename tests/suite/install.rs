//! `make install`: the real script puts the programs under test and cargo's libraries into trees, and strangers use those trees: a program of C
//! by pkg-config, with the shared and with the static library, and a CMake project; where the tree was staged, and where it was moved.

use crate::determinism::files;
use crate::end_to_end::path;
use crate::{library, program};
use libtest_mimic::{Failed, Trial};
use q35_tests::corpus;
use q35_tests::watched;
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// What is installed, manual pages of single commands apart.
const FILES: [&str; 16] = [
    "bin/q35",
    "bin/q35c",
    "include/q35rt.h",
    "lib/cmake/q35rt/q35rtConfig.cmake",
    "lib/cmake/q35rt/q35rtConfigVersion.cmake",
    "lib/libq35rt.a",
    "lib/libq35rt.so",
    "lib/pkgconfig/q35rt.pc",
    "share/bash-completion/completions/q35",
    "share/bash-completion/completions/q35c",
    "share/fish/vendor_completions.d/q35.fish",
    "share/fish/vendor_completions.d/q35c.fish",
    "share/man/man1/q35.1",
    "share/man/man1/q35c.1",
    "share/zsh/site-functions/_q35",
    "share/zsh/site-functions/_q35c",
];

/// Says the library's version, and that a folder which is not there is no bundle.
const PROGRAM: &str = r#"
#include <q35rt.h>
#include <stdio.h>

int main(void) {
    q35rt_model *model;
    int32_t number = q35rt_open("none.q35", NULL, &model, NULL);
    printf("%s %d\n", q35rt_version(), (int)number);
    return 0;
}
"#;

const PROJECT: &str = "cmake_minimum_required(VERSION 3.10)\n\
    project(app C)\n\
    find_package(q35rt @VERSION@ REQUIRED)\n\
    add_executable(app app.c)\n\
    target_link_libraries(app PRIVATE q35rt::q35rt)\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("install/a-tree-is-used-where-it-is", || trees().map_err(Failed::from))]
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What `make install` builds: the commands, and the library in its forms.
pub(crate) fn built(folder: &Path) -> Result<(), String> {
    for name in ["q35c", "q35"] {
        program::install(name, folder)?;
    }
    let libraries = library::folder()?;
    library::FILES.iter().try_for_each(|file| symlink(libraries.join(file), folder.join(file)).map_err(text))
}

/// Runs the script, and gives what it said.
pub(crate) fn install(build: &Path, prefix: &str, destination: Option<&Path>) -> Result<String, String> {
    let mut command = Command::new(corpus::root().join("scripts/install.sh"));
    command.args([path(build), prefix]).env_remove("DESTDIR").env_remove("Q35C_BLESS");
    command.envs(destination.map(|destination| ("DESTDIR", destination)));
    let output = command.output().map_err(text)?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn trees() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let at = |name: &str| folder.path().join(name);
    let (build, stage, plain, moved) = (at("build"), at("stage"), at("plain tree"), at("moved"));
    std::fs::create_dir(&build).map_err(text)?;
    built(&build)?;

    // A packager's way: nothing but what is below DESTDIR is touched, and PREFIX is a folder that is not there.
    let nowhere = at("nowhere");
    install(&build, path(&nowhere), Some(&stage))?;
    let tree = stage.join(path(&nowhere).trim_start_matches('/'));
    let names = complete(&tree)?;
    if nowhere.exists() || files(&stage).len() != names.len() {
        return Err("files lie outside DESTDIR and PREFIX".into());
    }
    in_use(&tree, &at("staged"))?;
    std::fs::rename(&tree, &moved).map_err(text)?;
    in_use(&moved, &at("elsewhere"))?;

    // A user's way, twice; the name has a space.
    install(&build, path(&plain), None)?;
    let said = install(&build, path(&plain), None)?;
    if complete(&plain)? == names && said == format!("installed in {}\n", plain.display()) {
        Ok(())
    } else {
        Err(format!("another tree lies in {}: {said}", plain.display()))
    }
}

/// The names of a tree's files: all that there must be, and none of them empty.
fn complete(tree: &Path) -> Result<BTreeSet<String>, String> {
    let files = files(tree);
    // A page for each command.
    let pages = ["q35c-compile.1", "q35c-check.1", "q35-run.1", "q35-bench.1"].map(|page| format!("share/man/man1/{page}"));
    let wanted = FILES.into_iter().chain(pages.iter().map(String::as_str));
    let missing: Vec<&str> = wanted.filter(|name| files.get(*name).is_none_or(Vec::is_empty)).collect();
    match missing.is_empty() {
        true => Ok(files.into_keys().collect()),
        false => Err(format!("{} lacks {missing:?}", tree.display())),
    }
}

/// Builds and runs programs with a tree, in a fresh folder.
fn in_use(tree: &Path, folder: &Path) -> Result<(), String> {
    std::fs::create_dir(folder).map_err(text)?;
    std::fs::write(folder.join("app.c"), PROGRAM).map_err(text)?;
    let said = watched::run(tree.join("bin/q35c"), &["--version"])?;
    if said != format!("q35c {VERSION}\n") {
        return Err(format!("bin/q35c says {said}"));
    }
    by_pkg_config(tree, folder)?;
    by_cmake(tree, folder)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs what became of [`PROGRAM`].
fn says(program: &Path) -> Result<(), String> {
    match watched::run(program, &[])? {
        said if said == format!("{VERSION} 501\n") => Ok(()),
        said => Err(format!("{} says {said}", program.display())),
    }
}

fn by_pkg_config(tree: &Path, folder: &Path) -> Result<(), String> {
    if watched::run("pkg-config", &["--version"]).is_err() {
        eprintln!("install: SKIPPED, there is no pkg-config here; scripts/test-tools.sh installs it");
        return Ok(());
    }
    let of_tree =
        ["-c", "PKG_CONFIG_PATH=\"$0\" exec pkg-config \"$@\" q35rt", path(&tree.join("lib/pkgconfig"))].map(str::to_owned);
    let told = |arguments: &[&str]| {
        let of_tree: Vec<&str> = of_tree.iter().map(String::as_str).collect();
        watched::run("sh", &[&of_tree[..], arguments].concat())
    };
    let version = told(&["--modversion"])?;
    if version.trim() != VERSION {
        return Err(format!("pkg-config says version {version}"));
    }
    let (source, library) = (folder.join("app.c"), tree.join("lib/libq35rt.a"));
    let rpath = format!("-Wl,-rpath,{}", tree.join("lib").display());
    let build = |name: &str, words: &[&str]| {
        let program = folder.join(name);
        watched::compile(&program, &[&[path(&source)], words].concat())?;
        says(&program)
    };
    let words = told(&["--cflags", "--libs"])?;
    build("shared", &words.split_whitespace().chain([&*rpath]).collect::<Vec<_>>())?;
    let words = told(&["--cflags", "--libs", "--static"])?;
    let chosen = |word| if word == "-lq35rt" { path(&library) } else { word };
    build("static", &words.split_whitespace().map(chosen).collect::<Vec<_>>())
}

fn by_cmake(tree: &Path, folder: &Path) -> Result<(), String> {
    if watched::run("cmake", &["--version"]).is_err() {
        eprintln!("install: SKIPPED, there is no cmake here; scripts/test-tools.sh installs it");
        return Ok(());
    }
    let (build, place) = (folder.join("build"), format!("-DCMAKE_PREFIX_PATH={}", tree.display()));
    let configure = |version: &str| {
        std::fs::write(folder.join("CMakeLists.txt"), PROJECT.replace("@VERSION@", version)).map_err(text)?;
        watched::run("cmake", &["-S", path(folder), "-B", path(&build), &place])
    };
    let interface = VERSION.rsplit_once('.').map_or(VERSION, |(interface, _)| interface);
    configure(interface)?;
    watched::run("cmake", &["--build", path(&build)])?;
    says(&build.join("app"))?;
    match configure("99.9") {
        Err(why) if why.contains("99.9") => Ok(()),
        other => Err(format!("a project that wants version 99.9 gets {other:?}")),
    }
}
