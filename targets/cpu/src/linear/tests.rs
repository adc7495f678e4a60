//! Every codec, level, variant and group against plain Rust on the decoded weights, over awkward sizes.
//!
//! Integer codecs must agree to the last bit: their sums are exact and the order of the few float operations is fixed. Float codecs
//! must lie within the rounding of their sums.

use super::geometry::{codes, quant_stride, scales};
use super::testing::{Guarded, Loaded, Random, compile, levels};
use super::*;
use crate::abi::define;
use q35_format::{Codec, Group, PackedSpec, PackedView, ScaleType};
use q35_launch::layout::{act_stride, routing_stride, stacked, vectors};
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::{link, llvm};

/// A layer with random contents.
struct Case {
    linear: Linear,
    /// The weight as it is stored: of all experts where there are experts.
    stored: PackedSpec,
    codes: Vec<u8>,
    scales: Vec<u8>,
    offsets: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(random: &mut Random, codec: Codec, group: Group, scale: ScaleType, rows: usize, cols: usize, bias: bool) -> Self {
        let spec = PackedSpec::new(rows, cols, codec, group).unwrap();
        Self::of(random, spec.with_scale(scale).unwrap(), bias)
    }

    fn of(random: &mut Random, spec: PackedSpec, bias: bool) -> Self {
        let (rows, cols, codec) = (spec.rows(), spec.cols(), spec.codec());
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
        let mut numbers = |count: usize| -> Vec<u8> {
            let bytes = |v: f32| match spec.scale() {
                ScaleType::F16 => half::f16::from_f32(v * 0.01).to_le_bytes().to_vec(),
                ScaleType::F32 => (v * 0.01).to_le_bytes().to_vec(),
            };
            random.units(count).into_iter().flat_map(bytes).collect()
        };
        let scales = numbers(spec.scale_count());
        let offsets = if spec.asymmetric() { numbers(spec.scale_count()) } else { vec![] };
        let bias_values = random.units(rows);
        Self { linear: Linear { bias, ..Linear::new(spec) }, stored: spec, codes, scales, offsets, bias: bias_values }
    }

    /// A layer of experts, `choices` per row of what is routed.
    fn experts(random: &mut Random, spec: PackedSpec, experts: Experts, choices: u32, bias: bool) -> Self {
        let stored = PackedSpec::new(spec.rows() * experts.count, spec.cols(), spec.codec(), spec.group()).unwrap();
        let case = Self::of(random, stored.with_scale(spec.scale()).unwrap(), bias);
        let rows = Rows::TokenChoices(choices);
        Self { linear: Linear { spec, rows, bias, experts: Some(experts), ..Linear::new(spec) }, ..case }
    }

    fn view(&self) -> PackedView<'_> {
        PackedView::new(self.stored, &self.codes, &self.scales, &self.offsets).unwrap()
    }

    /// The arguments of the weight, in order.
    fn weight(&self) -> Vec<Guarded> {
        let (spec, outputs) = (&self.stored, self.linear.spec.rows());
        let experts = self.linear.experts.map_or(1, |experts| experts.count);
        let arranged = |arrangement, bytes: &[u8]| {
            let arrangement = if experts > 1 { stacked(arrangement, outputs) } else { arrangement };
            Guarded::new(&arrangement.arrange_all(bytes))
        };
        let mut weight = vec![arranged(codes(spec), &self.codes)];
        weight.extend(spec.codec().has_scales().then(|| arranged(scales(spec), &self.scales)));
        weight.extend(spec.asymmetric().then(|| arranged(scales(spec), &self.offsets)));
        let bias: Vec<u8> = self.bias.iter().flat_map(|b| b.to_le_bytes()).collect();
        weight.extend(self.linear.bias.then(|| Guarded::new(&vectors(outputs, experts).arrange_all(&bias))));
        weight
    }

    /// Runs a variant over the given tile ranges and gives `rows` rows of outputs, of a step of `tokens` tokens.
    fn run(
        &self,
        loaded: &Loaded,
        kernel: &LinearKernel,
        level: Level,
        inputs: &[&Guarded],
        [tokens, rows]: [usize; 2],
        parts: &[std::ops::Range<i64>],
    ) -> Vec<f32> {
        let outputs = self.linear.spec.rows();
        let stride = act_stride(outputs) / 4;
        let y = Guarded::new(&vec![f32::NAN; rows * stride]);
        let weight = self.weight();
        let args: Vec<&Guarded> = inputs.iter().copied().chain(&weight).chain([&y]).collect();
        for part in parts {
            loaded.call(&kernel.name(), level, &args, [tokens as i64, 0, 0, 0], part.clone());
        }
        y.read::<f32>().chunks_exact(stride).flat_map(|row| row[..outputs].to_vec()).collect()
    }

    /// Defines the kernels of case number `at` for those of `levels` that it is for.
    fn define(&self, at: usize, module: &KernelModule<'_>, levels: &[Level]) {
        for level in levels_of(at).filter(|level| levels.contains(level)) {
            for kernel in kernels(&self.linear).unwrap() {
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
            let (odd, pair) = (k % 2, k % 64 / 2);
            bytes[64 + k / 64 * 64 + 32 * odd + pair % 8 * 4 + pair / 8] = *q as u8;
        }
        let mut sums = |at: usize, q: &[i8]| {
            for odd in 0..2 {
                let sum: i32 = q.iter().skip(odd).step_by(2).map(|q| i32::from(*q)).sum();
                bytes[at + 4 * odd..][..4].copy_from_slice(&sum.to_le_bytes());
            }
        };
        sums(4, row);
        for (block, q) in row.chunks(64).enumerate() {
            sums(64 + cols.next_multiple_of(64) + 8 * block, q);
        }
        memory.extend(bytes);
    }
    (integers, scales, memory)
}

