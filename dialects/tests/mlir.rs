//! Programs as MLIR modules: what is built is what is read, and what is wrong is refused.
#![cfg(feature = "mlir")]
#![allow(clippy::unwrap_used)]

mod support;

use melior::ir::operation::{OperationLike, OperationMutLike, OperationRef};
use melior::ir::{BlockLike, Location, Module, RegionLike, ValueLike};
use proptest::prelude::*;
use q35_dialects::mlir::{build, context, irdl, print, read};
use q35_dialects::model::Program;
use q35_dialects::print::graph as graph_text;
use q35_dialects::q35::*;
use q35_dialects::ty::Kind;
use q35_dialects::{Graph, Packed, ParamName, Ty, verify::verify};
use q35_format::{Codec, Group};
use q35_graph::Value;
use std::collections::{BTreeMap, BTreeSet};
use support::{SMALL, decoder, invented};

/// A program under construction.
struct Sink {
    graph: Graph,
    params: BTreeMap<ParamName, Packed>,
}

impl Sink {
    fn op(&mut self, name: &str, op: impl Into<Op>, operands: &[Value]) -> Value {
        let op = op.into();
        let types: Vec<Ty> = operands.iter().map(|value| *self.graph.ty(*value)).collect();
        let result = op.infer(&types, &self.params).unwrap();
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Value { node: self.graph.add(name, op, &operands, vec![result]), result: 0 }
    }
}

/// A program that has every op, every optional attribute, and names that need care.
fn every_op(eps: f32, seed: u64, name: &str) -> Program {
    let packed = |rows, cols, codec, group| Packed { rows, cols, codec, group };
    let vector = |len| packed(1, len, Codec::F32, Group::Row);
    let odd = ParamName::new(format!("p {name}"));
    let params = BTreeMap::from([
        (odd.clone(), packed(50, 8, Codec::Q8, Group::Row)),
        ("norm".into(), vector(4)),
        ("w".into(), packed(8, 8, Codec::W8, Group::Columns(128))),
        ("b".into(), vector(8)),
        ("f".into(), vector(2)),
        ("s".into(), vector(2)),
        ("latent keys".into(), packed(4, 4, Codec::F16, Group::Row)),
        ("latent values".into(), packed(8, 4, Codec::F16, Group::Row)),
        ("router".into(), packed(6, 4, Codec::F32, Group::Row)),
        ("correction".into(), vector(6)),
        ("experts".into(), packed(6 * 4, 4, Codec::F16, Group::Row)),
        ("expert biases".into(), vector(6 * 4)),
        ("head".into(), packed(50, 4, Codec::Split, Group::Columns(64))),
    ]);
    let mut g = Sink { graph: Graph::new(), params };
    let tokens = g.op(name, Tokens {}, &[]);
    let positions = g.op("positions", Positions {}, &[]);
    let rotary = g.op("rotary", Rotary { inv_freq: "f".into(), scale: eps }, &[positions]);
    let x = g.op("embed", Embed { table: odd }, &[tokens]);
    let normed = g.op("norm", RmsNorm { weight: Some("norm".into()), eps, group: 4 }, &[x]);
    let centred = LayerNorm { weight: Some("norm".into()), bias: Some("norm".into()), eps, group: 4 };
    let normed = g.op("layer norm", centred, &[normed]);
    let normed = g.op("plain layer norm", LayerNorm { weight: None, bias: None, eps, group: 8 }, &[normed]);
    let rotated = g.op("rotated", Hadamard { block: 8, seed, inverse: true }, &[normed]);
    let rounded = g.op("rounded", Quantize {}, &[rotated]);
    let q = g.op("q", Linear { weight: "w".into(), bias: Some("b".into()) }, &[rounded]);
    let q = g.op("q rope", Rope { head_dim: 4, style: RopeStyle::Interleaved }, &[q, rotary]);
    let k = g.op("k", Columns { start: 4, len: 4 }, &[q]);
    let cache = g.op("cache", Append::plain(0, 1), &[k, k]);
    let attention = Attention { heads: 2, scale: eps, window: Some(3), softcap: Some(50.0), sinks: Some("s".into()) };
    let y = g.op("attention", attention, &[q, cache]);
    let y = g.op("plain attention", Attention { heads: 2, scale: 0.5, window: None, softcap: None, sinks: None }, &[y, cache]);
    let latent = LatentAttention {
        keys: "latent keys".into(),
        values: "latent values".into(),
        heads: 1,
        scale: eps,
        window: Some(3),
        softcap: Some(50.0),
    };
    let y = g.op("latent attention", latent, &[y, cache]);
    let y = g.op("add", Add {}, &[y, x]);
    let gate = Glu { activation: Activation::Silu, limit: Some(7.0), alpha: 1.702, offset: 1.0 };
    let y = g.op("glu", gate, &[y, x]);
    let y = g.op("act", Activate { kind: Activation::GeluTanh }, &[y]);
    let y = g.op("mul", Mul {}, &[y, x]);
    let y = g.op("scale", Scale { factor: -eps }, &[y]);
    let y = g.op("", Softcap { cap: 30.0 }, &[y]);
    let y = g.op("half", Columns { start: 0, len: 4 }, &[y]);
    let logits = g.op("router", Linear { weight: "router".into(), bias: None }, &[y]);
    let route = Route {
        correction: Some("correction".into()),
        groups: 3,
        top_groups: 2,
        group_score: GroupScore::Two,
        normalize: true,
        eps,
        scale: 2.5,
        ..Route::plain(Scoring::Sigmoid, 2)
    };
    let routing = g.op("route", route, &[logits]);
    let experts = ExpertLinear { weight: "experts".into(), bias: Some("expert biases".into()) };
    let y = g.op("experts", experts, &[y, routing]);
    let y = g.op("sum", Combine {}, &[y, routing]);
    let y = g.op("select", Select {}, &[y]);
    let y = g.op("head", Linear { weight: "head".into(), bias: None }, &[y]);
    g.graph.outputs.push(("logits".into(), y));
    Program { graph: g.graph, params: g.params }
}

