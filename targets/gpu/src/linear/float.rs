//! Weights stored as floats: products with f32 activations, a wave per output.
//!
//! A lane adds up every column that is its number plus a multiple of the wave's size; the wave's sums are added in a tree.

use super::rows::Part;
use super::{LinearKernel, weights};
use crate::abi::Call;
use crate::group::Team;
use q35_format::Codec;
use q35_launch::layout::row_at;
use q35_mlir::builder::Val;
use q35_mlir::types::{BF16, F16, F32, Ty};

/// Outputs of a group.
pub(super) const ROWS: usize = 8;

/// The type that a float codec stores.
fn stored(codec: Codec) -> Ty {
    match codec {
        Codec::F16 => F16,
        Codec::Bf16 => BF16,
        _ => F32,
    }
}

pub(super) fn build<'k>(call: &Call<'k>, kernel: &LinearKernel) {
    let linear = &kernel.linear;
    let (b, cols, stored) = (call.b, linear.spec.cols(), stored(linear.spec.codec()));
    let part = Part::new(call, kernel, call.tile, linear.tiles(ROWS));
    let (tile, rows) = (weights::tile(call, linear, ROWS, &part), part.rows);
    let row = tile.number * ROWS as i64 + call.wave();
    b.if_(row.lt(tile.outputs), || {
        let w = tile.codes.at(row * (cols as i64 * i64::from(stored.bytes())));
        b.for_(0, rows.count, 1, |at| {
            let x = row_at(call.arg(0), rows.of_x(at), cols as u64);
            let (lanes, lane) = call.members(Team::Wave);
            let sum = b.for_iter(lane, cols as i64, i64::from(lanes), b.f32(0.0), |column, sum: Val<'k>| {
                let weight = w.at(column * i64::from(stored.bytes())).load(stored, stored.bytes()).to(F32);
                x.at(column * 4).load(F32, 4).mul_add(weight, sum)
            });
            let sum = call.sum(Team::Wave, sum);
            let y = tile.bias.map_or(sum, |bias| sum + bias.at(row * 4).load(F32, 4));
            b.if_(lane.eq(0), || tile.y.at(rows.of_y(at) * tile.stride + row * 4).store(y, 4));
        });
    });
}
