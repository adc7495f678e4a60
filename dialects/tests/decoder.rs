//! Whole decoders through the interpreter, against logits that PyTorch computed.

#![allow(clippy::unwrap_used)]

mod support;

use q35_dialects::data::ParamValue;
use q35_dialects::interp::{ParamValues, Session, StepInput};
use q35_dialects::q35::{Hadamard, Op, Quantize};
use q35_dialects::values::{SourceValues, transformed};
use q35_dialects::{Model, Transform, verify};
use q35_format::encode::encode;
use q35_format::{Codec, PackedSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{SMALL, TensorFile, batch, checkpoint, corpus, decoder, invented};

fn largest_difference(model: &Model, case: &TensorFile) -> f64 {
    let values = SourceValues::new(model);
    let (input, places) = batch(&case.tensor("input_ids"), &case.tensor("valid"));
    let logits = Session::new(&model.graph, &values).step(&input).unwrap();
    let expected = case.tensor("ref.logits");
    let vocab = logits.width as u64;
    let mut largest = 0.0f64;
    for (row, at) in places.iter().enumerate() {
        for (column, found) in logits.row(row).iter().enumerate() {
            largest = largest.max((f64::from(*found) - expected.number(at * vocab + column as u64)).abs());
        }
    }
    largest
}

/// Whole prompts and padded batches. PyTorch computes in f32; its own noise is about 1e-5 of logits of about 10.
#[test]
fn logits_agree_with_pytorch() {
    for folder in ["rustdoc-llama", "llama-mha--dynamo", "llama-gqa--dynamo-cache"] {
        let Some(path) = corpus(folder) else { continue };
        let model = checkpoint(&path);
        assert_eq!(verify::verify(&model), Ok(()));
        for case in ["io_0.safetensors", "io_1.safetensors", "io_2.safetensors"] {
            let case = TensorFile::open(path.join(case));
            if case.has_past() {
                continue;
            }
            let difference = largest_difference(&model, &case);
            assert!(difference < 1e-4, "{folder}: {difference}");
        }
    }
}

/// Rows of a step do not influence each other but through the cache, so any way to cut a sequence into steps gives the same
/// bits.
#[test]
fn steps_of_any_length_agree() {
    let model = decoder(&SMALL, invented);
    let values = SourceValues::new(&model);
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let whole = Session::new(&model.graph, &values).step(&StepInput::sequence(&tokens, 0)).unwrap();
    let mut session = Session::new(&model.graph, &values);
    let mut parts = Vec::new();
    for range in [0..3, 3..4, 4..8] {
        let input = StepInput::sequence(&tokens[range.clone()], range.start as u32);
        parts.extend(session.step(&input).unwrap().data);
    }
    assert_eq!(parts, whole.data);
}

/// A fresh session has an empty cache per layer, and continues from what is put there.
#[test]
fn a_cache_can_be_carried_over() {
    let model = decoder(&SMALL, invented);
    let values = SourceValues::new(&model);
    let mut first = Session::new(&model.graph, &values);
    first.step(&StepInput::sequence(&[3, 1, 4], 0)).unwrap();
    let mut second = Session::new(&model.graph, &values);
    assert_eq!(second.caches().keys().collect::<Vec<_>>(), [&0, &1]);
    for (layer, entries) in first.caches() {
        assert_eq!(entries.keys().collect::<Vec<_>>(), [&(0, 0), &(0, 1), &(0, 2)]);
        second.caches_mut().get_mut(layer).unwrap().extend(entries.clone());
    }
    let next = StepInput::sequence(&[1, 5], 3);
    assert_eq!(second.step(&next).unwrap(), first.step(&next).unwrap());
}

/// Rotating every linear layer's input, and its weight to match, changes nothing but rounding.
#[test]
fn rotations_cancel() {
    let mut model = decoder(&SMALL, invented);
    let input = StepInput::sequence(&[3, 1, 4, 1, 5], 0);
    let run = |model: &Model| Session::new(&model.graph, &SourceValues::new(model)).step(&input).unwrap();
    let plain = run(&model);
    for id in model.graph.ids().collect::<Vec<_>>() {
        let Op::Linear(linear) = model.graph.node(id).op.clone() else { continue };
        let block = 1 << model.params[&linear.weight].source.cols().trailing_zeros();
        let x = model.graph.operand(id, 0).unwrap();
        let rotated = model.add("rotation", Hadamard { block, seed: 7, inverse: false }, &[x]).unwrap();
        model.graph.set_operand(id, 0, rotated);
        model.params.get_mut(&linear.weight).unwrap().transforms.push(Transform::RotateInput { block, seed: 7 });
    }
    assert_eq!(verify::verify(&model), Ok(()));
    let rotated = run(&model);
    assert_ne!(rotated, plain);
    for (rotated, plain) in rotated.data.iter().zip(&plain.data) {
        assert!((rotated - plain).abs() < 1e-5, "{rotated} {plain}");
    }
}

#[test]
fn bad_steps_are_refused() {
    let model = decoder(&SMALL, invented);
    let values = SourceValues::new(&model);
    let mut session = Session::new(&model.graph, &values);
    let good = StepInput::sequence(&[3, 1], 0);
    let mut refuse = |input: StepInput| session.step(&input).unwrap_err().to_string();
    let text = refuse(StepInput { positions: vec![0], slots: vec![], logit_rows: vec![2], ..good.clone() });
    let lines = [
        "error[Q35-0604]: positions has 1 elements for 2 tokens",
        "error[Q35-0604]: slots has 0 elements for 2 tokens",
        "error[Q35-0604]: logits are wanted for row 2 of 2",
    ];
    assert_eq!(text, lines.join("\n"));
    assert_eq!(
        refuse(StepInput { tokens: vec![3, 11], ..good.clone() }),
        "error[Q35-0604]: token 11 is outside the vocabulary of 11"
    );
    assert!(refuse(StepInput::sequence(&[3], 5)).contains("holds 1 of the 6 entries"));
}

/// Every linear layer in `w8` with rounded activations, once on integers and once on the numbers that they stand for.
#[test]
fn integers_are_the_numbers_they_stand_for() {
    let mut model = decoder(&SMALL, invented);
    for id in model.graph.ids().collect::<Vec<_>>() {
        let Op::Linear(linear) = model.graph.node(id).op.clone() else { continue };
        let x = model.graph.operand(id, 0).unwrap();
        let rounded = model.add("rounding", Quantize {}, &[x]).unwrap();
        model.graph.set_operand(id, 0, rounded);
        model.params.get_mut(&linear.weight).unwrap().codec = Codec::W8;
    }
    assert_eq!(verify::verify(&model), Ok(()));
    let (mut integers, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    for (name, param) in &model.params {
        let spec =
            PackedSpec::new(param.source.rows() as usize, param.source.cols() as usize, param.codec, param.group).unwrap();
        let packed = encode(spec, &transformed(param).data).unwrap();
        let value = ParamValue::decode(&packed.view().unwrap());
        numbers.insert(name.clone(), Arc::new(ParamValue::Float(value.matrix())));
        integers.insert(name.clone(), Arc::new(value));
    }
    let input = StepInput::sequence(&[3, 1, 4, 1, 5], 0);
    let run = |values: &dyn ParamValues| Session::new(&model.graph, values).step(&input).unwrap().data;
    let (integers, numbers, source) = (run(&integers), run(&numbers), run(&SourceValues::new(&model)));
    let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(largest(&integers, &numbers) < 1e-5, "{}", largest(&integers, &numbers));
    assert!(largest(&integers, &source) > 1e-3, "quantization shows");
}
