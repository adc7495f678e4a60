//! Every codec, level, variant and group against plain Rust on the decoded weights, over awkward sizes.
//!
//! Integer codecs must agree to the last bit: their sums are exact and the order of the few float operations is fixed. Float codecs
//! must lie within the rounding of their sums.

use super::geometry::{act_stride, codes, quant_stride, scales, vector};
use super::testing::{Guarded, Loaded, Random, compile, levels};
use super::*;
use crate::abi::define;
use q35_format::{Codec, PackedView, ScaleType};
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::{link, llvm};

/// A layer with random contents.
struct Case {
    linear: Linear,
    codes: Vec<u8>,
    scales: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(random: &mut Random, codec: Codec, group: Group, scale: ScaleType, rows: usize, cols: usize, bias: bool) -> Self {
        let spec = PackedSpec::new(rows, cols, codec, group).unwrap();
        let spec = spec.with_scale(scale).unwrap();
        let mut codes: Vec<u8> = match codec.facts().storage {
            Storage::Float { .. } => {
                let values = random.units(rows * cols);
                values.iter().flat_map(|v| float_bytes(codec, *v)).collect()
            }
            _ => (0..spec.codes_bytes()).map(|_| random.bits() as u8).collect(),
        };
        if let Storage::Pairs { .. } = codec.facts().storage {
            // The bits after a row's last container are 0.
            let used = cols.div_ceil(2) * 7;
            for row in codes.chunks_exact_mut(spec.row_bytes()) {
                if !used.is_multiple_of(8) {
                    *row.last_mut().unwrap() &= (1 << (used % 8)) - 1;
                }
            }
        }
        let scales = random.units(spec.scale_count()).into_iter().flat_map(|v| match scale {
            ScaleType::F16 => half::f16::from_f32(v * 0.01).to_le_bytes().to_vec(),
            ScaleType::F32 => (v * 0.01).to_le_bytes().to_vec(),
        });
        let scales = scales.collect();
        let bias_values = random.units(rows);
        Self { linear: Linear { bias, ..Linear::new(spec) }, codes, scales, bias: bias_values }
    }

    fn view(&self) -> PackedView<'_> {
        PackedView::new(self.linear.spec, &self.codes, &self.scales, &[]).unwrap()
    }

    /// Runs a variant over the given tile ranges and gives `tokens` rows of outputs.
    fn run(
        &self,
        loaded: &Loaded,
        kernel: &LinearKernel,
        level: Level,
        x: &Guarded,
        tokens: usize,
        parts: &[std::ops::Range<i64>],
    ) -> Vec<f32> {
        let spec = &self.linear.spec;
        let bias: Vec<u8> = self.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
        let codes = Guarded::new(&codes(spec).arrange_all(&self.codes));
        let stride = act_stride(spec.rows()) / 4;
        let y = Guarded::new(&vec![f32::NAN; tokens * stride]);
        let mut args = vec![x, &codes];
        let scale_memory = spec.codec().has_scales().then(|| Guarded::new(&scales(spec).arrange_all(&self.scales)));
        args.extend(&scale_memory);
        let bias_memory = self.linear.bias.then(|| Guarded::new(&vector(spec.rows()).arrange_all(&bias)));
        args.extend(&bias_memory);
        args.push(&y);
        for part in parts {
            loaded.call(&kernel.name(), level, &args, [tokens as i64, 0, 0, 0], part.clone());
        }
        y.read::<f32>().chunks_exact(stride).flat_map(|row| row[..spec.rows()].to_vec()).collect()
    }

    fn define(&self, module: &KernelModule<'_>) {
        for level in levels() {
            for kernel in self.linear.kernels() {
                define(module, &kernel.name(), level, |call| kernel.build(level, call));
            }
        }
    }

    fn tiles(&self) -> i64 {
        self.linear.spec.rows().div_ceil(geometry::TILE) as i64
    }
}

fn float_bytes(codec: Codec, v: f32) -> Vec<u8> {
    match codec {
        Codec::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
        Codec::Bf16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
        _ => v.to_le_bytes().to_vec(),
    }
}

