//! A model on a wafer: compiled to CSL, run on the fabric model, against the interpreter on the same packed weights. A model of the chip,
//! not run on silicon.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod host;
mod syntax;

use q35_bundle::{Bundle, Device};
use q35_diag::Result;
use q35_dialects::Program;
use q35_dialects::interp::{Session as Interpreter, StepInput};
use q35_fabric::{Policy, Settings as FabricSettings};
use q35_graph::Silent;
use q35_import::synth::{Checkpoint, Fill, Stored, shape};
use q35_runtime::{Chunk, Options, Session, Want};
use q35_target::{Request, Target};
use q35_target_wse::Wse;
use q35c::cli::{GroupChoice, Shape};
use q35c::pipeline::{self, Output};
use q35c::settings::Settings;
use q35c::values::PackedValues;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn best(logits: &[f32]) -> u32 {
    let index = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    index.unwrap() as u32
}

/// A model and its bundle.
struct Compiled {
    model: q35_dialects::Model,
    bundle: PathBuf,
    context: u64,
    _folder: tempfile::TempDir,
}

/// A model of the repository, or beside it.
fn found(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(model)
}

fn settings(codec: &str, context: u64) -> Result<Settings> {
    let shape = Shape {
        codec: codec.to_owned(),
        rotate: None,
        group: GroupChoice::Row,
        kv_cache_dtype: None,
        levels: vec![],
        chips: None,
        context: Some(context),
        max_memory: None,
    };
    Settings::new(&shape, "wse", &Wse::default().capabilities())
}

/// Compiles a model for whole wafers.
fn compile(model: &str, context: u64) -> Compiled {
    compile_for(&Wse::default(), model, context)
}

fn compile_for(target: &Wse, model: &str, context: u64) -> Compiled {
    let settings = settings("auto", context).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("model.q35");
    let out = Output::new(target, "", &bundle);
    let model = pipeline::compile(&found(model), &settings, out, &mut Silent).unwrap_or_else(|e| panic!("{e}")).model;
    for (name, text) in texts(&bundle) {
        assert_eq!(syntax::wrong(&text), Vec::<String>::new(), "{name}");
    }
    Compiled { model, bundle, context, _folder: folder }
}

/// The CSL files of a bundle.
fn texts(bundle: &Path) -> Vec<(String, String)> {
    let objects = Bundle::open(bundle).unwrap().manifest().device.objects();
    objects.into_iter().map(|name| (name.clone(), std::fs::read_to_string(bundle.join(name)).unwrap())).collect()
}

