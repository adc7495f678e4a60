//! Linear layers.
//!
//! **Codec `split`.** A container holds a pair of weights `a` (odd, up to 15) and `b = 2 l` (`l` odd, up to 7). Its byte in memory is
//! `r = 8 a + l`, which fits -127 to 127 and goes into plane A of the MXM as it is. Its low four bits are `m = l + 8`; one `and` per
//! four bytes, on the way into plane B, leaves them. With `x_e` and `x_o` the activations of even and odd columns,
//!
//! ```text
//! 8 sum (a x_e + b x_o) = sum r x_e + sum l (16 x_o - x_e)
//!                       = A + 16 B_o - B_e + C        A = sum r x_e,  B_o = sum m x_o,  B_e = sum m x_e
//!                                                     C = 8 sum x_e - 128 sum x_o
//! ```
//!
//! so nothing is unpacked: each byte is used twice, and the division by 8 is exact. `C` does not depend on the layer: it is computed once
//! per row, with an array of ones. Every sum stays below 2^31 for up to [`SPLIT_COLUMNS`] columns. The 8 stays with the scale, which is
//! exact.
//!
//! **Codec `q8`.** Bytes are weights; even and odd columns are two tiles of one accumulator.
//!
//! **Dense tiles.** The lowest bit of every byte `r` is 1, whatever the weights. So of eight output vectors of a hemisphere, seven lie in memory
//! and the eighth is their *guest*: bit `j` of its codes of seven bits is the lowest bit `g` of the bytes of vector `j`. That is 3.5 bits per
//! weight. The bits go into a plane as a third tile, `r & 1`, and with `G_o = sum g x_o`, `G_e = sum g x_e` per vector, and
//! `D = C + 16 sum x_o`,
//!
//! ```text
//! a vector with a guest      A + 16 (B_o - G_o) - B_e + D
//! the guest                  16 (G_e0 + 2 G_e1 + 4 G_e2 - 8 G_e3) + 32 (G_o4 + 2 G_o5 + 4 G_o6) + D
//! ```
//!
//! at 21 tiles into planes for 16: the chip's memory holds more, and a step takes longer. Module `fit` chooses.
//!
//! **Experts** lie at neighbouring addresses, and a map chooses one when a step runs: tiles and scales are gathered. Time does not depend on
//! the choice.
//!
//! Then, each operation rounded to f32, as the op `linear` says: `y = f32(sum) * scale_w * scale_x + bias`.
//!
//! A tile has room for 320 pairs of one output vector. Pairs that are left over after the last full tile share tiles: several output vectors
//! lie there one below the other, and each is multiplied with activations that are 0 elsewhere (module `inputs`). Output vectors are
//! dealt to the two hemispheres in turn; of an odd one left over, each hemisphere sums up a part.

use super::inputs::{Chunk, Inputs};
use super::layout::Layout;
use super::rows::Quant;
use crate::schedule::tile::{Bytes, Multiply, Sum, Tile, planes};
use crate::schedule::vector::Arg::Constant;
use crate::schedule::vector::{Arg, Expr};
use crate::schedule::{Choices, Map, Schedule, Word};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{COLUMNS_PER_LOAD, LANES as ALL_LANES, Side};
use q35_tsp::lanes::Lanes;
use q35_tsp::program::{Block, Guest, Image, Place, Quad, TileBytes};
use serde::Serialize;
use std::collections::BTreeMap;

/// Columns whose sums cannot exceed 32 bits: per pair, 127 * (127 + 16 * 15 + 15 + 8 + 128) at most.
pub(crate) const SPLIT_COLUMNS: u64 = 2 * ((i32::MAX as u64) / (127 * (127 + 16 * 15 + 15 + 8 + 128)));
/// The same of codec `q8`.
pub(crate) const Q8_COLUMNS: u64 = i32::MAX as u64 / (127 * 127);

/// Output vectors that are placed before the sums of those before them: sums find their way between weights, and not the other way round.
/// Sums of two times as many wait in accumulators, of which a plane has 64 and a vector takes two.
const IN_FLIGHT: usize = 20;
/// The same of dense tiles: eight of each hemisphere.
const IN_FLIGHT_DENSE: usize = 2 * (GUEST + 1);

