//! One model by two routes, a graph that an exporter wrote and the checkpoint it was made from, is one q35 module up to names.
//!
//! Both are walked together from the logits: ops, attributes, types and parameters have to agree, names only have to be used alike. Numbers of
//! parameters are compared too, to what is left of them where the exporter rounded.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use q35_dialects::attr::Attr;
use q35_dialects::q35::Op;
use q35_dialects::{Model, Param, ParamName};
use q35_graph::Value;
use q35_passes::raise::{Options, raise, raise_with_warnings};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Two models, and what was found to be the same in both.
struct Pair<'m> {
    models: [&'m Model; 2],
    values: BTreeMap<Value, Value>,
    params: [BTreeMap<ParamName, ParamName>; 2],
    /// The length of cosines and sines.
    lengths: [f32; 2],
    /// How far numbers may be apart, relative to the largest of a parameter; those that were rounded to 4 bits are not compared.
    room: Option<f32>,
}

impl Pair<'_> {
    /// The first difference, with the ops on the way to it.
    fn same(&mut self, a: Value, b: Value) -> Result<(), String> {
        if let Some(known) = self.values.insert(a, b) {
            return if known == b { Ok(()) } else { Err("one value here, two there".to_owned()) };
        }
        let [node_a, node_b] = [(0, a), (1, b)].map(|(side, value)| self.models[side].graph.node(value.node));
        let here = format!("{} '{}' / {} '{}'", node_a.op.name(), node_a.name, node_b.op.name(), node_b.name);
        let differ = |what: String| Err(format!("{here}: {what}"));
        if node_a.op.name() != node_b.op.name() || node_a.results != node_b.results {
            return differ(format!("{:?} {:?}, not {:?} {:?}", node_a.op, node_a.results, node_b.op, node_b.results));
        }
        let (attrs_a, attrs_b) = (node_a.op.attrs(), node_b.op.attrs());
        if attrs_a.keys().ne(attrs_b.keys()) {
            return differ(format!("{:?}, not {:?}", node_a.op, node_b.op));
        }
        let (is_rotary, is_attention) = (matches!(node_a.op, Op::Rotary(_)), matches!(node_a.op, Op::Attention(_)));
        for ((name, a), b) in attrs_a.iter().zip(attrs_b.values()) {
            let agree = match (a, b) {
                (Attr::Param(a), Attr::Param(b)) => self.same_param(a, b),
                // Cosines and sines may have a length, or the scores that come of them, which grow by its square.
                (Attr::Float(_), Attr::Float(_)) if name == "scale" && is_rotary => Ok(()),
                (Attr::Float(a), Attr::Float(b)) if name == "scale" && is_attention => {
                    let [a, b] = [a * self.lengths[0].powi(2), b * self.lengths[1].powi(2)];
                    if (a - b).abs() <= self.rounding() * a { Ok(()) } else { Err(format!("{a}, not {b}")) }
                }
                // An exporter rounds to the type it computes in, and leaves out what only keeps sums from being 0.
                (Attr::Float(a), Attr::Float(b)) if (a - b).abs() <= self.rounding() * a.abs() + 1e-15 => Ok(()),
                (a, b) if a == b => Ok(()),
                (a, b) => Err(format!("{a}, not {b}")),
            };
            if let Err(why) = agree {
                return differ(format!("{name} is {why}"));
            }
        }
        let [from_a, from_b] = [(0, a), (1, b)].map(|(side, value)| self.models[side].graph.operands(value.node));
        if from_a.len() != from_b.len() {
            return differ(format!("{} operands, not {}", from_a.len(), from_b.len()));
        }
        let [from_a, from_b] = [from_a, from_b].map(|list| list.into_iter().flatten().collect::<Vec<_>>());
        let before = (self.values.clone(), self.params.clone());
        let all = |pair: &mut Self, from_b: Vec<Value>| from_a.iter().zip(from_b).try_for_each(|(a, b)| pair.same(*a, b));
        let found = match all(self, from_b.clone()) {
            // The order of two addends, or factors, is no part of what a model is.
            Err(why) if matches!(node_a.op, Op::Add(_) | Op::Mul(_)) => {
                (self.values, self.params) = before;
                all(self, from_b.into_iter().rev().collect()).map_err(|_| why)
            }
            found => found,
        };
        found.map_err(|why| format!("{why}\n  read by {here}"))
    }

    fn rounding(&self) -> f32 {
        self.room.unwrap_or(1e-3)
    }

    fn same_param(&mut self, a: &ParamName, b: &ParamName) -> Result<(), String> {
        let known = [self.params[0].insert(a.clone(), b.clone()), self.params[1].insert(b.clone(), a.clone())];
        match known {
            [None, None] => {}
            [Some(to), Some(from)] if to == *b && from == *a => return Ok(()),
            other => return Err(format!("@{a} and @{b}, but before {other:?}")),
        }
        let [x, y] = [&self.models[0].params[a], &self.models[1].params[b]];
        let shape = |p: &Param| (p.role, p.source.rows(), p.source.cols());
        if shape(x) != shape(y) {
            return Err(format!("@{a} {:?}, not @{b} {:?}", shape(x), shape(y)));
        }
        let Some(room) = self.room else { return Ok(()) };
        let [x, y] = [x, y].map(numbers);
        let largest = y.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = x.iter().zip(&y).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
        if worst <= room * largest { Ok(()) } else { Err(format!("@{a} off @{b} by {worst} of {largest}")) }
    }
}

/// A parameter's numbers, with what happens to them on the way.
fn numbers(param: &Param) -> Vec<f32> {
    let mut out = vec![0.0; (param.source.rows() * param.source.cols()) as usize];
    param.source.read_rows(0..param.source.rows(), &mut out);
    assert!(param.transforms.is_empty(), "nothing is transformed yet");
    out
}

