//! Layer normalization of rows, or of groups of columns such as heads.

use super::columns::{each, fold};
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use q35_launch::spec::{LayerNorm, NormWeight};
use q35_mlir::types::F32;

impl Kernel for LayerNorm {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (b, count) = (call.b, lanes(level));
        let x = call.arg(0);
        let weight = (self.weight != NormWeight::None).then(|| call.arg(1));
        let behind = 1 + usize::from(weight.is_some());
        let bias = (self.bias != NormWeight::None).then(|| call.arg(behind));
        let y = call.arg(behind + usize::from(bias.is_some()));
        let group_bytes = 4 * self.group as i64;
        call.for_tiles(|row| {
            let (from, to) = (row_at(x, row, self.width), row_at(y, row, self.width));
            b.for_(0, (self.width / self.group) as i64, 1, |group| {
                let offset = group * group_bytes;
                let (from, to) = (from.at(offset), to.at(offset));
                let [weight, bias] = [(weight, self.weight), (bias, self.bias)]
                    .map(|(v, how)| v.map(|v| if how == NormWeight::PerColumn { v.at(offset) } else { v }));
                let zeros = b.constant(F32.x(count), 0.0);
                let mean = fold(b, count, self.group, zeros, |at, sum| sum + at.load(from)).sum() / self.group as f64;
                let squares = fold(b, count, self.group, zeros, |at, sum| {
                    let x = at.only(at.load(from) - mean);
                    x.mul_add(x, sum)
                });
                let variance = squares.sum() / self.group as f64;
                let inverse = b.f32(1.0) / (variance + f64::from(self.eps)).sqrt();
                each(b, count, self.group, |at| {
                    let normal = (at.load(from) - mean) * inverse;
                    let y = weight.map_or(normal, |w| normal * at.load(w));
                    at.store(to, bias.map_or(y, |c| y + at.load(c)));
                });
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, numbers, rows, run};
    use super::*;

    /// Rows lie far from 0, so that a mean that is not taken off shows.
    #[test]
    fn against_double_precision() {
        use NormWeight::{None, PerColumn, Shared};
        for (width, group) in [(1, 1), (7, 7), (64, 64), (288, 288), (96, 24), (45, 9)] {
            for (weight, bias) in [(None, None), (Shared, None), (PerColumn, Shared), (None, PerColumn)] {
                let spec = LayerNorm { width: width as u64, group: group as u64, eps: 1e-5, weight, bias };
                let x: Vec<f32> = numbers(3 * width, 4.0).iter().map(|x| x + 3.0).collect();
                let vector = |how, scale| match how {
                    None => vec![],
                    Shared => numbers(group, scale),
                    PerColumn => numbers(width, scale),
                };
                let (w, c) = (vector(weight, 2.0), vector(bias, 1.0));
                let mut exact = Vec::new();
                for (at, x) in x.chunks(group).enumerate() {
                    let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / group as f64;
                    let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / group as f64;
                    for (i, v) in x.iter().enumerate() {
                        let of =
                            |list: &[f64], absent| if list.is_empty() { absent } else { list[(at * group + i) % list.len()] };
                        let wide = |list: &[f32]| list.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                        let normal = (f64::from(*v) - mean) / (variance + f64::from(1e-5f32)).sqrt();
                        exact.push(normal * of(&wide(&w), 1.0) + of(&wide(&c), 0.0));
                    }
                }
                let vectors = [w, c].into_iter().filter(|v| !v.is_empty()).map(|v| Arg::floats(&v));
                let args: Vec<Arg> = [Arg::rows(&x, width)].into_iter().chain(vectors).chain([Arg::zeros(3, width)]).collect();
                run(&spec, args, [3, 0, 0, 0], 3, |level, args| {
                    close(&rows(args.last().unwrap(), width), &exact, 2e-6, &format!("{spec:?} {level:?}"));
                });
            }
        }
    }
}
