//! What sets families apart, spelled as their exports spell it: sinks, bounded gates, norms behind a layer, scalars.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::decoder::{HEADS, HIDDEN, PLAIN, Spelling, Writer, causal, decoder};
use q35_dialects::Model;
use q35_dialects::q35::{Activation, Attention, Glu, LayerNorm, Op};
use q35_graph::source::Attr;
use q35_graph::{Tensor, Value};
use q35_passes::raise::{Options, raise};

fn model(spelling: &Spelling) -> Model {
    raise(&decoder(spelling), &Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(spelling: &Spelling) -> String {
    match raise(&decoder(spelling), &Options::default()) {
        Ok(model) => panic!("raises:\n{}", q35_dialects::print::graph(&model.graph)),
        Err(errors) => errors.to_string(),
    }
}

fn attention(model: &Model) -> Attention {
    let mut found = model.graph.ids().filter_map(|id| match &model.graph.node(id).op {
        Op::Attention(op) => Some(op.clone()),
        _ => None,
    });
    found.next().unwrap()
}

fn glu(model: &Model) -> Glu {
    let mut found = model.graph.ids().filter_map(|id| match &model.graph.node(id).op {
        Op::Glu(op) => Some(op.clone()),
        _ => None,
    });
    found.next().unwrap()
}

/// Half the products of queries and keys, of what a token sees.
fn masked_scores(w: &mut Writer, q: Value, k: Value, ids: Value) -> Value {
    let k = w.transpose(k, &[0, 1, 3, 2]);
    let scores = w.op("MatMul", &[q, k]);
    let half = w.number(0.5);
    let scores = w.op("Mul", &[scores, half]);
    let (seen, zero, low) = (causal(w, ids), w.number(0.0), w.number(f32::MIN));
    let bias = w.op("Where", &[seen, zero, low]);
    w.op("Add", &[scores, bias])
}

/// A number per head.
fn sinks(w: &mut Writer) -> Value {
    let sinks = w.weights(&[HEADS]);
    w.reshape(sinks, &[1, HEADS, 1, 1])
}

/// Scores, a column of sinks behind them, the largest of all taken off, and the sinks' part of the softmax cut away.
fn with_sinks(w: &mut Writer, q: Value, k: Value, v: Value, ids: Value, columns: i64) -> Value {
    let scores = masked_scores(w, q, k, ids);
    let sinks = sinks(w);
    let (rows, one) = (w.call("Shape", &[scores], &[("end", Attr::Int(3))]), w.ints(&[columns]));
    let target = w.concat(&[rows, one], 0);
    let sinks = w.op("Expand", &[sinks, target]);
    let all = w.concat(&[scores, sinks], -1);
    let axis = w.ints(&[-1]);
    let largest = w.op("ReduceMax", &[all, axis]);
    let all = w.op("Sub", &[all, largest]);
    let p = w.call("Softmax", &[all], &[("axis", Attr::Int(-1))]);
    let p = w.columns(p, 0, -columns, 1);
    w.op("MatMul", &[p, v])
}

#[test]
fn sinks_are_scores_without_values() {
    let attends = |w: &mut Writer, q, k, v, ids| with_sinks(w, q, k, v, ids, 1);
    let raised = model(&Spelling { attention: attends, ..PLAIN });
    let op = attention(&raised);
    let sinks = &raised.params[op.sinks.as_ref().unwrap()].source;
    assert_eq!((sinks.cols(), op.scale), (HEADS as u64, 0.5));
    let twice = |w: &mut Writer, q, k, v, ids| with_sinks(w, q, k, v, ids, 2);
    assert!(errors(&Spelling { attention: twice, ..PLAIN }).contains("a softmax over more than their scores"));
}

/// An attention without sinks, times the sigmoid of the logarithm of its summed exponentials less a number per head.
fn scaled_by_sinks(w: &mut Writer, q: Value, k: Value, v: Value, ids: Value, spell: fn(&mut Writer, Value) -> Value) -> Value {
    let scores = masked_scores(w, q, k, ids);
    let log = spell(w, scores);
    let sinks = sinks(w);
    let beyond = w.op("Sub", &[log, sinks]);
    let share = w.op("Sigmoid", &[beyond]);
    let p = w.call("Softmax", &[scores], &[("axis", Attr::Int(-1))]);
    let mixed = w.op("MatMul", &[p, v]);
    w.op("Mul", &[share, mixed])
}

#[test]
fn sinks_are_a_factor_behind_the_attention() {
    let whole = |w: &mut Writer, q, k, v, ids| {
        scaled_by_sinks(w, q, k, v, ids, |w, scores| {
            let axis = w.ints(&[-1]);
            w.call("ReduceLogSumExp", &[scores, axis], &[("keepdims", Attr::Int(1))])
        })
    };
    let spelled = |w: &mut Writer, q, k, v, ids| {
        scaled_by_sinks(w, q, k, v, ids, |w, scores| {
            let axis = w.ints(&[-1]);
            let exponentials = w.op("Exp", &[scores]);
            let sum = w.op("ReduceSum", &[exponentials, axis]);
            w.op("Log", &[sum])
        })
    };
    for attends in [whole as fn(&mut Writer, Value, Value, Value, Value) -> Value, spelled] {
        let raised = model(&Spelling { attention: attends, ..PLAIN });
        let op = attention(&raised);
        let sinks = &raised.params[op.sinks.as_ref().unwrap()].source;
        assert_eq!((sinks.cols(), op.scale), (HEADS as u64, 0.5));
    }
    // The sum of other exponentials is no sink.
    let steeper = |w: &mut Writer, q, k, v, ids| {
        scaled_by_sinks(w, q, k, v, ids, |w, scores| {
            let (axis, two) = (w.ints(&[-1]), w.number(2.0));
            let scores = w.op("Mul", &[scores, two]);
            w.op("ReduceLogSumExp", &[scores, axis])
        })
    };
    assert!(errors(&Spelling { attention: steeper, ..PLAIN }).contains("of no known form"));
}

/// `min(g, 7) * sigmoid(1.702 min(g, 7)) * (up + 1)`.
fn bounded(w: &mut Writer, gate: Value, up: Value) -> Value {
    let (seven, alpha, one) = (w.number(7.0), w.number(1.702), w.number(1.0));
    let gate = w.op("Min", &[gate, seven]);
    let steep = w.op("Mul", &[gate, alpha]);
    let sigmoid = w.op("Sigmoid", &[steep]);
    let unit = w.op("Mul", &[gate, sigmoid]);
    let up = w.op("Add", &[up, one]);
    w.op("Mul", &[up, unit])
}

#[test]
fn gates_may_be_bounded_and_steep() {
    let wanted = (Some(7.0), 1.702, 1.0);
    let clipped = |w: &mut Writer, gate, up| {
        let (low, high) = (w.number(-7.0), w.number(7.0));
        let up = w.op("Clip", &[up, low, high]);
        bounded(w, gate, up)
    };
    // The upper bound first.
    let mirrored = |w: &mut Writer, gate, up| {
        let (low, high) = (w.number(-7.0), w.number(7.0));
        let up = w.op("Min", &[up, high]);
        let up = w.op("Max", &[up, low]);
        bounded(w, gate, up)
    };
    for gate in [clipped, mirrored] {
        let found = glu(&model(&Spelling { gate, ..PLAIN }));
        assert_eq!((found.limit, found.alpha, found.offset), wanted);
    }
    let lopsided = |w: &mut Writer, gate, up| {
        let (low, high) = (w.number(-6.0), w.number(7.0));
        let up = w.op("Clip", &[up, low, high]);
        bounded(w, gate, up)
    };
    assert!(errors(&Spelling { gate: lopsided, ..PLAIN }).contains("bounds a gate, but not what it gates"));
    let steep = |w: &mut Writer, gate: Value, up: Value| {
        let alpha = w.number(1.702);
        let steep = w.op("Mul", &[gate, alpha]);
        let sigmoid = w.op("Sigmoid", &[steep]);
        let unit = w.op("Mul", &[gate, sigmoid]);
        w.op("Mul", &[unit, up])
    };
    let found = glu(&model(&Spelling { gate: steep, ..PLAIN }));
    assert_eq!((found.limit, found.alpha, found.offset), (None, 1.702, 0.0));
}

/// `(x - mean(x)) / sqrt(mean((x - mean(x))^2) + 1e-5)`.
fn centered(w: &mut Writer, x: Value) -> Value {
    let (axis, two, eps) = (w.ints(&[-1]), w.number(2.0), w.number(1e-5));
    let mean = w.op("ReduceMean", &[x, axis]);
    let x = w.op("Sub", &[x, mean]);
    let squares = w.op("Pow", &[x, two]);
    let variance = w.op("ReduceMean", &[squares, axis]);
    let sum = w.op("Add", &[variance, eps]);
    let root = w.op("Sqrt", &[sum]);
    w.op("Div", &[x, root])
}

fn layer_norms(model: &Model) -> Vec<LayerNorm> {
    let ops = model.graph.ids().filter_map(|id| match &model.graph.node(id).op {
        Op::LayerNorm(op) => Some(op.clone()),
        _ => None,
    });
    ops.collect()
}

#[test]
fn layer_norms_have_many_spellings() {
    let whole: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let bias = w.weights(&[HIDDEN]);
        w.call("LayerNormalization", &[x, weight, bias], &[("epsilon", Attr::Float(1e-5))])
    };
    let spelled: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let bias = w.weights(&[HIDDEN]);
        let y = centered(w, x);
        let y = w.op("Mul", &[y, weight]);
        w.op("Add", &[y, bias])
    };
    let unbiased: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let y = centered(w, x);
        w.op("Mul", &[weight, y])
    };
    for (norm, biased) in [(whole, true), (spelled, true), (unbiased, false)] {
        let raised = model(&Spelling { norm, ..PLAIN });
        let found = layer_norms(&raised);
        assert!(!found.is_empty());
        for op in found {
            assert_eq!((op.group, op.weight.is_some(), op.bias.is_some()), (HIDDEN as u64, true, biased));
            assert!((op.eps - 1e-5).abs() < 1e-9, "{}", op.eps);
        }
    }
    // Neither the mean of something else, nor a bias behind a norm that takes no mean off.
    let lopsided: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let half = w.number(0.5);
        let moved = w.op("Mul", &[x, half]);
        let y = centered(w, moved);
        let y = w.op("Mul", &[y, weight]);
        w.op("Mul", &[y, x])
    };
    assert!(errors(&Spelling { norm: lopsided, ..PLAIN }).contains("norm"));
    let biased: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let y = w.call("RMSNormalization", &[x, weight], &[("epsilon", Attr::Float(1e-5))]);
        let bias = w.weights(&[HIDDEN]);
        w.op("Add", &[y, bias])
    };
    assert!(errors(&Spelling { norm: biased, ..PLAIN }).contains("adds constants to a root mean square norm"));
}

