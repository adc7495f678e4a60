//! A matrix product from its printed text: read back, checked, run on the fabric model, and compared with the sum it stands for.

use crate::emit::files;
use crate::weights::{Coding, planes, scales};
use half::f16;
use q35_csl::{Layout, layout};
use q35_dialects::wse::{Axis, Buffer, Call, Direction, Kernel, Matrix, Part, Program, Region};
use q35_fabric::{Fabric, Policy, Report, Settings};
use q35_format::encode::encode;
use q35_format::{Codec, Group, PackedSpec};

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
}

impl Gemv {
    fn new(input: Axis, coding: Coding, [width, height]: [u64; 2], [outputs, inputs]: [usize; 2]) -> Self {
        let (cut, other) = if input == Axis::Columns { (width, height) } else { (height, width) };
        let piece = (inputs as u64).div_ceil(cut).next_multiple_of(coding.inputs());
        let rows = (outputs as u64).div_ceil(other);
        let (x, y) = (Part { buffer: 0, at: 0, len: piece }, Part { buffer: 1, at: 0, len: rows });
        let split = coding == Coding::Split;
        let matrix = Matrix { split, rows, stride: rows, inputs: piece, weights: 0, scales: 0 };
        let buffers = [("stream", piece + 1), ("result", rows)].map(|(name, len)| Buffer { name: name.to_owned(), len });
        let kernel = Kernel {
            name: "layers".to_owned(),
            height,
            buffers: buffers.to_vec(),
            arenas: [coding.words(piece) * rows, rows, 1, 1, 1],
            attentions: vec![],
            largest: [rows, piece],
            calls: vec![Call::Load { x, split }, Call::Product { y, matrix }, Call::Sum { y, over: input }],
        };
        let regions = vec![Region { top: 0, height, kernel: 0 }];
        let program = Program { width, regions, kernels: vec![kernel], stream: piece + 1 };
        Self { program, input, outputs, inputs, coding }
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

    /// Runs it; gives the result, the exact result, the sum of magnitudes, and what it took.
    fn run(&self, settings: Settings) -> (Vec<f32>, Vec<f64>, Vec<f64>, Report) {
        let mut fabric = Fabric::new(self.layout(), settings).unwrap();
        let (outputs, inputs, matrix) = (self.outputs, self.inputs, self.matrix());
        let mut random = noise(7);
        let w: Vec<f32> = (0..outputs * inputs).map(|_| random()).collect();
        let x: Vec<f32> = (0..inputs).map(|_| random()).collect();
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
                fabric.write_words((c, r), "weights", &take(&codes, at, words * rows)).unwrap();
                fabric.write_words((c, r), "scales", &take(&factors, 2 * rows * o, rows)).unwrap();
                let part: Vec<f32> = (0..piece).map(|k| x.get(i * piece + k).copied().unwrap_or(0.0)).collect();
                fabric.write((c, r), "stream", &part).unwrap();
            }
        }
        let report = fabric.launch("step").unwrap();
        let mut y = vec![0.0; rows * if self.input == Axis::Columns { height } else { width }];
        for (o, part) in y.chunks_exact_mut(rows).enumerate() {
            // The last PE of the chain and the first both have the sum.
            let at = if self.input == Axis::Columns { [(0, o), (width - 1, o)] } else { [(o, 0), (o, height - 1)] };
            let mut other = part.to_vec();
            fabric.read(at[0], "result", part).unwrap();
            fabric.read(at[1], "result", &mut other).unwrap();
            assert_eq!(*part, *other);
        }
        y.truncate(outputs);
        let (mut exact, mut size) = (Vec::new(), Vec::new());
        let weights = view.all_weights();
        for row in weights.chunks_exact(inputs) {
            let terms = || row.iter().zip(&x).map(|(w, x)| f64::from(*w) * f16::from_f32(*x).to_f64());
            exact.push(terms().sum());
            size.push(terms().map(f64::abs).sum());
        }
        (y, exact, size, report)
    }

    /// Every policy and depth gives the same bits, within the error of sums in f32.
    fn check(&self) -> Report {
        let mut first: Option<Vec<f32>> = None;
        let mut last = Report::default();
        for policy in [Policy::Fixed, Policy::RoundRobin, Policy::Random(3)] {
            for depth in [1, 2, 8] {
                let (y, exact, size, report) = self.run(Settings { policy, depth, ..Settings::default() });
                for ((y, exact), size) in y.iter().zip(&exact).zip(&size) {
                    // A rounding per term, on partial sums of integers up to 8 in units of a scale whose weights reach 15.
                    let bound = size * (self.inputs as f64).sqrt() * f64::from(f32::EPSILON) * 4.0;
                    assert!((f64::from(*y) - exact).abs() <= bound + 1e-12, "{y} {exact} {bound}");
                }
                assert_eq!(*first.get_or_insert_with(|| y.clone()), y, "{policy:?} {depth}");
                last = report;
            }
        }
        last
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

/// 4096 x 4096, within 1.5 of the larger of computation and wavelets; with `Q35_FULL=1` under every policy and depth.
#[test]
fn a_large_product_is_near_its_bound() {
    let gemv = Gemv::new(Axis::Columns, Coding::Split, [16, 32], [4096, 4096]);
    if std::env::var_os("Q35_FULL").is_some() {
        gemv.check();
    }
    let (y, exact, size, report) = gemv.run(Settings::default());
    for ((y, exact), size) in y.iter().zip(&exact).zip(&size) {
        assert!((f64::from(*y) - exact).abs() <= size * 64.0 * f64::from(f32::EPSILON) * 4.0, "{y} {exact}");
    }
    // Of 32 fields: 25 inside a word, 2 at its top, 5 across two.
    let matrix = gemv.matrix();
    let per_weight = (25.0 * 0.625 + 2.0 * 0.5 + 5.0 * 0.875) / 32.0;
    let compute = (matrix.rows * matrix.inputs) as f64 * per_weight;
    let links = (matrix.rows + 2 * gemv.program.width) as f64;
    let bound = compute.max(links);
    assert!((report.cycles as f64) < 1.5 * bound, "{} cycles, bound {bound}", report.cycles);
}