/// The definition of the layer on integers, one operation at a time.
fn integer_oracle(case: &Case, x: &[Vec<i8>], x_scales: &[f32]) -> Vec<f32> {
    let (spec, view) = (case.stored, case.view());
    let mut weights = vec![vec![0i8; spec.cols()]; spec.rows()];
    for (row, out) in weights.iter_mut().enumerate() {
        view.integers(row, out).unwrap();
    }
    let mut y = Vec::new();
    for (x, x_scale) in x.iter().zip(x_scales) {
        for (row, weights) in weights.iter().enumerate() {
            let terms = (0..spec.groups()).map(|group| {
                let sum: i64 = spec.group().columns(spec.cols(), group).map(|k| i64::from(x[k]) * i64::from(weights[k])).sum();
                let term = i32::try_from(sum).unwrap() as f32 * view.scale(row, group);
                let of_x: i32 = spec.group().columns(spec.cols(), group).map(|k| i32::from(x[k])).sum();
                if spec.asymmetric() { term + of_x as f32 * view.offset(row, group) } else { term }
            });
            let total = terms.reduce(|a, b| a + b).unwrap() * x_scale;
            y.push(if case.linear.bias { total + case.bias[row] } else { total });
        }
    }
    y
}

/// Token counts that meet every chunk size and its remainders.
const TOKENS: [usize; 10] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 33];

/// The levels that case number `at` is for: all that this machine has, and one of the others each, unless `Q35_FULL` asks for all of them.
fn levels_of(at: usize) -> impl Iterator<Item = Level> {
    let full = std::env::var_os("Q35_FULL").is_some();
    let others = levels().filter(|level| level.is_plain() || !level.is_here()).count();
    let mut other = 0;
    levels().filter(move |level| {
        let is_other = level.is_plain() || !level.is_here();
        other += usize::from(is_other);
        full || !is_other || at % others == other - 1
    })
}

