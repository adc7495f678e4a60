//! `kernels.h` of single layers: what a program of C finds in it is what the code says that a kernel takes: the PTX itself, and LLVM's reader of
//! the code objects.

use super::objects::{noted, readelf};
use super::{path, text};
use crate::program;
use q35_tests::watched;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Bytes of a kernel's arguments, and threads of a group.
type Call = (u64, u64);

/// Files of a layer.
const FILES: [(&str, &[&str]); 2] = [
    ("cuda", &["kernels-sm_80.ptx", "kernels-sm_89.ptx", "kernels-sm_90a.ptx", "kernels.h"]),
    ("rocm", &["kernels-gfx1100.hsaco", "kernels-gfx90a.hsaco", "kernels-gfx942.hsaco", "kernels.h", "report.json"]),
];

pub(super) fn layers_are_called_as_the_header_says() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    for (target, files) in FILES {
        let out = folder.path().join(target);
        let shape = ["compile", "--emit=kernels", "--linear", "512x1024", "--codec", "w8", "--prefix", "lay_", "--quiet"];
        program::run("q35c", &[&shape[..], &["--target", target, "-o", path(&out)]].concat()).success()?;
        let code = out.join(target);
        let found: BTreeSet<String> = fs::read_dir(&code)
            .map_err(text)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        if found != files.iter().map(|file| (*file).to_owned()).collect() {
            return Err(format!("{target}: the layer's files are {found:?}"));
        }
        for file in files.iter().filter(|file| !file.ends_with(".h") && !file.ends_with(".json")) {
            let wave = if target == "rocm" && !file.contains("gfx1100") { 64 } else { 32 };
            let said = header(&code, wave)?;
            let taken = if target == "cuda" { ptx(&code.join(file))? } else { object(&code.join(file))? };
            if said != taken || said.is_empty() {
                return Err(format!("{file} takes {taken:?}, and the header says {said:?}"));
            }
        }
    }
    Ok(())
}

/// What the header says of every kernel, through a program that includes it.
fn header(folder: &Path, wave: u32) -> Result<BTreeMap<String, Call>, String> {
    let words = fs::read_to_string(folder.join("kernels.h")).map_err(text)?;
    let names: Vec<&str> =
        words.lines().filter_map(|line| line.strip_prefix("#define LAY_KERNEL_")?.split_whitespace().next()).collect();
    let mut source =
        "#include <stdio.h>\n#include \"kernels.h\"\nint main(void) {\n    struct lay_dims dims = {3, 3, 1, 1};\n".to_owned();
    for name in names {
        let threads =
            if words.contains(&format!("#define LAY_THREADS_{name}(wave)")) { format!("({wave})") } else { String::new() };
        let _ = writeln!(
            source,
            "    if (lay_tiles_{name}(&dims) > 0) printf(\"%s %zu %d\\n\", LAY_KERNEL_{name}, sizeof(struct lay_args_{name}), LAY_THREADS_{name}{threads});"
        );
    }
    source += "    return LAY_INPUTS != 1024 || LAY_OUTPUTS != 512 || LAY_X_STRIDE != 1024 || LAY_Y_STRIDE != 512;\n}\n";
    let (file, program) = (folder.join("said.c"), folder.join("said"));
    fs::write(&file, source).map_err(text)?;
    watched::compile(&program, &[path(&file), &format!("-I{}", folder.display())])?;
    let said = watched::run(&program, &[])?;
    for file in [file, program] {
        fs::remove_file(file).map_err(text)?;
    }
    let call = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, bytes, threads] = words[..] else { return None };
        Some((name.to_owned(), (bytes.parse().ok()?, threads.parse().ok()?)))
    };
    Ok(said.lines().filter_map(call).collect())
}

/// Parameters of eight bytes and the bound on threads of every entry.
fn ptx(file: &Path) -> Result<BTreeMap<String, Call>, String> {
    let words = fs::read_to_string(file).map_err(text)?;
    let entry = |rest: &str| {
        let (name, rest) = rest.split_once('(')?;
        let (params, rest) = rest.split_once(')')?;
        let bound = rest.split('{').next()?;
        let threads = bound.split_once("ntid ")?.1.split([',', '\n', ' ']).next()?.parse().ok()?;
        Some((name.trim().to_owned(), (8 * params.matches(".param .u64").count() as u64, threads)))
    };
    words.split(".entry ").skip(1).map(|rest| entry(rest).ok_or_else(|| format!("{}: no entry", file.display()))).collect()
}

/// The same from the notes of a code object.
fn object(file: &Path) -> Result<BTreeMap<String, Call>, String> {
    let words = watched::run(readelf(), &["--notes", path(file)])?;
    let call = |kernel: &super::objects::Noted| {
        let value = |key: &str| kernel.values.get(key).cloned().unwrap_or_default();
        let number = |key: &str| value(key).parse().map_err(|e| format!("{key}: {e}"));
        Ok((value(".name"), (number(".kernarg_segment_size")?, number(".max_flat_workgroup_size")?)))
    };
    noted(&words).iter().map(call).collect()
}