impl Compiled {
    fn session(&self, fabric: FabricSettings) -> Session {
        let bundle = Arc::new(Bundle::open(&self.bundle).unwrap());
        let options = Options { capacity: self.context as usize, fabric, ..Options::default() };
        Session::new(bundle, &options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Decodes greedily beside the interpreter, which sees what the wafer chose; the prompt token by token, as all of its logits are wanted. The
    /// same in blocks gives the same bits. Gives all tokens.
    fn decodes(&self, prompt: &[u32], count: usize) -> Vec<u32> {
        let values = PackedValues::new(&self.model);
        let mut interpreter = Interpreter::new(&self.model.graph, &values);
        let mut wafer = self.session(FabricSettings::default());
        assert!(wafer.describe().contains("not run on silicon"));
        let (mut tokens, mut at, mut last) = (prompt.to_vec(), 0, Vec::new());
        while at < prompt.len() + count {
            let expected = interpreter.step(&StepInput::sequence(&tokens[at..], at as u32)).unwrap();
            let chunk = Chunk { slot: 0, tokens: &tokens[at..], positions: None, want: Want::All };
            let found = wafer.step(&[chunk]).unwrap_or_else(|e| panic!("{e}"));
            for (row, found) in found.rows().enumerate() {
                let expected = expected.row(row);
                let size = expected.iter().fold(0f32, |size, x| size.max(x.abs()));
                let error = expected.iter().zip(found).fold(0f32, |error, (a, b)| error.max((a - b).abs()));
                // Values pass through f16 between layers' sums.
                assert!(error <= 0.02 * size, "position {}: off by {error} of {size}", at + row);
            }
            let rows: Vec<&[f32]> = found.rows().collect();
            let (chosen, wanted) = (best(rows[rows.len() - 1]), best(expected.row(rows.len() - 1)));
            assert_eq!(chosen, wanted, "token {} of {tokens:?}", tokens.len());
            last.push(bits(rows[rows.len() - 1]));
            at = tokens.len();
            tokens.push(chosen);
        }
        println!("{}", wafer.describe());
        self.takes_blocks(&tokens, &[prompt.len(), at], &[&last[0], &last[last.len() - 1]], FabricSettings::default());
        tokens
    }

    /// Takes tokens up to each of these ends in blocks, and compares the logits behind them.
    fn takes_blocks(&self, tokens: &[u32], ends: &[usize], expected: &[&Vec<u32>], fabric: FabricSettings) {
        let (mut wafer, mut at) = (self.session(fabric), 0);
        for (end, expected) in ends.iter().zip(expected) {
            let chunk = Chunk { slot: 0, tokens: &tokens[at..*end], positions: None, want: Want::Last };
            let found = wafer.step(&[chunk]).unwrap_or_else(|e| panic!("{e}"));
            assert!(found.rows().map(bits).eq([(*expected).clone()]), "tokens {at} to {end} with {fabric:?}");
            println!("{}", wafer.describe());
            at = *end;
        }
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn the_small_model_decodes_the_tokens_of_the_interpreter() {
    compile("examples/tiny-llama/model.onnx", 256).decodes(&[12, 345, 678, 90], 6);
}

/// Longer than the window of the model that has one.
const PROMPT: [u32; 20] = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 19];

#[test]
fn shared_heads_biases_norms_of_heads_and_windows() {
    for model in [
        "llama-mha--dynamo",
        "qwen2--dynamo-bf16",
        "llama3-rope-tied--dynamo-op23",
        "qwen3--dynamo-op24-cache",
        "mistral-sw--hf-cache",
    ] {
        compile(&format!("tests/data/{model}/model.onnx"), 32).decodes(&PROMPT, 3);
    }
}

/// A choice of four of eight experts, beside one that every token needs, in one of the layers.
#[test]
fn experts_are_regions_that_work_on_the_tokens_that_chose_them() {
    compile("tests/data/qwen2moe--dynamo-batched-cache/model.onnx", 32).decodes(&PROMPT[..6], 3);
}

/// Blocks of a prompt give the bits of tokens one by one, whatever the fabric does where the documentation is silent.
#[test]
fn blocks_give_the_same_bits_under_every_policy() {
    for model in ["llama-mha--dynamo", "qwen2moe--dynamo-batched-cache"] {
        // Three blocks behind each other, then one.
        let compiled = compile_for(&Wse { block: 2, ..Wse::default() }, &format!("tests/data/{model}/model.onnx"), 32);
        let mut alone = compiled.session(FabricSettings::default());
        let mut single = |token: &u32| {
            let chunk = Chunk { slot: 0, tokens: &[*token], positions: None, want: Want::Last };
            let found = alone.step(&[chunk]).unwrap_or_else(|e| panic!("{e}"));
            bits(found.rows().next().unwrap())
        };
        let expected: Vec<Vec<u32>> = PROMPT[..7].iter().map(&mut single).collect();
        for (policy, depth) in [(Policy::Fixed, 1), (Policy::RoundRobin, 8), (Policy::Random(5), 2), (Policy::Random(6), 1)] {
            let fabric = FabricSettings { policy, depth, ..FabricSettings::default() };
            compiled.takes_blocks(&PROMPT, &[5, 7], &[&expected[4], &expected[6]], fabric);
        }
    }
}

/// What a report predicts of a token, of a block, and of blocks behind each other is near what the model of the fabric takes; its regions are all PEs.
#[test]
fn a_report_says_what_steps_take() {
    // A layer on each region.
    let compiled = compile_for(&Wse { rectangle: [2, 1170], block: 4 }, "tests/data/llama-mha--dynamo/model.onnx", 20);
    let text = std::fs::read(compiled.bundle.join("wse/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let regions = report["wafers"][0]["regions"].as_array().unwrap();
    let pes: u64 = regions.iter().map(|region| region["pes"].as_u64().unwrap()).sum();
    assert_eq!(report["pes"], pes);
    assert!(regions.iter().all(|region| region["nodes"][0].as_str().is_some_and(|name| !name.is_empty())));
    let mut taken = Vec::new();
    for (step, tokens) in [("token", 1), ("block", 4), ("prompt", 20)] {
        assert_eq!(report["steps"][step]["tokens"], tokens);
        let predicted: u64 = ["compute", "fabric"].iter().map(|phase| report["steps"][step][phase].as_u64().unwrap()).sum();
        let mut wafer = compiled.session(FabricSettings::default());
        let chunk = Chunk { slot: 0, tokens: &PROMPT[..tokens], positions: None, want: Want::Last };
        wafer.step(&[chunk]).unwrap_or_else(|e| panic!("{e}"));
        let described = wafer.describe();
        let before = described.split(" cycles, of which").next().unwrap();
        let cycles: u64 = before.rsplit(", ").next().unwrap().parse().unwrap();
        println!("{step}: {predicted} cycles predicted, {cycles} taken");
        assert!(predicted * 2 < cycles * 3 && cycles * 2 < predicted * 3, "{step}: {predicted} predicted, {cycles} taken");
        taken.push(cycles);
    }
    // Regions work at once, each on another block.
    assert!(taken[2] < taken[1] * 4, "five blocks take {} cycles, one {}", taken[2], taken[1]);
}

/// The program of the host as the bundle has it, against a stand-in for the SDK.
#[test]
fn the_hosts_program_decodes_the_same_tokens() {
    let compiled = compile("tests/data/llama-mha--dynamo/model.onnx", 32);
    let tokens = compiled.decodes(&PROMPT[..4], 3);
    if let Some(found) = host::run(&compiled.bundle, &PROMPT[..4], 4) {
        assert_eq!(found, tokens);
    }
}

/// That the second opinion has one: of the tokens that hold a text together, none can be left out.
#[test]
fn a_token_that_is_left_out_is_seen_by_a_parser_of_others() {
    let compiled = compile("tests/data/qwen2moe--dynamo-batched-cache/model.onnx", 16);
    for (name, text) in texts(&compiled.bundle) {
        for token in [';', '{', '}', '(', ')', '[', ']', '@'] {
            assert_eq!(syntax::unnoticed(&text, token), 0, "{token} in {name}");
        }
        assert!(!syntax::wrong(&text.replacen("@fmovs(", "@fmovz(", 1)).is_empty() || !text.contains("@fmovs("), "{name}");
    }
}

/// A model on several small wafers, by the device and by the host's program.
#[test]
fn a_stream_goes_from_wafer_to_wafer() {
    let model = "tests/data/qwen2moe--dynamo-batched-cache/model.onnx";
    let compiled = compile_for(&Wse { rectangle: [2, 12], block: 2 }, model, 16);
    let wafers = |device: &Device| if let Device::Wse(wse) = device { wse.wafers.len() } else { 0 };
    assert!(wafers(&Bundle::open(&compiled.bundle).unwrap().manifest().device) > 1);
    let tokens = compiled.decodes(&PROMPT[..4], 3);
    if let Some(found) = host::run(&compiled.bundle, &PROMPT[..4], 4) {
        assert_eq!(found, tokens);
    }
}

/// What the target says of a model, for a context.
fn refused(model: &Path, context: u64) -> String {
    let prepared = pipeline::prepare(model, &settings("auto", context).unwrap(), &mut Silent).unwrap();
    let Program { graph, params } = prepared.model.program();
    let request = Request::new(&graph, &params, "", context);
    Wse::default().check(&request).unwrap_err().to_string()
}

/// Compares a text with the file of this name; `Q35C_BLESS=1` writes the file.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wse/golden").join(name);
    if std::env::var_os("Q35C_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
}

#[test]
fn what_a_wafer_cannot_run_is_told() {
    golden("context.txt", &refused(&found("tests/data/llama-mha--dynamo/model.onnx"), 1 << 22));
    golden("ops.txt", &refused(&found("tests/data/gptoss--genai-fp32/model.onnx"), 16));
    golden("codec.txt", &settings("w8", 16).unwrap_err().to_string());
}

/// A checkpoint of that shape, its weights holes.
fn sparse(name: &str, stored: Stored, folder: &Path) {
    let checkpoint = Checkpoint { config: shape(name).unwrap(), stored, fill: Fill::Zeros, shard: 5 << 30 };
    checkpoint.write(folder, |_, _| ()).unwrap();
}

/// Sizes of the largest models, from headers alone.
#[test]
fn sizes_of_the_largest_models() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama-8b", "llama-70b", "llama-405b"] {
        let model = folder.path().join(name);
        std::fs::create_dir(&model).unwrap();
        sparse(name, Stored::Bf16, &model);
        let prepared = pipeline::prepare(&model, &settings("auto", 4096).unwrap(), &mut Silent).unwrap();
        let Program { graph, params } = prepared.model.program();
        let request = Request::new(&graph, &params, "", 4096);
        let outlook = Wse::default().outlook(&request).unwrap_or_else(|e| panic!("{e}"));
        let lines: String = outlook.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        golden(&format!("{name}.txt"), &lines);
    }
}

/// Attention on latent vectors is not lowered: what can be said of DeepSeek-V3 is how many wafers its bytes fill.
#[test]
fn a_model_that_cannot_run_still_has_a_size() {
    let folder = tempfile::tempdir().unwrap();
    sparse("deepseek-v3", Stored::Fp8, folder.path());
    let text = refused(folder.path(), 4096);
    let help: Vec<&str> = text.lines().filter(|line| line.contains("help:")).collect();
    golden("DeepSeek-V3.txt", &help.join("\n"));
}

/// The trained mixture of experts, where it lies beside the repository.
#[test]
fn the_trained_mixture_decodes_the_tokens_of_the_interpreter() {
    let model = "../shared/models/rustdoc-moe/dynamo/model.onnx";
    if !found(model).exists() {
        eprintln!("skipped: there is no {model}");
        return;
    }
    compile(model, 64).decodes(&[12, 345, 678, 90], 6);
}