fn check_integers(cases: &[Case], random: &mut Random) {
    let loaded = compile(|module, levels| cases.iter().enumerate().for_each(|(at, case)| case.define(at, module, levels)));
    for (at, case) in cases.iter().enumerate() {
        for tokens in TOKENS {
            let (x, x_scales, memory) = rounded(random, tokens, case.linear.spec.cols());
            let expected: Vec<u32> = integer_oracle(case, &x, &x_scales).iter().map(|y| y.to_bits()).collect();
            let x = Guarded::new(&memory);
            for level in levels_of(at) {
                for kernel in kernels(&case.linear).unwrap() {
                    let n = case.tiles();
                    let cut = (random.bits() % (n as u64 + 1)) as i64;
                    let y = case.run(&loaded, &kernel, level, &[&x], [tokens; 2], &[cut..n, 0..cut]);
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
    for (codec, sizes) in
        [(Codec::A11, &SIZES[..]), (Codec::W8, &SIZES[4..]), (Codec::Split, &SIZES[4..8]), (Codec::W7, &SIZES[5..8])]
    {
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
fn offsets_are_added_group_by_group() {
    let mut random = Random(7);
    let cases: Vec<Case> = [(5, 127), (33, 129), (17, 256)]
        .into_iter()
        .zip(GROUPS)
        .map(|((rows, cols), group)| {
            let spec = PackedSpec::new(rows, cols, Codec::Split, group).unwrap().with_offsets().unwrap();
            Case::of(&mut random, spec, rows == 33)
        })
        .collect();
    check_integers(&cases, &mut random);
}

/// Which experts the rows of a step go to, by chance, with one that gets no row; and the arguments that say so.
fn routed(random: &mut Random, tokens: usize, experts: usize, choices: usize) -> (Vec<usize>, [Guarded; 2]) {
    let mut chosen = Vec::new();
    for _ in 0..tokens {
        let mut left: Vec<usize> = (1..experts).collect();
        chosen.extend((0..choices).map(|_| left.swap_remove(random.bits() as usize % left.len())));
    }
    let rows = chosen.chunks(choices).flat_map(|row| {
        let mut row: Vec<i32> = row.iter().map(|expert| *expert as i32).collect();
        row.resize(routing_stride(choices) / 4, -1);
        row
    });
    let mut order: Vec<usize> = (0..chosen.len()).collect();
    order.sort_by_key(|row| chosen[*row]);
    let starts = (0..=experts).map(|expert| chosen.iter().filter(|of| **of < expert).count());
    let sorted: Vec<i32> = order.iter().copied().chain(starts).map(|at| at as i32).collect();
    (chosen.clone(), [Guarded::new(&rows.collect::<Vec<i32>>()), Guarded::new(&sorted)])
}

#[test]
fn experts_meet_their_rows_and_no_others() {
    let mut random = Random(8);
    let spec = |rows, cols, codec, group| PackedSpec::new(rows, cols, codec, group).unwrap();
    let kinds = [
        (spec(40, 300, Codec::W8, Group::Row), 2, 5),
        (spec(33, 129, Codec::W10, Group::Columns(64)), 3, 9),
        (spec(32, 256, Codec::W7, Group::Columns(128)), 1, 4),
        (spec(5, 127, Codec::Split, Group::Row), 2, 4),
        (spec(17, 64, Codec::Q8, Group::Columns(64)), 2, 3),
        (spec(21, 130, Codec::F32, Group::Row), 2, 4),
        (spec(16, 65, Codec::F16, Group::Row), 3, 5),
        (spec(7, 30, Codec::Bf16, Group::Row), 2, 6),
    ];
    let mut cases = Vec::new();
    for (at, (spec, choices, count)) in kinds.into_iter().enumerate() {
        let shared = at % 2 == 0;
        cases.push((
            Case::experts(&mut random, spec, Experts { count, shared }, choices, at % 3 == 0),
            choices as usize,
            count,
        ));
    }
    let loaded =
        compile(|module, levels| cases.iter().enumerate().for_each(|(at, (case, ..))| case.define(at, module, levels)));
    for (at, (case, choices, experts)) in cases.iter().enumerate() {
        let (outputs, cols, shared) = (case.linear.spec.rows(), case.linear.spec.cols(), case.linear.experts.unwrap().shared);
        for tokens in [1, 2, 5, 40] {
            let (chosen, [routing, sorted]) = routed(&mut random, tokens, *experts, *choices);
            let rows_of_x = if shared { tokens } else { chosen.len() };
            let (all, exact, memory) = if case.stored.codec().has_scales() {
                let (x, x_scales, memory) = rounded(&mut random, rows_of_x, cols);
                (integer_oracle(case, &x, &x_scales), true, memory)
            } else {
                let x = random.units(rows_of_x * cols);
                let mut memory = vec![f32::NAN; rows_of_x * act_stride(cols) / 4];
                memory
                    .chunks_mut(act_stride(cols) / 4)
                    .zip(x.chunks(cols))
                    .for_each(|(to, from)| to[..cols].copy_from_slice(from));
                (float_oracle(case, &x), false, memory.iter().flat_map(|v| v.to_le_bytes()).collect())
            };
            let all: Vec<&[f32]> = all.chunks(case.stored.rows()).collect();
            let expected: Vec<f32> = (0..chosen.len())
                .flat_map(|row| &all[if shared { row / choices } else { row }][chosen[row] * outputs..][..outputs])
                .copied()
                .collect();
            let x = Guarded::new(&memory);
            for (level, kernel) in
                levels_of(at).flat_map(|level| kernels(&case.linear).unwrap().into_iter().map(move |kernel| (level, kernel)))
            {
                let n = kernel.tiles(case.linear.rows).eval(&[tokens as u64, 0, 0, 0]).unwrap() as i64;
                let cut = (random.bits() % (n as u64 + 1)) as i64;
                let sizes = [tokens, chosen.len()];
                let y = case.run(&loaded, &kernel, level, &[&x, &routing, &sorted], sizes, &[cut..n, 0..cut]);
                let near = |x: f32, y: f32| if exact { x.to_bits() == y.to_bits() } else { (x - y).abs() <= 2e-5 };
                let wrong = expected.iter().zip(&y).position(|(x, y)| !near(*x, *y));
                let what = format!("{} {} for {tokens} tokens", kernel.name(), level.name());
                assert!(wrong.is_none() && y.len() == expected.len(), "{what}: {wrong:?}");
            }
        }
    }
}

/// The definition of the layer on floats, in f64.
fn float_oracle(case: &Case, x: &[f32]) -> Vec<f32> {
    let (rows, cols) = (case.stored.rows(), case.stored.cols());
    let mut weights = vec![0.0; rows * cols];
    weights.chunks_mut(cols).enumerate().for_each(|(row, out)| case.view().weights(row, out));
    let dot = |x: &[f32], w: &[f32]| -> f64 { x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum() };
    let bias = |row: usize| if case.linear.bias { f64::from(case.bias[row]) } else { 0.0 };
    let of = |x| weights.chunks(cols).enumerate().map(move |(row, w)| (dot(x, w) + bias(row)) as f32);
    x.chunks(cols).flat_map(of).collect()
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
    let loaded = compile(|module, levels| cases.iter().enumerate().for_each(|(at, case)| case.define(at, module, levels)));
    for (at, case) in cases.iter().enumerate() {
        let (rows, cols) = (case.linear.spec.rows(), case.linear.spec.cols());
        for tokens in TOKENS {
            let stride = act_stride(cols) / 4;
            let mut x = vec![f32::NAN; tokens * stride];
            for row in x.chunks_exact_mut(stride) {
                row[..cols].copy_from_slice(&random.units(cols));
            }
            let memory = Guarded::new(&x);
            for level in levels_of(at) {
                let n = case.tiles();
                let kernel = kernels(&case.linear).unwrap().remove(0);
                let y = case.run(&loaded, &kernel, level, &[&memory], [tokens; 2], &[0..n / 2, n / 2..n]);
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
        let case = Case::new(&mut random, codec, Group::Row, ScaleType::F16, 42, 131, false);
        let plain = codes(&case.stored);
        for (arrangement, tile_rows) in [(stacked(plain.clone(), 21), 21), (plain, 16)] {
            assert_eq!(arrangement.tile_rows, tile_rows);
            let all = arrangement.arrange_all(&case.codes);
            assert_eq!(Some(all.len()), arrangement.bytes(42));
            for (row, bytes) in case.codes.chunks_exact(case.stored.row_bytes()).enumerate() {
                let tile = &all[row / tile_rows * arrangement.tile_bytes..][..arrangement.tile_bytes];
                let mut restored = vec![0; bytes.len()];
                arrangement.restore(tile, row % tile_rows, &mut restored);
                assert_eq!(restored, bytes);
            }
        }
    }
}

#[test]
fn symbols_say_what_they_are() {
    let spec = PackedSpec::new(256, 768, Codec::W8, Group::Row).unwrap();
    let (packed, linear) = (spec, Linear::new(spec));
    let symbol = |linear: &Linear, variant| LinearKernel { linear: linear.clone(), variant }.name();
    assert_eq!(symbol(&linear, Variant::Few), "linear_w8_row_256x768_few");
    let spec = PackedSpec::new(10, 7, Codec::Q8, Group::Columns(64)).unwrap();
    let linear = Linear { rows: Rows::Logits, bias: true, ..Linear::new(spec) };
    assert_eq!(symbol(&linear, Variant::Many), "linear_q8_g64_10x7_bias_logits");
    let experts = Some(Experts { count: 8, shared: true });
    let linear = Linear { rows: Rows::LogitChoices(2), experts, ..Linear::new(spec) };
    assert_eq!(symbol(&linear, Variant::Single), "linear_q8_g64_10x7_2_of_8_shared_logits_single");
    let most: Vec<Option<u64>> =
        kernels(&Linear { spec: packed, ..linear }).unwrap().iter().map(LinearKernel::max_rows).collect();
    assert_eq!(most, [Some(2), Some(128), None]);
}

#[test]
fn portable_kernels_compile_for_another_architecture() {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    for (codec, group) in
        [(Codec::W9, Group::Columns(64)), (Codec::Q8, Group::Row), (Codec::F16, Group::Row), (Codec::Bf16, Group::Row)]
    {
        let spec = PackedSpec::new(33, 200, codec, group).unwrap();
        let plain = Linear { rows: Rows::Logits, bias: true, ..Linear::new(spec) };
        let experts =
            Linear { rows: Rows::TokenChoices(2), experts: Some(Experts { count: 3, shared: false }), ..plain.clone() };
        for kernel in kernels(&plain).unwrap().into_iter().chain(kernels(&experts).unwrap()) {
            define(&module, &kernel.name(), Level::BASE, |call| kernel.build(Level::BASE, call));
        }
    }
    module.lower(|_, _| ());
    let object = llvm::emit(&module, &llvm::Machine::aarch64_linux()).object;
    assert_eq!(link::undefined_symbols(&object), Vec::<String>::new());
}
