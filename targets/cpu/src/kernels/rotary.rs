//! Cosines and sines of rotary position embedding, once per step for all layers.

use q35_launch::spec::Rotary;
use q35_mlir::math::sin_cos;
use q35_mlir::types::{F32, I32};

use super::columns::each;
use super::{Kernel, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

impl Kernel for Rotary {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (positions, inv_freq, y) = (call.arg(0), call.arg(1), call.arg(2));
        call.for_tiles(|row| {
            let position = positions.at(row * 4).load(I32, 4).to(F32);
            let cosines = row_at(y, row, 2 * self.half);
            let sines = cosines.at(4 * self.half as i64);
            each(call.b, lanes(level), self.half, |at| {
                let (sine, cosine) = sin_cos(at.load(inv_freq) * position);
                at.store(cosines, cosine * f64::from(self.scale));
                at.store(sines, sine * f64::from(self.scale));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, close, rows, run};
    use super::*;

    #[test]
    fn against_double_precision() {
        let positions = [0, 1, 17, 8191, 131_071, 1_000_000];
        for (half, scale) in [(1, 1.0), (13, 0.5), (32, 1.0), (64, 1.2)] {
            let inv_freq: Vec<f32> = (0..half).map(|i| 10_000f32.powf(-(i as f32) / half as f32)).collect();
            let mut exact = Vec::new();
            for position in positions {
                let angle = |f: &f32| f64::from(position as f32 * f);
                exact.extend(inv_freq.iter().map(|f| f64::from(angle(f).cos() as f32 * scale)));
                exact.extend(inv_freq.iter().map(|f| f64::from(angle(f).sin() as f32 * scale)));
            }
            let args = [Arg::ints(&positions), Arg::floats(&inv_freq), Arg::zeros(6, 2 * half)];
            run(&Rotary { half: half as u64, scale }, args, [6, 0, 0, 0], 6, |level, args| {
                close(&rows(&args[2], 2 * half), &exact, 1.2e-7, &format!("{half} {level:?}"));
            });
        }
    }
}
