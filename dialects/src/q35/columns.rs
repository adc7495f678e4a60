//! A range of columns.

use crate::data::Data;
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix};
use crate::ty::Ty;

op! {
    /// Columns `start .. start + len`. Meant for producers that cannot be split.
    Columns = "columns"(x: Act) -> Act {
        /// First column.
        start: u64,
        /// Number of columns.
        len: u64,
    }
}

impl Semantics for Columns {
    fn infer(&self, operands: &[Ty], _: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = matrix(&operands[0]);
        let inside = self.len > 0 && self.start.checked_add(self.len).is_some_and(|end| end <= width);
        ensure(inside, || format!("{} columns from {} on are not among the {width} columns of 'x'", self.len, self.start))?;
        Ok(same_rows(&operands[0], self.len))
    }

    fn cost(&self, _: &[Ty], result: &Ty, _: &dyn ParamTable) -> Cost {
        Cost::elementwise(&[*result], result, 0)
    }

    fn eval(&self, operands: &[&Data], _: &mut Env<'_>) -> q35_diag::Result<Data> {
        let x = operands[0].act();
        let y = x.map_rows(self.len as usize, |_, x, y| y.copy_from_slice(&x[self.start as usize..][..self.len as usize]));
        Ok(Data::Act(y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, numbers, tokens};

    #[test]
    fn a_range_is_cut_out() {
        let y = Bench::default().eval(Columns { start: 1, len: 2 }, &[&act(4, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])]);
        assert_eq!(numbers(&y), [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(infer(Columns { start: 2, len: 2 }, &[tokens(4)], &[]), Ok(tokens(2)));
        for (start, len) in [(3, 2), (0, 0), (u64::MAX, 2)] {
            assert!(infer(Columns { start, len }, &[tokens(4)], &[]).is_err(), "{start} {len}");
        }
    }
}
