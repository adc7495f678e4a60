//! Files of graph inputs on the toy bundle: padding, caches and element types in, graph outputs out.

#![allow(clippy::unwrap_used)]

mod toy;

use half::{bf16, f16};
use q35_bundle::{CacheLayer, Manifest, PositionRule};
use q35_runtime::{Options, inputs};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use toy::{Entry, VOCAB, reference};

struct Tensor(&'static str, Dtype, Vec<usize>, Vec<u8>);

fn ints(name: &'static str, shape: &[usize], values: &[i64]) -> Tensor {
    Tensor(name, Dtype::I64, shape.into(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn floats(name: &'static str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor(name, Dtype::F32, shape.into(), values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn file(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|t| (t.0, TensorView::new(t.1, t.2.clone(), &t.3).unwrap()));
    serialize(views, None).unwrap()
}

fn run(manifest: Manifest, tensors: &[Tensor]) -> Result<Vec<u8>, String> {
    let (_dir, bundle) = toy::bundle_of(manifest);
    let options = Options { threads: Some(2), max_tokens: 3, ..Options::default() };
    inputs::run(&bundle, &options, &file(tensors)).map(|ran| ran.outputs).map_err(|e| e.to_string())
}

fn read(outputs: &[u8], name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = SafeTensors::deserialize(outputs).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    (tensor.shape().into(), tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
}

/// `[B, heads, T, columns]` of the toy, from entries (or none) per row and column.
fn layer(rows: &[Vec<Option<Entry>>], pick: fn(&Entry) -> [[f32; 2]; 2]) -> Vec<f32> {
    let at = |entry: &Option<Entry>, h: usize| entry.as_ref().map_or([0.0; 2], |e| pick(e)[h]);
    rows.iter().flat_map(|row| (0..2).flat_map(move |h| row.iter().flat_map(move |e| at(e, h)))).collect()
}

fn history(tokens: &[u32], positions: &[u32]) -> Vec<Entry> {
    let mut cache = vec![];
    reference(&mut cache, tokens, positions);
    cache
}

#[test]
fn a_left_padded_batch_that_continues_a_cache() {
    // Row 0 has one pad, two entries of cache, then two tokens; row 1 three entries, then two tokens.
    let (a, b) = (history(&[3, 1], &[0, 1]), history(&[5, 9, 2], &[0, 1, 2]));
    let junk = Entry { key: [[9.0; 2]; 2], value: [[-9.0; 2]; 2] };
    let past = [vec![Some(junk), Some(a[0]), Some(a[1])], b.iter().copied().map(Some).collect()];
    let outputs = run(
        toy::manifest(),
        &[
            ints("input_ids", &[2, 2], &[4, 1, 6, 5]),
            ints("attention_mask", &[2, 5], &[0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
            ints("position_ids", &[2, 2], &[2, 3, 3, 4]),
            floats("past.0.key", &[2, 2, 3, 2], &layer(&past, |e| e.key)),
            floats("past.0.value", &[2, 2, 3, 2], &layer(&past, |e| e.value)),
            ints("window", &[], &[8]),
            ints("unknown", &[1], &[1]),
        ],
    )
    .unwrap();

    let (mut a, mut b) = (a, b);
    let expected = [reference(&mut a, &[4, 1], &[2, 3]), reference(&mut b, &[6, 5], &[3, 4])].concat().concat();
    assert_eq!(read(&outputs, "logits"), (vec![2, 2, VOCAB], expected));
    let full = [[vec![Some(junk)], a.iter().copied().map(Some).collect()].concat(), b.iter().copied().map(Some).collect()];
    assert_eq!(read(&outputs, "present.0.key"), (vec![2, 2, 5, 2], layer(&full, |e| e.key)));
    assert_eq!(read(&outputs, "present.0.value"), (vec![2, 2, 5, 2], layer(&full, |e| e.value)));
    let file = SafeTensors::deserialize(&outputs).unwrap();
    assert_eq!(file.tensor("window_out").unwrap().data(), 8i64.to_le_bytes());
    assert_eq!(file.len(), 4);
}

#[test]
fn right_padding_an_empty_row_and_no_cache() {
    let manifest = Manifest { interface: toy::interface(PositionRule::Unmasked), ..toy::manifest() };
    let outputs = run(
        manifest,
        &[
            ints("input_ids", &[3, 3], &[4, 1, -7, 0, 0, 0, 6, 5, 3]),
            ints("attention_mask", &[3, 3], &[1, 1, 0, 0, 0, 0, 1, 1, 1]),
        ],
    )
    .unwrap();
    let zeros = vec![0.0; VOCAB];
    let expected = [toy::logits(&[4, 1]), vec![zeros; 4], toy::logits(&[6, 5, 3])].concat().concat();
    assert_eq!(read(&outputs, "logits"), (vec![3, 3, VOCAB], expected));
}

#[test]
fn left_padding_counts_as_positions_by_column() {
    let manifest = Manifest { interface: toy::interface(PositionRule::Column), ..toy::manifest() };
    let outputs =
        run(manifest, &[ints("input_ids", &[1, 3], &[0, 4, 1]), ints("attention_mask", &[1, 3], &[0, 1, 1])]).unwrap();
    let expected = [vec![vec![0.0; VOCAB]], reference(&mut vec![], &[4, 1], &[1, 2])].concat().concat();
    assert_eq!(read(&outputs, "logits").1, expected);
}

#[test]
fn halves_and_short_integers_are_converted() {
    let past = [vec![Some(Entry { key: [[1.5, 2.0], [-0.25, 8.0]], value: [[0.5, -3.0], [4.0, 0.125]] })]];
    let mut row: Vec<_> = past[0].iter().flatten().copied().collect();
    let expected = reference(&mut row, &[4], &[1]).concat();
    let half = |name, dtype, values: Vec<u8>| Tensor(name, dtype, vec![1, 2, 1, 2], values);
    let keys = layer(&past, |e| e.key).into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect();
    let values = layer(&past, |e| e.value).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
    let ids = Tensor("input_ids", Dtype::I32, vec![1, 1], 4i32.to_le_bytes().into());
    let outputs =
        run(toy::manifest(), &[ids, half("past.0.key", Dtype::F16, keys), half("past.0.value", Dtype::BF16, values)]).unwrap();
    assert_eq!(read(&outputs, "logits").1, expected);
}

#[test]
fn files_that_do_not_fit_are_refused_with_every_reason() {
    let zeros = |name, shape: &[usize]| floats(name, shape, &vec![0.0; shape.iter().product()]);
    assert_eq!(
        run(toy::manifest(), &[zeros("x", &[1])]).unwrap_err(),
        "error[Q35-0604]: the file lacks the token ids, 'input_ids'"
    );
    let ids = || ints("input_ids", &[1, 1], &[4]);
    assert_eq!(
        run(toy::manifest(), &[ids(), zeros("attention_mask", &[1, 1]), zeros("position_ids", &[1])]).unwrap_err(),
        "error[Q35-0604]: the tensor holds F32 instead of i64 or i32\n  at input 'attention_mask'\n\
         error[Q35-0604]: the tensor has shape [1] instead of [batch, tokens]\n  at input 'position_ids'"
    );
    assert_eq!(
        run(toy::manifest(), &[ids(), zeros("past.0.key", &[1, 2, 3, 4]), zeros("past.0.value", &[1, 2, 5, 2])]).unwrap_err(),
        "error[Q35-0604]: the tensor has shape [1, 2, 3, 4] instead of [1, 2, past, 2]\n  at input 'past.0.key'\n\
         error[Q35-0604]: the tensor holds 5 tokens, and 'past.0.key' holds 3\n  at input 'past.0.value'"
    );
    assert_eq!(
        run(toy::manifest(), &[ids(), zeros("past.0.key", &[1, 2, 3, 2])]).unwrap_err(),
        "error[Q35-0604]: the cache holds 3 tokens in some layers and is absent in others"
    );
    assert_eq!(
        run(toy::manifest(), &[ints("input_ids", &[1, 1], &[10])]).unwrap_err(),
        "error[Q35-0601]: token 10 is outside the vocabulary of 10"
    );
    let mut windowed = toy::manifest();
    windowed.plan.cache = vec![CacheLayer { window: Some(2), ..windowed.plan.cache[0] }];
    assert_eq!(
        run(windowed, &[ints("input_ids", &[1, 3], &[1, 2, 3]), ints("attention_mask", &[1, 3], &[1, 0, 1])]).unwrap_err(),
        "error[Q35-0604]: the mask of row 0 has a hole, and sliding-window attention counts the distance across it"
    );
    let (_dir, bundle) = toy::bundle();
    let garbage = inputs::run(&bundle, &Options::default(), b"garbage").unwrap_err().to_string();
    assert_eq!(garbage, "error[Q35-0604]: this is not a sound safetensors file: header too small");
}

#[test]
fn an_empty_batch_is_no_accident() {
    let outputs = run(toy::manifest(), &[ints("input_ids", &[0, 4], &[])]).unwrap();
    assert_eq!(read(&outputs, "logits"), (vec![0, 4, VOCAB], vec![]));
}

#[test]
fn a_listed_input_that_the_model_does_not_have_is_warned_of() {
    let (_dir, bundle) = toy::bundle();
    let ids = ints("input_ids", &[1, 1], &[4]);
    let listing = |names: &str| {
        let header = Some([("inputs".to_owned(), names.to_owned())].into());
        let bytes = serialize([("input_ids", TensorView::new(ids.1, ids.2.clone(), &ids.3).unwrap())], header).unwrap();
        inputs::run(&bundle, &Options::default(), &bytes).unwrap().warnings.to_string()
    };
    assert_eq!(listing(r#"["input_ids"]"#), "");
    let text = listing(r#"["input_ids", "pixels", "cache"]"#);
    assert!(text.starts_with("warning[Q35-0604]: the file's inputs 'pixels', 'cache' are not inputs of the model"), "{text}");
}
