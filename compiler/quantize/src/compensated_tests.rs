//! Error-compensated rounding against plain definitions: everything is measured on decoded bytes, in f64, by double loops.

use super::*;
use crate::hessian::Hessian;
use crate::survivors::Search;
use q35_dialects::ParamRole;
use q35_format::gauss::Gauss;
use q35_format::trellis::{Scratch, Trellis};
use q35_format::{Group, table};
use q35_graph::{Axis, Tensor, WeightView};

const PAIR_CODECS: [Codec; 6] = [Codec::Split, Codec::W7, Codec::W8, Codec::W9, Codec::W10, Codec::A11];

fn gauss(seed: u64, count: usize) -> Vec<f32> {
    Gauss::new(seed).take(count).collect()
}

/// Tokens whose columns are correlated over a distance of about ten, of different sizes.
fn tokens(count: usize, cols: usize) -> Vec<f32> {
    let mut x = gauss(5, count * cols);
    for row in x.chunks_exact_mut(cols) {
        for k in 1..cols {
            row[k] = 0.9 * row[k - 1] + 0.4 * row[k];
        }
        row.iter_mut().enumerate().for_each(|(k, x)| *x *= 1.0 + (k % 7) as f32);
    }
    x
}

fn observed(x: &[f32], cols: usize) -> Hessian {
    let mut hessian = Hessian::new(cols);
    hessian.add(x);
    hessian
}

fn param(rows: usize, cols: usize, codec: Codec, group: Group) -> Param {
    let axes = (Axis { len: rows as u64, stride: cols as i64 }, Axis { len: cols as u64, stride: 1 });
    let tensor = Tensor::from_f32(vec![rows as u64, cols as u64], &gauss(3, rows * cols));
    let source = WeightView::dense(tensor, 0, axes.0, axes.1).unwrap();
    Param { codec, group, ..Param::new(source, ParamRole::Linear, "model.layers.0.weight") }
}

fn pack(param: &Param, hessian: Option<&Hessian>) -> (Packed, Record) {
    let mut codes = Vec::new();
    let mut sink = |piece: &[u8]| {
        codes.extend_from_slice(piece);
        Ok(())
    };
    let quantized = match hessian {
        Some(hessian) => quantize_compensated(param, &Inputs::Layer(Observed::alone(hessian)), &mut sink, &mut |_| ()),
        None => quantize(param, &mut sink, &mut |_| ()),
    };
    let Quantized { spec, scales, offsets, record } = quantized.unwrap();
    (Packed { spec, codes, scales, offsets }, record)
}

/// `|X (W - Q)^T|^2 / |X W^T|^2`, token by token.
fn output_error(param: &Param, packed: &Packed, x: &[f32]) -> f64 {
    let weights = q35_dialects::values::transformed(param);
    let decoded = packed.view().unwrap().all_weights();
    let (mut error, mut size) = (0.0, 0.0);
    for x in x.chunks_exact(weights.width) {
        for (w, q) in weights.data.chunks_exact(weights.width).zip(decoded.chunks_exact(weights.width)) {
            let sum = |of: &dyn Fn(usize) -> f64| (0..x.len()).map(|k| f64::from(x[k]) * of(k)).sum::<f64>();
            error += sum(&|k| f64::from(w[k]) - f64::from(q[k])).powi(2);
            size += sum(&|k| f64::from(w[k])).powi(2);
        }
    }
    error / size
}

/// What is saved in squared error on strongly correlated inputs (0.11 to 0.18 of it is left, w10 to w7), and that the record says what the bytes do.
#[test]
fn errors_of_outputs_are_well_below_nearest() {
    let (rows, cols) = (20, 150);
    let x = tokens(2 * cols, cols);
    let hessian = observed(&x, cols);
    for codec in PAIR_CODECS {
        for group in [Group::Row, Group::Columns(64)] {
            let param = param(rows, cols, codec, group);
            let (nearest, plain) = pack(&param, None);
            let (packed, record) = pack(&param, Some(&hessian));
            let (before, after) = (output_error(&param, &nearest, &x), output_error(&param, &packed, &x));
            assert!(after < 0.25 * before, "{codec} {group}: {after} {before}");
            assert!(record.relative_error > plain.relative_error, "the plain error is what it costs");
            let calibrated = record.calibrated.unwrap();
            // The sums over tokens are f32 chains, and most of what they say cancels.
            assert!((calibrated.weighted_error.powi(2) / after - 1.0).abs() < 1e-5, "{codec} {group}");
            assert_eq!((calibrated.tokens, calibrated.damping, plain.calibrated), (300, 0.01, None));
        }
    }
}

