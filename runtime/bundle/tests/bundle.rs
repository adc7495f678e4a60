//! Bundles written by hand, damaged by hand; every text is pinned.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use q35_bundle::*;
use q35_diag::Diagnostics;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A manifest with one kernel that reads a weight and writes logits of 4 tokens.
fn manifest() -> Manifest {
    let port = |name: &str, role| Port { name: name.into(), role, dtype: "i64".into() };
    Manifest {
        schema: SCHEMA,
        compiler: "by hand".into(),
        options: [("codec".to_owned(), "f32".to_owned())].into(),
        model: ModelFacts { name: "m".into(), vocab: 4, hidden: 4, layers: 1, context: 8, parameters: 16 },
        interface: Interface {
            inputs: vec![port("input_ids", Role::TokenIds)],
            outputs: vec![port("logits", Role::Logits), port("present.0.key", Role::PresentKey(0))],
            positions: PositionRule::Column,
        },
        device: Device::Cpu(CpuDevice {
            arch: std::env::consts::ARCH.into(),
            object: "cpu/model.so".into(),
            prefix: "m_".into(),
            levels: vec![Level { name: "base".into(), requires: vec![] }],
        }),
        plan: MemoryPlan {
            bytes_per_token: 64,
            bytes_per_logit_row: 64,
            cache: vec![CacheLayer { kv_heads: 1, key_dim: 4, value_dim: 4, window: None, dtype: CacheDtype::F32 }],
            logits_offset_per_row: 0,
            chosen_offset_per_row: None,
        },
        steps: vec![Step {
            node: "head".into(),
            op: "linear".into(),
            rows: Rows::Logits,
            variants: vec![Variant { max_rows: None, kernel: "head".into(), tiles: Size::constant(1) }],
            args: vec![Binding::Weight("w".into()), Binding::Arena { rows: Rows::Logits, offset_per_row: 0 }],
        }],
        weights: [("w".to_owned(), WeightEntry { codec: "f32".into(), shape: [3, 3], group: 0, effective_bits: 32.0 })].into(),
        files: Default::default(),
    }
}

fn write(out: &Path, manifest: Manifest) -> Result<PathBuf, Diagnostics> {
    let mut bundle = BundleWriter::create(out)?;
    let specs = [
        TensorSpec { name: "w".into(), dtype: Dtype::F32, shape: vec![3, 3] },
        TensorSpec::bytes("e", 0),
        TensorSpec::bytes("z", 64),
    ];
    let mut weights = bundle.weights(&specs)?;
    weights.write("w", &[1; 20])?;
    weights.write("w", &[2; 16])?;
    weights.write("e", &[])?;
    weights.write("z", &[3; 64])?;
    weights.finish()?;
    bundle.add_file("cpu/model.so", &b"not really"[..])?;
    bundle.finish(manifest)
}

fn bundle(manifest: Manifest) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir.path().join("m.q35"), manifest).unwrap();
    (dir, path)
}

/// What opening `path` says, with the temporary folder's name taken out.
fn refusal(path: &Path) -> String {
    let text = Bundle::open(path).expect_err("must be refused").to_string();
    text.replace(&path.parent().unwrap().display().to_string(), "DIR")
}