/// Vectors with a guest, as many as a code has bits.
pub(crate) const GUEST: usize = 7;

/// The four low bits, which plane B gets.
const NIBBLE: Bytes = Bytes::Masked(15);
/// The guest's bit.
const BIT: Bytes = Bytes::Masked(1);

/// How pairs lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A byte each.
    Byte,
    /// Seven bits each, where there are eight output vectors.
    Dense,
}

impl Form {
    /// Which of `C` and `D` a layer of so many output vectors needs.
    pub(crate) fn corrections(self, vectors: usize) -> [bool; 2] {
        let sides = [vectors.div_ceil(2), vectors / 2];
        match self {
            Self::Byte => [true, false],
            Self::Dense => [sides.iter().any(|n| n % (GUEST + 1) > 0), sides.iter().any(|n| *n > GUEST)],
        }
    }
}

/// The sums of an output vector that one hemisphere has.
#[derive(Clone)]
enum Sums {
    /// `A`, `B_o` and `B_e`.
    Pair([Sum; 3]),
    /// The same of a vector with a guest, and `G_o`.
    Host([Sum; 3], Sum),
    /// `G_e` of four vectors and `G_o` of three.
    Guest(Vec<Sum>),
    Integer(Sum),
}

/// A linear layer to lower.
pub(crate) struct Layer<'a> {
    pub(crate) param: &'a str,
    pub(crate) bias: Option<&'a str>,
    pub(crate) bytes: TileBytes,
    /// Columns of the weight.
    pub(crate) columns: u64,
    pub(crate) form: Form,
    pub(crate) outputs: Layout,
    pub(crate) experts: Option<Experts>,
}

/// Layers one below the other, of which one is chosen when a step runs.
#[derive(Clone, Copy)]
pub(crate) struct Experts {
    pub(crate) count: u16,
    /// Rows of each.
    pub(crate) rows: u32,
    /// Which one.
    pub(crate) map: Map,
}

/// What lies in a tile: output vectors, each with the activations it meets.
type Job<'x> = Vec<(usize, &'x Chunk)>;

/// A hemisphere's share of the output vector that both compute.
struct Share<'x> {
    vector: usize,
    full: &'x [Chunk],
    rest: Vec<&'x Chunk>,
}

/// What a hemisphere computes, in order: tiles that several vectors share come before the last full tiles of one of them, so that no two
/// vectors become complete at the end.
fn jobs<'x>(inputs: &'x Inputs, own: &[usize], share: Option<Share<'x>>) -> Vec<Job<'x>> {
    let mut jobs: Vec<Job<'x>> = Vec::new();
    let mut guests = Vec::new();
    if let Some(Share { vector, full, rest }) = share {
        jobs.extend(full.iter().map(|chunk| vec![(vector, chunk)]));
        guests.extend(rest.into_iter().map(|chunk| (vector, chunk)));
    }
    let (mut guests, room) = (guests.into_iter(), !inputs.rest.parts.is_empty());
    for group in own.chunks(inputs.rest.whole.len().max(1)) {
        let shared: Job<'x> = group.iter().copied().zip(&inputs.rest.whole).collect();
        for (at, vector) in group.iter().enumerate() {
            if at + 1 == group.len() && !shared.is_empty() {
                let guest = if room { guests.next() } else { None };
                jobs.push(shared.iter().copied().chain(guest).collect());
            }
            jobs.extend(inputs.full.iter().map(|chunk| vec![(*vector, chunk)]));
        }
    }
    jobs.extend(guests.map(|guest| vec![guest]));
    jobs
}

