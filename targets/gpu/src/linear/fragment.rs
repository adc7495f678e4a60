//! Weights from memory to the operands of a matrix instruction.
//!
//! A [`Source`] knows how one codec does it: which words a lane reads of a block for its seats, and how the four columns of a row for one matrix instruction
//! come out of them, as halves. Every integer of a table or of `q8` is exact in f16.

use super::geometry::{STREAM, WORD, block_bytes, packed_place, seat_bytes};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::{COLUMNS, PARTS};
use q35_format::codec::{CONTAINER_BITS, Storage};
use q35_format::{Codec, table};
use q35_mlir::builder::Val;
use q35_mlir::types::{F16, I32, I64};

/// The most shared memory that copies of a table take.
const TABLE_BYTES: u32 = 32 << 10;
/// Bytes of two halves.
const PAIR: u32 = 4;
/// Words of a row's stream that a lane holds of a block.
const WORDS: usize = STREAM / WORD;

/// How a codec's weights become halves.
pub(super) enum Source<'k> {
    /// A table of pairs in shared memory, and the number of bits that index it. Each lane reads a copy of its own, as far as there are
    /// copies, so that lanes do not wait for each other.
    Table { window: u32, copies: u32, own: Val<'k> },
    /// Bytes.
    Bytes,
}

/// What a lane holds of a block: per row of each of its seats the words, and the word that follows.
#[derive(Clone)]
pub(super) struct Held<'k> {
    pub(super) words: Vec<Vec<Val<'k>>>,
    pub(super) next: Vec<Val<'k>>,
}

/// Copies of the table of a codec with windows of so many bits.
fn copies(window: u32, call: &Call<'_>) -> u32 {
    (TABLE_BYTES / (PAIR << window)).clamp(1, call.wave_size().min(call.isa.banks()))
}

/// The seats that a lane takes.
pub(crate) fn seats<'k>(call: &Call<'k>) -> impl Iterator<Item = Val<'k>> {
    let (lane, wave) = (call.lane(), call.wave_size());
    (0..call.isa.matrix().seats()).step_by(wave as usize).map(move |first| lane + i64::from(first))
}

impl<'k> Source<'k> {
    /// Makes the codec's table, if it has one, ready for all threads of the group: they meet at a barrier.
    pub(super) fn new(call: &Call<'k>, codec: Codec) -> Self {
        let Storage::Pairs { window } = codec.facts().storage else { return Source::Bytes };
        let (b, copies) = (call.b, copies(window, call));
        let halves = table::pairs(codec).iter().flatten().flat_map(|&int| half::f16::from(int).to_le_bytes());
        let table = b.table_in(call.isa.table_space(), &halves.collect::<Vec<u8>>(), 16);
        let shared = b.shared((PAIR << window) * copies, 16);
        // Copies of a pair lie beside each other; a thread writes several at once.
        let together = copies.min(4);
        let stores = i64::from((copies << window) / together);
        call.each(Team::Group, stores, |at| {
            let pair = table.at(at.div_u(i64::from(copies / together)) * i64::from(PAIR)).load(I32, PAIR);
            shared.at(at * i64::from(PAIR * together)).store(pair.splat(together), PAIR * together);
        });
        call.barrier();
        let own = shared.at(call.lane().rem_u(i64::from(copies)) * i64::from(PAIR));
        Source::Table { window, copies, own }
    }

    /// Reads what the lane holds of block `block` (of `blocks`) of the tile at `tile`.
    pub(super) fn load(&self, call: &Call<'k>, tile: Val<'k>, block: Val<'k>, blocks: usize) -> Held<'k> {
        let mut held = Held { words: vec![], next: vec![] };
        for seat in seats(call) {
            let rows = call.isa.matrix().seat_rows as usize;
            let words = self.words(call, tile, block, seat);
            held.words.extend((0..rows).map(|row| match self {
                Source::Table { .. } => words[row * WORDS..][..WORDS].to_vec(),
                Source::Bytes => words[row..].iter().step_by(rows).copied().collect(),
            }));
            held.next.extend((0..rows).map(|row| match self {
                Source::Table { window, .. } if *window > CONTAINER_BITS => {
                    self.following(call, tile, block, blocks, (seat, row))
                }
                _ => call.b.i32(0),
            }));
        }
        held
    }

    /// The words of a seat.
    fn words(&self, call: &Call<'k>, tile: Val<'k>, block: Val<'k>, seat: Val<'k>) -> Vec<Val<'k>> {
        let (matrix, storage) = (call.isa.matrix(), self.storage());
        let held = seat_bytes(storage, matrix) as u32;
        let here = tile.at(block * block_bytes(storage, matrix) as i64);
        let mut words = Vec::new();
        for first in (0..held).step_by(16) {
            let bytes = (held - first).min(16);
            let at = here.at(seat * i64::from(bytes) + i64::from(first) * i64::from(matrix.seats()));
            let vector = at.load(I32.x(bytes / 4), 1 << bytes.trailing_zeros());
            words.extend((0..bytes / 4).map(|lane| vector.lane(lane)));
        }
        words
    }