fn same(a: &Program, b: &Program) {
    assert_eq!(graph_text(&a.graph), graph_text(&b.graph));
    assert_eq!(a.params, b.params);
}

#[test]
fn what_is_built_is_what_is_read() {
    let context = context();
    let model = decoder(&SMALL, invented);
    assert_eq!(verify(&model), Ok(()));
    for program in [model.program(), every_op(1e-6, u64::MAX - 5, "a \"quoted\" näme\\ \n@x")] {
        let module = build(&context, &program);
        same(&read(&module).unwrap(), &program);
        let text = print(&module);
        let again = context.parse(&text).unwrap();
        same(&read(&again).unwrap(), &program);
        assert_eq!(print(&again), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_and_names_survive_the_text(bits in any::<u32>(), seed in any::<u64>(), name in "\\PC*") {
        let eps = f32::from_bits(bits);
        prop_assume!(!eps.is_nan());
        let context = context();
        let program = every_op(eps, seed, &name);
        let text = print(&build(&context, &program));
        same(&read(&context.parse(&text).unwrap()).unwrap(), &program);
    }
}

#[test]
fn every_op_is_covered() {
    let program = every_op(1.0, 0, "x");
    let names: BTreeSet<&str> = program.graph.ids().map(|id| program.graph.node(id).op.name()).collect();
    assert_eq!(names, OPS.iter().map(|op| op.name).collect());
}

fn step<'c: 'a, 'a>(module: &'a Module<'c>) -> Vec<OperationRef<'c, 'a>> {
    let function = module.body().first_operation().unwrap();
    let block = function.region(0).unwrap().first_block().unwrap();
    let ops = std::iter::successors(block.first_operation(), |op| op.next_in_block());
    ops.filter(|op| op.name().as_string_ref().as_str().unwrap().starts_with("q35.")).collect()
}

/// Takes every required attribute away once, and gives every operand the value of another kind once.
#[test]
fn irdl_refuses_missing_attributes_and_wrong_operands() {
    let context = context();
    let program = every_op(1.0, 3, "x");
    let (mut attributes, mut operands) = (0, 0);
    let count = program.graph.len();
    for at in 0..count {
        let decl = {
            let module = build(&context, &program);
            let name = step(&module)[at].name().as_string_ref().as_str().unwrap().to_owned();
            *OPS.iter().find(|decl| format!("q35.{}", decl.name) == name).unwrap()
        };
        for field in decl.attrs.iter().filter(|field| !field.optional) {
            let module = build(&context, &program);
            let mut op = op_at(&module, at);
            op.remove_attribute(field.name).unwrap();
            assert!(!module.as_operation().verify(), "{} without {}", decl.name, field.name);
            attributes += 1;
        }
        for (index, operand) in decl.operands.iter().enumerate() {
            let module = build(&context, &program);
            let other = step(&module)[..at].iter().map(|op| op.result(0).unwrap()).find(|value| {
                let ty = value.r#type().to_string();
                !operand.kinds.iter().any(|kind| ty.starts_with(&format!("!q35.{}<", kind.decl().name)))
            });
            let Some(other) = other else {
                assert_eq!(decl.name, "rotary", "only ids come before it");
                continue;
            };
            let mut op = op_at(&module, at);
            op.set_operand(index, other.into());
            assert!(!module.as_operation().verify(), "{} with a wrong {}", decl.name, operand.name);
            operands += 1;
        }
    }
    assert!(attributes > 25 && operands > 20, "{attributes} {operands}");
}

fn op_at<'c: 'a, 'a>(module: &'a Module<'c>, at: usize) -> melior::ir::operation::OperationRefMut<'c, 'a> {
    let function = module.body().first_operation().unwrap();
    let block = function.region(0).unwrap().first_block().unwrap();
    let ops = std::iter::successors(block.first_operation_mut(), |op| op.next_in_block_mut());
    ops.filter(|op| op.name().as_string_ref().as_str().unwrap().starts_with("q35.")).nth(at).unwrap()
}

