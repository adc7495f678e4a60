use super::*;
use q35_dialects::ParamRole;
use q35_dialects::values::transformed;
use q35_format::gauss::Gauss;
use q35_format::{Group, Packed, rotate};
use q35_graph::{Axis, Tensor, WeightView};

fn view(rows: u64, cols: u64, values: &[f32]) -> WeightView {
    let axes = (Axis { len: rows, stride: cols as i64 }, Axis { len: cols, stride: 1 });
    WeightView::dense(Tensor::from_f32(vec![rows, cols], values), 0, axes.0, axes.1).unwrap()
}

fn gauss(seed: u64, count: u64) -> Vec<f32> {
    Gauss::new(seed).take(count as usize).collect()
}

fn param(rows: u64, cols: u64, codec: Codec, group: Group, transforms: Vec<Transform>) -> Param {
    let source = view(rows, cols, &gauss(rows * cols, rows * cols));
    Param { transforms, codec, group, ..Param::new(source, ParamRole::Linear, "model.weight") }
}

/// Packs with blocks of about `block_numbers`; also the number of pieces that the sink got.
fn pack_in(param: &Param, block_numbers: usize) -> (Packed, Record, usize) {
    let (mut codes, mut pieces, mut done) = (Vec::new(), 0, 0);
    let mut sink = |piece: &[u8]| {
        codes.extend_from_slice(piece);
        pieces += 1;
        Ok(())
    };
    let Quantized { spec, scales, offsets, record } = to_nearest(param, block_numbers, &mut sink, &mut |n| done += n).unwrap();
    assert_eq!(done, param.source.rows() * param.source.cols());
    (Packed { spec, codes, scales, offsets }, record, pieces)
}

fn all_transforms(rows: u64, cols: u64) -> Vec<Transform> {
    vec![
        Transform::ScaleColumns(view(1, cols, &gauss(1, cols))),
        Transform::RotateInput { block: rotate::block(cols as usize) as u64, seed: 5 },
        Transform::ScaleRows(view(1, rows, &gauss(2, rows))),
        Transform::RotateOutput { block: rotate::block(rows as usize) as u64, seed: 6 },
        Transform::Scale(0.25),
    ]
}

fn errors(param: &Param) -> Vec<String> {
    let result = quantize(param, &mut |_| Ok(()), &mut |_| ());
    result.unwrap_err().iter().map(|d| d.to_string()).collect()
}

/// Transforms by their definitions as matrix products in f64.
fn exact(param: &Param) -> Vec<f64> {
    let (rows, cols) = (param.source.rows() as usize, param.source.cols() as usize);
    let mut w: Vec<f64> = (0..rows * cols).map(|i| f64::from(param.source.get((i / cols) as u64, (i % cols) as u64))).collect();
    let r = |i: usize, j: usize, block: usize, seed: u64| {
        let parity = ((i % block) & (j % block)).count_ones() % 2;
        let entry = if i / block != j / block { 0.0 } else { 1.0 - 2.0 * f64::from(parity) };
        entry * f64::from(rotate::sign(seed, j % block)) / (block as f64).sqrt()
    };
    for transform in &param.transforms {
        let at = |i: usize, j: usize| w[i * cols + j];
        let changed = |i: usize, j: usize| match transform {
            Transform::ScaleColumns(by) => at(i, j) * f64::from(by.get(0, j as u64)),
            Transform::ScaleRows(by) => at(i, j) * f64::from(by.get(0, i as u64)),
            Transform::Scale(by) => at(i, j) * f64::from(*by),
            Transform::RotateInput { block, seed } => (0..cols).map(|k| at(i, k) * r(j, k, *block as usize, *seed)).sum(),
            Transform::RotateOutput { block, seed } => (0..rows).map(|k| r(i, k, *block as usize, *seed) * at(k, j)).sum(),
        };
        w = (0..rows * cols).map(|n| changed(n / cols, n % cols)).collect();
    }
    w
}

