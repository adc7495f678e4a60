//! Walking over the columns of a row, a vector at a time: whole vectors first, then one masked vector for the rest.

use q35_mlir::builder::{Builder, Carry, Val};
use q35_mlir::types::{F32, I1, Ty};

/// One step of the walk: the lanes of some neighbouring columns.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'k> {
    /// The first column, i64.
    pub(super) column: Val<'k>,
    /// How many lanes, whether or not all of them are columns.
    pub(super) count: u32,
    mask: Option<Val<'k>>,
}

impl<'k> Lanes<'k> {
    /// These columns of a row of f32; lanes past the last column are 0.
    pub(super) fn load(self, row: Val<'k>) -> Val<'k> {
        self.load_as(row, F32)
    }

    /// These columns of a row of `elem` (a scalar type) without gaps; lanes past the last column are 0.
    pub(super) fn load_as(self, row: Val<'k>, elem: Ty) -> Val<'k> {
        let (address, ty) = (row.at(self.column * i64::from(elem.bytes())), elem.x(self.count));
        match self.mask {
            None => address.load(ty, elem.bytes()),
            Some(mask) => address.load_masked(ty, elem.bytes(), mask, self.column.builder().constant(ty, 0i64)),
        }
    }

    /// A value with 0 in the lanes past the last column.
    pub(super) fn only(self, value: Val<'k>) -> Val<'k> {
        match self.mask {
            None => value,
            Some(mask) => mask.select(value, 0.0),
        }
    }

    /// Half as many lanes from half as far on: the pairs of columns that these columns form.
    pub(super) fn halved(self) -> Self {
        let evens: Vec<u32> = (0..self.count).step_by(2).collect();
        Lanes { column: self.column / 2, count: self.count / 2, mask: self.mask.map(|mask| mask.shuffle(mask, &evens)) }
    }

    /// Writes these columns of a row of numbers as wide as those of `value`, without gaps.
    pub(super) fn store(self, row: Val<'k>, value: Val<'k>) {
        let bytes = value.ty().bytes() / self.count;
        let address = row.at(self.column * i64::from(bytes));
        match self.mask {
            None => address.store(value, bytes),
            Some(mask) => address.store_masked(value, bytes, mask),
        }
    }
}

/// `step(lanes, carried)` over all columns of a row `width` wide, `count` lanes at a time.
pub(super) fn fold<'k, C: Carry<'k>>(
    b: &'k Builder<'k>,
    count: u32,
    width: u64,
    init: C,
    step: impl Fn(Lanes<'k>, C) -> C,
) -> C {
    let rest = (width % u64::from(count)) as u32;
    let whole = (width - u64::from(rest)) as i64;
    let mut carried = init;
    if whole > 0 {
        carried = b.for_iter(0, whole, i64::from(count), carried, |column, carried| {
            step(Lanes { column, count, mask: None }, carried)
        });
    }
    if rest > 0 {
        let mask: Vec<bool> = (0..count).map(|lane| lane < rest).collect();
        let mask = b.lanes(I1.elem, &mask);
        carried = step(Lanes { column: b.i64(whole), count, mask: Some(mask) }, carried);
    }
    carried
}

/// `step(lanes)` over all columns of a row `width` wide.
pub(super) fn each<'k>(b: &'k Builder<'k>, count: u32, width: u64, step: impl Fn(Lanes<'k>)) {
    fold(b, count, width, (), |lanes, ()| step(lanes));
}
