//! A matrix product from its printed text: read back, checked, run on the fabric model, and compared with the sum it stands for.

mod mutations;

use crate::emit::files;
use crate::weights::{Coding, planes, scales};
use half::f16;
use q35_csl::{Layout, layout};
use q35_dialects::wse::{Axis, Buffer, Call, Direction, Kernel, Matrix, Part, Program, Region, Role};
use q35_fabric::{Fabric, Policy, Report, Settings};
use q35_format::encode::encode;
use q35_format::{Codec, Group, PackedSpec};
use std::iter::repeat;
use std::ops::Range;

/// Pseudo-random numbers in -1 .. 1.
fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }
}

/// One product: input cut along `input`.
struct Gemv {
    program: Program,
    input: Axis,
    outputs: usize,
    inputs: usize,
    coding: Coding,
    /// Vectors that a step multiplies, of a sequence of them.
    tokens: Range<usize>,
}

/// The result, the exact result, the sum of magnitudes, and what it took.
type Ran = (Vec<f32>, Vec<f64>, Vec<f64>, Report);

impl Gemv {
    /// One chain per row.
    fn new(input: Axis, coding: Coding, grid: [u64; 2], shape: [usize; 2]) -> Self {
        Self::grouped(input, coding, grid, shape, grid[0])
    }

    fn grouped(input: Axis, coding: Coding, [width, height]: [u64; 2], [outputs, inputs]: [usize; 2], group: u64) -> Self {
        let (cut, other) = if input == Axis::Columns { (width, height) } else { (height, width) };
        let piece = (inputs as u64).div_ceil(cut).next_multiple_of(coding.inputs());
        let rows = (outputs as u64).div_ceil(other);
        let (x, y) = (Part { buffer: 0, at: 0, len: piece }, Part { buffer: 1, at: 0, len: rows });
        let split = coding == Coding::Split;
        let matrix = Matrix { split, rows, stride: rows, inputs: piece, weights: 0, scales: 0 };
        let buffers = [("stream", piece + 1), ("result", rows)].map(|(name, len)| Buffer::new(name, len));
        let kernel = Kernel {
            name: "layers".to_owned(),
            height,
            group,
            tokens: 1,
            role: Role::Layers,
            buffers: buffers.to_vec(),
            arenas: [coding.words(piece) * rows, rows, 1, 1, 1],
            attentions: vec![],
            largest: [rows, piece],
            calls: vec![Call::Load { x, split }, Call::Product { y, matrix }, Call::Sum { y, over: input }],
        };
        let regions = vec![Region { top: 0, height, kernel: 0 }];
        let program = Program { width, regions, kernels: vec![kernel], stream: piece + 1, piece, tokens: 1 };
        Self { program, input, outputs, inputs, coding, tokens: 0..1 }
    }

    /// The same for steps of up to `most` tokens, with a step of these.
    fn block(mut self, most: u64, tokens: Range<usize>) -> Self {
        (self.program.tokens, self.program.kernels[0].tokens, self.tokens) = (most, most, tokens);
        self
    }

    fn matrix(&self) -> Matrix {
        match self.program.kernels[0].calls[1] {
            Call::Product { matrix, .. } => matrix,
            _ => unreachable!(),
        }
    }

    fn layout(&self) -> Layout {
        Layout::build(&layout::parse(&files(&self.program)).unwrap()).unwrap()
    }

    /// Runs it.
    fn run(&self, settings: Settings) -> Ran {
        self.run_on(Fabric::new(self.layout(), settings).unwrap()).unwrap()
    }

