//! Sixty-four containers at once: bytes of a stream to two vectors of unsigned weights.
//!
//! `vpermb` spreads 57 bytes so that each 64-bit lane holds the 64 bits from its eight containers' first one on; `vpmultishiftqb` cuts
//! eight overlapping windows out of each lane. Windows of more than eight bits take a second cut for the bits above. A table lookup
//! is one `vpermi2b` per 128 entries; bits 7 and up of the window choose among the results. `split` needs no table.

use super::dot::{BYTES, bytes};
use q35_format::Codec;
use q35_format::table::pairs;
use q35_mlir::builder::{Builder, Val};
use q35_mlir::types::{I1, I16, Ty};

const BITS: Ty = I1.x(64);
/// Entries that one two-register permute can look up.
const LOOKUP: usize = 128;

/// What is added to the weights of a codec to make them unsigned.
pub(super) fn bias(codec: Codec) -> i16 {
    match codec {
        // Both weights of a pair are then a shift, a mask and a constant.
        Codec::Split => 15,
        _ => 128,
    }
}

/// The unsigned weight that stands for `weight`.
pub(super) fn biased(codec: Codec, weight: i8) -> u8 {
    (i16::from(weight) + bias(codec)) as u8
}

/// The table of a codec in registers or near them, and the masks to cut windows.
pub(super) struct Decoder<'k> {
    codec: Codec,
    window: u32,
    spread: Val<'k>,
    cut: Val<'k>,
    /// For each of the two weights of a pair, the table in vectors of 64.
    tables: [Vec<Val<'k>>; 2],
}

impl<'k> Decoder<'k> {
    /// Loads the tables; `b` must stand outside the loops that decode.
    pub(super) fn new(b: &'k Builder<'k>, codec: Codec, window: u32) -> Self {
        let one = b.i8(0);
        let load = |slot: usize| -> Vec<Val<'k>> {
            let entries: Vec<u8> = pairs(codec).iter().map(|pair| biased(codec, pair[slot])).collect();
            let table = b.table(&entries, 64);
            (0..entries.len() / 64).map(|part| table.at(64 * part as i64).load(BYTES, 64)).collect()
        };
        Self {
            codec,
            window,
            spread: bytes(one, |i| (7 * (i / 8) + i % 8) as u8),
            cut: bytes(one, |i| (7 * (i % 8)) as u8),
            tables: if codec == Codec::Split { [vec![], vec![]] } else { [load(0), load(1)] },
        }
    }

    /// The first and the second weights of the 64 containers from `address` on, where 64 bytes are read.
    /// `follows`: whether the bit after the last container belongs to the row; where it does not, it counts as 0.
    pub(super) fn block(&self, address: Val<'k>, follows: Option<Val<'k>>) -> [Val<'k>; 2] {
        let b = address.builder();
        let call = |name: &str, args: &[Val<'k>]| b.intrinsic(name, args, BYTES);
        let mut spread = call("llvm.x86.avx512.permvar.qi.512", &[address.load(BYTES, 1), self.spread]);
        if let (Some(follows), true) = (follows, self.window > 7) {
            let all_but_last = b.lanes(I1.elem, &(0..64).map(|i| i < 63).collect::<Vec<bool>>());
            spread = (all_but_last | follows.splat(64)).select(spread, b.constant(BYTES, 0i64));
        }
        let cut = |from: i64| call("llvm.x86.avx512.pmultishift.qb.512", &[self.cut + from, spread]);
        let windows = cut(0);
        if self.codec == Codec::Split {
            return split(windows);
        }
        let mut choices = Vec::new();
        if self.window > 7 {
            choices.push(windows.lt(0));
        }
        if self.window > 8 {
            let above = cut(8);
            choices.extend((8..self.window).map(|bit| (above & (1i64 << (bit - 8))).ne(0)));
        }
        [0, 1].map(|slot| {
            let found = self.tables[slot]
                .chunks_exact(LOOKUP / 64)
                .map(|t| call("llvm.x86.avx512.vpermi2var.qi.512", &[t[0], windows, t[1]]));
            choose(found.collect(), &choices)
        })
    }
}

/// Element `i` of `from`, where bit `j` of `i` is `bits[j]`, lane by lane.
fn choose<'k>(mut from: Vec<Val<'k>>, bits: &[Val<'k>]) -> Val<'k> {
    for bit in bits {
        debug_assert_eq!(bit.ty(), BITS);
        from = from.chunks_exact(2).map(|pair| bit.select(pair[1], pair[0])).collect();
    }
    from[0]
}

/// `(n1 & 15) << 3 | (n2 & 7)` to `2 n1 + 16` and `4 n2 + 17`, by 16-bit shifts whose strays the masks drop.
fn split(code: Val<'_>) -> [Val<'_>; 2] {
    let wide = code.bitcast(I16.x(32));
    let first = wide.shr_u(2).bitcast(BYTES) & 0x1e;
    let second = (wide << 2).bitcast(BYTES) & 0x1c;
    [first ^ 0x10, second ^ 0x11]
}
