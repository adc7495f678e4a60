//! Raised models, run by the reference evaluation, against the logits and caches that are stored beside every graph of the corpus.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use q35_bundle::{PositionRule, Role};
use q35_dialects::data::{Matrix, ParamValue};
use q35_dialects::interp::{Entry, Session, StepInput};
use q35_dialects::{Model, ParamName};
use q35_passes::raise::{Options, raise};
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::sync::Arc;

fn values(model: &Model) -> BTreeMap<ParamName, Arc<ParamValue>> {
    let read = |source: &q35_graph::WeightView| {
        let mut data = vec![0.0; (source.rows() * source.cols()) as usize];
        source.read_rows(0..source.rows(), &mut data);
        Arc::new(ParamValue::Float(Matrix::new(source.cols() as usize, data)))
    };
    model.params.iter().map(|(name, param)| (name.clone(), read(&param.source))).collect()
}

/// A tensor's dimensions and numbers.
struct Array {
    dims: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    fn of(file: &SafeTensors, name: &str) -> Option<Self> {
        let view = file.tensor(name).ok()?;
        let bytes = view.data();
        let data = match view.dtype() {
            Dtype::I64 => bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            Dtype::I32 => bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::BF16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::U8 | Dtype::BOOL => bytes.iter().map(|b| f64::from(*b)).collect(),
            other => panic!("{name} is {other:?}"),
        };
        Some(Self { dims: view.shape().to_vec(), data })
    }

    fn at(&self, index: &[usize]) -> f64 {
        self.data[index.iter().zip(&self.dims).fold(0, |flat, (i, d)| flat * d + i)]
    }
}

/// Runs one stored case; returns the largest differences of logits and of what was appended to the cache.
fn run(model: &Model, params: &BTreeMap<ParamName, Arc<ParamValue>>, file: &SafeTensors) -> (f64, f64) {
    let input = |role: Role| model.interface.inputs.iter().find(|p| p.role == role).and_then(|p| Array::of(file, &p.name));
    // Where ONNX Runtime rounded activations to int8 its caches are no reference.
    let exact = file.tensor("dequant.logits").is_err();
    let output = |role: Role| {
        let port = model.interface.outputs.iter().find(|p| p.role == role)?;
        Array::of(file, &format!("ref.{}", port.name)).or_else(|| Array::of(file, &port.name))
    };
    let ids = input(Role::TokenIds).unwrap();
    let (batch, tokens) = (ids.dims[0], ids.dims[1]);
    let past = input(Role::PastKey(0)).map_or(0, |a| a.dims[2]);
    // A file of plain inputs serves graphs that have no mask or take positions too.
    let mask = input(Role::AttentionMask).or_else(|| Array::of(file, "attention_mask"));
    let seen = |b: usize, t: usize| mask.as_ref().is_none_or(|m| m.at(&[b, t]) != 0.0);
    let positions = input(Role::PositionIds);
    let valid = Array::of(file, "valid").unwrap();

    let mut session = Session::new(&model.graph, params);
    for layer in 0..model.facts.layers as u32 {
        let (Some(key), Some(value)) = (input(Role::PastKey(layer)), input(Role::PastValue(layer))) else { continue };
        for b in 0..batch {
            for (index, t) in (0..past).filter(|t| seen(b, *t)).enumerate() {
                let row = |a: &Array| {
                    (0..a.dims[1])
                        .flat_map(|g| (0..a.dims[3]).map(move |d| (g, d)))
                        .map(|(g, d)| a.at(&[b, g, t, d]) as f32)
                        .collect()
                };
                let entry = Entry { key: row(&key), value: row(&value) };
                session.caches_mut().get_mut(&layer).unwrap().insert((b as u32, index as u32), entry);
            }
        }
    }
    let mut step = StepInput::default();
    let mut places = Vec::new();
    for b in 0..batch {
        for s in (0..tokens).filter(|s| seen(b, past + s)) {
            let index = (0..past + s).filter(|t| seen(b, *t)).count() as u32;
            step.tokens.push(ids.at(&[b, s]) as u32);
            step.positions.push(match model.interface.positions {
                PositionRule::Given => positions.as_ref().map_or(index, |p| p.at(&[b, s]) as u32),
                PositionRule::Column => (past + s) as u32,
                PositionRule::Unmasked => index,
            });
            step.slots.push(b as u32);
            step.index.push(index);
            step.logit_rows.push(places.len() as u32);
            places.push((b, s));
        }
    }
    let logits = session.step(&step).unwrap();
    let wanted = Array::of(file, "dequant.logits").or_else(|| Array::of(file, "ref.logits")).unwrap();
    let (mut worst, mut worst_cache) = (0f64, 0f64);
    for (row, &(b, s)) in places.iter().enumerate().filter(|(_, (b, s))| valid.at(&[*b, *s]) != 0.0) {
        for (v, got) in logits.row(row).iter().enumerate() {
            worst = worst.max((f64::from(*got) - wanted.at(&[b, s, v])).abs());
        }
        for layer in 0..model.facts.layers as u32 {
            let entry = &session.caches()[&layer][&(b as u32, step.index[row])];
            for (role, got) in [(Role::PresentKey(layer), &entry.key), (Role::PresentValue(layer), &entry.value)] {
                let Some(wanted) = output(role).filter(|_| exact) else { continue };
                for (at, got) in got.iter().enumerate() {
                    let (g, d) = (at / wanted.dims[3], at % wanted.dims[3]);
                    worst_cache = worst_cache.max((f64::from(*got) - wanted.at(&[b, g, past + s, d])).abs());
                }
            }
        }
    }
    (worst, worst_cache)
}