fn children(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read() {
    let (dir, path) = bundle(manifest());
    assert_eq!(children(dir.path()), ["m.q35"]);
    assert_eq!(children(&path), ["cpu", "manifest.json", "manifest.sha256", "weights.safetensors"]);
    let bundle = Bundle::open(&path).unwrap();
    let w = bundle.tensor("w").unwrap();
    assert_eq!((w.dtype, w.shape, w.data), (Dtype::F32, &[3, 3][..], &[[1u8; 20].as_slice(), &[2; 16]].concat()[..]));
    assert_eq!(bundle.tensor("z").unwrap().data, [3; 64]);
    assert!(bundle.tensor("e").unwrap().data.is_empty());
    assert!(["w", "z"].iter().all(|t| bundle.tensor(t).unwrap().data.as_ptr().addr().is_multiple_of(64)));
    assert_eq!(bundle.read("cpu/model.so").unwrap().unwrap(), b"not really");
    assert_eq!(bundle.read("tokenizer.json").unwrap(), None);
    assert_eq!(bundle.manifest().steps, manifest().steps);
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let ((_a, a), (_b, b)) = (bundle(manifest()), bundle(manifest()));
    for rel in ["manifest.json", "manifest.sha256", "weights.safetensors", "cpu/model.so"] {
        assert_eq!(fs::read(a.join(rel)).unwrap(), fs::read(b.join(rel)).unwrap(), "{rel}");
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (_dir, path) = bundle(manifest());
    for rel in ["manifest.json", "manifest.sha256", "weights.safetensors", "cpu/model.so"] {
        let good = fs::read(path.join(rel)).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(path.join(rel), &bad).unwrap();
            assert!(Bundle::open(&path).is_err(), "{rel}, byte {at}");
        }
        fs::write(path.join(rel), good).unwrap();
    }
    Bundle::open(&path).unwrap();
}

#[test]
fn damage_is_named() {
    let (_dir, path) = bundle(manifest());
    let weights = path.join("weights.safetensors");
    let good = fs::read(&weights).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;

    fs::write(&weights, &flipped).unwrap();
    let damaged = "error[Q35-0503]: the content is not what was compiled\n  at file 'weights.safetensors'\n  help: copy or compile the bundle again";
    assert_eq!(refusal(&path), damaged);
    assert!(Bundle::open_with(&path, Verify::SkipWeights).is_ok());

    fs::write(&weights, &good[..good.len() - 1]).unwrap();
    let short = "error[Q35-0503]: the file has 319 bytes instead of 320\n  at file 'weights.safetensors'\n  help: copy or compile the bundle again";
    assert_eq!(refusal(&path), short.replace("320", &good.len().to_string()).replace("319", &(good.len() - 1).to_string()));

    fs::remove_file(&weights).unwrap();
    assert_eq!(
        refusal(&path),
        "error[Q35-0110]: the file cannot be read: No such file or directory (os error 2)\n  at file 'weights.safetensors'"
    );
}

#[test]
fn other_schemas_name_both_versions() {
    let (_dir, path) = bundle(Manifest { schema: 7, ..manifest() });
    let text = "error[Q35-0502]: the bundle has schema version 7, and this program reads version 1\n  at bundle 'DIR/m.q35'\n  \
                help: compile the model again with the q35c that belongs to this program";
    assert_eq!(refusal(&path), text);
}

#[test]
fn folders_that_are_no_bundles() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.q35");
    assert_eq!(
        refusal(&path),
        "error[Q35-0501]: the bundle cannot be opened: No such file or directory (os error 2)\n  at bundle 'DIR/x.q35'"
    );
    fs::create_dir(&path).unwrap();
    assert_eq!(
        refusal(&path),
        "error[Q35-0501]: the bundle has no usable manifest.json: No such file or directory (os error 2)\n  at bundle 'DIR/x.q35'"
    );
    fs::write(path.join("manifest.json"), "{\"schema\": 1").unwrap();
    assert_eq!(
        refusal(&path),
        "error[Q35-0501]: manifest.json is malformed: EOF while parsing an object at line 1 column 12\n  at bundle 'DIR/x.q35'"
    );
}

/// Rewrites the manifest as text and its hash to match: a manifest made to deceive.
fn forge(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path.join("manifest.json")).unwrap();
    assert!(text.contains(from), "{text}");
    let text = text.replace(from, to);
    put_manifest(path, text.as_bytes());
}

/// Replaces the manifest, and its hash to match.
fn put_manifest(path: &Path, json: &[u8]) {
    let sha256: String = Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(path.join("manifest.sha256"), format!("{sha256}  manifest.json\n")).unwrap();
    fs::write(path.join("manifest.json"), json).unwrap();
}

#[test]
fn forged_file_names_stay_outside() {
    let (dir, path) = bundle(manifest());
    fs::write(dir.path().join("secret"), "not really").unwrap();
    forge(&path, "cpu/model.so", "../secret");
    assert_eq!(refusal(&path), "error[Q35-0106]: the manifest names a file outside the bundle\n  at file '../secret'");
}