fn module_text(body: &str) -> String {
    format!(
        "module attributes {{q35.params = {{w = !q35.packed<3 : i64, 8 : i64, \"f32\", \"row\">}}}} {{\n\
         func.func @step() -> (!q35.act<\"logits\", 3 : i64> {{q35.name = \"logits\"}}) {{\n\
         %t = \"q35.tokens\"() : () -> !q35.ids<\"tokens\">\n{body}\n}} }}"
    )
}

const EMBED: &str = "%x = \"q35.embed\"(%t) {table = @w} : (!q35.ids<\"tokens\">) -> !q35.act<\"tokens\", 8 : i64>\n\
                     %s = \"q35.select\"(%x) : (!q35.act<\"tokens\", 8 : i64>) -> !q35.act<\"logits\", 8 : i64>\n";
const RETURN: &str = "%y = \"q35.linear\"(%s) {weight = @w} : (!q35.act<\"logits\", 8 : i64>) -> !q35.act<\"logits\", 3 : i64>\n\
                      return %y : !q35.act<\"logits\", 3 : i64>";

#[test]
fn mlir_refuses_values_outside_the_tables() {
    let context = context();
    let refuse = |op: &str| {
        let text = module_text(&format!("{EMBED}{op}\n{RETURN}"));
        context.parse(&text).map(|_| ()).expect_err(op)
    };
    assert!(context.parse(&module_text(&format!("{EMBED}{RETURN}"))).is_ok());
    let x = "(!q35.act<\"logits\", 8 : i64>) -> !q35.act<\"logits\", 8 : i64>";
    refuse(&format!("%z = \"q35.activate\"(%s) {{kind = \"swish\"}} : {x}"));
    refuse(&format!("%z = \"q35.scale\"(%s) {{factor = 3 : i64}} : {x}"));
    refuse(&format!("%z = \"q35.hadamard\"(%s) {{block = 8 : i64, seed = 0 : i64, inverse = 1 : i64}} : {x}"));
    refuse(&format!("%z = \"q35.conv\"(%s) : {x}"));
    refuse(
        "%z = \"q35.rotary\"(%s) {inv_freq = @w, scale = 1.0 : f32} : (!q35.act<\"logits\", 8 : i64>) -> !q35.angles<8 : i64>",
    );
    refuse("%z = \"q35.tokens\"() : () -> !q35.act<\"tokens\", 8 : i64>");
    refuse("%z = \"q35.add\"(%s) : (!q35.act<\"logits\", 8 : i64>) -> !q35.act<\"logits\", 8 : i64>");
}