/// Generates greedily, token by token; returns the first difference from the stored tokens, if any, and the largest of logits.
fn generate(model: &Model, params: &BTreeMap<ParamName, Arc<ParamValue>>, file: &SafeTensors) -> (Option<String>, f64) {
    let of = |name| Array::of(file, name).unwrap();
    let (prompt, wanted, logits) = (of("prompt"), of("ref.tokens"), of("ref.logits"));
    // Some files repeat the prompt: then row `i` of the logits belongs to token `i` of the whole sequence, else to the one it predicts.
    let repeated = wanted.data.starts_with(&prompt.data);
    let skip = if repeated { prompt.data.len() } else { 0 };
    let mut session = Session::new(&model.graph, params);
    let (mut feed, mut past, mut worst): (Vec<u32>, u32, f64) = (prompt.data.iter().map(|x| *x as u32).collect(), 0, 0.0);
    for (step, want) in wanted.data[skip..].iter().enumerate() {
        let step = if repeated { skip + step - 1 } else { step };
        let mut input = StepInput::sequence(&feed, past);
        input.logit_rows = vec![feed.len() as u32 - 1];
        let row = session.step(&input).unwrap();
        row.row(0)
            .iter()
            .enumerate()
            .for_each(|(v, got)| worst = worst.max((f64::from(*got) - logits.at(&[0, step, v])).abs()));
        let (best, _) =
            row.row(0).iter().enumerate().fold((0, f32::MIN), |best, (v, x)| if *x > best.1 { (v, *x) } else { best });
        if best as f64 != *want {
            return (Some(format!("token {step} is {best}, not {want}")), worst);
        }
        past += feed.len() as u32;
        feed = vec![best as u32];
    }
    (None, worst)
}

/// What became of a graph: a row of the page.
struct Outcome {
    name: String,
    row: String,
    /// Where it missed what is stored.
    missed: Vec<String>,
}

