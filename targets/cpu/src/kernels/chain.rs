//! Several kernels as one: a row passes through all of them before the next row starts.
//!
//! One launch instead of several, and what a part hands to the next is still in the nearest cache. The values between the parts keep their
//! buffers, all alive during the launch.

use super::Kernel;
use crate::abi::Call;
use crate::level::Level;
use q35_launch::spec::Chain;

impl Kernel for Chain<dyn Kernel> {
    fn build(&self, level: Level, call: &Call<'_>) {
        call.for_tiles(|row| {
            self.with_places().for_each(|(first, part)| part.build(level, &call.part(first, row)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, numbers, rows, run};
    use super::*;
    use q35_launch::spec::{NormWeight, Operation, Pointwise, RmsNorm};
    use std::rc::Rc;

    #[test]
    fn parts_see_what_parts_before_them_wrote() {
        let (width, tokens) = (40, 5);
        let wide = width as u64;
        let add = Pointwise { operation: Operation::Add, width: wide, column: false };
        let norm = RmsNorm { width: wide, group: wide, eps: 1e-6, weight: NormWeight::None };
        let scale = Pointwise { operation: Operation::Scale(3.0), width: wide, column: false };
        let chain: Chain<dyn Kernel> = Chain { parts: vec![Rc::new(add), Rc::new(norm), Rc::new(scale)] };
        let (a, b) = (numbers(tokens * width, 2.0), numbers(tokens * width + 1, 5.0));
        let sums: Vec<f32> = a.iter().zip(&b[1..]).map(|(a, b)| a + b).collect();
        let exact: Vec<f64> = sums
            .chunks(width)
            .flat_map(|row| {
                let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
                row.iter().map(move |v| 3.0 * f64::from(*v) / (mean + f64::from(1e-6f32)).sqrt()).collect::<Vec<_>>()
            })
            .collect();
        // The sums and the normalized rows are two arguments each, written by one part and read by the next, at one address.
        let arg = |values: &[f32]| Arg::rows(values, width);
        let args = [
            arg(&a),
            arg(&b[1..]),
            Arg::zeros(tokens, width),
            Arg::Same(2),
            Arg::zeros(tokens, width),
            Arg::Same(4),
            Arg::zeros(tokens, width),
        ];
        run(&chain, args, [tokens as i64, 0, 0, 0], tokens as i64, |level, args| {
            assert_eq!(rows(&args[2], width), sums, "{level:?}");
            close(&rows(&args[6], width), &exact, 5e-7, &format!("{level:?}"));
        });
    }
}