/// A search of `weights` (one row, in lane 3) at scale 1, and the squared error of what it means under `h`.
fn searched(codec: Codec, hessian: &Hessian, weights: &[f32], h: &dyn Fn(usize, usize) -> f64) -> f64 {
    let lanes: Vec<[f32; LANES]> =
        weights.iter().map(|w| std::array::from_fn(|lane| if lane == 3 { *w } else { 0.5 })).collect();
    let search = Search::new(table::pairs(codec));
    let containers = search.run(&hessian.factor("w").unwrap(), &lanes, &|_| [1.0; LANES]);
    form(weights, &search.integers(&containers).iter().map(|q| q[3]).collect::<Vec<_>>(), h)
}

fn form(w: &[f32], q: &[f32], h: &dyn Fn(usize, usize) -> f64) -> f64 {
    let e = |k: usize| f64::from(w[k]) - f64::from(q[k]);
    (0..w.len()).flat_map(|i| (0..w.len()).map(move |j| (i, j))).map(|(i, j)| e(i) * h(i, j) * e(j)).sum()
}

fn damped(hessian: &Hessian) -> impl Fn(usize, usize) -> f64 + '_ {
    let mean = (0..hessian.cols()).map(|k| hessian.at(k, k)).sum::<f64>() / hessian.cols() as f64;
    move |i, j| hessian.at(i, j) + if i == j { 0.01 * mean } else { 0.0 }
}

/// Of one pair with any `H`, and of two pairs with a diagonal one, the search finds the best there is.
#[test]
fn tiny_searches_are_exhaustive_ones() {
    for codec in PAIR_CODECS {
        let pairs = table::pairs(codec);
        let value = |window: usize| pairs[window & (pairs.len() - 1)].map(f32::from);
        for seed in 0..20 {
            let pair = gauss(seed, 2).iter().map(|w| codec.facts().sigma * w).collect::<Vec<_>>();
            let hessian = observed(&tokens(9, 2), 2);
            let h = damped(&hessian);
            let best = (0..128).map(|c| form(&pair, &value(c), &h)).fold(f64::INFINITY, f64::min);
            let found = searched(codec, &hessian, &pair, &h);
            assert!(found <= best * (1.0 + 1e-5), "{codec} {seed}: {found} {best}");

            let four = gauss(seed + 50, 4).iter().map(|w| codec.facts().sigma * w).collect::<Vec<_>>();
            let mut diagonal = Hessian::new(4);
            (0..4).for_each(|k| diagonal.add(&std::array::from_fn::<f32, 4, _>(|i| if i == k { 1.0 + k as f32 } else { 0.0 })));
            let h = damped(&diagonal);
            let all = (0..1usize << 14).map(|c| [value(c), value(c >> 7)].concat());
            let best = all.map(|q| form(&four, &q, &h)).fold(f64::INFINITY, f64::min);
            let found = searched(codec, &diagonal, &four, &h);
            assert!(found <= best * (1.0 + 1e-5), "{codec} {seed}: {found} {best}");
        }
    }
}

/// With all columns alike, what fixing a strip at a time costs against the format's search of whole rows is below a thousandth, if a strip is long enough for survivors to meet.
#[test]
fn without_correlation_it_is_the_plain_search() {
    for codec in PAIR_CODECS {
        let cols = 302;
        let silent = Hessian::new(cols);
        let weights: Vec<f32> = gauss(1, cols).iter().map(|w| codec.facts().sigma * w).collect();
        let lanes: Vec<[f32; LANES]> = weights.iter().map(|w| [*w; LANES]).collect();
        let search = Search::new(table::pairs(codec));
        let values: Vec<[f32; 2]> = table::pairs(codec).iter().map(|pair| pair.map(f32::from)).collect();
        let mut containers = Vec::new();
        Trellis::new(&values).search(&lanes, &mut containers, &mut Scratch::default());
        let unit = |i: usize, j: usize| if i == j { 1.0 } else { 0.0 };
        let q: Vec<f32> = search.integers(&containers).iter().map(|q| q[3]).collect();
        let (plain, found) = (form(&weights, &q, &unit), searched(codec, &silent, &weights, &unit));
        assert!(found < 1.001 * plain, "{codec}: {found} {plain}");
    }
}

