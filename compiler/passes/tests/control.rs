//! Decoders with control flow: what can be settled when they are compiled is, and what cannot be is refused.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::decoder::{FREQUENCIES, PLAIN, Spelling, Writer, decoder, plain_rope};
use q35_dialects::Model;
use q35_graph::source::{Attr, Body, SourceGraph, SourceOp};
use q35_graph::{DType, NodeId, Tensor, Value};
use q35_passes::raise::{Options, raise};

/// What the body of a loop takes: its number, its condition, one value.
const LOOP: [DType; 3] = [DType::I64, DType::Bool, DType::F32];

fn raised(spelling: &Spelling, context: Option<u64>) -> Result<Model, String> {
    raise(&decoder(spelling), &Options { context, ..Options::default() }).map_err(|errors| errors.to_string())
}

fn model(spelling: &Spelling) -> Model {
    raised(spelling, None).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(spelling: &Spelling, context: Option<u64>) -> String {
    match raised(spelling, context) {
        Ok(model) => panic!("raises:\n{}", q35_dialects::print::graph(&model.graph)),
        Err(errors) => errors,
    }
}

/// The ops, without names.
fn ops(model: &Model) -> String {
    let text = q35_dialects::print::graph(&model.graph);
    text.lines().map(|line| line.split(" '").next().unwrap_or_default().to_owned() + "\n").collect()
}

fn frequencies(model: &Model) -> Vec<f32> {
    let view = &model.params[&"rotary.inv_freq".into()].source;
    (0..4).map(|i| view.get(0, i)).collect()
}

/// A body with inputs of these types of which the last `captured` are captured, and what `write` makes of them.
fn body(types: &[DType], captured: usize, write: impl FnOnce(&mut Writer, &[Value]) -> Vec<Value>) -> Attr {
    let mut w = Writer::default();
    let inputs: Vec<Value> = types.iter().enumerate().map(|(i, ty)| w.input(&format!("in{i}"), *ty, &[])).collect();
    let outputs = write(&mut w, &inputs);
    w.graph.outputs = outputs.into_iter().enumerate().map(|(i, value)| (format!("out{i}"), value)).collect();
    Attr::Graph(Box::new(Body { graph: w.graph, captured }))
}

/// `condition ? yes(x) : no(x)`.
fn choose(
    w: &mut Writer,
    condition: Value,
    x: Value,
    yes: impl FnOnce(&mut Writer, Value) -> Value,
    no: impl FnOnce(&mut Writer, Value) -> Value,
) -> Value {
    let branches = [
        ("then_branch", body(&[DType::F32], 1, |w, x| vec![yes(w, x[0])])),
        ("else_branch", body(&[DType::F32], 1, |w, x| vec![no(w, x[0])])),
    ];
    w.call("If", &[condition, x], &branches)
}

/// One dimension as a number.
fn size(w: &mut Writer, x: Value, axis: i64) -> Value {
    let (shape, axis) = (w.op("Shape", &[x]), w.int(axis));
    w.op("Gather", &[shape, axis])
}

fn halved(w: &mut Writer, x: Value) -> Value {
    let half = w.number(0.5);
    w.op("Mul", &[x, half])
}

fn truth(w: &mut Writer) -> Value {
    w.constant(Tensor::new(DType::Bool, vec![], vec![1].into(), 0).unwrap())
}

/// A body that carries one value on, under the condition it was entered by.
fn carrying(step: impl FnOnce(&mut Writer, Value) -> Value) -> Attr {
    body(&LOOP, 0, |w, x| vec![x[1], step(w, x[2])])
}

/// Whether the frequencies are `FREQUENCIES` halved `times`.
fn is_halved(model: &Model, times: i32) -> bool {
    frequencies(model).iter().zip(FREQUENCIES).all(|(got, f)| *got == f * 0.5f32.powi(times))
}

/// Nested as deep as given: a dimension of size 1 goes where it is one.
fn squeezed(w: &mut Writer, x: Value, depth: u32) -> Value {
    let (rows, one) = (size(w, x, 1), w.int(1));
    let is_one = w.op("Equal", &[rows, one]);
    let squeeze = |w: &mut Writer, x: Value| {
        let axis = w.ints(&[1]);
        match depth {
            0 => w.op("Squeeze", &[x, axis]),
            _ => squeezed(w, x, depth - 1),
        }
    };
    choose(w, is_one, x, squeeze, |w, x| w.op("Identity", &[x]))
}

fn unsqueezed(w: &mut Writer, x: Value) -> Value {
    let axis = w.ints(&[1]);
    w.op("Unsqueeze", &[x, axis])
}

#[test]
fn the_branch_that_shapes_decide_is_taken() {
    let wanted = ops(&model(&PLAIN));
    let squeeze = |w: &mut Writer, x: Value| {
        let x = unsqueezed(w, x);
        squeezed(w, x, 0)
    };
    let nested = |w: &mut Writer, x: Value| {
        let x = unsqueezed(w, x);
        squeezed(w, x, 40)
    };
    // Each condition depends on the branch that the one before it took.
    let chain = |w: &mut Writer, x: Value| {
        (0..100).fold(x, |x, _| {
            let x = unsqueezed(w, x);
            squeezed(w, x, 0)
        })
    };
    for embedding in [squeeze, nested, chain] {
        assert_eq!(ops(&model(&Spelling { embedding, ..PLAIN })), wanted);
        assert_eq!(ops(&model(&Spelling { logits: embedding, ..PLAIN })), wanted);
    }
}

#[test]
fn loops_of_constant_count_are_unrolled() {
    assert!(is_halved(&model(&PLAIN), 0));
    let counted: fn(&mut Writer, Value, Value, Value) -> Value = |w, x, ids, frequencies| {
        let (three, go) = (w.int(3), truth(w));
        let body = carrying(halved);
        let frequencies = w.call("Loop", &[three, go, frequencies], &[("body", body)]);
        plain_rope(w, x, ids, frequencies)
    };
    // Ends when its number is 2, long before its trips are used up.
    let ended: fn(&mut Writer, Value, Value, Value) -> Value = |w, x, ids, frequencies| {
        let (trips, go) = (w.int(i64::MAX), truth(w));
        let body = body(&LOOP, 0, |w, x| {
            let two = w.int(2);
            vec![w.op("Less", &[x[0], two]), halved(w, x[2])]
        });
        let frequencies = w.call("Loop", &[trips, go, frequencies], &[("body", body)]);
        plain_rope(w, x, ids, frequencies)
    };
    // Not even once.
    let never: fn(&mut Writer, Value, Value, Value) -> Value = |w, x, ids, frequencies| {
        let (none, go) = (w.int(0), truth(w));
        let body = carrying(halved);
        let frequencies = w.call("Loop", &[none, go, frequencies], &[("body", body)]);
        plain_rope(w, x, ids, frequencies)
    };
    let wanted = ops(&model(&PLAIN));
    for (rope, times) in [(counted, 3), (ended, 3), (never, 0)] {
        let model = model(&Spelling { rope, ..PLAIN });
        assert_eq!(ops(&model), wanted);
        assert!(is_halved(&model, times), "{:?}", frequencies(&model));
    }
}

#[test]
fn what_iterations_give_is_collected() {
    // 0, 0 and 16, the target of a reshape.
    let embedding = |w: &mut Writer, x: Value| {
        let (three, go, two) = (w.int(3), truth(w), w.int(2));
        let body = body(&LOOP, 1, |w, x| {
            let (half, width) = (w.op("Div", &[x[0], x[2]]), w.int(16));
            vec![x[1], w.op("Mul", &[half, width])]
        });
        let target = w.call("Loop", &[three, go, two], &[("body", body)]);
        w.op("Reshape", &[x, target])
    };
    assert_eq!(ops(&model(&Spelling { embedding, ..PLAIN })), ops(&model(&PLAIN)));
}

/// Frequencies by whether more than 8 tokens are there, or positions above 7.
fn long_rope(w: &mut Writer, x: Value, ids: Value, frequencies: Value, last: fn(&mut Writer, Value) -> Value) -> Value {
    let (tokens, eight) = (last(w, ids), w.int(8));
    let is_long = w.op("Greater", &[tokens, eight]);
    let frequencies = choose(w, is_long, frequencies, halved, |w, x| w.op("Identity", &[x]));
    plain_rope(w, x, ids, frequencies)
}

#[test]
fn tables_chosen_by_length_are_those_of_the_context() {
    let by_tokens: fn(&mut Writer, Value, Value, Value) -> Value =
        |w, x, ids, frequencies| long_rope(w, x, ids, frequencies, |w, ids| size(w, ids, 1));
    let by_positions: fn(&mut Writer, Value, Value, Value) -> Value = |w, x, ids, frequencies| {
        long_rope(w, x, ids, frequencies, |w, _| {
            let is_positions = |id: &NodeId| w.graph.node(*id).name == "position_ids";
            let known = w.graph.ids().find(is_positions).map(|node| Value { node, result: 0 });
            let positions = known.unwrap_or_else(|| w.input("position_ids", DType::I64, &["batch", "sequence"]));
            let largest = w.call("ReduceMax", &[positions], &[("keepdims", Attr::Int(0))]);
            let one = w.int(1);
            w.op("Add", &[largest, one])
        })
    };
    let plain = ops(&model(&PLAIN));
    for (rope, on) in [(by_tokens, "the number of new tokens"), (by_positions, "'position_ids'")] {
        let spelling = Spelling { rope, ..PLAIN };
        let model = raised(&spelling, Some(8)).unwrap();
        assert_eq!(ops(&model), plain);
        assert!(is_halved(&model, 0) && model.facts.context == 8);
        let text = errors(&spelling, Some(9));
        let first = text.split("\nerror").next().unwrap().to_owned();
        assert!(first.contains(on), "{first}");
        assert!(
            first.starts_with("error[Q35-0207]: If cannot be settled when the model is compiled: its condition depends on")
        );
        assert!(
            first.contains("at node 'If_0'") && first.contains("use --context 8 or less, for which it is settled"),
            "{first}"
        );
        assert!(errors(&spelling, None).contains("use --context 8 or less"));
    }
}

#[test]
fn what_only_a_run_decides_is_refused() {
    let by_id = |w: &mut Writer, x: Value| {
        let ids = Value { node: NodeId::new(0), result: 0 };
        let zero = w.int(0);
        let (row, zero) = (w.op("Gather", &[ids, zero]), w.int(0));
        let first = w.op("Gather", &[row, zero]);
        let is_zero = w.op("Equal", &[first, zero]);
        choose(w, is_zero, x, halved, |w, x| w.op("Identity", &[x]))
    };
    let text = "error[Q35-0207]: If cannot be settled when the model is compiled: its condition depends on 'input_ids'\n  at node 'If_0'";
    assert_eq!(errors(&Spelling { embedding: by_id, ..PLAIN }, None), text);
    let by_batch = |w: &mut Writer, x: Value| {
        let trips = size(w, x, 0);
        let go = truth(w);
        let body = carrying(halved);
        w.call("Loop", &[trips, go, x], &[("body", body)])
    };
    let text = "error[Q35-0207]: Loop cannot be settled when the model is compiled: its trip count depends on the number of sequences\n  at node 'Loop_0'";
    assert_eq!(errors(&Spelling { embedding: by_batch, ..PLAIN }, None), text);
}

#[test]
fn bodies_that_do_not_fit_are_refused() {
    let uneven = |w: &mut Writer, x: Value| {
        let yes = truth(w);
        let branches = [
            ("then_branch", body(&[DType::F32], 1, |_, x| vec![x[0]])),
            ("else_branch", body(&[DType::F32], 1, |_, x| vec![x[0], x[0]])),
        ];
        w.call("If", &[yes, x], &branches)
    };
    let unfit = |w: &mut Writer, x: Value| {
        let (one, yes) = (w.int(1), truth(w));
        let body = body(&LOOP, 0, |_, x| vec![x[1]]);
        w.call("Loop", &[one, yes, x], &[("body", body)])
    };
    let endless = |w: &mut Writer, x: Value| {
        let (trips, yes) = (w.int(i64::MAX), truth(w));
        let body = carrying(halved);
        w.call("Loop", &[trips, yes, x], &[("body", body)])
    };
    type Embedding = fn(&mut Writer, Value) -> Value;
    let cases: [(Embedding, &str); 3] = [
        (uneven, "error[Q35-0203]: If has 1 outputs, but its branches give 1 where the condition holds, 2 where not"),
        (unfit, "error[Q35-0203]: Loop has 1 outputs and carries 1 values, but its body gives 1"),
        (endless, "error[Q35-0108]: Loop makes the graph grow by more than 131072 nodes when it is unrolled"),
    ];
    for (embedding, wanted) in cases {
        let text = errors(&Spelling { embedding, ..PLAIN }, None);
        assert!(text.starts_with(wanted) && text.lines().count() == 2, "{text}");
    }
}

#[test]
fn nodes_of_an_iteration_are_named_after_it() {
    let graph = |w: &mut Writer, x: Value| {
        let (one, yes) = (w.int(1), truth(w));
        let body = carrying(|w, x| w.op("Mystery", &[x]));
        w.call("Loop", &[one, yes, x], &[("body", body)])
    };
    let text = errors(&Spelling { embedding: graph, ..PLAIN }, None);
    assert!(text.contains("at node 'Loop_0[0]/Mystery_0'"), "{text}");
    let source: SourceGraph = decoder(&Spelling { embedding: graph, ..PLAIN });
    assert!(
        source.ids().any(|id| matches!(&source.node(id).op, SourceOp::Call(c) if c.op == "Loop")),
        "the source stays as it is"
    );
}

/// Frequencies where a truth value that is given holds, and where not.
fn given(w: &mut Writer, frequencies: Value, no: fn(&mut Writer, Value) -> Value) -> Value {
    let name = "use_cache_branch";
    let known = w.graph.ids().find(|id| w.graph.node(*id).name == name).map(|node| Value { node, result: 0 });
    let condition = known.unwrap_or_else(|| w.input(name, DType::Bool, &["1"]));
    choose(w, condition, frequencies, |w, x| w.op("Identity", &[x]), no)
}

#[test]
fn an_input_may_choose_between_two_ways_that_are_one_model() {
    let alike = |w: &mut Writer, x: Value, ids: Value, f: Value| {
        let f = given(w, f, |w, x| {
            let one = w.number(1.0);
            w.op("Mul", &[x, one])
        });
        plain_rope(w, x, ids, f)
    };
    let raised = model(&Spelling { rope: alike, ..PLAIN });
    assert_eq!(ops(&raised), ops(&model(&PLAIN)));
    assert!(is_halved(&raised, 0));
    let port = |name: &str| raised.interface.inputs.iter().find(|port| port.name == name).map(|port| port.role.clone());
    assert_eq!(port("use_cache_branch"), Some(q35_bundle::Role::Passive(None)));
    let apart = |w: &mut Writer, x: Value, ids: Value, f: Value| {
        let f = given(w, f, halved);
        plain_rope(w, x, ids, f)
    };
    let text = errors(&Spelling { rope: apart, ..PLAIN }, None);
    let wanted = "error[Q35-0207]: the graph is one model where 'use_cache_branch' holds and another where it does not\n  \
        help: export one of them alone";
    assert_eq!(text, wanted);
}