/// Rounded activations: integers, scales, and the memory that kernels read.
fn rounded(random: &mut Random, tokens: usize, cols: usize) -> (Vec<Vec<i8>>, Vec<f32>, Vec<u8>) {
    let integers: Vec<Vec<i8>> = (0..tokens)
        .map(|_| (0..cols).map(|_| (random.bits() % 255) as i8).map(|q| if q == -128 { 127 } else { q }).collect())
        .collect();
    let scales: Vec<f32> = random.units(tokens);
    let mut memory = Vec::new();
    for (row, scale) in integers.iter().zip(&scales) {
        let mut bytes = vec![0u8; quant_stride(cols)];
        bytes[..4].copy_from_slice(&scale.to_le_bytes());
        for (k, q) in row.iter().enumerate() {
            bytes[64 + k / 128 * 128 + k % 2 * 64 + k % 128 / 2] = *q as u8;
        }
        let sum = |q: &[i8]| q.iter().map(|q| i32::from(*q)).sum::<i32>().to_le_bytes();
        bytes[4..8].copy_from_slice(&sum(row));
        for (half, q) in row.chunks(64).enumerate() {
            bytes[64 + cols.next_multiple_of(128) + 4 * half..][..4].copy_from_slice(&sum(q));
        }
        memory.extend(bytes);
    }
    (integers, scales, memory)
}

/// The definition of the layer on integers, one operation at a time.
fn integer_oracle(case: &Case, x: &[Vec<i8>], x_scales: &[f32]) -> Vec<f32> {
    let (spec, view) = (case.linear.spec, case.view());
    let mut weights = vec![vec![0i8; spec.cols()]; spec.rows()];
    for (row, out) in weights.iter_mut().enumerate() {
        view.integers(row, out).unwrap();
    }
    let mut y = Vec::new();
    for (x, x_scale) in x.iter().zip(x_scales) {
        for (row, weights) in weights.iter().enumerate() {
            let terms = (0..spec.groups()).map(|group| {
                let columns = spec.group().columns(spec.cols(), group);
                let sum: i64 = columns.map(|k| i64::from(x[k]) * i64::from(weights[k])).sum();
                i32::try_from(sum).unwrap() as f32 * view.scale(row, group)
            });
            let total = terms.reduce(|a, b| a + b).unwrap() * x_scale;
            y.push(if case.linear.bias { total + case.bias[row] } else { total });
        }
    }
    y
}

/// Token counts that meet every chunk size and its remainders.
const TOKENS: [usize; 10] = [1, 2, 3, 4, 5, 7, 8, 9, 11, 33];

fn check_integers(cases: &[Case], random: &mut Random) {
    let loaded = compile(|module| cases.iter().for_each(|case| case.define(module)));
    for case in cases {
        for tokens in TOKENS {
            let (x, x_scales, memory) = rounded(random, tokens, case.linear.spec.cols());
            let expected: Vec<u32> = integer_oracle(case, &x, &x_scales).iter().map(|y| y.to_bits()).collect();
            let x = Guarded::new(&memory);
            for level in levels() {
                for kernel in case.linear.kernels() {
                    let n = case.tiles();
                    let cut = (random.bits() % (n as u64 + 1)) as i64;
                    let y = case.run(&loaded, &kernel, level, &x, tokens, &[cut..n, 0..cut]);
                    let y: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                    assert!(y == expected, "{} {} for {tokens} tokens", kernel.name(), level.name());
                }
            }
        }
    }
}

/// Sizes that end anywhere in a block, a quad, a tile.
const SIZES: [(usize, usize); 10] =
    [(1, 1), (5, 2), (16, 63), (33, 64), (5, 127), (16, 128), (33, 129), (17, 256), (40, 300), (16, 768)];

const GROUPS: [Group; 3] = [Group::Row, Group::Columns(64), Group::Columns(128)];

#[test]
fn pair_codecs_are_exact() {
    let mut random = Random(1);
    for (codec, sizes) in [(Codec::W8, &SIZES[..]), (Codec::Split, &SIZES[4..8]), (Codec::W7, &SIZES[5..8])] {
        let cases: Vec<Case> = sizes
            .iter()
            .zip(GROUPS.into_iter().cycle())
            .enumerate()
            .map(|(at, (&(rows, cols), group))| Case::new(&mut random, codec, group, ScaleType::F16, rows, cols, at % 2 == 1))
            .collect();
        check_integers(&cases, &mut random);
    }
}

#[test]
fn every_group_is_exact_where_a_row_fills_its_last_block() {
    let mut random = Random(6);
    let cases = GROUPS.map(|group| Case::new(&mut random, Codec::W8, group, ScaleType::F16, 17, 256, false));
    check_integers(&cases, &mut random);
}

#[test]
fn wide_windows_are_exact() {
    let mut random = Random(2);
    for codec in [Codec::W9, Codec::W10] {
        let cases: Vec<Case> =
            [(5, 127, Group::Row), (17, 256, Group::Columns(64)), (33, 129, Group::Columns(128)), (16, 384, Group::Row)]
                .into_iter()
                .map(|(rows, cols, group)| Case::new(&mut random, codec, group, ScaleType::F32, rows, cols, false))
                .collect();
        check_integers(&cases, &mut random);
    }
}

