//! What sets families apart, spelled as their exports spell it: sinks, bounded gates, norms behind a layer, scalars.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::decoder::{HEADS, PLAIN, Spelling, Writer, causal, decoder};
use q35_dialects::Model;
use q35_dialects::q35::{Attention, Glu, Op};
use q35_graph::Value;
use q35_graph::source::Attr;
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

/// Scores, a column of sinks behind them, the largest of all taken off, and the sinks' part of the softmax cut away.
fn with_sinks(w: &mut Writer, q: Value, k: Value, v: Value, ids: Value, columns: i64) -> Value {
    let k = w.transpose(k, &[0, 1, 3, 2]);
    let scores = w.op("MatMul", &[q, k]);
    let half = w.number(0.5);
    let scores = w.op("Mul", &[scores, half]);
    let (seen, zero, low) = (causal(w, ids), w.number(0.0), w.number(f32::MIN));
    let bias = w.op("Where", &[seen, zero, low]);
    let scores = w.op("Add", &[scores, bias]);
    let sinks = w.weights(&[HEADS]);
    let sinks = w.reshape(sinks, &[1, HEADS, 1, 1]);
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