    fn run_on(&self, mut fabric: Fabric) -> Result<Ran, String> {
        let text = |error: q35_fabric::Error| error.to_string();
        let (outputs, inputs, matrix) = (self.outputs, self.inputs, self.matrix());
        let mut random = noise(7);
        let w: Vec<f32> = (0..outputs * inputs).map(|_| random()).collect();
        let x: Vec<Vec<f32>> = (0..self.tokens.end).map(|_| (0..inputs).map(|_| random()).collect()).collect();
        let x = &x[self.tokens.clone()];
        let codec = if self.coding == Coding::Split { Codec::Split } else { Codec::Q8 };
        let spec = PackedSpec::new(outputs, inputs, codec, Group::Row).unwrap();
        let packed = encode(spec, &w).unwrap();
        let view = packed.view().unwrap();
        let (width, height) = (self.program.width as usize, self.program.height() as usize);
        let (cut, piece, rows) =
            (if self.input == Axis::Columns { width } else { height }, matrix.inputs as usize, matrix.rows as usize);
        let words = self.coding.words(matrix.inputs) as usize;
        let codes: Vec<u8> = (0..outputs).flat_map(|row| view.row(row).to_vec()).collect();
        let codes = planes(spec.row_bytes(), matrix.rows, (words * cut) as u64).arrange_all(&codes);
        let factors: Vec<u8> = (0..outputs).flat_map(|row| f16::from_f32(view.scale(row, 0)).to_le_bytes()).collect();
        let factors = scales(&spec, matrix.rows).arrange_all(&factors);
        let take = |bytes: &[u8], at: usize, len: usize| -> Vec<u16> {
            let pair = |i: usize| u16::from_le_bytes([0, 1].map(|b| bytes.get(at + 2 * i + b).copied().unwrap_or(0)));
            (0..len).map(pair).collect()
        };
        for r in 0..height {
            for c in 0..width {
                let (i, o) = if self.input == Axis::Columns { (c, r) } else { (r, c) };
                let at = 2 * words * rows * (i + o * cut);
                fabric.write_words((c, r), "weights", &take(&codes, at, words * rows)).map_err(text)?;
                fabric.write_words((c, r), "scales", &take(&factors, 2 * rows * o, rows)).map_err(text)?;
                // Its piece, and the index, which means nothing here.
                let part = |x: &'_ Vec<f32>| {
                    let own = x.iter().copied().skip(i * piece).take(piece);
                    own.chain(repeat(0.0)).take(piece + 1).collect::<Vec<f32>>()
                };
                let parts: Vec<f32> = x.iter().flat_map(part).collect();
                fabric.write((c, r), "stream", &parts).map_err(text)?;
            }
        }
        let report = fabric.launch("step", &[x.len() as u16]).map_err(text)?;
        let mut y = vec![vec![]; x.len()];
        for o in 0..if self.input == Axis::Columns { height } else { width } {
            // The last PE of the chain and the first both have the sum.
            let at = if self.input == Axis::Columns { [(0, o), (width - 1, o)] } else { [(o, 0), (o, height - 1)] };
            let [mut part, mut other] = [(); 2].map(|()| vec![0.0; rows * x.len()]);
            fabric.read(at[0], "result", &mut part).map_err(text)?;
            fabric.read(at[1], "result", &mut other).map_err(text)?;
            if part != other {
                return Err("the ends of a chain have different sums".to_owned());
            }
            y.iter_mut().zip(part.chunks_exact(rows)).for_each(|(y, part)| y.extend_from_slice(part));
        }
        let y = y.iter().flat_map(|y: &Vec<f32>| y[..outputs].to_vec()).collect();
        let (mut exact, mut size) = (Vec::new(), Vec::new());
        let weights = view.all_weights();
        for (x, row) in x.iter().flat_map(|x| weights.chunks_exact(inputs).map(move |row| (x, row))) {
            let terms = || row.iter().zip(x).map(|(w, x)| f64::from(*w) * f16::from_f32(*x).to_f64());
            exact.push(terms().sum());
            size.push(terms().map(f64::abs).sum());
        }
        Ok((y, exact, size, report))
    }

    /// Whether a result is what it should be: a rounding per term, on partial sums of integers up to 8 in units of a scale whose weights reach 15.
    fn holds(&self, y: &[f32], exact: &[f64], size: &[f64]) -> bool {
        let bound = |size: &f64| size * (self.inputs as f64).sqrt() * f64::from(f32::EPSILON) * 4.0 + 1e-12;
        y.iter().zip(exact).zip(size).all(|((y, exact), size)| (f64::from(*y) - exact).abs() <= bound(size))
    }

    /// Every policy and depth gives the same bits, within the error of sums in f32.
    fn check(&self) -> Vec<Report> {
        let mut first: Option<Vec<f32>> = None;
        let mut reports = Vec::new();
        for policy in [Policy::Fixed, Policy::RoundRobin, Policy::Random(3)] {
            for depth in [1, 2, 8] {
                let (y, exact, size, report) = self.run(Settings { policy, depth, ..Settings::default() });
                assert!(self.holds(&y, &exact, &size), "{policy:?} {depth}");
                assert_eq!(*first.get_or_insert_with(|| y.clone()), y, "{policy:?} {depth}");
                reports.push(report);
            }
        }
        reports
    }
}

#[test]
fn products_from_their_text_are_the_sums_they_stand_for() {
    for (input, coding, grid, shape) in [
        (Axis::Columns, Coding::Split, [3, 2], [11, 96]),
        (Axis::Rows, Coding::Split, [2, 4], [14, 200]),
        (Axis::Columns, Coding::Byte, [4, 3], [10, 30]),
        (Axis::Columns, Coding::Split, [1, 1], [5, 33]),
        (Axis::Rows, Coding::Byte, [5, 2], [40, 17]),
    ] {
        Gemv::new(input, coding, grid, shape).check();
    }
}

/// A block of tokens: each has the bits that it has by itself, under every policy and depth, and in fewer cycles.
#[test]
fn a_block_of_tokens_gives_the_bits_of_each() {
    for (input, coding, grid, shape) in [
        (Axis::Columns, Coding::Split, [3, 2], [11, 96]),
        (Axis::Rows, Coding::Split, [2, 3], [14, 200]),
        (Axis::Columns, Coding::Byte, [9, 2], [14, 30]),
    ] {
        let new = |tokens| Gemv::grouped(input, coding, grid, shape, 4.min(grid[0])).block(6, tokens);
        let block = new(0..5);
        block.check();
        let (y, ..) = block.run(Settings::default());
        for t in 0..5 {
            let (alone, exact, size, _) = new(t..t + 1).run(Settings::default());
            assert!(block.holds(&alone, &exact, &size));
            let bits = |y: &[f32]| y.iter().map(|y| y.to_bits()).collect::<Vec<u32>>();
            assert_eq!(bits(&y[t * shape[0]..][..shape[0]]), bits(&alone), "token {t} of {input:?} {coding:?}");
        }
    }
}

