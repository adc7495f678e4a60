use super::geometry::{codes, packed_stride, scales};
use super::*;
use crate::kernels::Pack;
use crate::testing::{Arg, GPUS, Gpu, Random, floats, ir, is_race, rows, run, try_run, without_barriers};
use q35_format::{Codec, Group, PackedSpec, PackedView};
use q35_launch::layout::{stacked, vectors};
use q35_launch::spec::Experts;

/// A layer with random weights, and its sections in canonical order.
struct Case {
    kernel: LinearKernel,
    codes: Vec<u8>,
    scales: Vec<u8>,
    bias: Vec<f32>,
}

impl Case {
    fn new(codec: Codec, outputs: usize, inputs: usize, group: Group, variant: Variant, bias: bool) -> Self {
        let spec = PackedSpec::new(outputs, inputs, codec, group).unwrap();
        let mut random = Random((outputs * inputs) as u64);
        let numbers = random.numbers(outputs * inputs, 1.0);
        let mut codes = match codec {
            Codec::F32 => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Codec::F16 => numbers.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Codec::Bf16 => numbers.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            _ => (0..spec.codes_bytes()).map(|_| random.next() as u8).collect::<Vec<u8>>(),
        };
        if codec.window().is_some() {
            // Bits past a row's last container are 0.
            let used = inputs.div_ceil(2) * 7 % 8;
            for row in codes.chunks_mut(spec.row_bytes()) {
                if let (1.., Some(last)) = (used, row.last_mut()) {
                    *last &= (1u8 << used) - 1;
                }
            }
        }
        let scale = |v: f32| half::f16::from_f32(0.02 * (1.5 + v)).to_le_bytes();
        let scales = random.numbers(spec.scale_count(), 1.0).into_iter().flat_map(scale).collect();
        let linear = Linear { bias, ..Linear::new(spec) };
        Self { kernel: LinearKernel { linear, variant }, codes, scales, bias: random.numbers(outputs, 1.0) }
    }

    fn spec(&self) -> PackedSpec {
        self.kernel.linear.spec
    }

    fn args(&self, gpu: &Gpu, x: Arg, tokens: usize) -> Vec<Arg> {
        let spec = self.spec();
        let mut args = vec![x, Arg::Constant(codes(&spec, gpu.isa.matrix()).arrange_all(&self.codes))];
        if spec.codec().has_scales() {
            args.push(Arg::Constant(scales(&spec).arrange_all(&self.scales)));
        }
        if self.kernel.linear.bias {
            args.push(Arg::floats(&self.bias));
        }
        args.push(Arg::blank(tokens, spec.rows()));
        args
    }

    /// `x` as the kernel takes it, and as numbers.
    fn activations(&self, gpu: &Gpu, tokens: usize) -> (Arg, Vec<f32>) {
        let cols = self.spec().cols();
        let x = Random(99).numbers(tokens * cols, 2.0);
        if !self.kernel.linear.takes_operand() {
            return (Arg::rows(&x, cols), x);
        }
        let space = Arg::space(tokens * packed_stride(cols));
        let after = run(gpu, &Pack { width: cols as u64 }, &[Arg::rows(&x, cols), space], [tokens as i64, 0, 0, 0]);
        let rounded = x.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect();
        (Arg::Constant(after[1].clone()), rounded)
    }

    fn check(&self, tokens: usize) {
        GPUS.iter().for_each(|gpu| self.check_on(gpu, tokens));
    }

