//! Rotary position embedding of queries and keys.

use crate::attr::words;
use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::{Rows, Ty};

/// Which columns of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RopeStyle {
    /// Column `i` with column `i + half`.
    Halves,
    /// Column `2i` with column `2i + 1`.
    Interleaved,
}

words!(RopeStyle { Halves = "halves", Interleaved = "interleaved" });

op! {
    /// Per head of `head_dim` columns, pair `i` of the first `2 * half` columns is turned by angle `i`: `(a, b) -> (a cos - b
    /// sin, b cos + a sin)`. The columns after them pass. The reference computes in f64 and rounds once.
    Rope = "rope"(x: Act, rotary: Rotary) -> Act {
        /// Columns of a head.
        head_dim: u64,
        /// Which columns form a pair.
        style: RopeStyle,
    }
}

impl Semantics for Rope {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, width) = matrix(&operands[0]);
        let half = match operands[1] {
            Ty::Rotary { half } => half,
            ref other => unreachable!("the declaration excludes {other}"),
        };
        ensure(rows == Rows::Tokens, || "operand 'x' has not one row per token".to_owned())?;
        ensure(self.head_dim > 0 && width.is_multiple_of(self.head_dim), || {
            format!("heads of {} columns do not divide the {width} columns of 'x'", self.head_dim)
        })?;
        ensure(half > 0 && half <= self.head_dim / 2, || {
            format!("{half} angles turn more than the {} columns of a head", self.head_dim)
        })?;
        Ok(same_rows(&operands[0], width))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(operands, result, 3)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (x, rotary) = (operands[0].act(), operands[1].rotary());
        let (half, head_dim) = (rotary.width / 2, self.head_dim as usize);
        let y = x.map_rows(x.width, |row, x, y| {
            y.copy_from_slice(x);
            let (cos, sin) = rotary.row(row).split_at(half);
            for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
                for i in 0..half {
                    let (ia, ib) = match self.style {
                        RopeStyle::Halves => (i, i + half),
                        RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                    };
                    let [a, b, c, s] = [x[ia], x[ib], cos[i], sin[i]].map(f64::from);
                    y[ia] = (a * c - b * s) as f32;
                    y[ib] = (b * c + a * s) as f32;
                }
            }
        });
        Ok(Data::Act(y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Matrix;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};

    /// Two heads of seven columns, two angles: three columns pass. As complex numbers: (a + bi) * exp(i angle).
    #[test]
    fn pairs_turn_as_complex_numbers() {
        let angles = [0.3f64, -1.1];
        let table: Vec<f32> = angles.iter().map(|a| a.cos() as f32).chain(angles.iter().map(|a| a.sin() as f32)).collect();
        let x: Vec<f32> = (1..=14).map(|v| v as f32).collect();
        for (style, pairs) in [(RopeStyle::Halves, [(0, 2), (1, 3)]), (RopeStyle::Interleaved, [(0, 1), (2, 3)])] {
            let rotary = Data::Rotary(Matrix::new(4, table.clone()));
            let y = Bench::default().eval(Rope { head_dim: 7, style }, &[&act(14, &x), &rotary]);
            let mut expected: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            for head in [0, 7] {
                for ((a, b), angle) in pairs.into_iter().zip(angles) {
                    let (re, im) = (f64::from(x[head + a]), f64::from(x[head + b]));
                    let (radius, phase) = (re.hypot(im), im.atan2(re) + angle);
                    (expected[head + a], expected[head + b]) = (radius * phase.cos(), radius * phase.sin());
                }
            }
            near(numbers(&y), &expected, 1e-6);
        }
    }

    #[test]
    fn angles_must_fit_the_head() {
        let (op, rotary) = (|head_dim| Rope { head_dim, style: RopeStyle::Halves }, |half| Ty::Rotary { half });
        assert_eq!(infer(op(4), &[tokens(8), rotary(2)], &[]), Ok(tokens(8)));
        assert_eq!(infer(op(4), &[tokens(8), rotary(3)], &[]), Err("3 angles turn more than the 4 columns of a head".into()));
        assert_eq!(
            infer(op(3), &[tokens(8), rotary(1)], &[]),
            Err("heads of 3 columns do not divide the 8 columns of 'x'".into())
        );
        assert!(infer(op(4), &[tokens(8), tokens(8)], &[]).is_err());
    }
}
