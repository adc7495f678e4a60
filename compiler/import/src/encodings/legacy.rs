//! Blocks of 32 integers with one scale, or a scale and an offset.

use super::blocks::{half, nibbles};

/// `d` in half precision, 16 bytes of nibbles: `d (q - 8)`.
pub(super) fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    nibbles(&block[2..18], out, |_, q| d * (f32::from(q) - 8.0));
}

/// `d`, `m`, 16 bytes of nibbles: `d q + m`.
pub(super) fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    nibbles(&block[4..20], out, |_, q| d * f32::from(q) + m);
}

/// The fifth bit of each number, then nibbles.
fn five_bits(high: &[u8], low: &[u8], out: &mut [f32], number: impl Fn(u8) -> f32) {
    let fifth = |i: usize| high[i / 8] >> (i % 8) & 1;
    nibbles(low, out, |i, q| number(q | fifth(i) << 4));
}

/// `d`, 4 bytes of fifth bits, 16 bytes of nibbles: `d (q - 16)`.
pub(super) fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    five_bits(&block[2..6], &block[6..22], out, |q| d * (f32::from(q) - 16.0));
}

/// `d`, `m`, 4 bytes of fifth bits, 16 bytes of nibbles: `d q + m`.
pub(super) fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    five_bits(&block[4..8], &block[8..24], out, |q| d * f32::from(q) + m);
}

/// `d`, 32 signed bytes: `d q`.
pub(super) fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    out.iter_mut().zip(&block[2..34]).for_each(|(x, q)| *x = d * f32::from(*q as i8));
}
