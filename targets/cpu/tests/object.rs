//! `model.o` and `model.h` in programs of C: the executor of the object against the interpreter, every wrong call, two models at once, a
//! header that belongs to another object.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use q35_bundle::CacheDtype;
use q35_dialects::data::ParamValue;
use q35_dialects::interp::{Session, StepInput};
use q35_dialects::q35::{self, Op, RopeStyle};
use q35_dialects::{Graph, Packed, ParamName, Ty};
use q35_format::encode::encode;
use q35_format::{Codec, Group, PackedSpec};
use q35_graph::{Silent, Value};
use q35_target::{Request, Section, Target, WeightsFile};
use q35_target_cpu::Cpu;
use q35_tests::watched::{self, Watched};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const HIDDEN: u64 = 96;
const CONTEXT: u64 = 64;

/// A decoder with one layer.
struct Decoder {
    graph: Graph,
    params: BTreeMap<ParamName, Packed>,
    codec: Codec,
}

impl Decoder {
    fn new(codec: Codec, vocab: u64) -> Self {
        let mut m = Self { graph: Graph::new(), params: BTreeMap::new(), codec };
        let (heads, kv_heads, head_dim) = (4, 2, 12);
        let tokens = m.add(q35::Tokens {}, &[]);
        let positions = m.add(q35::Positions {}, &[]);
        let inv_freq = m.param("inv_freq", 1, 4, Codec::F32);
        let rotary = m.add(q35::Rotary { inv_freq, scale: 1.0 }, &[positions]);
        let table = m.param("embed", vocab, HIDDEN, if codec.has_scales() { Codec::Q8 } else { codec });
        let x = m.add(q35::Embed { table }, &[tokens]);
        let n = m.norm("norm", x);
        let [q, k, v] = [("q", heads), ("k", kv_heads), ("v", kv_heads)].map(|(name, of)| m.linear(name, n, of * head_dim));
        let style = RopeStyle::Halves;
        let [q, k] = [q, k].map(|x| m.add(q35::Rope { head_dim, style }, &[x, rotary]));
        let cache = m.add(q35::Append::plain(0, kv_heads), &[k, v]);
        let attention = q35::Attention { heads, scale: 0.3, window: None, softcap: None, sinks: None };
        let a = m.add(attention, &[q, cache]);
        let o = m.linear("o", a, HIDDEN);
        let x = m.add(q35::Add {}, &[x, o]);
        let x = m.add(q35::Select {}, &[x]);
        let n = m.norm("last", x);
        let logits = m.linear("head", n, vocab);
        m.graph.outputs.push(("logits".to_owned(), logits));
        m
    }

    fn add(&mut self, op: impl Into<Op>, operands: &[Value]) -> Value {
        let op = op.into();
        let types: Vec<Ty> = operands.iter().map(|value| *self.graph.ty(*value)).collect();
        let ty = op.infer(&types, &self.params).unwrap();
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Value { node: self.graph.add("node */ of @ the model", op, &operands, vec![ty]), result: 0 }
    }

    fn param(&mut self, name: &str, rows: u64, cols: u64, codec: Codec) -> ParamName {
        let name = ParamName::from(name.to_owned());
        self.params.insert(name.clone(), Packed { rows, cols, codec, group: Group::Row });
        name
    }

    fn norm(&mut self, name: &str, x: Value) -> Value {
        let weight = Some(self.param(name, 1, HIDDEN, Codec::F32));
        self.add(q35::RmsNorm { weight, eps: 1e-5, group: HIDDEN }, &[x])
    }

    fn linear(&mut self, name: &str, x: Value, outputs: u64) -> Value {
        let (_, inputs) = self.graph.ty(x).matrix().unwrap();
        let weight = self.param(name, outputs, inputs, self.codec);
        let x = if self.codec.has_scales() { self.add(q35::Quantize {}, &[x]) } else { x };
        self.add(q35::Linear { weight, bias: None }, &[x])
    }

