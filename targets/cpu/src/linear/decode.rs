//! From containers to bytes that stand for weights, a block of some rows at a time.
//!
//! Seven vectors are read; the eighth is gathered from their spare bits. In a byte of a vector of containers is one container (above it,
//! maybe, a spare bit), and in the same byte of the next vector is the one that follows it in its row; the one that follows the last is at the
//! beginning, a byte further on. So whole registers give all windows, and what is left is to look them up:
//!
//! | how | where |
//! | --- | --- |
//! | shifts and masks | `split` |
//! | byte tables in registers: lookups of as many entries as an instruction takes, among which further bits of the window choose | everywhere but in the levels below |
//! | sums of lookups of 16 entries | additive tables |
//! | a table of pairs in memory | [`Isa::Base`]; 256-bit vectors for windows of more than 8 bits, where registers would take longer |

use super::geometry::{QUADS, VECTOR, WOVEN};
use crate::instructions::{GATHER, PERMUTE_128, SHUFFLE_16_OF_256, SHUFFLE_16_OF_512, TABLE_16, TABLE_64, by_lane};
use crate::level::{Isa, Level};
use q35_format::Codec;
use q35_format::codec::Storage;
use q35_format::table::{pairs, parts};
use q35_mlir::builder::{Builder, Carry, Unroll, Val};
use q35_mlir::types::{Elem, I8, I16, I32, I64, Ty};

/// What the bytes mean that stand for the first weights of containers, or for the second ones: `weight = factor * byte - bias`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    /// Whether bytes are signed.
    pub(super) signed: bool,
    /// The largest magnitude of a byte.
    pub(super) most: i64,
    /// A power of two; 1 unless the level takes [factors](Isa::Avx2).
    pub(super) factor: i64,
    pub(super) bias: i64,
}

/// How a level wants the bytes of a codec.
pub(super) fn meaning(isa: Isa, codec: Codec) -> [Meaning; 2] {
    let unsigned = |most, factor, bias| Meaning { signed: false, most, factor, bias };
    // Processors that multiply bytes want the first operand unsigned, or both signed.
    let dot_of_unsigned = matches!(isa, Isa::Avx512 | Isa::AvxVnni);
    match (codec.facts().storage, codec) {
        (Storage::Float { .. }, _) => [unsigned(0, 1, 0); 2],
        (Storage::Int8, _) if dot_of_unsigned => [unsigned(255, 1, 128); 2],
        (Storage::Int8, _) => [Meaning { signed: true, most: 128, factor: 1, bias: 0 }; 2],
        // (n1 & 15) and (n2 & 7) with the sign bit flipped are n1 + 8 and n2 + 4; the weights are 2 n1 + 1 and 4 n2 + 2.
        (_, Codec::Split) if isa == Isa::Avx2 => [unsigned(15, 2, 15), unsigned(7, 4, 14)],
        (_, Codec::Split) => {
            [(30, 15), (28, 14)].map(|(most, bias)| Meaning { signed: !dot_of_unsigned, most, factor: 1, bias })
        }
        (Storage::Pairs { .. }, _) => [0, 1].map(|slot| {
            let entries = || pairs(codec).iter().map(|pair| i64::from(pair[slot]));
            let (least, most) = (entries().min().unwrap_or(0), entries().max().unwrap_or(0));
            // Without a dot product of bytes, sums of two products must fit 16 bits.
            if dot_of_unsigned || (isa == Isa::Avx2 && most - least <= 127) {
                unsigned(most - least, 1, -least)
            } else {
                Meaning { signed: true, most: most.max(-least), factor: 1, bias: 0 }
            }
        }),
    }
}

/// Decodes the containers of a codec.
pub(super) struct Decoder<'k> {
    b: &'k Builder<'k>,
    level: Level,
    codec: Codec,
    window: u32,
    meaning: [Meaning; 2],
    /// Memory for the two vectors that come after the stored ones of a block: a loop over all is short code.
    rest: Val<'k>,
}

impl<'k> Decoder<'k> {
    pub(super) fn new(b: &'k Builder<'k>, level: Level, codec: Codec, window: u32) -> Self {
        Self { b, level, codec, window, meaning: meaning(level.isa(), codec), rest: b.alloca(2 * VECTOR as u32, 64) }
    }

