//! The most probable token of a row of logits.
//!
//! A group takes a row: every thread its fours of columns, then the lanes of a wave, then the waves. It is the token that the runtime's own
//! greedy choice takes from the same logits: of equal ones the first, and what is not a number counts as the smallest.

use super::{Kernel, element, row_at};
use crate::abi::Call;
use crate::isa::Isa;
use q35_launch::Spec;
use q35_launch::layout::ALIGN;
use q35_mlir::builder::Val;
use q35_mlir::types::{F32, I32};

/// Threads of a group: a row is long, and there is one of it for every sequence.
const THREADS: u32 = 1024;
/// Columns that a thread loads at once.
const AT_ONCE: i64 = 4;

/// The column of the largest of a row's numbers, i32, in a row of [`ALIGN`] bytes of its own. Arguments: x, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choose {
    /// Columns.
    pub width: u64,
}

impl Spec for Choose {
    fn name(&self) -> String {
        format!("choose_{}", self.width)
    }

    fn args(&self) -> usize {
        2
    }
}

/// A number and its column.
type Candidate<'k> = (Val<'k>, Val<'k>);

/// The larger of two, of equal ones that of the smaller column.
fn better<'k>((value, at): Candidate<'k>, (other, other_at): Candidate<'k>) -> Candidate<'k> {
    let wins = other.gt(value) | (other.eq(value) & other_at.lt(at));
    (wins.select(other, value), wins.select(other_at, at))
}

impl Kernel for Choose {
    fn threads(&self, _: &dyn Isa) -> u32 {
        THREADS
    }

    fn shared_bytes(&self) -> u32 {
        8 * THREADS / 32
    }

    fn build<'k>(&self, call: &Call<'k>) {
        let (b, width) = (call.b, self.width as i64);
        let row = row_at(call.arg(0), call.tile, self.width);
        // Columns are seen in ascending order, so that an equal one that comes later never wins. Whoever saw nothing larger than the smallest
        // number proposes the first column, which is right if nobody saw more.
        let later = |(value, at): Candidate<'k>, number: Val<'k>, column: Val<'k>| {
            let larger = number.gt(value);
            (larger.select(number, value), larger.select(column.to(I32), at))
        };
        let none = (b.f32(f32::NEG_INFINITY), b.i32(0));
        let fours = width / AT_ONCE;
        let found = b.for_iter(call.thread, fours, i64::from(THREADS), none, |four, found: Candidate<'k>| {
            let numbers = row.at(four * (4 * AT_ONCE)).load(F32.x(AT_ONCE as u32), 16);
            (0..AT_ONCE).fold(found, |found, i| later(found, numbers.lane(i as u32), four * AT_ONCE + i))
        });
        // Their columns come after all of those.
        let found =
            b.for_iter(call.thread + fours * AT_ONCE, width, i64::from(THREADS), found, |column, found: Candidate<'k>| {
                later(found, element(row, column), column)
            });
        let (value, at) = call.wave_all(found, better);

        let waves = b.shared(8 * call.waves(), 16);
        b.if_(call.lane().eq(0), || {
            let own = waves.at(call.wave() * 8);
            own.store(value, 4);
            own.at(4).store(at, 4);
        });
        call.barrier();
        let of_wave = |wave: u32| {
            let own = waves.at(8 * i64::from(wave));
            (own.load(F32, 4), own.at(4).load(I32, 4))
        };
        b.if_(call.thread.eq(0), || {
            let (_, at) = (1..call.waves()).map(of_wave).fold(of_wave(0), better);
            call.arg(1).at(call.tile * ALIGN as i64).store(at, 4);
        });
    }
}