    /// Numbers that look random.
    fn packed(&self) -> BTreeMap<ParamName, q35_format::Packed> {
        let mut state = 5u64;
        let mut number = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let pack = |(name, p): (&ParamName, &Packed)| {
            let spec = PackedSpec::new(p.rows as usize, p.cols as usize, p.codec, p.group).unwrap();
            let (size, shift) = if p.rows == 1 { (0.3, 1.0) } else { (2.0 / (p.cols as f32).sqrt(), 0.0) };
            let numbers: Vec<f32> = (0..p.rows * p.cols).map(|_| shift + size * number()).collect();
            (name.clone(), encode(spec, &numbers).unwrap())
        };
        self.params.iter().map(pack).collect()
    }

    /// Lowers it; object and header go to `folder/INCLUDE`, the weights file to `folder`. Gives object and weights.
    fn write(&self, prefix: &str, folder: &Path, include: &str) -> (PathBuf, PathBuf) {
        let request = Request::new(&self.graph, &self.params, prefix, CONTEXT);
        let lowered = Cpu.lower(&request, &mut Silent).unwrap();
        let file = WeightsFile::of(&lowered.weights, &self.params).unwrap();
        let packed = self.packed();
        let mut bytes = file.layout.header.clone();
        bytes.resize(file.layout.bytes as usize, 0);
        for (name, tensor) in &lowered.weights {
            let packed = &packed[&tensor.param];
            let section = match tensor.section {
                Section::Codes => &packed.codes,
                Section::Scales => &packed.scales,
                Section::Offsets => &packed.offsets,
            };
            let arranged = tensor.arrangement.arrange_all(section);
            bytes[file.offsets[name] as usize..][..arranged.len()].copy_from_slice(&arranged);
        }
        let code = folder.join(include);
        std::fs::create_dir_all(&code).unwrap();
        std::fs::write(code.join("model.h"), &lowered.files["cpu/model.h"]).unwrap();
        let (object, weights) = (code.join("model.o"), folder.join(format!("{prefix}weights.safetensors")));
        std::fs::write(&object, &lowered.files["cpu/model.o"]).unwrap();
        std::fs::write(&weights, bytes).unwrap();
        (object, weights)
    }
}

/// What the compiler takes for a program of one source file.
fn arguments<'a>(source: &'a Path, objects: &[&'a Path], include: &'a str) -> Vec<&'a str> {
    [text(source), include].into_iter().chain(objects.iter().map(|object| text(object))).collect()
}

/// The option that names the folder of headers.
fn include(folder: &Path) -> String {
    format!("-I{}", folder.display())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/object").join(name)
}

#[test]
fn the_executor_agrees_with_the_interpreter() {
    let folder = tempfile::tempdir().unwrap();
    let single = CacheDtype::F32;
    for (codec, dtype, tolerance) in
        [(Codec::F32, single, 2e-5), (Codec::W7, single, 2e-4), (Codec::F32, CacheDtype::F16, 2e-4)]
    {
        let mut decoder = Decoder::new(codec, 67);
        q35::assign_cache_dtype(&mut decoder.graph, dtype);
        let (object, weights) = decoder.write("tiny_", folder.path(), "include");
        let (source, include) = (source("logits.c"), include(&folder.path().join("include")));
        let program = Watched::build(&folder.path().join("logits"), &arguments(&source, &[&object], &include)).unwrap();
        let tokens: Vec<u32> = (0..9).map(|at| at * 31 % 67).collect();
        let words: Vec<String> = tokens.iter().map(u32::to_string).collect();
        let args: Vec<&str> = [text(&weights)].into_iter().chain(words.iter().map(String::as_str)).collect();
        let said = program.run(&args, "").unwrap();

        let packed = decoder.packed();
        let values: BTreeMap<ParamName, Arc<ParamValue>> =
            packed.iter().map(|(name, p)| (name.clone(), Arc::new(ParamValue::decode(&p.view().unwrap())))).collect();
        let mut session = Session::new(&decoder.graph, &values);
        let mut expected = Vec::new();
        for (at, token) in tokens.iter().enumerate() {
            expected.push(session.step(&StepInput::sequence(&[*token], at as u32)).unwrap().data);
        }
        // Each time: the levels differ.
        for said in said {
            let found: Vec<Vec<f32>> =
                said.lines().map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect();
            assert_eq!(found.len(), tokens.len() - 3);
            for (found, expected) in found.iter().zip(&expected[3..]) {
                assert_eq!(found.len(), expected.len());
                for (x, y) in expected.iter().zip(found) {
                    assert!((x - y).abs() <= tolerance, "{codec}, cache in {dtype}: {y}, not {x}");
                }
            }
        }
    }
}

