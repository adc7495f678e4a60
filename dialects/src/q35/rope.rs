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
    /// Per head of `head_dim` columns, pair `i` of the first `2 * half` columns is turned by angle `i`: `(a, b) -> (a cos - b sin, b cos + a sin)`.
    /// The columns after them pass. The reference computes in f64 and rounds once.
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
