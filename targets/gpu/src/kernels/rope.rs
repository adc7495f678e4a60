//! Rotary position embedding: cosines and sines once per step, then queries and keys of every layer.

use super::{Kernel, element, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use q35_dialects::q35::RopeStyle;
use q35_launch::spec::{Rope, Rotary};
use q35_mlir::math::sin_cos;
use q35_mlir::types::{F32, I32};

impl Kernel for Rotary {
    fn build(&self, call: &Call<'_>) {
        let position = call.arg(0).at(call.tile * 4).load(I32, 4).to(F32);
        let cosines = row_at(call.arg(2), call.tile, 2 * self.half);
        let sines = cosines.at(4 * self.half as i64);
        call.each(Team::Group, self.half as i64, |at| {
            let (sine, cosine) = sin_cos(element(call.arg(1), at) * position);
            set(cosines, at, cosine * f64::from(self.scale));
            set(sines, at, sine * f64::from(self.scale));
        });
    }
}

impl Kernel for Rope {
    fn build(&self, call: &Call<'_>) {
        let cosines = row_at(call.arg(1), call.tile, 2 * self.half);
        let sines = cosines.at(4 * self.half as i64);
        let (from, to) = (row_at(call.arg(0), call.tile, self.width), row_at(call.arg(2), call.tile, self.width));
        let (half, dim, heads) = (self.half as i64, self.head_dim as i64, (self.width / self.head_dim) as i64);
        call.each(Team::Group, heads * half, |number| {
            let (head, pair) = (number.div_u(half) * dim, number.rem_u(half));
            let (first, second) = match self.style {
                RopeStyle::Halves => (head + pair, head + pair + half),
                RopeStyle::Interleaved => (head + pair * 2, head + pair * 2 + 1),
            };
            let (a, b) = (element(from, first), element(from, second));
            let (cosine, sine) = (element(cosines, pair), element(sines, pair));
            set(to, first, a.mul_add(cosine, -(b * sine)));
            set(to, second, b.mul_add(cosine, a * sine));
        });
        let rest = dim - 2 * half;
        if rest > 0 {
            call.each(Team::Group, heads * rest, |number| {
                let column = number.div_u(rest) * dim + 2 * half + number.rem_u(rest);
                set(to, column, element(from, column));
            });
        }
    }
}