#[test]
fn transforms_are_their_definitions() {
    for (rows, cols) in [(24, 40), (33, 7), (64, 96), (1, 48)] {
        let param = param(rows, cols, Codec::F32, Group::Row, all_transforms(rows, cols));
        let (packed, record, _) = pack_in(&param, 100);
        let found = packed.view().unwrap().all_weights();
        let exact = exact(&param);
        let spread = exact.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (found, exact) in found.iter().zip(&exact) {
            assert!((f64::from(*found) - exact).abs() < 2e-6 * spread, "{rows}x{cols}: {found} {exact}");
        }
        assert_eq!(found, transformed(&param).data, "the reference evaluation's operations, to the bit");
        assert_eq!((record.relative_error, record.snr_db, record.accumulator_bound), (0.0, None, None));
    }
}

#[test]
fn bytes_depend_on_neither_blocks_nor_threads() {
    for (codec, group) in [
        (Codec::W8, Group::Row),
        (Codec::W10, Group::Columns(64)),
        (Codec::Split, Group::Columns(128)),
        (Codec::Q8, Group::Row),
    ] {
        let param = param(80, 150, codec, group, all_transforms(80, 150));
        let (whole, record, pieces) = pack_in(&param, BLOCK_NUMBERS);
        for (threads, block_numbers) in [(1, 1), (3, 1), (3, BLOCK_NUMBERS)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (other, other_record, other_pieces) = pool.install(|| pack_in(&param, block_numbers));
            assert_eq!((&other, &other_record), (&whole, &record), "{codec} {threads} {block_numbers}");
            assert_eq!(other_pieces, pieces, "sixteen rows each, whatever the block");
        }
        assert_eq!(whole, q35_format::encode::encode(whole.spec, &transformed(&param).data).unwrap());
    }
}

#[test]
fn the_record_is_what_the_bytes_say() {
    let mut param = param(20, 129, Codec::W8, Group::Row, vec![]);
    // One row that codes badly: almost all of it in one column.
    let mut values = gauss(3, 20 * 129);
    values[7 * 129..8 * 129].fill(0.01);
    values[7 * 129 + 5] = 100.0;
    values[7 * 129 + 6] = 60.0;
    param.source = view(20, 129, &values);
    let (packed, record, _) = pack_in(&param, 1);
    let decoded = packed.view().unwrap().all_weights();
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let relative = |w: &[f32], q: &[f32]| {
        norm(&mut w.iter().zip(q).map(|(w, q)| f64::from(*w) - f64::from(*q))) / norm(&mut w.iter().map(|w| f64::from(*w)))
    };
    assert!((record.relative_error - relative(&values, &decoded)).abs() < 1e-12);
    assert!((record.snr_db.unwrap() + 20.0 * record.relative_error.log10()).abs() <= 0.005);
    let rows: Vec<f64> = values.chunks(129).zip(decoded.chunks(129)).map(|(w, q)| relative(w, q)).collect();
    let worst = (0..20).max_by(|a, b| rows[*a].total_cmp(&rows[*b])).unwrap();
    assert_eq!(record.worst_row.row, worst as u64);
    assert!((record.worst_row.relative_error - rows[worst]).abs() < 1e-12);
    assert_eq!(record.effective_bits, 8.0 * packed.spec.total_bytes() as f64 / (20.0 * 129.0));
    let mut integers = vec![0; 129];
    let sums = (0..20).map(|row| {
        packed.view().unwrap().integers(row, &mut integers).unwrap();
        integers.iter().map(|q| u64::from(q.unsigned_abs())).sum::<u64>()
    });
    assert_eq!(record.accumulator_bound, Some(255 * sums.max().unwrap()));
}

#[test]
fn rotation_makes_heavy_tails_gaussian() {
    // One column in eleven is fifty times the rest.
    let outlier = |i: usize| i % 512 % 11 == 9;
    let values: Vec<f32> =
        gauss(4, 64 * 512).into_iter().enumerate().map(|(i, x)| if outlier(i) { 50.0 * x } else { x }).collect();
    let error = |transforms: Vec<Transform>| {
        let mut param = param(64, 512, Codec::W8, Group::Row, transforms);
        param.source = view(64, 512, &values);
        pack_in(&param, BLOCK_NUMBERS).1.relative_error.powi(2)
    };
    let rotated = error(vec![Transform::RotateInput { block: 512, seed: 1 }]);
    assert!(rotated < 1.02 * Codec::W8.facts().mse, "no worse than a Gaussian: {rotated}");
    assert!(error(vec![]) > 1.5 * rotated, "{}", error(vec![]));
}