/// The example that decodes the number format by hand.
#[test]
fn a_layer_computes_what_the_format_says() {
    let (outputs, inputs) = (512, 1024);
    let mut m = Decoder { graph: Graph::new(), params: BTreeMap::new(), codec: Codec::Split };
    let input = Ty::Act { rows: q35_dialects::Rows::Tokens, width: inputs };
    let x = Value { node: m.graph.add("x", Op::from(q35::Tokens {}), &[], vec![input]), result: 0 };
    let y = m.linear("weight", x, outputs);
    m.graph.outputs.push(("logits".to_owned(), y));
    let folder = tempfile::tempdir().unwrap();
    let (object, weights) = m.write("q35_", folder.path(), "include");
    std::fs::rename(folder.path().join("include/model.h"), folder.path().join("include/linear.h")).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/c/kernel.c");
    let include = include(&folder.path().join("include"));
    let program = Watched::build(&folder.path().join("kernel"), &arguments(&example, &[&object], &include)).unwrap();
    for said in program.run(&[text(&weights)], "").unwrap() {
        assert_eq!(said, "512 x 1024 weights of 3.5 bits times 3 rows: as the format says\n");
    }
}

#[test]
fn every_wrong_call_has_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Decoder::new(Codec::Split, 67);
    q35::assign_cache_dtype(&mut tiny.graph, CacheDtype::F16);
    let (tiny, tiny_weights) = tiny.write("tiny_", folder.path(), "include");
    let (other, other_weights) = Decoder::new(Codec::Q8, 70).write("other_", folder.path(), "include/other");
    let (source, headers) = (source("bad_input.c"), include(&folder.path().join("include")));
    let program = Watched::build(&folder.path().join("bad_input"), &arguments(&source, &[&tiny, &other], &headers)).unwrap();
    program.run(&[text(&tiny_weights), text(&other_weights)], "").unwrap();

    // An object needs nothing, keeps nothing, and has no name without its prefix.
    let symbols = watched::run("nm", &["--extern-only", text(&tiny)]).unwrap();
    for line in symbols.lines() {
        let mut words = line.split_whitespace().rev();
        let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let sound = name == "_GLOBAL_OFFSET_TABLE_" || (name.starts_with("tiny_") && ["T", "R"].contains(&kind));
        assert!(sound, "{line}");
    }

    // A header of the right prefix from another compile does not link, and the linker says why.
    let wrong = folder.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    let header = std::fs::read_to_string(folder.path().join("include/other/model.h")).unwrap();
    std::fs::write(wrong.join("model.h"), header.replace("other_", "tiny_").replace("OTHER_", "TINY_")).unwrap();
    let main = wrong.join("main.c");
    std::fs::write(&main, "#include <model.h>\nint main(void) { return (int)tiny_vocab() == 0; }\n").unwrap();
    let told = watched::compile(&wrong.join("main"), &arguments(&main, &[&tiny], &include(&wrong))).unwrap_err();
    assert!(told.contains("tiny_abi_1_model_h_and_model_o_are_of_one_compile_"), "{told}");
    watched::compile(&wrong.join("main"), &arguments(&main, &[&tiny], &headers)).unwrap();
}