    fn check_on(&self, gpu: &Gpu, tokens: usize) {
        let (arg, x) = self.activations(gpu, tokens);
        let spec = self.spec();
        let after = run(gpu, &self.kernel, &self.args(gpu, arg, tokens), [tokens as i64, 0, 0, 0]);
        let got = rows(after.last().unwrap(), spec.rows());
        let w = PackedView::new(spec, &self.codes, &self.scales, &[]).unwrap().all_weights();
        for (at, got) in got.into_iter().enumerate() {
            let (token, output) = (at / spec.rows(), at % spec.rows());
            let pairs = w[output * spec.cols()..].iter().zip(&x[token * spec.cols()..][..spec.cols()]);
            let products = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (exact, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let exact = exact + if self.kernel.linear.bias { f64::from(self.bias[output]) } else { 0.0 };
            // Sums are in f32; scales of groups are applied in f16, which rounds each weight once.
            let grouped = spec.codec().has_scales() && spec.group() != Group::Row;
            let unit = if grouped { 2f64.powi(-11) } else { 2f64.powi(-20) };
            let error = (f64::from(got) - exact).abs();
            assert!(error <= unit * size + 1e-6, "{} token {token} output {output}: {got}, not {exact}", self.kernel.name());
        }
    }
}

#[test]
fn every_codec_and_edge_size() {
    use Codec::*;
    use Variant::{Few, Many, Some};
    let cases = [
        (Split, 16, 256, Few, 1),
        (W7, 33, 600, Few, 8),
        (W8, 20, 514, Few, 3),
        (W8, 16, 2600, Few, 2),
        (W8, 17, 300, Some, 37),
        (W8, 150, 600, Many, 70),
        (W9, 16, 511, Few, 1),
        (W10, 5, 770, Few, 2),
        (W11, 16, 258, Few, 1),
        (W12, 16, 1025, Many, 2),
        (Q8, 35, 515, Few, 5),
        (Q8, 16, 260, Some, 9),
        (Q8, 33, 2400, Many, 2),
        (F32, 9, 70, Many, 3),
        (F16, 11, 130, Many, 2),
        (Bf16, 8, 33, Many, 2),
    ];
    for (at, (codec, outputs, inputs, variant, tokens)) in cases.into_iter().enumerate() {
        Case::new(codec, outputs, inputs, Group::Row, variant, at % 2 == 1).check(tokens);
    }
    for (codec, group, variant) in [(W8, 64, Few), (Split, 128, Many), (Q8, 64, Some)] {
        Case::new(codec, 19, 700, Group::Columns(group), variant, true).check(3);
    }
}

#[test]
fn variants_and_neighbours_change_no_bit() {
    for gpu in &GPUS {
        let few = Case::new(Codec::W8, 16, 2600, Group::Row, Variant::Few, false);
        let many = Case { kernel: LinearKernel { variant: Variant::Many, ..few.kernel.clone() }, ..few };
        let outputs = |case: &Case, tokens: usize| {
            let (x, _) = case.activations(gpu, tokens);
            rows(&run(gpu, &case.kernel, &case.args(gpu, x, tokens), [tokens as i64, 0, 0, 0])[3], 16)
        };
        let all = outputs(&many, 5);
        let some = Case { kernel: LinearKernel { variant: Variant::Some, ..many.kernel.clone() }, ..many };
        assert_eq!(outputs(&some, 5), all);
        let many = some;
        let few = Case { kernel: LinearKernel { variant: Variant::Few, ..many.kernel.clone() }, ..many };
        assert_eq!(outputs(&few, 5), all);
        assert_eq!(outputs(&few, 2), all[..32]);
    }
}

#[test]
fn layers_with_one_input_share_a_launch() {
    for gpu in &GPUS {
        let case = Case::new(Codec::W8, 20, 300, Group::Row, Variant::Few, false);
        let other = PackedSpec::new(7, 300, Codec::W8, Group::Row).unwrap();
        let linear = case.kernel.linear.with(&Linear::new(other)).unwrap();
        assert!(case.kernel.linear.with(&Linear { bias: true, ..Linear::new(other) }).is_none());
        let joined = LinearKernel { linear, variant: Variant::Few };
        assert_eq!(joined.name(), "linear_w8_row_20_7x300_few");
        let (x, _) = case.activations(gpu, 2);
        let mut args = case.args(gpu, x, 2);
        let second = |section: &[u8], rows: usize| section[..section.len() / 20 * rows].to_vec();
        let (second_codes, second_scales) = (second(&case.codes, 7), second(&case.scales, 7));
        args.extend([
            Arg::Constant(codes(&other, gpu.isa.matrix()).arrange_all(&second_codes)),
            Arg::Constant(scales(&other).arrange_all(&second_scales)),
            Arg::blank(2, 7),
        ]);
        let after = run(gpu, &joined, &args, [2, 0, 0, 0]);
        let (first, second) = (rows(&after[3], 20), rows(&after[6], 7));
        for token in 0..2 {
            assert_eq!(second[token * 7..][..7], first[token * 20..][..7]);
        }
        assert!(floats(&after[3][..4])[0] != 0.0);
    }
}

/// A layer of experts: a routed row meets the weight of its expert alone, whichever kernel computes it.
struct Routed {
    experts: usize,
    choices: usize,
    tokens: usize,
    /// Whether the rows of a token share its `x`.
    shared: bool,
}

impl Routed {
    /// The expert of each routed row: some have many rows, the first has none.
    fn chosen(&self) -> Vec<usize> {
        let of_token = |token: usize| (0..self.choices).map(move |at| (token * token + 2 * at) % (self.experts - 1) + 1);
        (0..self.tokens).flat_map(of_token).collect()
    }

