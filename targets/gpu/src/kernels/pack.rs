//! Activations as matrix instructions take them: f16, in the order in which lanes read.

use super::{Kernel, element, row_at};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::{COLUMNS, PARTS};
use crate::linear::geometry::{BLOCK, SPAN, STEPS, packed_stride};
use q35_launch::Spec;
use q35_mlir::builder::Val;
use q35_mlir::types::F16;

/// The row rounded to f16, in the places that [`geometry`](crate::linear::geometry) gives its columns. What does not fit f16 becomes its
/// largest number. Arguments: x, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Columns.
    pub width: u64,
}

/// The largest f16.
const LARGEST: f64 = 65504.0;

impl Spec for Pack {
    fn name(&self) -> String {
        format!("pack_{}", self.width)
    }

    fn args(&self) -> usize {
        2
    }
}

impl Kernel for Pack {
    fn build<'k>(&self, call: &Call<'k>) {
        let (b, width) = (call.b, self.width as i64);
        let stride = packed_stride(self.width as usize) as i64;
        let (from, to) = (row_at(call.arg(0), call.tile, self.width), call.arg(1).at(call.tile * stride));
        let (parts, steps, columns) = (i64::from(PARTS), STEPS as i64, i64::from(COLUMNS));
        // Fours of columns, in the order of their places.
        call.each(Team::Group, stride / (2 * columns), |at| {
            let (quad, odd) = (at.div_u(2), at.rem_u(2));
            let (pair, part) = (quad.div_u(parts), quad.rem_u(parts));
            let (block, step) = (pair.div_u(steps / 2), pair.rem_u(steps / 2) * 2 + odd);
            let first = block * BLOCK as i64 + (part * SPAN as i64 + step * columns);
            let half = |column: Val<'k>| {
                let value = element(from, column.min(width - 1)).max(-LARGEST).min(LARGEST).to(F16);
                column.lt(width).select(value, 0.0)
            };
            let halves =
                (0..COLUMNS).fold(b.constant(F16.x(COLUMNS), 0.0), |all, i| all.with_lane(i, half(first + i64::from(i))));
            to.at(at * (2 * columns)).store(halves, 8);
        });
    }
}