#[test]
fn reading_refuses_what_mlir_cannot_see() {
    let context = context();
    let refuse = |text: &str| match context.parse(text) {
        Ok(module) => read(&module).map(|_| ()).unwrap_err(),
        Err(messages) => panic!("{messages:?}"),
    };
    let with = |op: &str| refuse(&module_text(&format!("{EMBED}{op} loc(\"n\")\n{RETURN}")));
    let x = "(!q35.act<\"logits\", 8 : i64>) -> !q35.act<\"logits\", 8 : i64>";
    assert_eq!(with(&format!("%z = \"q35.softcap\"(%s) {{cap = -1.0 : f32}} : {x}")), "loc(\"n\"): 'cap' is not positive");
    assert_eq!(
        with(&format!("%z = \"q35.select\"(%s) {{}} : {x}")),
        "loc(\"n\"): operand 'x' has one row per logit row already"
    );
    let text = with("%z = \"q35.tokens\"() : () -> !q35.ids<\"layers\">");
    assert_eq!(text, "loc(\"n\"): the result has type !q35.ids<\"layers\">, inference gives ids<tokens>");
    let text = with(&format!("%z = \"q35.linear\"(%s) {{weight = @w}} : {x}"));
    assert_eq!(text, "loc(\"n\"): the result has type !q35.act<\"logits\", 8 : i64>, inference gives act<logits, 3>");
    let text = with(&format!("%z = \"q35.linear\"(%s) {{weight = @v}} : {x}"));
    assert_eq!(text, "loc(\"n\"): there is no parameter @v");
    let text = with(&format!("%z = \"q35.linear\"(%s) {{weight = @w, bias = 3 : i64}} : {x}"));
    assert_eq!(text, "loc(\"n\"): 'bias' is 3, not parameter");
    let text = with(&format!("%z = \"q35.linear\"(%s) {{weight = @w, colour = \"red\"}} : {x}"));
    assert_eq!(text, "loc(\"n\"): 'colour' is not declared");
    let text = with(&format!("%z = \"q35.scale\"(%s) {{factor = 0.1 : f64}} : {x}"));
    assert_eq!(text, "loc(\"n\"): attribute 'factor' has the unexpected value 1.000000e-01 : f64");
    let text = with(&format!("%z = \"q35.linear\"(%s) {{weight = @\"\"}} : {x}"));
    assert_eq!(text, "loc(\"n\"): attribute 'weight' has the unexpected value @<<INVALID EMPTY SYMBOL>>");
    let text = with(&format!("%z = \"q35.linear\"(%s) {{weight = @w, bias = \"\"}} : {x}"));
    assert_eq!(text, "loc(\"n\"): 'bias' is , not parameter");
    assert_eq!(with("%z = arith.constant 1 : i64"), "loc(\"n\"): 'arith.constant' is no op of the q35 dialect");

    assert_eq!(refuse("module {}"), "the module's 'q35.params' is no dictionary of !q35.packed types");
    assert_eq!(refuse("module attributes {q35.params = {}} {}"), "the module has no function @step");
    let text = refuse("module attributes {q35.params = {}} { func.func private @step() }");
    assert_eq!(text, "@step has no body");
    let text = refuse("module attributes {q35.params = {}} { func.func @step(%x: i64) { return } }");
    assert_eq!(text, "@step has arguments or more than one block");
    let anonymous = module_text(&format!("{EMBED}{RETURN}")).replace("ids<\"tokens\">\n", "ids<\"tokens\"> loc(\"\")\n");
    assert!(read(&context.parse(&anonymous).unwrap()).is_ok());
    let unused =
        module_text(&format!("{EMBED}{RETURN}")).replace("{w =", "{v = !q35.packed<1 : i64, 8 : i64, \"f32\", \"row\">, w =");
    assert_eq!(refuse(&unused), "invariant 6: @v: no op names it");
    let renamed = module_text(&format!("{EMBED}{RETURN}")).replace("q35.name = \"logits\"", "q35.name = \"y\"");
    assert_eq!(refuse(&renamed), "invariant 3: outputs are [y]");
    let nameless = module_text(&format!("{EMBED}{RETURN}")).replace("{q35.name = \"logits\"}", "{}");
    assert!(refuse(&nameless).ends_with("result 0 of @step has no 'q35.name'"));
}

/// A complaint of MLIR names the user's node.
#[test]
fn locations_are_the_names_of_nodes() {
    let context = context();
    let module = build(&context, &every_op(1.0, 0, "model.input_ids"));
    let location: Location = step(&module)[0].location();
    assert_eq!(location.to_string(), "loc(\"model.input_ids\")");
}

#[test]
fn the_dialect_has_every_op_and_type() {
    let text = irdl::text();
    assert_eq!(text.matches("irdl.operation").count(), OPS.len());
    assert_eq!(text.matches("irdl.type").count(), Kind::ALL.len() + 1);
}