    fn routing(&self) -> Arg {
        let mut bytes = Vec::new();
        for chosen in self.chosen().chunks(self.choices) {
            bytes.extend(chosen.iter().flat_map(|&n| (n as i32).to_le_bytes()));
            bytes.resize(bytes.len() + 4 * self.choices, 0);
            bytes.resize(bytes.len().next_multiple_of(64), 0);
        }
        Arg::Constant(bytes)
    }

    fn sorted(&self) -> Arg {
        let chosen = self.chosen();
        let mut list: Vec<i32> = (0..chosen.len() as i32).collect();
        list.sort_by_key(|&row| (chosen[row as usize], row));
        list.extend((0..=self.experts).map(|expert| chosen.iter().filter(|&&e| e < expert).count() as i32));
        Arg::ints(&list)
    }

    /// Against sums in f64 of the weights of each row's expert.
    fn check(&self, gpu: &Gpu, (codec, group): (Codec, Group), (outputs, inputs): (usize, usize), variant: Variant) {
        let all = Case::new(codec, self.experts * outputs, inputs, group, variant, true);
        let spec = PackedSpec::new(outputs, inputs, codec, group).unwrap();
        let experts = Some(Experts { count: self.experts, shared: self.shared });
        let routed = Rows::TokenChoices(self.choices as u32);
        let linear = Linear { rows: routed, bias: true, experts, ..Linear::new(spec) };
        let kernel = LinearKernel { linear, variant };
        let count = self.tokens * self.choices;
        let (x, numbers) = all.activations(gpu, if self.shared { self.tokens } else { count });
        let mut args = vec![x, self.routing(), self.sorted()];
        args.push(Arg::Constant(stacked(codes(&spec, gpu.isa.matrix()), outputs).arrange_all(&all.codes)));
        if codec.has_scales() {
            args.push(Arg::Constant(stacked(scales(&spec), outputs).arrange_all(&all.scales)));
        }
        let bias: Vec<u8> = all.bias.iter().flat_map(|v| v.to_le_bytes()).collect();
        args.push(Arg::Constant(vectors(outputs, self.experts).arrange_all(&bias)));
        args.push(Arg::blank(count, outputs));
        let dims = [self.tokens as i64, 0, 0, 0];
        let after = try_run(gpu, &ir(gpu, &[&kernel]), &kernel, &args, dims, routed);
        let after = after.unwrap_or_else(|fault| panic!("{} {}: {fault}", gpu.name, kernel.name()));
        let weights = PackedView::new(all.spec(), &all.codes, &all.scales, &[]).unwrap().all_weights();
        let unit = if group == Group::Row { 2f64.powi(-20) } else { 2f64.powi(-11) };
        for (at, got) in rows(after.last().unwrap(), outputs).into_iter().enumerate() {
            let (row, output) = (at / outputs, self.chosen()[at / outputs] * outputs + at % outputs);
            let of_x = if self.shared { row / self.choices } else { row };
            let x = &numbers[of_x * inputs..][..inputs];
            let products = weights[output * inputs..].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let exact = sum + f64::from(all.bias[output]);
            let error = (f64::from(got) - exact).abs();
            assert!(error <= unit * size + 1e-6, "{} {} row {row}: {got}, not {exact}", gpu.name, kernel.name());
        }
    }
}

#[test]
fn routed_rows_meet_their_experts_alone() {
    let few = Routed { experts: 5, choices: 2, tokens: 3, shared: true };
    let many = Routed { experts: 4, choices: 3, tokens: 30, shared: false };
    for gpu in &GPUS {
        few.check(gpu, (Codec::W8, Group::Row), (20, 300), Variant::Single);
        few.check(gpu, (Codec::Q8, Group::Columns(64)), (16, 260), Variant::Single);
        few.check(gpu, (Codec::W8, Group::Row), (20, 300), Variant::Some);
        many.check(gpu, (Codec::W9, Group::Columns(128)), (18, 300), Variant::Some);
        many.check(gpu, (Codec::W8, Group::Row), (40, 260), Variant::Many);
        many.check(gpu, (Codec::F16, Group::Row), (9, 70), Variant::Many);
    }
}

/// What the interpreter exists for: each of these changes of the final code is caught.
#[test]
fn broken_kernels_are_caught() {
    broken_kernels(&GPUS[0], true);
    GPUS[1..].iter().for_each(|gpu| broken_kernels(gpu, std::env::var_os("Q35_FULL").is_some()));
}

/// Without any of its barriers, and, if asked for, with any of its constants wrong.
fn broken_kernels(gpu: &Gpu, constants: bool) {
    let case = Case::new(Codec::W8, 20, 600, Group::Row, Variant::Few, false);
    // Two rounds over tokens, and over the sums of a round.
    let tokens = gpu.isa.matrix().tokens as usize + 1;
    let (x, _) = case.activations(gpu, tokens);
    let args = case.args(gpu, x, tokens);
    let good = ir(gpu, &[&case.kernel]);
    let run = |ir: &str| try_run(gpu, ir, &case.kernel, &args, [tokens as i64, 0, 0, 0], Rows::Tokens);
    let right = run(&good).unwrap();
    // Without any one of its barriers.
    let broken = without_barriers(&good);
    assert!(broken.len() >= 3, "{} barriers", broken.len());
    assert_eq!(broken.iter().filter(|ir| is_race(&run(ir))).count(), broken.len());
    if !constants {
        return;
    }
    // With any one constant of its arithmetic wrong, a mask without its lowest bit or another number one too large: it faults, or what it
    // computes is not the same.
    let lines: Vec<&str> = good.lines().collect();
    let mut mutants = 0;
    let mut unseen = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let arithmetic = [" and ", " shl ", " lshr ", " add ", " getelementptr ", " icmp ", "fshl.i32("];
        let constant = line.rsplit_once([' ', '%']).and_then(|(rest, last)| {
            let number: i64 = last.trim_end_matches(')').parse().ok()?;
            rest.ends_with(|c: char| c.is_ascii_alphanumeric() || c == ',')
                .then(|| (rest, number, &last[number.to_string().len()..]))
        });
        let (true, Some((rest, number, end))) = (arithmetic.iter().any(|op| line.contains(op)), constant) else { continue };
        let wrong = if line.contains(" and ") { number & (number - 1) } else { number + 1 };
        let changed = format!("{rest} {wrong}{end}");
        let changed: Vec<&str> = (0..lines.len()).map(|n| if n == at { changed.as_str() } else { lines[n] }).collect();
        mutants += 1;
        if run(&changed.join("\n")).is_ok_and(|after| after == right) {
            unseen.push(*line);
        }
    }
    // Three comparisons of loops and waves mean the same with the next number.
    assert!(mutants > 150 && unseen.len() <= 3, "{} of {mutants} are not seen: {unseen:#?}", unseen.len());
}
