//! Window to pair of integers.
//!
//! `split`'s table is computed from its definition. The others are data: `tables/wN.bin` holds `2^N` pairs of
//! two's complement bytes `a, b` in the order of the window, written by `cargo xtask tables`, which trains them for a
//! Gaussian of standard deviation [`sigma`](crate::codec::Facts::sigma).
//!
//! The table of an *additive* codec is a sum of small ones, each indexed by four bits of the window:
//!
//! ```text
//! T[window] = sum over i of parts[i][window >> fields[i] & 15]
//! ```
//!
//! Registers of 16 bytes hold a part's first or second components, so machines whose byte shuffle reaches no further
//! (AVX2, NEON) look windows up with shuffles and additions. `tables/aN.bin` holds the parts one after the other. No sum leaves
//! `-ADDITIVE_LIMIT..=ADDITIVE_LIMIT`.

use crate::Codec;
use crate::codec::{ADDITIVE_LIMIT, FIELD_BITS};

/// Two integers that stand for two neighbouring weights.
pub type Pair = [i8; 2];

/// The table of a pair codec: `2^W` entries, indexed by window. Empty for the other codecs.
pub fn pairs(codec: Codec) -> &'static [Pair] {
    match codec {
        Codec::Split => &SPLIT,
        Codec::W7 => &W7,
        Codec::W8 => &W8,
        Codec::W9 => &W9,
        Codec::W10 => &W10,
        Codec::W11 => &W11,
        Codec::W12 => &W12,
        Codec::A11 => &A11,
        Codec::F32 | Codec::F16 | Codec::Bf16 | Codec::Q8 => &[],
    }
}

/// One summand of an additive table.
pub type Part = [Pair; 1 << FIELD_BITS];

/// The summands of an additive codec's table, one per [`field`](crate::codec::Facts::fields). Empty for the other
/// codecs.
pub fn parts(codec: Codec) -> &'static [Part] {
    match codec {
        Codec::A11 => &A11_PARTS,
        _ => &[],
    }
}

/// The container of a 4-bit integer in [-8, 7] and a 3-bit integer in [-4, 3].
pub const fn split_container(n1: i8, n2: i8) -> u8 {
    ((n1 & 15) << 3 | n2 & 7) as u8
}

static SPLIT: [Pair; 128] = {
    let mut table = [[0; 2]; 128];
    let mut n1 = -8;
    while n1 < 8 {
        let mut n2 = -4;
        while n2 < 4 {
            table[split_container(n1, n2) as usize] = [2 * n1 + 1, 4 * n2 + 2];
            n2 += 1;
        }
        n1 += 1;
    }
    table
};

const fn from_bytes<const N: usize>(bytes: &[u8]) -> [Pair; N] {
    assert!(bytes.len() == 2 * N);
    let mut table = [[0; 2]; N];
    let mut i = 0;
    while i < N {
        table[i] = [bytes[2 * i] as i8, bytes[2 * i + 1] as i8];
        i += 1;
    }
    table
}

const fn sums<const N: usize>(codec: Codec, parts: &[Part]) -> [Pair; N] {
    let fields = codec.facts().fields;
    assert!(fields.len() == parts.len());
    let mut table = [[0; 2]; N];
    let mut window = 0;
    while window < N {
        let mut i = 0;
        while i < parts.len() {
            let [a, b] = parts[i][window >> fields[i] & ((1 << FIELD_BITS) - 1)];
            table[window] = [table[window][0] + a, table[window][1] + b];
            i += 1;
        }
        let [a, b] = table[window];
        assert!(a.unsigned_abs() <= ADDITIVE_LIMIT.unsigned_abs() && b.unsigned_abs() <= ADDITIVE_LIMIT.unsigned_abs());
        window += 1;
    }
    table
}

static W7: [Pair; 1 << 7] = from_bytes(include_bytes!("../tables/w7.bin"));
static W8: [Pair; 1 << 8] = from_bytes(include_bytes!("../tables/w8.bin"));
static W9: [Pair; 1 << 9] = from_bytes(include_bytes!("../tables/w9.bin"));
static W10: [Pair; 1 << 10] = from_bytes(include_bytes!("../tables/w10.bin"));
static W11: [Pair; 1 << 11] = from_bytes(include_bytes!("../tables/w11.bin"));
static W12: [Pair; 1 << 12] = from_bytes(include_bytes!("../tables/w12.bin"));
static A11: [Pair; 1 << 11] = sums(Codec::A11, &A11_PARTS);
const A11_PARTS: [Part; 3] = {
    let [first, second, third] = include_bytes!("../tables/a11.bin").as_chunks::<{ 2 << FIELD_BITS }>().0 else {
        panic!("three parts")
    };
    [from_bytes(first), from_bytes(second), from_bytes(third)]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_and_minus_two_pack_to_46() {
        assert_eq!(split_container(5, -2), 46);
        assert_eq!(pairs(Codec::Split)[46], [11, -6]);
    }

    #[test]
    fn split_is_a_product_of_odd_grids() {
        let mut seen: Vec<Pair> = pairs(Codec::Split).to_vec();
        seen.sort();
        let expected: Vec<Pair> = (-15..=15).step_by(2).flat_map(|a| (-14..=14).step_by(4).map(move |b| [a, b])).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn sizes_follow_windows_and_no_entry_is_minus_128() {
        for codec in Codec::all() {
            assert_eq!(pairs(codec).len(), codec.window().map_or(0, |w| 1 << w), "{codec}");
            assert!(pairs(codec).as_flattened().iter().all(|v| *v != i8::MIN), "{codec}");
        }
    }
}
