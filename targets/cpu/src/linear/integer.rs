//! Bytes that stand for weights, wherever they come from, times rounded activations.
//!
//! Sums are of products of the bytes as they are; what that is too much is the bias of the bytes times the sum of the activations, and is
//! taken off each group's sum. All of it is exact. Then, in f32: a group's sum times its scale, groups added in order, times the
//! activation scale, plus the bias of the layer.

use super::decode::{Meaning, meaning};
use super::dot::{Sums, sums_ty, ways};
use super::frame::{Chunk, Frame, Tile};
use super::geometry::{BLOCK, HEADER, QUAD, QUADS, VECTOR, blocks, group_blocks, quant_sums};
use crate::level::Isa;
use q35_format::Group;
use q35_mlir::builder::Val;
use q35_mlir::types::{I8, I32};

/// `weights(block, part, sums, add)` gives the sums to which `add(sums, quad, bytes)` adds what stands for the weights of a block, of so many
/// rows of a tile as a vector of the level has; parts follow each other.
pub(super) type Weights<'a, 'k> = dyn Fn(Val<'k>, usize, Sums<'k>, &Add<'_, 'k>) -> Sums<'k> + 'a;

/// Adds the products of the bytes for a quad of even columns and of that of odd ones.
pub(super) type Add<'a, 'k> = dyn Fn(Sums<'k>, Val<'k>, [Val<'k>; 2]) -> Sums<'k> + 'a;

/// Vectors that the rows of a tile take.
pub(super) fn parts(f: &Frame<'_>) -> usize {
    VECTOR / f.level.bytes() as usize
}

/// Rows of x that share a load of weights, as [`Frame::for_chunks`] takes them: as many as there are registers for their sums.
pub(super) fn rows_at_once(f: &Frame<'_>) -> &'static [i64] {
    match f.level.isa() {
        Isa::Avx512 => &[12, 4, 1],
        Isa::AvxVnni | Isa::Avx2 | Isa::DotProd => &[4, 1],
        Isa::Base => &[1],
    }
}

/// 8-bit weights at an address, arranged as stored ones are.
pub(super) fn panel<'k>(f: &Frame<'k>, address: Val<'k>) -> impl Fn(Val<'k>, usize, Sums<'k>, &Add<'_, 'k>) -> Sums<'k> {
    let (b, bytes) = (f.b, f.level.bytes());
    move |block, part, sums, add| {
        let address = address.at(block * (2 * QUADS * VECTOR) as i64).at((part * bytes as usize) as i64);
        b.for_iter(0, QUADS as i64, 1, sums, |quad, sums| {
            let even = address.at(quad * VECTOR as i64);
            add(sums, quad, [0, QUADS * VECTOR].map(|slot| even.at(slot as i64).load(I8.x(bytes), 1)))
        })
    }
}

/// Computes and stores the outputs of a tile for a chunk of rows.
pub(super) fn tile<'k>(f: &Frame<'k>, tile: &Tile<'k>, weights: &Weights<'_, 'k>, chunk: &Chunk<'k>) {
    let (spec, meaning) = (&f.linear.spec, meaning(f.level.isa(), f.linear.spec.codec()));
    let (n, whole) = (blocks(spec.cols()), group_blocks(spec.group(), spec.cols()));
    let add = |group: Val<'k>, outputs: Vec<Val<'k>>| -> Vec<Val<'k>> {
        let first = group * whole as i64;
        let end = (first + whole as i64).min(n as i64);
        let sums = group_sums(f, weights, meaning, chunk, first, end);
        let of_x = activation_sums(f, chunk, group);
        let factors = f.factors(tile, group);
        let one = |(row, output): (usize, Val<'k>)| {
            let [even, odd] = of_x[row];
            let excess = even * meaning[0].bias + odd * meaning[1].bias;
            output + factors.share(sums[row] - excess, even + odd)
        };
        outputs.into_iter().enumerate().map(one).collect()
    };
    let none = vec![f.no_sum(); chunk.x.len()];
    let outputs = match spec.groups() {
        1 => add(f.number(0), none),
        groups => f.b.for_iter(0, groups as i64, 1, none, add),
    };
    for (row, output) in outputs.into_iter().enumerate() {
        f.finish(tile, chunk, row, output);
    }
}

/// The sums of a group's activations in even and in odd columns for each row of a chunk, i32.
fn activation_sums<'k>(f: &Frame<'k>, chunk: &Chunk<'k>, group: Val<'k>) -> Vec<[Val<'k>; 2]> {
    let spec = &f.linear.spec;
    let n = blocks(spec.cols()) as i64;
    let of_blocks = (quant_sums(spec.cols()) - HEADER) as i64;
    let sums = |x: &Val<'k>| match spec.group() {
        Group::Row => [4, 8].map(|at| x.at(at - HEADER as i64).load(I32, 4)),
        group_of @ Group::Columns(_) => {
            let count = group_blocks(group_of, spec.cols()) as i64;
            let first = group * count;
            let of = |block: Val<'k>, odd: i64| x.at(block * 8 + (of_blocks + 4 * odd)).load(I32, 4);
            // A block that is not there is the last one once more, and counts for nothing.
            let more = |odd: i64, sum: Val<'k>, at: i64| {
                let block = first + at;
                sum + block.lt(n).select(of(block.min(n - 1), odd), 0)
            };
            [0, 1].map(|odd| (1..count).fold(of(first, odd), |sum, at| more(odd, sum, at)))
        }
    };
    chunk.x.iter().map(sums).collect()
}

/// Sums of the products of the blocks `first..end`, for each row.
fn group_sums<'k>(
    f: &Frame<'k>,
    weights: &Weights<'_, 'k>,
    meaning: [Meaning; 2],
    chunk: &Chunk<'k>,
    first: Val<'k>,
    end: Val<'k>,
) -> Vec<Val<'k>> {
    let rows = chunk.x.len();
    let zero = vec![vec![vec![f.b.constant(sums_ty(f.level), 0i64); ways(f.level, rows)]; rows]; parts(f)];
    let sums = f.b.for_iter(first, end, 1, zero, |block, sums| {
        let x: Vec<Val<'k>> = chunk.x.iter().map(|x| x.at(block * BLOCK as i64)).collect();
        let part = |(part, sums): (usize, Vec<Vec<Val<'k>>>)| {
            let add = |mut sums: Sums<'k>, quad: Val<'k>, bytes: [Val<'k>; 2]| {
                for (slot, bytes) in bytes.into_iter().enumerate() {
                    let of_slot = (slot * QUADS * QUAD) as i64;
                    let quads: Vec<Val<'k>> = x.iter().map(|x| x.at(quad * QUAD as i64).at(of_slot).load(I32, 4)).collect();
                    sums.add(slot, bytes, &quads);
                }
                sums
            };
            weights(block, part, Sums::new(f.level, meaning, sums), &add).wide()
        };
        sums.into_iter().enumerate().map(part).collect()
    });
    let add = |a: Val<'k>, b: Val<'k>| a + b;
    let of_row = |row: usize| {
        let mut parts: Vec<Val<'k>> = sums.iter().filter_map(|part| part[row].iter().copied().reduce(add)).collect();
        while parts.len() > 1 {
            parts = parts.chunks(2).map(|pair| pair[0].concat(pair[1])).collect();
        }
        parts[0]
    };
    (0..rows).map(of_row).collect()
}