    /// `each(state, quad, weights)` for the vectors of containers of a block, in order: bytes for the first and the second weights of as many
    /// rows as a vector has, whose part of the first vector is at `address`; gives the last state. `follows`: whether what comes after the
    /// block belongs to the rows; where it does not, it counts as 0, and absent it may be anything.
    pub(super) fn block<C: Carry<'k>>(
        &self,
        address: Val<'k>,
        follows: Option<Val<'k>>,
        state: C,
        each: impl FnOnce(C, Val<'k>, [Val<'k>; 2]) -> C,
    ) -> C {
        const STORED: i64 = QUADS as i64 - 1;
        let vector = |of: Val<'k>, number: Val<'k>| of.at(number * VECTOR as i64);
        let load = |number: i64| address.at(number * VECTOR as i64).load(self.bytes(), 1);
        let first = load(0);
        let eighth = (1..STORED).fold(first & -128, |bits, number| self.halve(bits) | (load(number) & -128));
        self.rest.store(self.halve(eighth), 1);
        self.rest.at(VECTOR as i64).store(self.after(first, address, follows), 1);
        // With 16 registers, tables and sums of two rounds would be spilled and loaded anew.
        let unroll = match self.level.isa() {
            Isa::Avx2 | Isa::AvxVnni => Unroll::Never,
            Isa::Avx512 | Isa::DotProd | Isa::Base => Unroll::AsLlvmLikes,
        };
        let bounds = [0, QUADS as i64, 1].map(|bound| self.b.i64(bound));
        let (_, state) = self.b.loop_(bounds, unroll, (first, state), |quad, (this, state)| {
            let number = quad + 1;
            let next =
                number.lt(STORED).select(vector(address, number), vector(self.rest, number - STORED)).load(self.bytes(), 1);
            (next, each(state, quad, self.weights(this, next)))
        });
        state
    }

    /// What follows the last vector of a block.
    fn after(&self, first: Val<'k>, address: Val<'k>, follows: Option<Val<'k>>) -> Val<'k> {
        if self.window == 7 {
            return first;
        }
        let words = I32.x(self.level.bytes() / 4);
        let beyond = address.at(WOVEN as i64).load(words, 1) << 24;
        let beyond = follows.map_or(beyond, |follows| follows.select(beyond, self.b.constant(words, 0i64)));
        (first.bitcast(words).shr_u(8) | beyond).bitcast(self.bytes())
    }

    fn bytes(&self) -> Ty {
        I8.x(self.level.bytes())
    }

    /// Bytes shifted by one bit to the right, of which no lowest bit is set.
    fn halve(&self, bytes: Val<'k>) -> Val<'k> {
        // Arm shifts bytes, and merges shifts with masks.
        if self.level.isa() == Isa::DotProd { bytes.shr_u(1) } else { shifted(bytes, |words| words.shr_u(1)) }
    }

    fn weights(&self, this: Val<'k>, next: Val<'k>) -> [Val<'k>; 2] {
        match (self.codec, self.level.isa()) {
            (Codec::Split, _) => self.split(this),
            (_, Isa::Base) => self.in_memory(this, next),
            _ if !parts(self.codec).is_empty() => self.sums(this, next),
            (_, Isa::Avx2 | Isa::AvxVnni) if self.window > 8 => self.in_memory(this, next),
            _ => self.in_registers(this, next),
        }
    }

    fn split(&self, this: Val<'k>) -> [Val<'k>; 2] {
        // The sign bits of both fields.
        let fields = this ^ 0x44;
        match self.meaning.map(|meaning| meaning.factor) {
            [2, 4] => [shifted(fields, |words| words.shr_u(3)) & 15, fields & 7],
            _ => [shifted(fields, |words| words.shr_u(2)) & 0x1e, shifted(fields, |words| words << 2) & 0x1c],
        }
    }

    /// The byte that stands for an entry of the table.
    fn byte(&self, slot: usize, entry: i8) -> u8 {
        (i64::from(entry) + self.meaning[slot].bias) as u8
    }

    fn in_registers(&self, this: Val<'k>, next: Val<'k>) -> [Val<'k>; 2] {
        let (b, ty, level) = (self.b, self.bytes(), self.level);
        // Bits of a window that an instruction looks up.
        let bits = match level.isa() {
            Isa::Avx512 => 7,
            Isa::DotProd => 6,
            _ => 4,
        };
        // vpermi2b passes over the spare bit.
        let index = if bits == 7 { this } else { this & ((1 << bits) - 1) };
        let choices: Vec<Val<'k>> =
            (bits..self.window).map(|bit| if bit < 7 { self.bit(this, bit) } else { self.bit(next, bit - 7) }).collect();
        [0, 1].map(|slot| {
            let entries: Vec<u8> = pairs(self.codec).iter().map(|pair| self.byte(slot, pair[slot])).collect();
            let found = entries.chunks_exact(1 << bits).map(|entries| {
                // As many vectors as the instruction takes; one that looks up less than a vector wants the same in all parts.
                let vectors = entries.len().div_ceil(ty.bytes() as usize);
                let all: Vec<u8> = entries.iter().copied().cycle().take(vectors * ty.bytes() as usize).collect();
                let table: Vec<Val<'k>> = all.chunks_exact(ty.bytes() as usize).map(|part| b.lanes(Elem::I8, part)).collect();
                match table[..] {
                    [first, second] => PERMUTE_128.call(level, &[first, index, second], ty),
                    [one] => SHUFFLE_16_OF_256.call(level, &[one, index], ty),
                    _ => TABLE_64.call(level, &[&table[..], &[index]].concat(), ty),
                }
            });
            choose(found.collect(), &choices)
        })
    }

    /// Fields of an additive table lie in one container each.
    fn sums(&self, this: Val<'k>, next: Val<'k>) -> [Val<'k>; 2] {
        let (b, ty, level) = (self.b, self.bytes(), self.level);
        let fields = || self.codec.facts().fields.iter().zip(parts(self.codec));
        let table = |entries: &dyn Fn(usize) -> u8, count: usize| -> Vec<Val<'k>> {
            let all: Vec<u8> = (0..count.max(ty.bytes() as usize)).map(|at| entries(at % count)).collect();
            all.chunks_exact(ty.bytes() as usize).map(|part| b.lanes(Elem::I8, part)).collect()
        };
        [0, 1].map(|slot| {
            let bias = self.byte(slot, 0);
            let mut summands = Vec::new();
            // vpermi2b looks up a whole container, so its fields are added up beforehand.
            let whole = level.isa() == Isa::Avx512;
            if whole {
                let entry = |container: usize| {
                    let of_this = fields().filter(|(field, _)| **field < 7);
                    of_this.fold(bias, |sum, (field, part)| sum.wrapping_add(part[container >> field & 15][slot] as u8))
                };
                let table = table(&entry, 128);
                summands.push(PERMUTE_128.call(level, &[table[0], this, table[1]], ty));
            }
            for (at, (&field, part)) in fields().enumerate().filter(|(_, (field, _))| !whole || **field >= 7) {
                let added = if at == 0 { bias } else { 0 };
                let table = table(&|entry| (part[entry][slot] as u8).wrapping_add(added), 16)[0];
                let (container, shift) = if field < 7 { (this, field) } else { (next, field - 7) };
                let index = if shift == 0 { container } else { shifted(container, |words| words.shr_u(i64::from(shift))) } & 15;
                let instruction = match level.isa() {
                    Isa::Avx512 => SHUFFLE_16_OF_512,
                    Isa::DotProd => TABLE_16,
                    _ => SHUFFLE_16_OF_256,
                };
                summands.push(instruction.call(level, &[table, index], ty));
            }
            summands.into_iter().reduce(|a, b| a + b).unwrap_or_else(|| unreachable!("a table has parts"))
        })
    }

    /// Truth values: a bit of every byte.
    fn bit(&self, bytes: Val<'k>, bit: u32) -> Val<'k> {
        match self.level.isa() {
            // Masks are highest bits of bytes.
            Isa::Avx2 | Isa::AvxVnni => shifted(bytes, |words| words << i64::from(7 - bit)).lt(0),
            _ => (bytes & (1 << bit)).ne(0),
        }
    }

    fn in_memory(&self, this: Val<'k>, next: Val<'k>) -> [Val<'k>; 2] {
        let words = I32.x(self.level.bytes() / 4);
        // In 32 bits the byte of the first weight, and 16 bits further on that of the second.
        let entry = |pair: &[i8; 2]| [self.byte(0, pair[0]), 0, self.byte(1, pair[1]), 0];
        let table: Vec<u8> = pairs(self.codec).iter().flat_map(entry).collect();
        let table = self.b.table(&table, 64);
        let [this, next] = [this, next].map(|bytes| bytes.bitcast(words));
        let found: Vec<Val<'k>> = (0..4)
            .map(|byte| {
                let part = |of: Val<'k>, bits: u32| of.shr_u(8 * byte) & ((1 << bits) - 1);
                let window = part(this, 7) | (part(next, self.window - 7) << 7);
                if self.level.isa() == Isa::Base {
                    return by_lane(&[window], I32, |window| table.at(window[0].to_u(I64) * 4).load(I32, 4));
                }
                let (none, all) = (self.b.constant(words, 0i64), self.b.constant(words, -1i64));
                GATHER.call(self.level, &[none, table, window, all, self.b.i8(4)], words)
            })
            .collect();
        let [low, high] = [found[0] | (found[1] << 8), found[2] | (found[3] << 8)];
        [(low & 0xffff) | (high << 16), low.shr_u(16) | (high & 0xffff_0000)].map(|words| words.bitcast(self.bytes()))
    }
}

/// Bytes that are shifted as 16-bit words: what comes in from neighbours is the caller's to mask out.
fn shifted<'k>(bytes: Val<'k>, shift: impl FnOnce(Val<'k>) -> Val<'k>) -> Val<'k> {
    shift(bytes.bitcast(I16.x(bytes.lanes() / 2))).bitcast(bytes.ty())
}

/// Element `i` of `from`, where bit `j` of `i` is `bits[j]`, lane by lane.
fn choose<'k>(mut from: Vec<Val<'k>>, bits: &[Val<'k>]) -> Val<'k> {
    for bit in bits {
        from = from.chunks_exact(2).map(|pair| bit.select(pair[1], pair[0])).collect();
    }
    from[0]
}
