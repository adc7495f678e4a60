//! Moving parts of activations: rows whose logits are wanted, ranges of columns.

use super::columns::each;
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use q35_launch::spec::{Columns, Select};

impl Kernel for Select {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (x, rows, y) = (call.arg(0), call.arg(1), call.arg(2));
        call.for_tiles(|row| {
            let (from, to) = (row_at(x, entry(rows, row), self.width), row_at(y, row, self.width));
            each(call.b, lanes(level), self.width, |at| at.store(to, at.load(from)));
        });
    }
}

impl Kernel for Columns {
    fn build(&self, level: Level, call: &Call<'_>) {
        let (x, y) = (call.arg(0), call.arg(1));
        call.for_tiles(|row| {
            let from = row_at(x, row, self.width).at(4 * self.start as i64);
            let to = row_at(y, row, self.len);
            each(call.b, lanes(level), self.len, |at| at.store(to, at.load(from)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, rows, run};
    use super::*;

    #[test]
    fn rows_are_gathered() {
        for width in [1, 15, 16, 33, 100] {
            let x = numbers(5 * width, 1.0);
            let expected = [&x[4 * width..], &x[..width], &x[4 * width..]].concat();
            let args = [Arg::rows(&x, width), Arg::ints(&[4, 0, 4]), Arg::zeros(3, width)];
            run(&Select { width: width as u64 }, args, [5, 3, 0, 0], 3, |level, args| {
                assert_eq!(rows(&args[2], width), expected, "{level:?} {width}");
            });
        }
    }

    #[test]
    fn columns_are_cut() {
        let (width, start, len) = (37, 5, 19);
        let x = numbers(3 * width, 1.0);
        let expected: Vec<f32> = x.chunks(width).flat_map(|row| &row[start..start + len]).copied().collect();
        let spec = Columns { width: width as u64, start: start as u64, len: len as u64 };
        run(&spec, [Arg::rows(&x, width), Arg::zeros(3, len)], [3, 0, 0, 0], 3, |level, args| {
            assert_eq!(rows(&args[1], len), expected, "{level:?}");
        });
    }
}