/// The one length of a model's cosines and sines; 1 if it has several rotations.
fn length(model: &Model) -> f32 {
    let rotary = |id| if let Op::Rotary(rotary) = &model.graph.node(id).op { Some(rotary.scale) } else { None };
    let lengths: Vec<f32> = model.graph.ids().filter_map(rotary).collect();
    if let [length] = lengths[..] { length } else { 1.0 }
}

fn raised(path: &Path, context: u64) -> Result<Model, String> {
    let imported = q35_import::open_with(path, &q35_import::Options { context: Some(context) }).map_err(|e| e.to_string())?;
    raise(&imported.graph, &Options { name: String::new(), context: Some(context) }).map_err(|e| e.to_string())
}

fn compare(graph: &Path, checkpoint: &Path, room: Option<f32>, context: u64) -> Result<(), String> {
    let (a, b) = (raised(graph, context)?, raised(checkpoint, context)?);
    let facts = |m: &Model| (m.facts.vocab, m.facts.hidden, m.facts.layers, m.facts.parameters);
    if facts(&a) != facts(&b) {
        return Err(format!("vocabulary, width, layers, parameters are {:?}, not {:?}", facts(&a), facts(&b)));
    }
    let lengths = [&a, &b].map(length);
    let mut pair = Pair { models: [&a, &b], values: BTreeMap::new(), params: Default::default(), lengths, room };
    pair.same(a.logits().unwrap(), b.logits().unwrap())?;
    if a.graph.len() != b.graph.len() { Err(format!("{} ops, not {}", a.graph.len(), b.graph.len())) } else { Ok(()) }
}

/// What an exporter leaves of the numbers, by the end of a graph's name.
fn room(name: &str) -> Option<f32> {
    match name {
        _ if name.ends_with("int4") => None,
        _ if name.contains("bf16") => Some(8e-3),
        _ if name.contains("fp16") || name.starts_with("rustdoc") => Some(1e-3),
        _ => Some(1e-6),
    }
}

/// Contexts that models are raised for: one of them is beyond what some of them rotate alike.
const CONTEXTS: [u64; 2] = [32, 64];

fn all_agree(pairs: impl IntoIterator<Item = (String, PathBuf, PathBuf)>, at_least: usize) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (name, graph, checkpoint) in pairs {
        count += 1;
        for context in CONTEXTS {
            if let Err(why) = compare(&graph, &checkpoint, room(&name), context) {
                wrong.push(format!("{name} for {context} tokens: {why}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= at_least, "only {count} pairs");
}

/// Both routes say so where the context is longer than what frequencies are the same for, in the same words.
#[test]
fn what_depends_on_the_length_is_said() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let graph = root.join("tests/data/phi3-longrope--dynamo/model.onnx");
    let checkpoint = root.join("compiler/import/tests/data/checkpoints/phi3_longrope");
    for path in [graph, checkpoint] {
        let warnings = |context: u64| -> Vec<String> {
            let context = Some(context);
            let imported = q35_import::open_with(&path, &q35_import::Options { context }).unwrap();
            let (_, raised) = raise_with_warnings(&imported.graph, &Options { name: String::new(), context }).unwrap();
            imported
                .warnings
                .iter()
                .chain(&raised)
                .map(|d| format!("{} {}; {}", d.code, d.what, d.help.clone().unwrap()))
                .collect()
        };
        assert_eq!(warnings(32), Vec::<String>::new(), "{}", path.display());
        let text = "Q35-0210 frequencies of rotations depend on how long a text is; those for 64 tokens are used for all; \
            use --context 32 for the frequencies that texts of up to 32 tokens have";
        assert_eq!(warnings(64), [text], "{}", path.display());
    }
}

/// Graphs whose `meta.json` names the checkpoint of this repository that they were exported from.
#[test]
fn graphs_of_this_repository_are_their_checkpoints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let found = common::cases(&root.join("tests/data"));
    let pairs = found.into_iter().filter_map(|case| {
        let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(case.folder.join("meta.json")).unwrap()).unwrap();
        let checkpoint = root.join("compiler/import/tests/data/checkpoints").join(meta["checkpoint"].as_str()?);
        Some((case.name, case.graph, checkpoint))
    });
    all_agree(pairs, 3);
}

#[test]
fn graphs_of_the_corpus_are_their_checkpoints() {
    let Some(folder) = common::corpus() else { return };
    let found = common::cases(&folder).into_iter();
    all_agree(found.map(|case| (case.name, case.graph, case.folder.join("hf"))), 40);
}

/// `Q35_GRAPHS=FOLDER` names a folder of graphs `FAMILY--EXPORTER` beside checkpoints `FAMILY--hf`: which of them are one model is printed.
#[test]
fn graphs_of_a_folder_are_their_checkpoints() {
    let Some(folder) = std::env::var_os("Q35_GRAPHS") else { return };
    let folder = Path::new(&folder);
    let only = std::env::var("Q35_ONLY").unwrap_or_default();
    let mut wrong = 0;
    for case in common::cases(folder).into_iter().filter(|case| case.name.contains(&only)) {
        let Some((family, _)) = case.name.split_once("--") else { continue };
        let checkpoint = folder.join(format!("{family}--hf"));
        if !checkpoint.join("config.json").is_file() || case.graph == checkpoint {
            continue;
        }
        let found = compare(&case.graph, &checkpoint, room(&case.name.replace("f16", "fp16")), CONTEXTS[0]);
        wrong += usize::from(found.is_err());
        println!("{} {}: {}", if found.is_ok() { "SAME" } else { "OTHER" }, case.name, found.err().unwrap_or_default());
    }
    assert!(wrong == 0, "{wrong} graphs are not their checkpoints");
}