fn outcome(case: &common::Case) -> Result<Outcome, String> {
    let common::Case { name, graph, folder } = case;
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
    let atol = meta["suggested_atol"].as_f64().unwrap();
    let (family, exporter) = name.split_once("--").or_else(|| name.split_once('/')).unwrap();
    let imported = q35_import::open(graph).map_err(|e| format!("{name}: {e}"))?;
    let config: Option<serde_json::Value> =
        std::fs::read(folder.join("config.json")).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let context = config.and_then(|config| config["max_position_embeddings"].as_u64());
    let model = raise(&imported.graph, &Options { name: name.clone(), context }).map_err(|e| format!("{name}: {e}"))?;
    let params = values(&model);
    let mut missed = Vec::new();
    let bytes = std::fs::read(folder.join("gen.safetensors")).unwrap();
    // The tokens of a graph in 4 bits are those of the model before it was rounded.
    let tokens = if name.ends_with("int4") {
        "none stored"
    } else {
        let (difference, worst) = generate(&model, &params, &SafeTensors::deserialize(&bytes).unwrap());
        println!("{name} generated: logits {worst:.2e}");
        missed.extend(difference.map(|d| format!("{name}: {d}")));
        if worst > atol {
            missed.push(format!("{name} generated: {worst:.2e} > {atol:.0e}"));
        }
        "equal"
    };
    let mut stored = 0;
    for case in 0..3 {
        let Ok(bytes) = std::fs::read(folder.join(format!("io_{case}.safetensors"))) else { continue };
        let (worst, cache) = run(&model, &params, &SafeTensors::deserialize(&bytes).unwrap());
        println!("{name} io_{case}: logits {worst:.2e}, cache {cache:.2e}, allowed {atol:.0e}");
        if worst > atol || cache > atol || worst.is_nan() {
            missed.push(format!("{name} io_{case}: {worst:.2e} {cache:.2e} > {atol:.0e}"));
        }
        stored += 1;
    }
    let count = |wanted: &[&str]| model.graph.ids().filter(|id| wanted.contains(&model.graph.node(*id).op.name())).count();
    let cached = model.interface.inputs.iter().any(|port| matches!(port.role, Role::PastKey(_)));
    let row = format!(
        "| {family} | {exporter} | {} | {} | {} | {} | {} | {stored} within {atol:.0e} | {tokens} |",
        imported.graph.ids().count(),
        model.graph.len(),
        count(&["attention", "latent_attention"]),
        count(&["route"]),
        if cached { "the graph's" } else { "new" },
    );
    Ok(Outcome { name: name.clone(), row, missed })
}

/// `Q35_GRAPHS=FOLDER` names a folder laid out as the corpus is: what becomes of each of its graphs is printed, and of each checkpoint whose
/// folder has results too. `Q35_ONLY` is a part of the names that are wanted.
#[test]
fn graphs_of_a_folder() {
    let Some(folder) = std::env::var_os("Q35_GRAPHS") else { return };
    let only = std::env::var("Q35_ONLY").unwrap_or_default();
    let mut found = common::cases(std::path::Path::new(&folder));
    for entry in std::fs::read_dir(&folder).unwrap() {
        let folder = entry.unwrap().path();
        if folder.join("model.safetensors").is_file() && folder.join("meta.json").is_file() {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            found.push(common::Case { name, graph: folder.clone(), folder });
        }
    }
    let mut wrong = 0;
    for case in found.iter().filter(|case| case.name.contains(&only)) {
        let found = std::panic::catch_unwind(|| outcome(case)).unwrap_or_else(|_| Err("panics".to_owned()));
        let found = found.and_then(|o| if o.missed.is_empty() { Ok(o.row) } else { Err(o.missed.join("; ")) });
        wrong += usize::from(found.is_err());
        println!("{} {}: {}", if found.is_ok() { "PASS" } else { "FAIL" }, case.name, found.unwrap_or_else(|e| e));
    }
    assert!(wrong == 0, "{wrong} graphs are not what they should be");
}

const PAGE_HEAD: &str = "\
# Graphs

Made by `compiler/passes/tests/oracle.rs` from its own run; `Q35C_BLESS=1 cargo test -p q35-passes --test oracle` refreshes it where the whole
corpus is present, and every run checks the rows of the graphs that are.

Every graph is imported, raised to q35 ops, and run by the reference evaluation. Its logits on all valid positions, and what it
puts into the cache, are within the tolerance stored beside it of what the original library (for weights in 4 bits: those weights,
decoded; for graphs spelled out by `tests/generators`: ONNX Runtime) gave; greedy decoding gives the stored tokens.

| family | exporter | nodes | q35 ops | attentions | routings | cache | cases | greedy tokens |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
";

#[test]
fn every_graph_gives_its_stored_logits() {
    let outcomes: Vec<Outcome> = common::present().iter().map(|case| outcome(case).unwrap_or_else(|e| panic!("{e}"))).collect();
    let missed: Vec<String> = outcomes.iter().flat_map(|o| o.missed.clone()).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../GRAPHS.md");
    let rows: String = outcomes.iter().map(|o| o.row.clone() + "\n").collect();
    let page = PAGE_HEAD.to_owned() + &rows;
    let whole = common::corpus().is_some();
    if whole && std::env::var_os("Q35C_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    if whole {
        assert!(stored == page, "{} is out of date; Q35C_BLESS=1 refreshes it", path.display());
    }
    for Outcome { name, row, .. } in outcomes {
        assert!(stored.lines().any(|line| line == row), "{name} is not as {} says: {row}", path.display());
    }
}