impl Schedule {
    /// Makes a tile, or one of each expert: rows in memory, and images of what `blocks` says of an expert's first row.
    fn tile(&mut self, side: Side, layer: &Layer<'_>, blocks: impl Fn(u32) -> Vec<Block>) -> Tile {
        let of_first = blocks(0);
        let maps = |experts: Experts| (experts.count, [experts.map.near, experts.map.far].map(|sides| sides[side as usize]));
        let choices = layer.experts.map(maps);
        let key = choices.map(|_| (layer.param.to_owned(), of_first.clone()));
        if let Some(tile) = key.as_ref().and_then(|key| self.tiles.get(key)) {
            return Tile { choices, ..*tile };
        }
        let columns = of_first.iter().flat_map(|block| &block.outputs.0).map(|run| (run.lane + run.count) as usize).max();
        let loads = columns.unwrap_or(1).div_ceil(COLUMNS_PER_LOAD) as u16;
        let (stride, rows) = layer.experts.map_or((1, 0), |experts| (experts.count, experts.rows));
        let (sets, address) = self.memory.weights(side, loads, stride);
        for expert in 0..stride {
            let (slices, param, bytes) = (sets.concat(), layer.param.to_owned(), layer.bytes);
            let (address, blocks) = (address + expert, blocks(u32::from(expert) * rows));
            self.data.images.push(Image::Tile { slices, address, stride, param, bytes, blocks });
        }
        let tile = Tile { slices: sets, address, loads, step: 1, choices };
        self.tiles.extend(key.map(|key| (key, tile)));
        tile
    }

    /// A word of a parameter that goes with the outputs of a vector: a constant, or one of each expert.
    fn beside(&mut self, layer: &Layer<'_>, v: usize, param: &str, image: impl Fn(Quad, String, Lanes) -> Image) -> Word {
        let Some(Experts { count, rows, map }) = layer.experts else {
            let quad = self.memory.constant(1);
            self.data.images.push(image(quad, param.to_owned(), layer.outputs.lanes(v, |output| output)));
            return Word { quad, ready: 0 };
        };
        let key = (param.to_owned(), layer.outputs.lanes(v, |output| output));
        let first = self.words.get(&key).copied().unwrap_or_else(|| {
            let first = self.memory.constant(count);
            for expert in 0..count {
                let quad = Quad { address: first.address + expert, ..first };
                let lanes = layer.outputs.lanes(v, |output| output + u32::from(expert) * rows);
                self.data.images.push(image(quad, param.to_owned(), lanes));
            }
            self.words.insert(key, first);
            first
        });
        self.choose(Choices { first, count, map: map.near[first.side as usize] })
    }

    /// `C` and `D` of the module's formulas, in every lane: those that are needed.
    pub(crate) fn corrections(&mut self, x: &Inputs, needed: [bool; 2]) -> [Option<Word>; 2] {
        let (side, plane) = (Side::East, planes(Side::East)[0]);
        let tile = self.ones(side);
        let sums = [(); 2].map(|()| self.planes.next(plane));
        let multiply = |(at, chunk): (usize, &Chunk)| {
            [0, 1].map(|odd| Multiply {
                input: chunk.bytes[odd][side as usize],
                accumulator: sums[odd].accumulator,
                add: at > 0,
            })
        };
        let multiplies = x.once().enumerate().flat_map(multiply).collect();
        self.install(plane, tile, Bytes::Raw, multiplies, 0);
        let mut expr = Expr::default();
        let [even, odd] = sums.map(|sum| expr.sum(sum));
        let (even, half) = (expr.op(AluOp::Shl, even, Constant(3)), expr.op(AluOp::Shl, odd, Constant(4)));
        let odd = expr.op(AluOp::Shl, half, Constant(3));
        let c = expr.op(AluOp::SubI, even, odd);
        let d = if needed[1] { expr.op(AluOp::AddI, c, half) } else { c };
        [c, d].into_iter().zip(needed).filter(|(_, needed)| *needed).for_each(|(word, _)| expr.keep(word));
        let mut words = self.eval(&expr).0.into_iter();
        needed.map(|needed| if needed { words.next() } else { None })
    }

    /// A tile of ones: sixteen columns, loaded again and again.
    fn ones(&mut self, side: Side) -> Tile {
        if let Some(ones) = self.planes.ones {
            return ones;
        }
        let (slices, address) = self.memory.weights(side, 2, 1);
        let ones = |slice| Image::Bytes { place: Place { slice, address }, runs: vec![(0, 1)] };
        self.data.images.extend(slices[0].map(ones));
        let tile = Tile { slices, address, loads: (ALL_LANES / COLUMNS_PER_LOAD) as u16, step: 0, choices: None };
        self.planes.ones = Some(tile);
        tile
    }

