//! MXFP4: 4-bit floats (one sign, two exponent and one mantissa bit) in blocks of 32 that share a power of two (OCP Microscaling Formats 1.0).
//!
//! Blocks and exponents are tensors of their own: `u8[.., blocks, 16]`, the earlier of two numbers in the low bits, and `u8[.., blocks]`, the
//! exponent plus 127.

use q35_graph::{DType, Decode, Tensor};
use std::ops::Range;

/// Numbers of a block, and its bytes.
const NUMBERS: u64 = 32;
const BYTES: u64 = 16;

/// What a 4-bit float stands for.
pub(super) const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// `2^(exponent - 127)`.
pub(super) fn power_of_two(exponent: u8) -> f32 {
    // The smallest is subnormal as an f32.
    if exponent == 0 { f32::from_bits(1 << 22) } else { f32::from_bits(u32::from(exponent) << 23) }
}

/// Blocks, and their exponents.
#[derive(Debug)]
pub(crate) struct Mxfp4 {
    blocks: Tensor,
    exponents: Tensor,
}

impl Mxfp4 {
    /// Numbers of the dimensions `dims`, rows of whole blocks. `None` if blocks and exponents do not fit.
    pub(crate) fn new(blocks: Tensor, exponents: Tensor, dims: &[u64]) -> Option<Self> {
        let (&cols, leading) = dims.split_last()?;
        let across = cols / NUMBERS;
        let fits = cols % NUMBERS == 0
            && across > 0
            && [blocks.dtype(), exponents.dtype()] == [DType::U8; 2]
            && blocks.dims() == [leading, &[across, BYTES]].concat()
            && exponents.dims() == [leading, &[across]].concat();
        fits.then_some(Self { blocks, exponents })
    }
}

impl Decode for Mxfp4 {
    fn count(&self) -> u64 {
        self.exponents.count() * NUMBERS
    }

    fn read(&self, start: u64, out: &mut [f32]) {
        let (blocks, exponents) = (self.blocks.bytes(), self.exponents.bytes());
        for (at, x) in (start as usize..).zip(out) {
            let number = blocks[at / 2] >> (4 * (at % 2)) & 15;
            *x = E2M1[usize::from(number)] * power_of_two(exponents[at / NUMBERS as usize]);
        }
    }

    fn stored(&self) -> (DType, bool) {
        (DType::U4, true)
    }

    fn release(&self, _: Range<u64>) {
        self.blocks.release();
        self.exponents.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_numbers_times_a_power_of_two() {
        let bytes = |dims: &[u64], data: Vec<u8>| Tensor::new(DType::U8, dims.to_vec(), data.into(), 0).unwrap();
        let blocks = |dims: &[u64]| bytes(dims, (0..dims.iter().product()).map(|i: u64| (i % 8) as u8 * 0x22 + 0x10).collect());
        let ready = Mxfp4::new(blocks(&[1, 2, 16]), bytes(&[1, 2], vec![127, 129]), &[1, 64]).unwrap();
        let mut out = [0.0; 34];
        ready.read(30, &mut out);
        // Bytes 15 to 31 of the pattern 0x10, 0x32, 0x54, ...: the last two of the first block, then all of the second, four times as large.
        assert_eq!(out[..6], [-4.0, -6.0, 0.0, 2.0, 4.0, 6.0]);
        assert_eq!(power_of_two(0), 2f32.powi(-127));
        assert!(Mxfp4::new(blocks(&[1, 2, 16]), bytes(&[2], vec![0, 0]), &[1, 64]).is_none());
        assert!(Mxfp4::new(blocks(&[1, 2, 16]), bytes(&[1, 2], vec![0, 0]), &[1, 63]).is_none());
    }
}
