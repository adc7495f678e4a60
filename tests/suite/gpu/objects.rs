//! The code objects, as LLVM's own reader sees them: every kernel of the program is there and takes what the host passes; what each needs is a
//! golden table. Those in waves of 64 spill nothing, others no more than the table says.

use super::{compile, compiled, llvm, path, text};
use q35_bundle::{Bundle, Device, Dim, Manifest};
use q35_tests::corpus;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// `llvm-readelf` of LLVM 22.
pub(super) fn readelf() -> PathBuf {
    let prefix = std::env::var_os("LLVM_SYS_221_PREFIX").map_or_else(|| PathBuf::from("/usr/lib/llvm-22"), PathBuf::from);
    prefix.join("bin/llvm-readelf")
}

/// What the notes say of a kernel: single values by their key, and the arguments' offset, size and kind.
#[derive(Default)]
pub(super) struct Noted {
    pub(super) values: BTreeMap<String, String>,
    args: Vec<[String; 3]>,
}

/// The kernels in the notes' text, a YAML list under `amdhsa.kernels`.
pub(super) fn noted(notes: &str) -> Vec<Noted> {
    let mut kernels: Vec<Noted> = Vec::new();
    let list = notes.split("amdhsa.kernels:").nth(1).unwrap_or_default();
    for line in list.lines().skip(1) {
        let indent = line.len() - line.trim_start().len();
        let (item, entry) = match line.trim_start().strip_prefix("- ") {
            Some(entry) => (true, entry.trim_start()),
            None => (false, line.trim_start()),
        };
        let Some((key, value)) = entry.split_once(':') else { break };
        let value = value.trim().trim_matches('\'');
        match (indent, item) {
            (0, _) => break,
            (2, true) => kernels.push(Noted::default()),
            _ => {}
        }
        let Some(kernel) = kernels.last_mut() else { break };
        if indent >= 6 {
            if item {
                kernel.args.push(Default::default());
            }
            let place = [".offset", ".size", ".value_kind"].iter().position(|known| *known == key);
            if let (Some(place), Some(arg)) = (place, kernel.args.last_mut()) {
                arg[place] = value.to_owned();
            }
        } else {
            kernel.values.insert(key.to_owned(), value.to_owned());
        }
    }
    kernels
}

/// Checks the code objects of a bundle and adds their lines to the table.
fn check(bundle: &Path, table: &mut Vec<String>) -> Result<(), String> {
    let manifest: Manifest = Bundle::open(bundle).map_err(text)?.manifest().clone();
    let Device::Rocm(device) = &manifest.device else { return Err("a bundle for another device".into()) };
    // Addresses of each kernel, as the steps bind them.
    let variants =
        manifest.steps.iter().flat_map(|step| step.variants.iter().map(move |v| (v.kernel.as_str(), step.args.len())));
    let kernels: BTreeMap<&str, usize> = variants.collect();
    for level in &device.levels {
        let file = bundle.join(&level.file);
        let output = Command::new(readelf()).args(["--notes", "--dyn-syms", path(&file)]).output().map_err(text)?;
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || words.contains(" UND ") && words.matches(" UND ").count() > 1 {
            return Err(format!("{}: {words}{}", level.file, String::from_utf8_lossy(&output.stderr)));
        }
        if !words.contains(&format!("amdgcn-amd-amdhsa--{}", level.name)) {
            return Err(format!("{} is for another architecture", level.file));
        }
        let noted = noted(&words);
        if noted.len() != kernels.len() {
            return Err(format!("{}: {} kernels, not {}", level.file, noted.len(), kernels.len()));
        }
        for kernel in noted {
            let value = |key: &str| kernel.values.get(key).cloned().unwrap_or_else(|| "0".to_owned());
            let symbol = value(".name");
            let wrong = |what: &str| format!("{} {symbol}: {what}", level.name);
            let named = symbol.strip_prefix(&device.prefix).and_then(|name| kernels.get_key_value(name));
            let (&name, &addresses) = named.ok_or_else(|| wrong("is no kernel of the program"))?;
            let count = addresses + Dim::ALL.len();
            let passed: Vec<[String; 3]> = (0..count)
                .map(|at| {
                    let kind = if at < addresses { "global_buffer" } else { "by_value" };
                    [(8 * at).to_string(), "8".to_owned(), kind.to_owned()]
                })
                .collect();
            if kernel.args != passed || value(".kernarg_segment_size") != (8 * count).to_string() {
                return Err(wrong(&format!("takes {:?}, and {passed:?} are passed", kernel.args)));
            }
            let mut expected = vec![
                (".sgpr_spill_count", "0".to_owned()),
                (".symbol", format!("{symbol}.kd")),
                (".wavefront_size", level.wave.to_string()),
                (".max_flat_workgroup_size", level.threads[name].to_string()),
            ];
            if level.wave == 64 {
                let none = [".private_segment_fixed_size", ".vgpr_spill_count"].map(|key| (key, "0".to_owned()));
                expected.extend(none);
            }
            for (key, expected) in expected {
                if value(key) != expected {
                    return Err(wrong(&format!("{key} is {}, not {expected}", value(key))));
                }
            }
            let scratch = value(".private_segment_fixed_size");
            table.push(format!(
                "{} {name}: {} VGPR, {} AGPR, {} SGPR, {} bytes LDS, {scratch} bytes spilled",
                level.name,
                value(".vgpr_count"),
                value(".agpr_count"),
                value(".sgpr_count"),
                value(".group_segment_fixed_size"),
            ));
        }
    }
    Ok(())
}

/// All codecs with `Q35_FULL=1`, which is also how the table is made anew.
pub(super) fn every_kernel_is_what_the_host_calls() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(text)?;
    let all = std::env::var_os("Q35_FULL").is_some();
    let mut lines = Vec::new();
    check(&compiled("rocm")?.1, &mut lines)?;
    for (codec, more) in [("w12", &[][..]), ("split", &["--group", "64"]), ("q8", &[]), ("f16", &[])] {
        if all || codec == "split" {
            check(&compile("rocm", folder.path(), &corpus::tiny_llama().model, codec, more)?, &mut lines)?;
        }
    }
    lines.sort_unstable();
    lines.dedup();
    let golden = corpus::root().join("tests/golden/rocm-kernels.txt");
    let tools = llvm();
    if all && std::env::var_os("Q35C_BLESS").is_some() {
        return std::fs::write(&golden, format!("{tools}\n{}\n", lines.join("\n"))).map_err(text);
    }
    let golden_text = std::fs::read_to_string(&golden).unwrap_or_default();
    let mut known = golden_text.lines();
    let made_by = known.next();
    if made_by != Some(tools.as_str()) {
        // Another LLVM has other figures, which say nothing about the kernels.
        eprintln!("gpu/code-objects: figures are NOT COMPARED, they are of {made_by:?} and this is {tools}");
        return Ok(());
    }
    let known: BTreeSet<&str> = known.collect();
    let new: Vec<&String> = lines.iter().filter(|line| !known.contains(line.as_str())).collect();
    if !new.is_empty() {
        return Err(format!("what kernels need is not in {}:\n{new:#?}", golden.display()));
    }
    if all && lines.len() < known.len() {
        return Err(format!("{} has {} lines of kernels that are no more", golden.display(), known.len() - lines.len()));
    }
    Ok(())
}