#[test]
fn bytes_depend_on_neither_threads_nor_neighbours() {
    let cols = 71;
    let hessian = observed(&tokens(200, cols), cols);
    for (codec, group) in [(Codec::W8, Group::Row), (Codec::W10, Group::Columns(64)), (Codec::W7, Group::Row)] {
        let param = param(40, cols, codec, group);
        let (packed, record) = pack(&param, Some(&hessian));
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| pack(&param, Some(&observed(&tokens(200, cols), cols))));
            assert_eq!(again, (packed.clone(), record.clone()), "{codec} {threads}");
        }
        let compensator = Compensator::new(packed.spec, Observed::alone(&hessian), "w").unwrap();
        let weights = q35_dialects::values::transformed(&param).data;
        let alone = compensator.block(17, &weights[17 * cols..18 * cols]);
        assert_eq!((alone.len(), &alone[0].0.codes[..]), (1, packed.view().unwrap().row(17)));
    }
}

/// Rounding is for the damped matrix; by the undamped one no row is worse than rounded to nearest.
#[test]
fn no_row_is_worse_than_nearest() {
    let cols = 33;
    let x = tokens(4, cols);
    let param = param(16, cols, Codec::W8, Group::Row);
    let row = |packed: &Packed, row: usize| {
        let (w, q) = (q35_dialects::values::transformed(&param), packed.view().unwrap().all_weights());
        let hessian = observed(&x, cols);
        form(w.row(row), &q[row * cols..][..cols], &|i, j| hessian.at(i, j))
    };
    let (nearest, packed) = (pack(&param, None).0, pack(&param, Some(&observed(&x, cols))).0);
    (0..16).for_each(|at| assert!(row(&packed, at) <= row(&nearest, at) * (1.0 + 1e-9), "row {at}"));
}

/// Each expert is rounded for its own tokens, and one that has none for the layer's.
#[test]
fn experts_are_rounded_for_what_they_see() {
    let (outputs, cols) = (21, 25);
    let stack = param(3 * outputs, cols, Codec::W8, Group::Row);
    let first = tokens(200, cols);
    let second: Vec<f32> = first.chunks(cols).flat_map(|row| row.iter().rev()).copied().collect();
    let all = observed(&[&first[..], &second].concat(), cols);
    let of = |expert: u64| match expert {
        0 => observed(&first, cols),
        1 => observed(&second, cols),
        _ => Hessian::new(cols),
    };
    let mut codes = Vec::new();
    let mut sink = |piece: &[u8]| {
        codes.extend_from_slice(piece);
        Ok(())
    };
    let inputs = Inputs::Experts { count: 3, all: &all, of: &of };
    let found = quantize_compensated(&stack, &inputs, &mut sink, &mut |_| ()).unwrap();
    let row_bytes = found.spec.row_bytes();
    for (expert, x) in [first, second].iter().chain([&tokens(1, cols)]).enumerate() {
        let hessian = if expert < 2 { observed(x, cols) } else { all.clone() };
        let (alone, _) = pack(&stack, Some(&hessian));
        let rows = expert * outputs * row_bytes..(expert + 1) * outputs * row_bytes;
        assert!(codes[rows.clone()] == alone.codes[rows], "expert {expert}");
    }
    let calibrated = found.record.calibrated.unwrap();
    assert_eq!((calibrated.tokens, calibrated.thin_experts), (400, vec![Thin { expert: 2, tokens: 0, lent: 25 }]));
}

#[test]
fn what_overflowed_names_the_layer() {
    let hessian = observed(&[1e18, f32::NAN, 0.0, 1.0], 4);
    let inputs = Inputs::Layer(Observed::alone(&hessian));
    let result = quantize_compensated(&param(2, 4, Codec::W8, Group::Row), &inputs, &mut |_| Ok(()), &mut |_| ());
    let text = result.unwrap_err().to_string();
    let expected =
        "error[Q35-0301]: 7 of the calibration sums of its input are NaN or infinite\n  at tensor 'model.layers.0.weight'\n";
    assert!(text.starts_with(expected), "{text}");
}
