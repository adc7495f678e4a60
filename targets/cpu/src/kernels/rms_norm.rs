//! Root-mean-square normalization of rows, or of groups of columns such as heads.

use super::columns::{each, fold};
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use q35_launch::spec::{NormWeight, RmsNorm};
use q35_mlir::types::F32;

impl Kernel for RmsNorm {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (b, count) = (call.b, lanes(level));
        let x = call.arg(0);
        let weight = (self.weight != NormWeight::None).then(|| call.arg(1));
        let y = call.arg(1 + usize::from(weight.is_some()));
        let group_bytes = 4 * self.group as i64;
        call.for_tiles(|row| {
            let (from, to) = (row_at(x, row, self.width), row_at(y, row, self.width));
            b.for_(0, (self.width / self.group) as i64, 1, |group| {
                let offset = group * group_bytes;
                let (from, to) = (from.at(offset), to.at(offset));
                let weight = weight.map(|w| if self.weight == NormWeight::PerColumn { w.at(offset) } else { w });
                let squares = fold(b, count, self.group, b.constant(F32.x(count), 0.0), |at, sum| {
                    let x = at.load(from);
                    x.mul_add(x, sum)
                });
                let mean = squares.sum() / self.group as f64;
                let inverse = b.f32(1.0) / (mean + f64::from(self.eps)).sqrt();
                each(b, count, self.group, |at| {
                    let normal = at.load(from) * inverse;
                    at.store(to, weight.map_or(normal, |w| normal * at.load(w)));
                });
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, numbers, rows, run};
    use super::*;

    #[test]
    fn against_double_precision() {
        for (width, group) in [(1, 1), (7, 7), (64, 64), (288, 288), (96, 24), (45, 9)] {
            for weight in [NormWeight::None, NormWeight::Shared, NormWeight::PerColumn] {
                let spec = RmsNorm { width: width as u64, group: group as u64, eps: 1e-5, weight };
                let x = numbers(3 * width, 20.0);
                let w = numbers(if weight == NormWeight::Shared { group } else { width }, 2.0);
                let mut exact = Vec::new();
                for (at, group_of_x) in x.chunks(group).enumerate() {
                    let mean = group_of_x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / group as f64;
                    for (i, v) in group_of_x.iter().enumerate() {
                        let factor = if weight == NormWeight::None { 1.0 } else { w[(at * group + i) % w.len()] };
                        exact.push(f64::from(*v) / (mean + f64::from(1e-5f32)).sqrt() * f64::from(factor));
                    }
                }
                let mut args = vec![Arg::rows(&x, width), Arg::floats(&w), Arg::zeros(3, width)];
                if weight == NormWeight::None {
                    args.remove(1);
                }
                run(&spec, args, [3, 0, 0, 0], 3, |level, args| {
                    let what = format!("{spec:?} {level:?}");
                    close(&rows(args.last().unwrap(), width), &exact, 5e-7, &what);
                });
            }
        }
    }
}
