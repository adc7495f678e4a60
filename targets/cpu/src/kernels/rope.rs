//! Rotary position embedding of queries and keys.

use q35_dialects::q35::RopeStyle;
use q35_launch::spec::Rope;
use q35_mlir::builder::Val;

use super::columns::each;
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

impl Kernel for Rope {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (b, count) = (call.b, lanes(level));
        let (x, rotary, y) = (call.arg(0), call.arg(1), call.arg(2));
        let half_bytes = 4 * self.half as i64;
        call.for_tiles(|row| {
            let cosines = row_at(rotary, row, 2 * self.half);
            let sines = cosines.at(half_bytes);
            let (from, to) = (row_at(x, row, self.width), row_at(y, row, self.width));
            b.for_(0, (self.width / self.head_dim) as i64, 1, |head| {
                let offset = head * (4 * self.head_dim as i64);
                let (from, to) = (from.at(offset), to.at(offset));
                match self.style {
                    RopeStyle::Halves => each(b, count, self.half, |at| {
                        let pair = [at.load(from), at.load(from.at(half_bytes))];
                        let [first, second] = turn(pair, at.load(cosines), at.load(sines));
                        at.store(to, first);
                        at.store(to.at(half_bytes), second);
                    }),
                    RopeStyle::Interleaved => each(b, count, 2 * self.half, |at| {
                        let (x, pairs) = (at.load(from), at.halved());
                        let (cosine, sine) = (pairs.load(cosines), pairs.load(sines));
                        let swapped = x.shuffle(x, &(0..count).map(|lane| lane ^ 1).collect::<Vec<_>>());
                        let turned = swapped * (-sine).interleave(sine);
                        at.store(to, x.mul_add(cosine.interleave(cosine), turned));
                    }),
                }
                let rest = 2 * half_bytes;
                each(b, count, self.head_dim - 2 * self.half, |at| at.store(to.at(rest), at.load(from.at(rest))));
            });
        });
    }
}

/// `(a, b) -> (a cos - b sin, b cos + a sin)`.
fn turn<'k>([a, b]: [Val<'k>; 2], cosine: Val<'k>, sine: Val<'k>) -> [Val<'k>; 2] {
    [a.mul_add(cosine, -(b * sine)), b.mul_add(cosine, a * sine)]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, numbers, rows, run};
    use super::*;

    #[test]
    fn against_double_precision() {
        for (heads, head_dim, half) in [(1, 2, 1), (3, 64, 32), (2, 80, 16), (2, 26, 13), (5, 10, 3)] {
            let width = heads * head_dim;
            let (x, angles) = (numbers(4 * width, 2.0), numbers(4 * half, 3.0));
            let rotary: Vec<f32> = angles
                .chunks(half)
                .flat_map(|row| row.iter().map(|a| a.cos()).chain(row.iter().map(|a| a.sin())).collect::<Vec<_>>())
                .collect();
            for style in [RopeStyle::Halves, RopeStyle::Interleaved] {
                let mut exact: Vec<f64> = x.iter().copied().map(f64::from).collect();
                for (at, head) in exact.chunks_mut(head_dim).enumerate() {
                    let row = &rotary[at / heads * 2 * half..][..2 * half];
                    for i in 0..half {
                        let (c, s) = (f64::from(row[i]), f64::from(row[half + i]));
                        let (ia, ib) = if style == RopeStyle::Halves { (i, i + half) } else { (2 * i, 2 * i + 1) };
                        (head[ia], head[ib]) = (head[ia] * c - head[ib] * s, head[ib] * c + head[ia] * s);
                    }
                }
                let [width_, head_dim, half_] = [width, head_dim, half].map(|n| n as u64);
                let spec = Rope { width: width_, head_dim, half: half_, style };
                let args = [Arg::rows(&x, width), Arg::rows(&rotary, 2 * half), Arg::zeros(4, width)];
                run(&spec, args, [4, 0, 0, 0], 4, |level, args| {
                    close(&rows(&args[2], width), &exact, 3e-7, &format!("{spec:?} {level:?}"));
                });
            }
        }
    }
}
