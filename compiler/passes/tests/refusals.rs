//! A graph that is nearly one of those we know is refused: one thing changed, and the same ops would give something else.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use q35_graph::source::{Attr, SourceGraph, SourceOp, SourceType};
use q35_graph::{NodeId, Tensor, Value};
use q35_passes::raise::{Options, raise};

/// One change.
enum Edit {
    Attr(&'static str, Attr),
    /// Operands take each other's place.
    Swap(usize, usize),
    /// An operand becomes a constant.
    Number(usize, Tensor),
    /// The op becomes another.
    Op(&'static str),
}

use Edit::{Attr as Set, Number, Op, Swap};

/// The graph, the op and which of its nodes (or a node's name), the change, and what the diagnostic says.
type Case = (&'static str, &'static str, usize, Edit, &'static str);

fn integer(n: i64) -> Tensor {
    Tensor::from_i64(vec![], &[n])
}

fn number(x: f32) -> Tensor {
    Tensor::from_f32(vec![], &[x])
}

fn cases() -> Vec<Case> {
    let stretches = "joins stretches that are not those of its experts";
    vec![
        // Sorted groups: the sorting, the counting, the order of experts, the order that rows go back to.
        ("mixtral--hf", "TopK", 1, Set("sorted", Attr::Int(0)), "at node"),
        ("mixtral--hf", "TopK", 1, Set("largest", Attr::Int(1)), "at node"),
        ("mixtral--hf", "Clip", 0, Number(2, integer(6)), stretches),
        ("mixtral--hf", "CumSum", 0, Set("exclusive", Attr::Int(1)), "at node"),
        ("mixtral--hf", "ScatterElements", 0, Set("reduction", Attr::Str("none".into())), "places that may be the same"),
        ("mixtral--hf", "ScatterND", 0, Number(2, integer(0)), "at node"),
        // Groups of experts, and what is chosen of them.
        ("deepseek-v3--dynamo-batched", "TopK", 1, Set("largest", Attr::Int(0)), "groups of unknown number"),
        ("deepseek-v3--dynamo-batched", "TopK", 0, Set("largest", Attr::Int(0)), "by a worth of no known form"),
        ("deepseek-v3--dynamo-batched", "TopK", 2, Set("largest", Attr::Int(0)), "an unknown number of experts"),
        ("deepseek-v3--dynamo-batched", "ReduceSum", 0, Op("ReduceMax"), "by a worth of no known form"),
        ("deepseek-v3--dynamo-batched", "ScatterND", 0, Swap(0, 2), "at node"),
        // Logits prepared for an op that does the routing itself: others must be out of reach, and logarithms of the scores.
        ("lfm2moe--genai-int4", "Log", 0, Op("Sqrt"), "at node"),
        ("lfm2moe--genai-int4", "QMoE", 0, Set("normalize_routing_weights", Attr::Int(0)), "at node"),
        ("lfm2moe--genai-int4", "ConstantOfShape", 0, Set("value", Attr::Tensor(Tensor::from_f32(vec![1], &[0.0]))), "at node"),
        // Experts one by one: each is counted once.
        ("qwen3moe--optimum-cache", "/model/layers.0/mlp/Gather_8", 0, Number(1, integer(0)), "at node"),
        ("qwen3moe--optimum-cache", "/model/layers.0/mlp/Gather_8", 0, Number(1, integer(2)), "at node"),
        ("qwen3moe--optimum-cache", "OneHot", 0, Set("axis", Attr::Int(0)), "at node"),
        ("qwen3moe--optimum-cache", "ScatterElements", 3, Set("reduction", Attr::Str("mul".into())), "combines by 'mul'"),
        // Sinks, bounds, weights of what was chosen.
        ("sinks--spelled", "ReduceMax", 0, Op("ReduceMean"), "at node"),
        ("sinks--spelled", "Clip", 0, Number(2, number(2.0)), "bounds a gate, but not what it gates"),
        ("sinks--spelled", "Clip", 1, Number(1, number(-1.0)), "bounds a gate, but not what it gates"),
        ("sinks--spelled", "TopK", 0, Set("largest", Attr::Int(0)), "an unknown number of experts"),
        // Ops of ONNX Runtime.
        ("fused--spelled", "MultiHeadAttention", 0, Set("unidirectional", Attr::Int(0)), "tokens that come after them"),
        ("fused--spelled", "RotaryEmbedding", 0, Set("scale", Attr::Float(0.5)), "scales its result"),
        ("fused--spelled", "FusedMatMul", 0, Set("transA", Attr::Int(1)), "at node"),
        ("fused--spelled", "DequantizeLinear", 0, Set("axis", Attr::Int(1)), "do not fit its integers"),
        // Products of integers: what was rounded by something else, or is scaled back by something else.
        ("qwen3--dynamic8", "MatMulInteger", 0, Swap(2, 3), "integers that are no rounded activations"),
        ("qwen3--dynamic8", "MatMulInteger", 0, Op("MatMul"), "at node"),
        ("qwen3--dynamic8", "linear_output_quantized_cast", 0, Op("Identity"), "nobody scales the sums back"),
        ("qwen3--dynamic8", "node_linear_quant_scales_mul", 0, Op("Add"), "nobody scales the sums back"),
        (
            "qwen3--dynamic8",
            "DequantizeLinear",
            0,
            Number(1, Tensor::from_f32(vec![2], &[1.0, 2.0])),
            "do not fit its integers",
        ),
        ("qwen3--dynamic8-fused", "MatMulIntegerToFloat", 0, Swap(2, 3), "integers that are no rounded activations"),
        ("qwen3--dynamic8-fused", "DynamicQuantizeMatMul", 0, Swap(2, 3), "at node"),
    ]
}

fn change(graph: &mut SourceGraph, op: &str, nth: usize, edit: Edit) {
    let is_op = |id: &NodeId| match &graph.node(*id).op {
        SourceOp::Call(call) => call.op == op || graph.node(*id).name == op,
        _ => false,
    };
    let node = graph.ids().filter(is_op).nth(nth).unwrap_or_else(|| panic!("no {op} {nth}"));
    let operand = |graph: &SourceGraph, at: usize| graph.operand(node, at).unwrap();
    match edit {
        Set(name, value) => {
            if let SourceOp::Call(call) = &mut graph.node_mut(node).op {
                call.attrs.insert(name.to_owned(), value);
            }
        }
        Op(other) => {
            if let SourceOp::Call(call) = &mut graph.node_mut(node).op {
                call.op = other.to_owned();
            }
        }
        Swap(a, b) => {
            let (x, y) = (operand(graph, a), operand(graph, b));
            graph.set_operand(node, a, y);
            graph.set_operand(node, b, x);
        }
        Number(at, tensor) => {
            let ty = SourceType { name: "changed".into(), dtype: Some(tensor.dtype()), dims: None };
            let constant = graph.add("changed", SourceOp::Const(tensor), &[], vec![ty]);
            graph.set_operand(node, at, Value { node: constant, result: 0 });
        }
    }
}

#[test]
fn what_is_nearly_known_is_refused() {
    let present = common::present();
    let mut tried = 0;
    for (name, op, nth, edit, wanted) in cases() {
        let Some(case) = present.iter().find(|case| case.name == name) else { continue };
        let mut graph = q35_import::open(&case.graph).unwrap().graph;
        change(&mut graph, op, nth, edit);
        match raise(&graph, &Options::default()) {
            Ok(_) => panic!("{name} raises with another {op} {nth}"),
            Err(errors) => assert!(errors.to_string().contains(wanted), "{name}, {op} {nth}: {errors}"),
        }
        tried += 1;
    }
    assert!(tried >= 8, "{tried}");
}

/// What raises as something else raises as that: the change is in the model.
#[test]
fn what_may_differ_is_kept() {
    let present = common::present();
    let case = present.iter().find(|case| case.name == "sinks--spelled").unwrap();
    let text = |edit: Option<(&str, usize, Edit)>| {
        let mut graph = q35_import::open(&case.graph).unwrap().graph;
        if let Some((op, nth, edit)) = edit {
            change(&mut graph, op, nth, edit);
        }
        let model = raise(&graph, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
        q35_dialects::print::graph(&model.graph)
    };
    let plain = text(None);
    assert!(plain.contains("limit = 1.5") && plain.contains("window = 4"));
    let changed = text(Some(("Less", 0, Op("LessOrEqual"))));
    assert!(changed.contains("window = 5") && !changed.contains("window = 4"));
}

/// A graph of a builder, its logits' layer, and what that reads.
fn with_head() -> (SourceGraph, NodeId, Value) {
    let present = common::present();
    let case = present.iter().find(|case| case.name == "qwen2--genai-fp32").unwrap();
    let graph = q35_import::open(&case.graph).unwrap().graph;
    let head = graph.ids().find(|id| graph.node(*id).name == "/lm_head/MatMul").unwrap();
    let operand = graph.operand(head, 0).unwrap();
    (graph, head, operand)
}

/// Builders give the last hidden states too, if they are asked to: the model is the same.
#[test]
fn what_else_is_given_token_by_token_is_left_out() {
    let raised = |graph: &SourceGraph| {
        let model = raise(graph, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
        q35_dialects::print::graph(&model.graph)
    };
    let (mut graph, head, states) = with_head();
    let plain = raised(&graph);
    let logits = graph.node(head).results[0].clone();
    let ty = &mut graph.node_mut(states.node).results[states.result as usize];
    (ty.dtype, ty.dims) = (logits.dtype, logits.dims);
    graph.outputs.insert(0, ("hidden_states".into(), states));
    assert_eq!(raised(&graph), plain);
}

/// Logits that leave the last layer out, of which the graph still gives the cache.
#[test]
fn layers_that_nobody_reads_are_told() {
    let (mut graph, head, states) = with_head();
    let first = graph.ids().find(|id| graph.node(*id).name == "/model/layers.1/input_layernorm/SkipLayerNorm").unwrap();
    assert_ne!(first, states.node);
    graph.set_operand(head, 0, Value { node: first, result: 0 });
    let errors = raise(&graph, &Options::default()).map(|_| ()).unwrap_err().to_string();
    assert_eq!(errors, "error[Q35-0207]: the logits do not depend on layers of the cache: 1 of 2, counted from 0");
}
