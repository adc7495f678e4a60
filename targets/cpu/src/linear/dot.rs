//! The one arithmetic step of every integer kernel: sums of four products of bytes, in as many 32-bit lanes as a vector has.
//!
//! All of it is exact. Where processors have no such instruction but sums of two products in 16 bits, these are added up in 16 bits for as
//! long as they are sure to fit.

use super::decode::Meaning;
use crate::instructions::{DOT_128, DOT_256, DOT_512, PAIRS_OF_BYTES, PAIRS_OF_WORDS, SIGN, even, odd};
use crate::level::{Isa, Level};
use q35_mlir::builder::Val;
use q35_mlir::types::{I8, I16, I32, Ty};

/// The largest magnitude of a rounded activation.
const MOST_ACTIVATION: i64 = 127;

/// Sums under way, for each of some rows of activations.
pub(super) struct Sums<'k> {
    level: Level,
    meaning: [Meaning; 2],
    /// Per row, as many as keep the multiplier busy; they are added up in the end.
    wide: Vec<Vec<Val<'k>>>,
    /// 16-bit sums of the first and of the second weights per row, and how many products are in each.
    narrow: [Vec<Val<'k>>; 2],
    added: [i64; 2],
    turn: usize,
}

/// Sums that keep the multiplier of a level busy.
pub(super) fn ways(level: Level, rows: usize) -> usize {
    match level.isa() {
        Isa::Avx512 | Isa::AvxVnni | Isa::DotProd => 8usize.div_ceil(rows).min(4),
        Isa::Avx2 | Isa::Base => 1,
    }
}

/// The type of the sums.
pub(super) fn sums_ty(level: Level) -> Ty {
    I32.x(level.bytes() / 4)
}

impl<'k> Sums<'k> {
    /// Continues with sums that [`Self::wide`] gave.
    pub(super) fn new(level: Level, meaning: [Meaning; 2], wide: Vec<Vec<Val<'k>>>) -> Self {
        Self { level, meaning, wide, narrow: [vec![], vec![]], added: [0; 2], turn: 0 }
    }

    /// Adds, lane by lane, the products of bytes that stand for the weights of a slot with a quad of each row's activations, i32.
    pub(super) fn add(&mut self, slot: usize, weights: Val<'k>, x: &[Val<'k>]) {
        let (level, ty) = (self.level, sums_ty(self.level));
        let meaning = self.meaning[slot];
        let ways = self.wide[0].len();
        let turn = self.turn % ways;
        self.turn += 1;
        let x = x.iter().map(|x| x.splat(ty.lanes).bitcast(I8.x(level.bytes())));
        let dot = |sum: Val<'k>, x: Val<'k>| match level.isa() {
            Isa::Avx512 => DOT_512.call(level, &[sum, weights, x], ty),
            Isa::AvxVnni => DOT_256.call(level, &[sum, weights, x], ty),
            Isa::DotProd => DOT_128.call(level, &[sum, weights, x], ty),
            Isa::Avx2 | Isa::Base => sum + quads(weights, x, meaning.signed),
        };
        if level.isa() != Isa::Avx2 {
            return x.zip(&mut self.wide).for_each(|(x, sums)| sums[turn] = dot(sums[turn], x));
        }
        let words = I16.x(level.bytes() / 2);
        let magnitude = if meaning.signed { weights.abs() } else { weights };
        for (row, x) in x.enumerate() {
            let x = if meaning.signed { SIGN.call(level, &[x, weights], x.ty()) } else { x };
            let products = PAIRS_OF_BYTES.call(level, &[magnitude, x], words);
            match self.narrow[slot].get_mut(row) {
                Some(sum) => *sum = *sum + products,
                None => self.narrow[slot].push(products),
            }
        }
        self.added[slot] += 1;
        if self.added[slot] == i64::from(i16::MAX) / (2 * MOST_ACTIVATION * meaning.most) {
            self.widen(slot);
        }
    }

    fn widen(&mut self, slot: usize) {
        self.added[slot] = 0;
        let words = I16.x(self.level.bytes() / 2);
        for (narrow, wide) in std::mem::take(&mut self.narrow[slot]).into_iter().zip(&mut self.wide) {
            let factor = narrow.builder().constant(words, self.meaning[slot].factor);
            wide[0] = wide[0] + PAIRS_OF_WORDS.call(self.level, &[narrow, factor], sums_ty(self.level));
        }
    }

    /// The sums so far.
    pub(super) fn wide(mut self) -> Vec<Vec<Val<'k>>> {
        (0..2).for_each(|slot| self.widen(slot));
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
