//! The one arithmetic step of every integer kernel: sums of four products of bytes, in as many 32-bit lanes as a vector has.
//!
//! All of it is exact. Where processors have no such instruction but sums of two products in 16 bits, those of a block are added up in 16
//! bits where they are sure to fit.

use super::decode::Meaning;
use super::geometry::QUADS;
use crate::instructions::{DOT_128, DOT_256, DOT_512, PAIRS_OF_BYTES, PAIRS_OF_WORDS, SIGN, even, odd};
use crate::level::{Isa, Level};
use q35_mlir::builder::{Carry, Val};
use q35_mlir::types::{I8, I16, I32, Ty};

/// The largest magnitude of a rounded activation.
const MOST_ACTIVATION: i64 = 127;

/// Sums under way, for each of some rows of activations.
pub(super) struct Sums<'k> {
    level: Level,
    meaning: [Meaning; 2],
    /// Per row, as many as keep the multiplier busy; they are added up in the end.
    wide: Vec<Vec<Val<'k>>>,
    /// 16-bit sums of the first and of the second weights per row, where those of a block fit.
    narrow: [Vec<Val<'k>>; 2],
}

/// Sums that keep the multiplier of a level busy.
pub(super) fn ways(level: Level, rows: usize) -> usize {
    match level.isa() {
        Isa::Avx512 | Isa::AvxVnni | Isa::DotProd if rows <= 4 => 2,
        _ => 1,
    }
}

/// The type of the sums.
pub(super) fn sums_ty(level: Level) -> Ty {
    I32.x(level.bytes() / 4)
}

impl<'k> Carry<'k> for Sums<'k> {
    fn values(&self) -> Vec<Val<'k>> {
        [self.wide.values(), self.narrow.values()].concat()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        Self { wide: self.wide.with(values), narrow: self.narrow.with(values), ..*self }
    }
}

impl<'k> Sums<'k> {
    /// Continues, for a block, with sums that [`Self::wide`] gave.
    pub(super) fn new(level: Level, meaning: [Meaning; 2], wide: Vec<Vec<Val<'k>>>) -> Self {
        let zero = wide[0][0].builder().constant(I16.x(level.bytes() / 2), 0i64);
        let fits = |most: i64| QUADS as i64 * 2 * MOST_ACTIVATION * most <= i64::from(i16::MAX);
        let narrow = meaning.map(
            |Meaning { most, .. }| {
                if level.isa() == Isa::Avx2 && fits(most) { vec![zero; wide.len()] } else { vec![] }
            },
        );
        Self { level, meaning, wide, narrow }
    }

    /// Adds, lane by lane, the products of bytes that stand for the weights of a slot with a quad of each row's activations, i32.
    pub(super) fn add(&mut self, slot: usize, weights: Val<'k>, x: &[Val<'k>]) {
        let (level, ty) = (self.level, sums_ty(self.level));
        let meaning = self.meaning[slot];
        let way = slot % self.wide[0].len();
        let x = x.iter().map(|x| x.splat(ty.lanes).bitcast(I8.x(level.bytes())));
        let dot = |sum: Val<'k>, x: Val<'k>| match level.isa() {
            Isa::Avx512 => DOT_512.call(level, &[sum, weights, x], ty),
            Isa::AvxVnni => DOT_256.call(level, &[sum, weights, x], ty),
            Isa::DotProd => DOT_128.call(level, &[sum, weights, x], ty),
            Isa::Avx2 | Isa::Base => sum + quads(weights, x, meaning.signed),
        };
        if level.isa() != Isa::Avx2 {
            return x.zip(&mut self.wide).for_each(|(x, sums)| sums[way] = dot(sums[way], x));
        }
        let words = I16.x(level.bytes() / 2);
        let magnitude = if meaning.signed { weights.abs() } else { weights };
        for (row, x) in x.enumerate() {
            let x = if meaning.signed { SIGN.call(level, &[x, weights], x.ty()) } else { x };
            let products = PAIRS_OF_BYTES.call(level, &[magnitude, x], words);
            match self.narrow[slot].get_mut(row) {
                Some(sum) => *sum = *sum + products,
                None => self.widen(slot, row, products),
            }
        }
    }

    fn widen(&mut self, slot: usize, row: usize, narrow: Val<'k>) {
        let factor = narrow.builder().constant(narrow.ty(), self.meaning[slot].factor);
        let sums = PAIRS_OF_WORDS.call(self.level, &[narrow, factor], sums_ty(self.level));
        self.wide[row][0] = self.wide[row][0] + sums;
    }

    /// The sums so far.
    pub(super) fn wide(mut self) -> Vec<Vec<Val<'k>>> {
        for (slot, rows) in std::mem::take(&mut self.narrow).into_iter().enumerate() {
            rows.into_iter().enumerate().for_each(|(row, narrow)| self.widen(slot, row, narrow));
        }
        self.wide
    }
}

/// Per four neighbouring lanes of bytes the sum of their products, i32; the first bytes are signed or not, the second are.
fn quads<'k>(first: Val<'k>, second: Val<'k>, signed: bool) -> Val<'k> {
    let wide = I16.x(first.lanes());
    let first = if signed { first.to(wide) } else { first.to_u(wide) };
    // A product of an unsigned and a signed byte fits in 16 bits; two of them need not.
    let products = (first * second.to(wide)).to(I32);
    let pairs = even(products) + odd(products);
    even(pairs) + odd(pairs)
}