#[cfg(unix)]
#[test]
fn symbolic_links_do_not_lead_outside() {
    let (dir, path) = bundle(manifest());
    fs::write(dir.path().join("secret"), "not really").unwrap();
    fs::remove_file(path.join("cpu/model.so")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("secret"), path.join("cpu/model.so")).unwrap();
    assert_eq!(
        refusal(&path),
        "error[Q35-0101]: the file cannot be read: it lies outside the bundle, or is no file\n  at file 'cpu/model.so'"
    );
}

#[test]
fn a_truncated_header_is_an_error_even_when_the_hash_fits() {
    let dir = tempfile::tempdir().unwrap();
    let mut bundle = BundleWriter::create(&dir.path().join("m.q35")).unwrap();
    bundle.add_file("weights.safetensors", &[0xff, 0xff, 0, 0, 0, 0, 0, 0, b'{'][..]).unwrap();
    bundle.add_file("cpu/model.so", &b""[..]).unwrap();
    let path = bundle.finish(manifest()).unwrap();
    assert_eq!(
        refusal(&path),
        "error[Q35-0501]: the weights cannot be used: invalid header length\n  at file 'weights.safetensors'"
    );
}

#[test]
fn contradictions_are_all_reported() {
    let mut m = manifest();
    m.steps[0].args = vec![
        Binding::Weight("absent".into()),
        Binding::Arena { rows: Rows::Tokens, offset_per_row: 64 },
        Binding::Arena { rows: Rows::Tokens, offset_per_row: 7 },
        Binding::Cache { layer: 1, part: CachePart::Key },
    ];
    m.steps[0].variants[0].max_rows = Some(1);
    m.model.vocab = 17;
    m.plan.cache[0].key_dim = u64::MAX;
    m.plan.chosen_offset_per_row = Some(0);
    m.steps[0].rows = Rows::Tokens;
    m.interface.outputs.push(Port { name: "p".into(), role: Role::PresentKey(9), dtype: "f32".into() });
    let (_dir, path) = bundle(m);
    let lines: Vec<String> =
        refusal(&path).lines().map(|l| l.replace("error[Q35-0501]: the manifest contradicts itself: ", "")).collect();
    let expected = "the logits lie outside the arena
no step chooses tokens
cache layer 0 has 1 heads of 18446744073709551615 and 4 columns
the kernels of a step are not a choice by number of rows
  at node 'head'
an argument does not exist: tensor 'absent'
  at node 'head'
an argument does not exist: arena offset 64 of 64
  at node 'head'
an argument does not exist: arena offset 7 of 64
  at node 'head'
an argument does not exist: cache layer 1 of 1
  at node 'head'
'p' of the interface stands for something that does not exist";
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn nothing_is_left_of_an_unfinished_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let mut bundle = BundleWriter::create(&dir.path().join("a/b.q35")).unwrap();
    bundle.add_file("cpu/model.so", &b"x"[..]).unwrap();
    assert_eq!(children(&dir.path().join("a")).len(), 1);
    drop(bundle);
    assert_eq!(children(&dir.path().join("a")), [""; 0]);
}

