//! The trained model on the simulated chip, from its ONNX file to its tokens: a model of the chip, not run on silicon.

#![allow(clippy::unwrap_used)]

use q35_bundle::{Bundle, CacheDtype, Device};
use q35_dialects::interp::{Session as Interpreter, StepInput};
use q35_format::{Codec, Group};
use q35_graph::Silent;
use q35_groq_check::check_system;
use q35_passes::model::WeightOptions;
use q35_runtime::{Chunk, Options, Session, Want};
use q35_target::{Levels, Request, Target};
use q35_target_groq::Groq;
use q35_tsp::binary;
use q35_tsp::program::Program;
use q35_tsp::timing::Timing;
use q35c::pipeline::{self, Output};
use q35c::settings::Settings;
use q35c::values::PackedValues;
use std::path::Path;
use std::sync::Arc;

const PROMPT: [u32; 5] = [0, 48, 921, 2417, 307];

fn model() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tiny-llama/model.onnx"))
}

fn settings(context: u64) -> Settings {
    let activations = Groq.capabilities().activations;
    let weights =
        WeightOptions { codec: Codec::Split, group: Group::Row, rotate: true, activations, kv_cache: CacheDtype::F32 };
    Settings { weights, context: Some(context), max_memory: None, levels: Levels::ALL, chips: None }
}

fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as u32)
}

#[test]
fn the_trained_model_says_what_the_interpreter_says() {
    same_greedy_tokens(model(), if full() { 48 } else { 16 });
}

/// Of a trained mixture of experts, where one lies beside the repository.
#[test]
fn the_trained_mixture_of_experts_says_what_the_interpreter_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/rustdoc-moe/hf");
    if folder.is_dir() {
        same_greedy_tokens(&folder, if full() { 32 } else { 6 });
    }
}

/// Logits, to the bit, and greedy tokens do not depend on how many chips there are; layers that are on different chips are restored all the same.
#[test]
fn several_chips_say_what_one_says() {
    let counts: &[u32] = if full() { &[1, 2, 4] } else { &[1, 2] };
    let dir = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for count in counts {
        let path = dir.path().join(format!("model-{count}.q35"));
        let settings = Settings { chips: Some(*count), ..settings(64) };
        pipeline::compile(model(), &settings, Output::new(&Groq, "", &path), &mut Silent).unwrap();
        let bundle = Arc::new(Bundle::open(&path).unwrap());
        let violations = check_system(&programs(&bundle), &Timing::tsp1());
        assert!(violations.is_empty(), "{} violations, first: {}", violations.len(), violations[0]);
        let mut session = Session::new(bundle, &Options { capacity: 64, ..Options::default() }).unwrap();
        assert_eq!(session.describe().contains(&format!("on {count} chips")), *count > 1, "{}", session.describe());
        let (mut next, mut tokens, mut bits): (Vec<u32>, Vec<u32>, Vec<u32>) = (PROMPT.to_vec(), vec![], vec![]);
        for _ in 0..if full() { 16 } else { 3 } {
            let logits = session.step(&[Chunk { slot: 0, tokens: &next, positions: None, want: Want::Last }]).unwrap();
            bits.extend(logits.row(0).iter().map(|x| x.to_bits()));
            next = vec![largest(logits.row(0))];
            tokens.push(next[0]);
        }
        seen.push((tokens, bits));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

/// The programs of a bundle, one for each chip.
fn programs(bundle: &Bundle) -> Vec<Program> {
    let Device::Tsp(device) = &bundle.manifest().device else { panic!("{:?}", bundle.manifest().device) };
    let read = |file: &String| binary::read(&bundle.read(file).unwrap().unwrap()).unwrap();
    device.programs.iter().map(read).collect()
}

fn full() -> bool {
    std::env::var_os("Q35_FULL").is_some()
}

/// Greedy tokens of the interpreter with the same integers, and of the simulator.
fn same_greedy_tokens(model: &Path, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.q35");
    let out = Output::new(&Groq, "", &path);
    let model = pipeline::compile(model, &settings(64), out, &mut Silent).unwrap().model;

    let values = PackedValues::new(&model);
    let mut interpreter = Interpreter::new(&model.graph, &values);
    let mut expected = Vec::new();
    for at in 0..(PROMPT.len() + count) as u32 {
        let token = PROMPT.get(at as usize).copied().unwrap_or_else(|| expected[at as usize - PROMPT.len()]);
        let logits = interpreter.step(&StepInput::sequence(&[token], at)).unwrap().data;
        if at as usize + 1 >= PROMPT.len() {
            expected.push(largest(&logits));
        }
    }

    let bundle = Arc::new(Bundle::open(&path).unwrap());
    let violations = check_system(&programs(&bundle), &Timing::tsp1());
    assert!(violations.is_empty(), "{} violations, first: {}", violations.len(), violations[0]);
    let mut session = Session::new(bundle, &Options { capacity: 64, ..Options::default() }).unwrap();
    let mut next = PROMPT.to_vec();
    let mut found = Vec::new();
    while found.len() < expected.len() {
        let logits = session.step(&[Chunk { slot: 0, tokens: &next, positions: None, want: Want::Last }]).unwrap();
        next = vec![largest(logits.row(0))];
        found.push(next[0]);
    }
    assert_eq!(found, expected);
    assert!(session.describe().ends_with("a model of the chip, not run on silicon"), "{}", session.describe());
}

#[test]
fn a_check_tells_the_speed_of_the_schedule() {
    let program = pipeline::prepare(model(), &settings(64), &mut Silent).unwrap().model.program();
    let request = Request::new(&program.graph, &program.params, "", 64);
    let schedule = Groq.lower(&request, &mut Silent).unwrap().figures.remove("schedule").unwrap();
    let [cycles, rate] = ["cycles_per_token", "tokens_per_second"].map(|name| schedule[name].as_f64().unwrap());
    let label = "a model of the chip, not run on silicon";
    let expected = format!("{rate:.0} tokens/s, {cycles} cycles per token as scheduled; {label}");
    assert_eq!(Groq.outlook(&request).unwrap(), [("chips", "1".to_owned()), ("predicted", expected)]);
}

#[test]
fn what_does_not_fit_is_said_before_anything_is_scheduled() {
    let prepared = pipeline::prepare(model(), &settings(1024), &mut Silent).unwrap();
    let program = prepared.model.program();
    let refused = |context| {
        let request = Request::new(&program.graph, &program.params, "", context);
        Groq.check(&request).err().map(|errors| errors.to_string())
    };
    assert_eq!(refused(1024), None);
    assert_eq!(
        refused(4097).unwrap().lines().next(),
        Some("error[Q35-0405]: a cache of 4097 entries: the largest bucket of this target is 4096")
    );
    // The cache alone of so many entries is more than one chip has room for.
    let request = Request { chips: Some(1), ..Request::new(&program.graph, &program.params, "", 4096) };
    let text = Groq.check(&request).unwrap_err().to_string();
    assert!(text.starts_with("error[Q35-0405]: the model does not fit on 1 chip: it needs "), "{text}");
    assert_eq!(refused(4096), None, "there is on several");
    // Six layers, and the head in as many as eight pieces: what the last layer selects of the residual stream is no part of its own.
    for (chips, goes) in [(14, true), (15, false)] {
        let request = Request { chips: Some(chips), ..Request::new(&program.graph, &program.params, "", 64) };
        assert_eq!(Groq.check(&request).is_ok(), goes, "{chips} chips");
    }
}