#[test]
fn what_is_not_finite_is_counted_and_named() {
    let mut values = gauss(1, 40 * 50);
    values[17 * 50 + 3] = f32::NAN;
    values[17 * 50 + 4] = f32::INFINITY;
    values[39 * 50] = f32::NEG_INFINITY;
    let mut bad = param(40, 50, Codec::W8, Group::Row, all_transforms(40, 50));
    bad.source = view(40, 50, &values);
    let expected = "error[Q35-0301]: 3 of its weights are NaN or infinite, the first at output 17, input 3\n  at tensor 'model.weight'\n  \
                    help: the checkpoint is damaged or training diverged; export it again";
    assert_eq!(errors(&bad), [expected]);
    let found = to_nearest(&bad, 1, &mut |_| Ok(()), &mut |_| ()).unwrap_err().to_string();
    assert_eq!(found, expected, "the same from small blocks");
}

#[test]
fn what_overflows_the_codec_is_counted_and_named() {
    let mut huge = param(4, 50, Codec::F16, Group::Row, vec![Transform::Scale(1e30)]);
    let count = huge.source.rows() * huge.source.cols();
    let line = |codec: &str| {
        format!(
            "error[Q35-0303]: {count} of its weights are too large for {codec}, the first at output 0, input 0\n  at tensor 'model.weight'\n  \
             help: choose another codec, or f32"
        )
    };
    assert_eq!(errors(&huge), [line("f16")]);
    huge.transforms.push(Transform::Scale(1e30));
    huge.codec = Codec::W8;
    assert_eq!(errors(&huge), [line("w8")]);
    // The last f16, and the last f32 that bf16 does not round to infinity.
    let packs = |value: f32, codec| {
        let param = Param { codec, ..Param::new(view(1, 1, &[value]), ParamRole::Linear, "w") };
        quantize(&param, &mut |_| Ok(()), &mut |_| ()).is_ok()
    };
    assert!(packs(65504.0, Codec::F16) && !packs(65505.0, Codec::F16));
    let last = f32::from_bits(0x7f7f_7fff);
    assert!(packs(last, Codec::Bf16) && half::bf16::from_f32(last).is_finite());
    assert!(!packs(last.next_up(), Codec::Bf16) && half::bf16::from_f32(last.next_up()).is_infinite());
}

#[test]
fn accumulators_beyond_32_bits_are_refused() {
    let row = |cols: u64| Param {
        codec: Codec::Q8,
        ..Param::new(view(1, cols, &vec![1.0; cols as usize]), ParamRole::Linear, "model.weight")
    };
    // Groups are summed one by one.
    let grouped = Param { group: Group::Columns(128), ..row(66312) };
    let found = quantize(&grouped, &mut |_| Ok(()), &mut |_| ()).unwrap().record.accumulator_bound;
    assert_eq!(found, Some(255 * 127 * 128));
    // 2^31 lies between 255 * 127 times these two.
    let (fits, overflows) = (66311, 66312);
    let bound = |cols| quantize(&row(cols), &mut |_| Ok(()), &mut |_| ()).unwrap().record.accumulator_bound;
    assert_eq!(bound(fits), Some(255 * 127 * fits));
    let text = errors(&row(overflows));
    assert_eq!(text.len(), 1);
    assert!(
        text[0].starts_with("error[Q35-0302]: the sum of output 0 over 66312 inputs could reach 2147514120"),
        "{}",
        text[0]
    );
}

#[test]
fn a_failing_sink_stops_it() {
    let full = || Diagnostic::error(Code::DiskFull, "the disk is full");
    let mut calls = 0;
    let result = quantize(
        &param(40, 50, Codec::W7, Group::Row, vec![]),
        &mut |_| {
            calls += 1;
            Err(full().into())
        },
        &mut |_| (),
    );
    assert_eq!((result.unwrap_err(), calls), (full().into(), 1));
}