/// Tiles of 128 x 128 on 4 x 4 PEs: a token of a block takes less than half of what it takes alone.
#[test]
fn a_block_decodes_each_weight_once() {
    let new = |tokens| Gemv::new(Axis::Columns, Coding::Split, [4, 4], [512, 512]).block(16, tokens);
    let [alone, block] = [0..1, 0..16].map(|tokens| new(tokens).run(Settings::default()).3.cycles);
    println!("{alone} cycles, in a block of 16 {}", block / 16);
    assert!(block / 16 * 2 < alone, "{} cycles, alone {alone}", block / 16);
}

/// The read-back routes are those of the program object.
#[test]
fn routes_survive_the_text() {
    let gemv = Gemv::new(Axis::Columns, Coding::Split, [4, 3], [12, 128]);
    let layout = gemv.layout();
    let bit = |direction: &Direction| 1u8 << *direction as u8;
    let mut routes = std::collections::BTreeMap::new();
    for route in gemv.program.routes() {
        for (x, y) in route.columns.iter().flat_map(|x| route.rows.iter().map(move |y| (x, y))) {
            let color = q35_dialects::wse::COLORS[route.color].id;
            let tx = route.tx.iter().map(bit).sum::<u8>();
            routes.insert(((y * 4 + x) as usize, color), (bit(&route.rx), tx));
        }
    }
    let read: std::collections::BTreeMap<_, _> =
        layout.configs.iter().map(|(at, config)| (*at, (config.rx, config.tx))).collect();
    assert_eq!(read, routes);
    assert_eq!(q35_csl::check::check(&layout), Vec::<String>::new());
    assert_eq!(layout.images.len(), 4, "one program per parity of column and row");
}

/// The estimate of a program's code counts what the reader counts.
#[test]
fn statements_are_those_of_the_text() {
    for block in [1, 4] {
        let gemv = Gemv::new(Axis::Columns, Coding::Split, [4, 3], [12, 128]).block(block, 0..1);
        let (estimate, read) = (crate::emit::statements(&gemv.program.kernels[0]), gemv.layout().images[0].code_lines as u64);
        assert!((read..read + 8).contains(&estimate), "{estimate}, read {read}");
    }
}

/// 4096 x 4096, within 1.5 of the larger of computation and wavelets; with `Q35_FULL=1` under every policy and depth.
#[test]
fn a_large_product_is_near_its_bound() {
    let gemv = Gemv::new(Axis::Columns, Coding::Split, [16, 16], [4096, 4096]);
    // Of 32 fields: 25 inside a word, 2 at its top, 5 across two.
    let matrix = gemv.matrix();
    let per_weight = (25.0 * 0.625 + 2.0 * 0.5 + 5.0 * 0.875) / 32.0;
    let compute = (matrix.rows * matrix.inputs) as f64 * per_weight;
    let links = (matrix.rows + 2 * gemv.program.width) as f64;
    let bound = compute.max(links);
    let reports = if std::env::var_os("Q35_FULL").is_some() {
        gemv.check()
    } else {
        let (y, exact, size, report) = gemv.run(Settings::default());
        assert!(gemv.holds(&y, &exact, &size));
        vec![report]
    };
    for report in reports {
        println!("{} cycles, {:.3} of the bound {bound}", report.cycles, report.cycles as f64 / bound);
        assert!((report.cycles as f64) < 1.5 * bound, "{} cycles, bound {bound}", report.cycles);
    }
}

/// Groups: the same sums as a chain up to rounding, and the time of the closed form, with the way back of the result.
#[test]
fn rows_that_sum_in_groups_take_the_time_of_the_closed_form() {
    for (width, group) in [(9, 4), (16, 4), (23, 6), (32, 32), (33, 8)] {
        let gemv = Gemv::grouped(Axis::Columns, Coding::Byte, [width, 2], [14, 2 * width as usize], group);
        gemv.check();
        let settings = Settings { startup: 0, ..Settings::default() };
        let (.., whole) = gemv.run(settings);
        // The same without the sum.
        let mut alone = Gemv::grouped(Axis::Columns, Coding::Byte, [width, 2], [14, 2 * width as usize], group);
        alone.program.kernels[0].calls.pop();
        let mut fabric = Fabric::new(alone.layout(), settings).unwrap();
        let without = fabric.launch("step", &[1]).unwrap();
        let matrix = gemv.matrix();
        let back = matrix.rows + width - 1 + 5;
        let formula = crate::reduction::cycles(width, group, matrix.rows) + back;
        let took = whole.cycles - without.cycles;
        // A constant for the calls between operations on wavelets, and 4 percent.
        assert!(took.abs_diff(formula) <= 40 + formula / 25, "{width} in groups of {group}: {took} cycles, formula {formula}");
    }
}