#[test]
fn bundles_are_replaced_and_other_folders_are_not() {
    let (dir, path) = bundle(manifest());
    let second = Manifest { compiler: "again".into(), ..manifest() };
    write(&path, second).unwrap();
    assert_eq!(Bundle::open(&path).unwrap().manifest().compiler, "again");
    assert_eq!(children(dir.path()), ["m.q35"]);

    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis.txt"), "x").unwrap();
    let text = write(&precious, manifest()).unwrap_err().to_string();
    let expected = "error[Q35-0701]: something that is not a bundle is already there\n  at bundle 'DIR/precious'\n  help: remove it, or choose another name";
    assert_eq!(text.replace(&dir.path().display().to_string(), "DIR"), expected);
    assert_eq!(children(&precious), ["thesis.txt"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.q35");
    let mut bundle = BundleWriter::create(&out).unwrap();
    let partial = dir.path().join(&children(dir.path())[0]);
    std::os::unix::fs::symlink("/dev/full", partial.join("weights.safetensors")).unwrap();
    std::os::unix::fs::symlink("/dev/full", partial.join("report.json")).unwrap();
    let expected = |rel: &str| {
        format!(
            "error[Q35-0702]: the disk is full\n  at file '{}'\n  help: free some space, or choose an output folder on another disk",
            out.join(rel).display()
        )
    };
    assert_eq!(bundle.add_file("report.json", &b"{}"[..]).unwrap_err().to_string(), expected("report.json"));
    let mut weights = bundle.weights(&[TensorSpec::bytes("w", 4 << 20)]).unwrap();
    assert_eq!(weights.write("w", &vec![0; 4 << 20]).unwrap_err().to_string(), expected("weights.safetensors"));
    drop(weights);
    drop(bundle);
    assert_eq!(children(dir.path()), [""; 0]);
}

/// JSON pointers of everything in a value that has no parts.
fn leaves(value: &Value, at: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| leaves(v, &format!("{at}/{}", key.replace('/', "~1")), into)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| leaves(v, &format!("{at}/{i}"), into)),
        _ => into.push(at.to_owned()),
    }
}

/// A manifest with some of its numbers and words replaced.
fn altered() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: [&str; 11] = ["0", "1", "7", "64", "-1", "18446744073709551615", "1e300", "null", "[]", "\"../x\"", "\"w\""];
    prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&WORDS[..])), 1..6).prop_map(|edits| {
        let mut json = serde_json::to_value(manifest()).unwrap();
        let mut places = vec![];
        leaves(&json, "", &mut places);
        for (at, word) in &edits {
            if let Some(place) = json.pointer_mut(&places[at.index(places.len())]) {
                *place = serde_json::from_str(word).unwrap();
            }
        }
        serde_json::to_vec(&json).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_manifest_makes_the_reader_panic(altered in altered(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let (_dir, path) = bundle(manifest());
        let mut json = fs::read(path.join("manifest.json")).unwrap();
        for (at, byte) in flips {
            let at = at.index(json.len());
            json[at] = byte;
        }
        for json in [altered, json] {
            put_manifest(&path, &json);
            let _ = Bundle::open(&path);
        }
    }

    #[test]
    fn no_weights_file_makes_the_reader_panic(header in "[ -~]{0,80}", len in any::<u8>(), tail in prop::collection::vec(any::<u8>(), 0..80)) {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = BundleWriter::create(&dir.path().join("m.q35")).unwrap();
        let json = format!(r#"{{"w":{{"dtype":"F32","shape":[{len}],"data_offsets":[0,{}]}}{header}}}"#, tail.len());
        let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &tail].concat();
        bundle.add_file("weights.safetensors", &file[..]).unwrap();
        bundle.add_file("cpu/model.so", &b""[..]).unwrap();
        let _ = Bundle::open(&bundle.finish(manifest()).unwrap());
    }
}

#[test]
fn kernels_of_a_gpu_have_files_and_threads() {
    let level = |name: &str, file: &str| CudaLevel {
        name: name.into(),
        file: file.into(),
        major: 8,
        minor: 0,
        exact: false,
        driver: 11_000,
    };
    let device = |threads: &[(&str, u32)], levels| {
        let threads = threads.iter().map(|&(kernel, threads)| (kernel.to_owned(), threads)).collect();
        Manifest { device: Device::Cuda(CudaDevice { prefix: "m_".into(), levels, threads }), ..manifest() }
    };
    let good = device(&[("head", 256)], vec![level("sm_80", "cpu/model.so")]);
    assert_eq!(Bundle::open(&bundle(good.clone()).1).unwrap().manifest().device, good.device);
    let bad = device(&[("head", 2048)], vec![level("sm_80", "gone.ptx"), level("sm_80", "cpu/model.so")]);
    let text = refusal(&bundle(bad).1);
    for part in ["the object 'gone.ptx' is not", "level 'sm_80' is misnamed", "kernel 'head' has groups of 2048 threads"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