#[test]
fn a_squared_rectifier_gates_its_operand() {
    let squared = |w: &mut Writer, gate: Value, up: Value| {
        let (sum, two) = (w.op("Relu", &[gate]), w.number(2.0));
        let square = w.op("Pow", &[sum, two]);
        w.op("Mul", &[square, up])
    };
    let found = glu(&model(&Spelling { gate: squared, ..PLAIN }));
    assert_eq!((found.activation, found.limit), (Activation::Relu, None));
}

/// `x` quantized by a scale and dequantized by another.
fn quantized(w: &mut Writer, x: Value, scales: [f32; 2]) -> Value {
    let [down, up] = scales.map(|s| w.number(s));
    let zero = w.constant(Tensor::from_i64(vec![], &[3]));
    let integers = w.op("QuantizeLinear", &[x, down, zero]);
    w.op("DequantizeLinear", &[integers, up, zero])
}

#[test]
fn quantizing_and_undoing_it_is_nothing() {
    let plain = model(&PLAIN);
    let pairs: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let x = quantized(w, x, [0.1, 0.1]);
        let weight = quantized(w, weight, [0.02, 0.02]);
        w.op("MatMul", &[x, weight])
    };
    let raised = model(&Spelling { linear: pairs, ..PLAIN });
    let ops = |model: &Model| model.graph.ids().map(|id| model.graph.node(id).op.name()).collect::<Vec<_>>();
    assert_eq!(ops(&raised), ops(&plain));
    let otherwise: fn(&mut Writer, Value, Value) -> Value = |w, x, weight| {
        let x = quantized(w, x, [0.1, 0.2]);
        w.op("MatMul", &[x, weight])
    };
    assert!(errors(&Spelling { linear: otherwise, ..PLAIN }).contains("does not undo what its operand was quantized by"));
}
