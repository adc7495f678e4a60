//! The sum of what experts gave.

use super::columns::each;
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use q35_launch::layout::routing_stride;
use q35_launch::spec::Combine;
use q35_mlir::types::F32;

impl Kernel for Combine {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (b, count) = (call.b, lanes(level));
        let (x, routing, y) = (call.arg(0), call.arg(1), call.arg(2));
        let choices = self.choices as i64;
        call.for_tiles(|row| {
            let weights = routing.at(row * routing_stride(self.choices as usize) as i64 + choices * 4);
            let to = row_at(y, row, self.width);
            each(b, count, self.width, |at| {
                let sum = b.for_iter(0, choices, 1, b.constant(F32.x(count), 0.0), |choice, sum| {
                    let weight = weights.at(choice * 4).load(F32, 4).splat(count);
                    weight.mul_add(at.load(row_at(x, row * choices + choice, self.width)), sum)
                });
                at.store(to, sum);
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, numbers, rows, run};
    use super::*;

    #[test]
    fn choices_are_weighed() {
        for (width, choices) in [(1, 1), (16, 2), (45, 3), (300, 8)] {
            let tokens = 5;
            let x = numbers(tokens * choices * width, 2.0);
            let weights = numbers(tokens * choices, 1.0);
            let routing: Vec<f32> =
                weights.chunks(choices).flat_map(|row| [&vec![f32::from_bits(7); choices], row].concat()).collect();
            let element = |at: usize| -> f64 {
                let (token, column) = (at / width, at % width);
                let of = |choice: usize| token * choices + choice;
                (0..choices).map(|j| f64::from(weights[of(j)]) * f64::from(x[of(j) * width + column])).sum()
            };
            let exact: Vec<f64> = (0..tokens * width).map(element).collect();
            let args = [Arg::rows(&x, width), Arg::rows(&routing, 2 * choices), Arg::zeros(tokens, width)];
            let kernel = Combine { width: width as u64, choices: choices as u64 };
            run(&kernel, args, [tokens as i64, 0, 0, 0], tokens as i64, |level, args| {
                close(&rows(&args[2], width), &exact, 5e-7, &format!("{level:?} {width} {choices}"));
            });
        }
    }
}
