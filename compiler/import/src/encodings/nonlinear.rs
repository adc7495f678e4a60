//! Blocks whose nibbles are indices of a table.

use super::blocks::{half, nibbles};
use super::mxfp4::{E2M1, power_of_two};

/// The numbers of the IQ4 formats.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn entry(q: u8) -> f32 {
    f32::from(IQ4[usize::from(q)])
}

/// `d`, 16 bytes of nibbles: `d table[q]`.
pub(super) fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    nibbles(&block[2..18], out, |_, q| d * entry(q));
}

/// `d`, 2 bytes of upper pairs and 4 bytes of lower nibbles of 8 scales, 128 bytes of nibbles: `d (s - 32) table[q]`, groups of 32.
pub(super) fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let low = block[4 + group / 2] >> (4 * (group % 2)) & 15;
        let scale = d * f32::from((low | ((high >> (2 * group) & 3) as u8) << 4) as i8 - 32);
        nibbles(&block[8 + 16 * group..][..16], out, |_, q| scale * entry(q));
    }
}

/// An exponent, 16 bytes of nibbles: 4-bit floats times a power of two.
pub(super) fn mxfp4(block: &[u8], out: &mut [f32]) {
    let scale = power_of_two(block[0]);
    nibbles(&block[1..17], out, |_, q| E2M1[usize::from(q)] * scale);
}