    /// The layer's outputs.
    pub(crate) fn linear(&mut self, x: &Quant, layer: &Layer<'_>) -> Vec<Word> {
        self.linears(x, &[(self.node, layer)]).pop().unwrap_or_default()
    }

    /// The outputs of layers on the same activations, each for a node: some vectors of one, some of the next, and so on in turn, so that what needs
    /// vectors of all of them need not wait for the last.
    pub(crate) fn linears(&mut self, x: &Quant, layers: &[(u32, &Layer<'_>)]) -> Vec<Vec<Word>> {
        let bytes = |layer: &Layer<'_>| layer.bytes == TileBytes::Pair && layer.form == Form::Byte;
        // Of an odd number of vectors, the last one is both hemispheres'.
        let odd = |layer: &Layer<'_>| (layer.outputs.len() % 2 == 1 && bytes(layer)).then(|| layer.outputs.len() - 1);
        let mut turns: Vec<(usize, usize, Vec<usize>)> = Vec::new();
        for (number, (_, layer)) in layers.iter().enumerate() {
            let dealt: Vec<usize> = (0..odd(layer).unwrap_or(layer.outputs.len())).collect();
            let groups = dealt.chunks(if bytes(layer) { IN_FLIGHT } else { IN_FLIGHT_DENSE }).map(<[usize]>::to_vec);
            let groups: Vec<Vec<usize>> = if dealt.is_empty() { vec![vec![]] } else { groups.collect() };
            turns.extend(groups.into_iter().enumerate().map(|(turn, vectors)| (turn, number, vectors)));
        }
        turns.sort();
        self.memory.narrow = true;
        let mut words: Vec<BTreeMap<usize, Word>> = vec![BTreeMap::new(); layers.len()];
        let mut complete: (usize, BTreeMap<usize, Vec<Sums>>) = Default::default();
        for (turn, number, vectors) in turns {
            let (node, layer) = layers[number];
            self.node = node;
            let sums = self.sums(&x.inputs, layer, &vectors, odd(layer).filter(|_| turn == 0));
            let before = std::mem::replace(&mut complete, (number, sums));
            self.complete(x, layers, before, &mut words);
        }
        self.complete(x, layers, complete, &mut words);
        self.memory.narrow = false;
        words.into_iter().map(|words| words.into_values().collect()).collect()
    }

    /// Outputs of sums that are complete.
    fn complete(
        &mut self,
        x: &Quant,
        layers: &[(u32, &Layer<'_>)],
        (number, sums): (usize, BTreeMap<usize, Vec<Sums>>),
        words: &mut [BTreeMap<usize, Word>],
    ) {
        for (vector, sums) in sums {
            let (node, layer) = layers[number];
            self.node = node;
            words[number].insert(vector, self.output_vector(x, layer, vector, &sums));
        }
    }

    /// The sums of some output vectors, and of one that both hemispheres compute.
    fn sums(&mut self, x: &Inputs, layer: &Layer<'_>, vectors: &[usize], both: Option<usize>) -> BTreeMap<usize, Vec<Sums>> {
        let mut sums: BTreeMap<usize, Vec<Sums>> = BTreeMap::new();
        for side in Side::ALL {
            let own: Vec<usize> = vectors.iter().copied().filter(|v| Side::ALL[v % 2] == side).collect();
            match layer.bytes {
                TileBytes::Pair => {
                    let dense = if layer.form == Form::Dense { own.len() / (GUEST + 1) * (GUEST + 1) } else { 0 };
                    let (dense, own) = own.split_at(dense);
                    for vectors in dense.chunks(GUEST + 1) {
                        let found = self.dense_sums(x, layer, vectors, side);
                        vectors.iter().zip(found).for_each(|(vector, found)| sums.entry(*vector).or_default().push(found));
                    }
                    let share = both.map(|vector| x.share(vector, side));
                    let share = share.map(|(vector, full, rest)| Share { vector, full, rest });
                    let found = self.pair_sums(&jobs(x, own, share), layer, side);
                    found.into_iter().for_each(|(vector, found)| sums.entry(vector).or_default().push(Sums::Pair(found)));
                }
                TileBytes::Integer => {
                    for vector in own {
                        let sum = self.integer_sum(x, layer, vector, side);
                        sums.entry(vector).or_default().push(Sums::Integer(sum));
                    }
                }
            }
        }
        sums
    }

    fn output_vector(&mut self, x: &Quant, layer: &Layer<'_>, v: usize, sums: &[Sums]) -> Word {
        let eighth = if layer.bytes == TileBytes::Pair { 0.125 } else { 1.0 };
        let mut expr = Expr::default();
        let (mut plain, mut shifted, mut dense) = (Vec::new(), Vec::new(), false);
        for sums in sums {
            match sums {
                Sums::Integer(sum) => plain.push(expr.sum(*sum)),
                Sums::Pair([raw, odd, even]) => {
                    let (raw, odd, even) = (expr.sum(*raw), expr.sum(*odd), expr.sum(*even));
                    plain.push(expr.op(AluOp::SubI, raw, even));
                    shifted.push(odd);
                }
                Sums::Host([raw, odd, even], bits) => {
                    let (raw, odd, even, bits) = (expr.sum(*raw), expr.sum(*odd), expr.sum(*even), expr.sum(*bits));
                    plain.push(expr.op(AluOp::SubI, raw, even));
                    shifted.push(expr.op(AluOp::SubI, odd, bits));
                    dense = true;
                }
                Sums::Guest(bits) => {
                    for (sum, shift) in bits.iter().zip([0, 1, 2, 3, 1, 2, 3]) {
                        let bits = expr.sum(*sum);
                        shifted.push(if shift == 0 { bits } else { expr.op(AluOp::Shl, bits, Constant(shift)) });
                    }
                    let sign = shifted.remove(3);
                    shifted[0] = expr.op(AluOp::SubI, shifted[0], sign);
                    dense = true;
                }
            }
        }
        let total = |expr: &mut Expr, terms: &[Arg]| terms.iter().copied().reduce(|a, b| expr.op(AluOp::AddI, a, b));
        let mut sum = total(&mut expr, &plain);
        if let (Some(shifted), Some(correction)) = (total(&mut expr, &shifted), x.corrections[usize::from(dense)]) {
            let correction = expr.word(correction);
            let rest = sum.map_or(correction, |sum| expr.op(AluOp::AddI, sum, correction));
            let shifted = expr.op(AluOp::Shl, shifted, Constant(4));
            sum = Some(expr.op(AluOp::AddI, rest, shifted));
        }
        let sum = sum.unwrap_or(Constant(0));
        let sum = expr.unary(AluOp::ToFloat, sum);
        let scales = |quad, param, lanes| Image::Scales { quad, param, lanes, factor: eighth };
        let weight_scale = self.beside(layer, v, layer.param, scales);
        let numbers = |quad, param, lanes| Image::Numbers { quad, param, row: 0, lanes };
        let bias = layer.bias.map(|param| self.beside(layer, v, param, numbers));
        let scale = expr.word(weight_scale);
        let y = expr.op(AluOp::MulF, sum, scale);
        let scale = expr.word(x.scale);
        let mut y = expr.op(AluOp::MulF, y, scale);
        if let Some(bias) = bias {
            let bias = expr.word(bias);
            y = expr.op(AluOp::AddF, y, bias);
        }
        expr.keep(y);
        let y = self.word(&expr);
        [Some(weight_scale), bias].into_iter().flatten().for_each(|word| self.memory.release(word));
        y
    }

    /// `A`, `B_o` and `B_e` of each vector.
    fn pair_sums(&mut self, jobs: &[Job<'_>], layer: &Layer<'_>, side: Side) -> BTreeMap<usize, [Sum; 3]> {
        let [a, b] = planes(side);
        let mut sums: BTreeMap<usize, [Sum; 3]> = BTreeMap::new();
        let mut earliest = 0;
        for job in jobs {
            let blocks = |first: u32| {
                let block = |(vector, chunk): &(usize, &Chunk)| Block {
                    outputs: layer.outputs.lanes(*vector, |output| output + first),
                    inputs: chunk.lanes.clone(),
                    guest: None,
                };
                job.iter().map(block).collect()
            };
            let tile = self.tile(side, layer, blocks);
            let (mut raw, mut nibbles) = (Vec::new(), Vec::new());
            for (vector, chunk) in job {
                let add = sums.contains_key(vector);
                let new = || [self.planes.next(a), self.planes.next(b), self.planes.next(b)];
                let [of_a, of_odd, of_even] = *sums.entry(*vector).or_insert_with(new);
                let [even, odd] = chunk.bytes.map(|sides| sides[side as usize]);
                let multiply = |input, sum: Sum| Multiply { input, accumulator: sum.accumulator, add };
                raw.push(multiply(even, of_a));
                nibbles.extend([multiply(even, of_even), multiply(odd, of_odd)]);
            }
            let first = self.install(b, tile, NIBBLE, nibbles, earliest);
            earliest = self.install(a, tile, Bytes::Raw, raw, first + 1);
        }
        sums
    }

    /// The sums of seven vectors and of their guest.
    fn dense_sums(&mut self, x: &Inputs, layer: &Layer<'_>, vectors: &[usize], side: Side) -> Vec<Sums> {
        let planes = planes(side);
        let [a, b] = planes;
        let (hosts, guest) = vectors.split_at(GUEST);
        let mut new = |plane| self.planes.next(plane);
        // `A`, `B_o`, `B_e`, `G_o`, and what the guest needs of its bits.
        let sums: Vec<[Sum; 5]> =
            (0..GUEST).map(|j| [new(a), new(b), new(b), new(planes[j % 2]), new(planes[j % 2])]).collect();
        let mut earliest = 0;
        for (at, chunk) in x.once().enumerate() {
            let [even, odd] = chunk.bytes.map(|sides| sides[side as usize]);
            let multiply = |input, sum: Sum| Multiply { input, accumulator: sum.accumulator, add: at > 0 };
            for (j, (host, [raw, of_odd, of_even, bits_odd, guest_bits])) in hosts.iter().zip(&sums).enumerate() {
                let lanes = |vector: usize| layer.outputs.lanes(vector, |output| output);
                let guest = Guest { outputs: lanes(guest[0]), bit: j as u8 };
                let block = Block { outputs: lanes(*host), inputs: chunk.lanes.clone(), guest: Some(guest) };
                let tile = self.tile(side, layer, |_| vec![block.clone()]);
                let first = self.install(b, tile, NIBBLE, vec![multiply(even, *of_even), multiply(odd, *of_odd)], earliest);
                earliest = self.install(a, tile, Bytes::Raw, vec![multiply(even, *raw)], first + 1);
                let of_guest = if j < 4 { even } else { odd };
                let bits = vec![multiply(odd, *bits_odd), multiply(of_guest, *guest_bits)];
                self.install(planes[j % 2], tile, BIT, bits, 0);
            }
        }
        let host = |[raw, odd, even, bits, _]: &[Sum; 5]| Sums::Host([*raw, *odd, *even], *bits);
        let guest = Sums::Guest(sums.iter().map(|[.., bits]| *bits).collect());
        sums.iter().map(host).chain([guest]).collect()
    }

    fn integer_sum(&mut self, x: &Inputs, layer: &Layer<'_>, v: usize, side: Side) -> Sum {
        let plane = planes(side)[v / 2 % 2];
        let sum = self.planes.next(plane);
        for (at, (chunk, odd)) in x.once().flat_map(|chunk| [(chunk, 0), (chunk, 1)]).enumerate() {
            let column = |pair: usize| Some((2 * pair + odd) as u32).filter(|column| u64::from(*column) < layer.columns);
            let inputs = chunk.columns(column);
            let outputs = |first| layer.outputs.lanes(v, |output| output + first);
            let block = |first| vec![Block { outputs: outputs(first), inputs: inputs.clone(), guest: None }];
            let tile = self.tile(side, layer, block);
            let multiply = Multiply { input: chunk.bytes[odd][side as usize], accumulator: sum.accumulator, add: at > 0 };
            self.install(plane, tile, Bytes::Raw, vec![multiply], 0);
        }
        sum
    }
}
