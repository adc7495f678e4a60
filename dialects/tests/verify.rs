//! Each invariant of a model, broken once.

#![allow(clippy::unwrap_used)]

mod support;

use q35_dialects::q35::{Append, Op, Quantize};
use q35_dialects::{Model, ParamRole, Rows, Transform, Ty, verify::verify};
use q35_format::{Codec, Group};
use q35_graph::{NodeId, Value};
use support::{SMALL, decoder, invented};

fn named(model: &Model, name: &str) -> NodeId {
    model.graph.ids().find(|id| model.graph.node(*id).name == name).unwrap()
}

fn broken(change: impl FnOnce(&mut Model)) -> String {
    let mut model = decoder(&SMALL, invented);
    assert_eq!(verify(&model), Ok(()));
    change(&mut model);
    verify(&model).unwrap_err()
}

#[test]
fn invariant_1_operands_and_results() {
    let text = broken(|m| m.graph.clear_operand(named(m, "model.norm"), 0));
    assert_eq!(text, "invariant 1: 'model.norm' (rms_norm): operands are missing or too many");
    let text = broken(|m| m.graph.node_mut(named(m, "tokens")).results.push(Ty::Rotary { half: 1 }));
    assert!(text.contains("invariant 1: 'tokens' (tokens): 2 results"), "{text}");
    let text = broken(|m| {
        let (a, b) = (named(m, "model.norm"), named(m, "lm_head"));
        m.graph.set_operand(a, 0, Value { node: b, result: 0 });
    });
    assert_eq!(text, "invariant 1: invariant 3: the graph has a cycle");
}

#[test]
fn invariant_2_types() {
    let text = broken(|m| m.graph.node_mut(named(m, "model.norm")).results = vec![Ty::Act { rows: Rows::Tokens, width: 8 }]);
    assert!(
        text.starts_with("invariant 2: 'model.norm' (rms_norm): has type act<tokens, 8>, inference gives act<logits, 8>"),
        "{text}"
    );
    let text = broken(|m| drop(m.params.remove(&"inv_freq".into())));
    assert_eq!(text, "invariant 2: 'rotary' (rotary): there is no parameter @inv_freq");
    let text = broken(|m| m.params.get_mut(&"lm_head".into()).unwrap().source = invented("x", 11, 4));
    assert_eq!(text, "invariant 2: 'lm_head' (linear): @lm_head takes 4 inputs, and 'x' has 8 columns");
}

#[test]
fn invariant_3_output() {
    assert_eq!(broken(|m| m.graph.outputs.clear()), "invariant 3: outputs are []");
    let text = broken(|m| m.graph.outputs[0].1.node = named(m, "model.norm"));
    assert_eq!(text, "invariant 7: the logits have 8 columns, the vocabulary 11");
    let text = broken(|m| m.graph.outputs[0].1.node = named(m, "embed"));
    assert!(text.starts_with("invariant 3: the result of 'embed' has not one row per logit row\n"), "{text}");
}

#[test]
fn invariants_4_and_7_caches() {
    let text = broken(|m| {
        let id = named(m, "model.layers.1.self_attn.cache");
        m.graph.node_mut(id).op = Op::Append(Append::plain(0, 2));
        m.reinfer().unwrap();
    });
    let expected = "invariant 4: 'model.layers.0.self_attn.cache', 'model.layers.1.self_attn.cache' all append to layer 0\n\
                    invariant 7: the cache has 1 layers, the model 2";
    assert_eq!(text, expected);
    let text = broken(|m| {
        let id = named(m, "model.layers.1.self_attn.cache");
        m.graph.node_mut(id).op = Op::Append(Append::plain(5, 2));
        m.reinfer().unwrap();
    });
    assert_eq!(text, "invariant 4: the cache has layers [0, 5]");
    assert_eq!(broken(|m| m.facts.layers = 3), "invariant 7: the cache has 2 layers, the model 3");
}

#[test]
fn invariant_5_integers_multiply_integers() {
    let round = |m: &mut Model| {
        let id = named(m, "lm_head");
        let x = m.graph.operand(id, 0).unwrap();
        let q = m.add("rounding", Quantize {}, &[x]).unwrap();
        m.graph.set_operand(id, 0, q);
    };
    assert_eq!(broken(round), "invariant 5: 'lm_head' (linear): @lm_head is stored as f32, but 'x' is rounded to int8");
    let mut model = decoder(&SMALL, invented);
    round(&mut model);
    model.params.get_mut(&"lm_head".into()).unwrap().codec = Codec::W8;
    assert_eq!(verify(&model), Ok(()));
}

#[test]
fn invariants_6_and_8_params() {
    let unused = |m: &mut Model| drop(m.params.insert("stray".into(), m.params[&"lm_head".into()].clone()));
    assert_eq!(broken(unused), "invariant 6: @stray: no op names it");
    let mut model = decoder(&SMALL, invented);
    unused(&mut model);
    assert_eq!((model.drop_unused_params(), verify(&model)), (1, Ok(())));

    let anonymous = |m: &mut Model| drop(m.params.insert("".into(), m.params[&"lm_head".into()].clone()));
    assert!(broken(anonymous).starts_with("invariant 6: a parameter's name is empty\n"));

    let transform = |t: Transform| broken(|m| m.params.get_mut(&"lm_head".into()).unwrap().transforms.push(t));
    assert!(transform(Transform::RotateInput { block: 16, seed: 0 }).ends_with("does not fit 11x8"));
    assert!(transform(Transform::RotateOutput { block: 2, seed: 0 }).ends_with("does not fit 11x8"));
    assert!(transform(Transform::ScaleRows(invented("x", 1, 8))).ends_with("does not fit 11x8"));
    assert!(transform(Transform::ScaleColumns(invented("x", 1, 11))).ends_with("does not fit 11x8"));
    let text = broken(|m| m.params.get_mut(&"lm_head".into()).unwrap().group = Group::Columns(64));
    assert_eq!(text, "invariant 6: @lm_head: codec `f32` does not support column groups");
    let text = broken(|m| m.params.get_mut(&"model.norm".into()).unwrap().codec = Codec::Q8);
    assert_eq!(text, "invariant 8: @model.norm ('model.norm.weight'): a vector of 1 rows in q8");
    let text = broken(|m| m.params.get_mut(&"lm_head".into()).unwrap().role = ParamRole::Vector);
    assert_eq!(text, "invariant 8: @lm_head ('lm_head.weight'): a vector of 11 rows in f32");
}