    /// The word of a row's stream after those that a seat holds: the first of the next part, or 0 where the row ends.
    fn following(
        &self,
        call: &Call<'k>,
        tile: Val<'k>,
        block: Val<'k>,
        blocks: usize,
        (seat, row): (Val<'k>, usize),
    ) -> Val<'k> {
        let (matrix, storage) = (call.isa.matrix(), self.storage());
        let held = seat_bytes(storage, matrix);
        let (of_seat, part) = matrix.place(seat);
        let last = part.eq(i64::from(PARTS) - 1);
        let one = |number: Val<'k>| number + 1;
        let ends = one(block).ge(blocks as i64) & last;
        let block = (last & !ends).select(one(block), block);
        let part = last.select(call.b.i64(0), one(part));
        let (at, width) = (row * STREAM, (held - row * STREAM / 16 * 16).min(16));
        let vector = at / 16 * 16 * matrix.seats() as usize + at % 16;
        let place =
            block * block_bytes(storage, matrix) as i64 + (matrix.seat_at(of_seat, part) * width as i64 + vector as i64);
        ends.select(call.b.i32(0), tile.at(place).load(I32, 4))
    }

    /// The halves of each row of the lane's seats for matrix instruction `step` of a block.
    pub(super) fn weights(&self, held: &Held<'k>, step: usize) -> Vec<Val<'k>> {
        let rows = held.words.iter().zip(&held.next);
        rows.map(|(words, &next)| match self {
            Source::Bytes => bytes(words[step]),
            Source::Table { window, copies, own } => {
                let pair = |container: usize| {
                    let index = cut(words, next, container * CONTAINER_BITS as usize, *window);
                    let place = index << i64::from((PAIR * copies).ilog2());
                    own.at(place.to_u(I64)).load(F16.x(2), PAIR)
                };
                pair(2 * step).concat(pair(2 * step + 1))
            }
        })
        .collect()
    }

    fn storage(&self) -> Storage {
        match self {
            Source::Table { window, .. } => Storage::Pairs { window: *window },
            Source::Bytes => Storage::Int8,
        }
    }
}

/// `width` bits from bit `from` on.
fn cut<'k>(words: &[Val<'k>], next: Val<'k>, from: usize, width: u32) -> Val<'k> {
    let (word, shift) = (from / 32, (from % 32) as i64);
    let low = words[word];
    let bits = if shift as u32 + width <= 32 {
        low.shr_u(shift)
    } else {
        let high = words.get(word + 1).copied().unwrap_or(next);
        low.builder().intrinsic("llvm.fshr.i32", &[high, low, low.builder().i32(shift as i32)], I32)
    };
    bits & ((1i64 << width) - 1)
}

/// Four bytes, each too large by 128, as halves: under the exponent of 1024 a byte is a fraction.
fn bytes(word: Val<'_>) -> Val<'_> {
    let b = word.builder();
    let pair = |shift: i64| {
        let low = word.shr_u(shift) & 0xff;
        let high = (word.shr_u(shift + 8) & 0xff) << 16;
        ((low | high) | 0x6400_6400).bitcast(F16.x(2))
    };
    pair(0).concat(pair(16)) - b.constant(F16.x(4), 1152.0)
}

/// The four columns of a token for two matrix instructions, `step` (even) and the one after it, from its packed row.
pub(super) fn tokens<'k>(row: Val<'k>, part: Val<'k>, block: Val<'k>, step: usize) -> [Val<'k>; 2] {
    let place = block * packed_place(1, 0, 0) as i64 + (part * packed_place(0, 1, 0) as i64 + packed_place(0, 0, step) as i64);
    let both = row.at(place).load(F16.x(2 * COLUMNS), 16);
    [both.slice(0, COLUMNS), both.slice(COLUMNS, COLUMNS)]
}