#[test]
fn eight_bit_weights_are_exact() {
    let mut random = Random(3);
    let cases: Vec<Case> = SIZES
        .into_iter()
        .zip(GROUPS.into_iter().cycle())
        .map(|((rows, cols), group)| Case::new(&mut random, Codec::Q8, group, ScaleType::F16, rows, cols, rows == 33))
        .collect();
    check_integers(&cases, &mut random);
}

#[test]
fn float_codecs_round_as_sums_do() {
    let mut random = Random(4);
    let mut cases = Vec::new();
    for codec in [Codec::F32, Codec::F16, Codec::Bf16] {
        for (rows, cols) in [(1, 1), (5, 3), (16, 64), (33, 129), (40, 300)] {
            cases.push(Case::new(&mut random, codec, Group::Row, ScaleType::F16, rows, cols, rows == 33));
        }
    }
    let loaded = compile(|module| cases.iter().for_each(|case| case.define(module)));
    for case in &cases {
        let (rows, cols) = (case.linear.spec.rows(), case.linear.spec.cols());
        for tokens in TOKENS {
            let stride = act_stride(cols) / 4;
            let mut x = vec![f32::NAN; tokens * stride];
            for row in x.chunks_exact_mut(stride) {
                row[..cols].copy_from_slice(&random.units(cols));
            }
            let memory = Guarded::new(&x);
            for level in levels() {
                let n = case.tiles();
                let kernel = case.linear.kernels().remove(0);
                let y = case.run(&loaded, &kernel, level, &memory, tokens, &[0..n / 2, n / 2..n]);
                let mut weights = vec![0.0; cols];
                for row in 0..rows {
                    case.view().weights(row, &mut weights);
                    for token in 0..tokens {
                        let terms = || x[token * stride..].iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
                        let bias = if case.linear.bias { f64::from(case.bias[row]) } else { 0.0 };
                        let exact = terms().sum::<f64>() + bias;
                        // One rounding per product, per addition to one of four partial sums, for joining them, and for the bias.
                        let roundings = cols.div_ceil(4) + 4;
                        let bound = (terms().map(f64::abs).sum::<f64>() + bias.abs()) * roundings as f64 * 2f64.powi(-24);
                        let found = f64::from(y[token * rows + row]);
                        assert!(
                            (found - exact).abs() <= bound,
                            "{} {} row {row} token {token}: {found}, not {exact}",
                            kernel.name(),
                            level.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn arrangements_have_inverses() {
    let mut random = Random(5);
    for codec in [Codec::W8, Codec::Q8, Codec::F16, Codec::F32] {
        let case = Case::new(&mut random, codec, Group::Row, ScaleType::F16, 21, 131, false);
        let arrangement = codes(&case.linear.spec);
        let all = arrangement.arrange_all(&case.codes);
        assert_eq!(Some(all.len()), arrangement.bytes(21));
        for (row, bytes) in case.codes.chunks_exact(case.linear.spec.row_bytes()).enumerate() {
            let tile = &all[row / geometry::TILE * arrangement.tile_bytes..][..arrangement.tile_bytes];
            let mut restored = vec![0; bytes.len()];
            arrangement.restore(tile, row % geometry::TILE, &mut restored);
            assert_eq!(restored, bytes);
        }
    }
}

#[test]
fn symbols_say_what_they_are() {
    let spec = PackedSpec::new(256, 768, Codec::W8, Group::Row).unwrap();
    let linear = Linear::new(spec);
    assert_eq!(linear.symbol(Variant::Few), "linear_w8_row_256x768_few");
    let spec = PackedSpec::new(10, 7, Codec::Q8, Group::Columns(64)).unwrap();
    let linear = Linear { rows: Rows::Logits, bias: true, ..Linear::new(spec) };
    assert_eq!(linear.symbol(Variant::Many), "linear_q8_g64_10x7_bias_logits");
}

#[test]
fn portable_kernels_compile_for_another_architecture() {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    for (codec, group) in
        [(Codec::W9, Group::Columns(64)), (Codec::Q8, Group::Row), (Codec::F16, Group::Row), (Codec::Bf16, Group::Row)]
    {
        let spec = PackedSpec::new(33, 200, codec, group).unwrap();
        for kernel in (Linear { rows: Rows::Logits, bias: true, ..Linear::new(spec) }).kernels() {
            define(&module, &kernel.name(), Level::Base, |call| kernel.build(Level::Base, call));
        }
    }
    module.lower(|_, _| ());
    let object = llvm::emit(&module, &llvm::Machine::aarch64_linux()).object;
    assert_eq!(link::undefined_symbols(&object), Vec::<String>::new());
}
