//! Weights stored as floats: products with f32 activations.
//!
//! Column `k` goes to partial sum `k % 4`; a sum is `(p0 + p1) + (p2 + p3)`. Each output is one lane, so the order does not depend on
//! the rows beside it. Products and additions are fused where the level can.

use super::frame::Frame;
use super::geometry::TILE;
use crate::abi::Call;
use q35_mlir::builder::Val;
use q35_mlir::types::F32;

/// Partial sums of an output.
const WAYS: usize = 4;
/// Rows that share a load of weights.
const ROWS: i64 = 4;

pub(super) fn build<'k>(call: &Call<'k>, f: &Frame<'k>) {
    let spec = &f.linear.spec;
    let (cols, element) = (spec.cols(), spec.row_bytes() / spec.cols());
    let column = (TILE * element) as i64;
    f.for_tiles(call, |tile, rows| {
        f.for_chunks(rows, &[ROWS, 1], |chunk| {
            let step = |at: Val<'k>, way: usize, sums: &mut Vec<Vec<Val<'k>>>| {
                let w = f.floats(tile.codes.at(at * column));
                for (x, sums) in chunk.x.iter().zip(sums) {
                    sums[way] = w.mul_add(x.at(at * 4).load(F32, 4).splat(TILE as u32), sums[way]);
                }
            };
            let zero = vec![vec![f.no_sum(); WAYS]; chunk.x.len()];
            let whole = cols / WAYS * WAYS;
            let mut sums = f.b.for_iter(0, whole as i64, WAYS as i64, zero, |k, mut sums| {
                (0..WAYS).for_each(|way| step(k + way as i64, way, &mut sums));
                sums
            });
            (whole..cols).for_each(|k| step(f.number(k), k - whole, &mut sums));
            for (row, p) in sums.iter().enumerate() {
                f.finish(tile, chunk, row, (p[0] + p[1]) + (p[2] + p[3]));
            }
        });
    });
}
