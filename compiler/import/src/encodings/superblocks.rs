//! Blocks of 256 integers in groups of 16 or 32 that have small scales of their own, which one or two scales in half precision multiply.

use super::blocks::half;

/// Bits `2 n` and `2 n + 1` of a byte.
fn pair(byte: u8, n: usize) -> u8 {
    byte >> (2 * n) & 3
}

/// 16 bytes of scale and minimum, 64 bytes of pairs, `d`, `m`: `d s q - m t`, groups of 16.
pub(super) fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants, d, m) = (&block[..16], &block[16..80], half(block, 80), half(block, 82));
    for (i, x) in out.iter_mut().enumerate() {
        // Pairs `n` of 32 bytes come before pairs `n + 1`; the second 32 bytes after the first.
        let (part, n, byte) = (i / 128, i % 128 / 32, i % 32);
        let scale = scales[i / 16];
        let q = pair(quants[part * 32 + byte], n);
        *x = (d * f32::from(scale & 15)) * f32::from(q) - m * f32::from(scale >> 4);
    }
}

/// 32 bytes of third bits, 64 bytes of pairs, 12 bytes of 6-bit scales, `d`: `d (s - 32) (q - 4)`, groups of 16; a third bit that is set is 4.
pub(super) fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, quants, scales, d) = (&block[..32], &block[32..96], &block[96..108], half(block, 108));
    let scale = |group: usize| {
        let low = scales[group % 8] >> (4 * (group / 8)) & 15;
        let top = pair(scales[8 + group % 4], group / 4);
        f32::from((low | top << 4) as i8 - 32)
    };
    for (i, x) in out.iter_mut().enumerate() {
        let (part, n, byte) = (i / 128, i % 128 / 32, i % 32);
        let missing = if high[byte] >> (i / 32) & 1 == 1 { 0 } else { 4 };
        *x = (d * scale(i / 16)) * f32::from(pair(quants[part * 32 + byte], n) as i8 - missing);
    }
}

/// Scale and minimum of group `g` of 8, 6 bits each, out of 12 bytes.
fn scale_and_minimum(packed: &[u8], g: usize) -> (f32, f32) {
    let (scale, minimum) = if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        let low = packed[g + 4];
        (low & 15 | packed[g - 4] >> 6 << 4, low >> 4 | packed[g] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// The nibble of number `i`: low ones of 32 bytes come before the high ones.
fn nibble(quants: &[u8], i: usize) -> u8 {
    quants[i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15
}

/// `d`, `m`, 12 bytes of scales and minima, 128 bytes of nibbles: `d s q - m t`, groups of 32.
pub(super) fn q4_k(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, x) in out.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], i / 32);
        *x = (d * scale) * f32::from(nibble(&block[16..144], i)) - m * minimum;
    }
}

/// As `q4_k`, with 32 bytes of fifth bits before the nibbles.
pub(super) fn q5_k(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, x) in out.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], i / 32);
        let fifth = block[16 + i % 32] >> (i / 32) & 1;
        *x = (d * scale) * f32::from(nibble(&block[48..176], i) | fifth << 4) - m * minimum;
    }
}

/// 128 bytes of nibbles, 64 bytes of upper pairs, 16 signed scales, `d`: `d s (q - 32)`, groups of 16.
pub(super) fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&block[..128], &block[128..192], &block[192..208], half(block, 208));
    for (i, x) in out.iter_mut().enumerate() {
        let (part, within) = (i / 128, i % 128);
        let nibble = low[part * 64 + within % 64] >> (4 * (within / 64)) & 15;
        let q = nibble | pair(high[part * 32 + i % 32], within / 32) << 4;
        *x = (d * f32::from(scales[i / 16] as i8)) * f32::from(q as i8 - 32);
    }
}
