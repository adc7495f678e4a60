//! Blocks with their scales inside: the formats of GGUF files, as a table.
//!
//! A block is a fixed number of bytes that stands for a fixed number of neighbours along a row; rows are whole blocks. What the bytes mean is each
//! format's business and follows the layouts of ggml's `ggml-common.h`.

use super::{legacy, nonlinear, superblocks};
use q35_graph::{DType, Decode, Tensor};
use std::ops::Range;

/// A format of blocks.
#[derive(Debug)]
pub(crate) struct BlockFormat {
    /// Its number in a GGUF file.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: &'static str,
    /// Numbers of a block.
    pub(crate) numbers: usize,
    /// Bytes of a block.
    pub(crate) bytes: usize,
    /// What numbers are stored as.
    stored: DType,
    /// Decodes one block: that many bytes to that many numbers.
    decode: fn(&[u8], &mut [f32]),
}

/// Numbers of the largest block.
const LARGEST: usize = 256;

macro_rules! formats {
    ($($id:literal $name:ident $numbers:literal $bytes:literal $stored:ident $decode:path;)*) => {
        /// Every format there is.
        pub(crate) const FORMATS: &[BlockFormat] = &[$(BlockFormat {
            id: $id,
            name: stringify!($name),
            numbers: $numbers,
            bytes: $bytes,
            stored: DType::$stored,
            decode: $decode,
        }),*];
    };
}

formats! {
    2  Q4_0   32  18  U4 legacy::q4_0;
    3  Q4_1   32  20  U4 legacy::q4_1;
    6  Q5_0   32  22  U8 legacy::q5_0;
    7  Q5_1   32  24  U8 legacy::q5_1;
    8  Q8_0   32  34  I8 legacy::q8_0;
    10 Q2_K   256 84  U4 superblocks::q2_k;
    11 Q3_K   256 110 U4 superblocks::q3_k;
    12 Q4_K   256 144 U4 superblocks::q4_k;
    13 Q5_K   256 176 U8 superblocks::q5_k;
    14 Q6_K   256 210 U8 superblocks::q6_k;
    20 IQ4_NL 32  18  U4 nonlinear::iq4_nl;
    23 IQ4_XS 256 136 U4 nonlinear::iq4_xs;
    39 MXFP4  32  17  U4 nonlinear::mxfp4;
}

/// Blocks, one behind the other.
#[derive(Debug)]
pub(crate) struct Blocks {
    bytes: Tensor,
    format: &'static BlockFormat,
}

impl Blocks {
    /// The blocks in `bytes`. `None` if they are not whole.
    pub(crate) fn new(bytes: Tensor, format: &'static BlockFormat) -> Option<Self> {
        let whole = bytes.dtype() == DType::U8 && bytes.count().is_multiple_of(format.bytes as u64) && bytes.count() > 0;
        whole.then_some(Self { bytes, format })
    }
}

impl Decode for Blocks {
    fn count(&self) -> u64 {
        self.bytes.count() / self.format.bytes as u64 * self.format.numbers as u64
    }

    fn read(&self, start: u64, out: &mut [f32]) {
        let (numbers, mut at, mut rest) = (self.format.numbers, start as usize, out);
        while !rest.is_empty() {
            let (block, within) = (at / numbers, at % numbers);
            let raw = &self.bytes.bytes()[block * self.format.bytes..][..self.format.bytes];
            let count = rest.len().min(numbers - within);
            let (here, after) = rest.split_at_mut(count);
            if count == numbers {
                (self.format.decode)(raw, here);
            } else {
                let mut whole = [0.0; LARGEST];
                (self.format.decode)(raw, &mut whole[..numbers]);
                here.copy_from_slice(&whole[within..within + count]);
            }
            at += count;
            rest = after;
        }
    }

    fn stored(&self) -> (DType, bool) {
        (self.format.stored, true)
    }

    fn release(&self, _: Range<u64>) {
        self.bytes.release();
    }
}

/// The half-precision number at a place.
pub(super) fn half(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Puts the low halves of bytes first and the high ones behind.
pub(super) fn nibbles(bytes: &[u8], out: &mut [f32], number: impl Fn(usize, u8) -> f32) {
    for (i, byte) in bytes.iter().enumerate() {
        out[i] = number(i, byte & 15);
        out[i + bytes.len()] = number(i + bytes.len(), byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use std::path::Path;

    /// Against what the reference package of the format's authors decodes the same bytes to; `tests/data/blocks.py` writes the file.
    #[test]
    fn every_format_decodes_to_its_reference() {
        let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/blocks.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for format in FORMATS {
            let data = |what: &str| file.tensor(&format!("{}.{what}", format.name)).unwrap().data().to_vec();
            let raw = data("bytes");
            let expected: Vec<f32> =
                data("numbers").chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            let tensor = Tensor::new(DType::U8, vec![raw.len() as u64], raw.into(), 0).unwrap();
            let blocks = Blocks::new(tensor, format).unwrap();
            assert_eq!(blocks.count(), expected.len() as u64, "{}", format.name);
            let mut found = vec![0.0; expected.len()];
            blocks.read(0, &mut found);
            assert!(
                found.iter().zip(&expected).all(|(a, b)| a == b),
                "{}: {:?} {:?}",
                format.name,
                &found[..8],
                &expected[..8]
            );
            // From the middle of a block into the next.
            let mut part = vec![0.0; format.numbers];
            blocks.read(5, &mut part);
            assert_eq!(part, expected[5..5 + format.numbers], "{}", format.name);
        }
    }

    #[test]
    fn a_block_is_whole() {
        let bytes = |n: u64| Tensor::new(DType::U8, vec![n], vec![0; n as usize].into(), 0).unwrap();
        assert!(Blocks::new(bytes(36), &FORMATS[0]).is_some());
        assert!(Blocks::new(bytes(35), &FORMATS[0]).is_none() && Blocks::new(bytes(0), &FORMATS[0]).is_none());
        assert!(FORMATS.iter().all(|f| f.numbers <= LARGEST));
    }
}
