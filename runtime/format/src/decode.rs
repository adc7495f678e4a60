//! Bytes to integers and to weights.
//!
//! This is the format's definition in code: plain, and the reference for kernels. A kernel works on the integers and
//! applies scales to its sums; [`PackedView::weights`] applies them to every weight.

use crate::codec::Storage;
use crate::packed::PackedView;
use crate::{Codec, stream, table};

/// The integers of a row of a pair codec, one per column; `out` has K elements. A padded last weight is left out.
pub fn pair_row(codec: Codec, row: &[u8], out: &mut [i8]) {
    let pairs = table::pairs(codec);
    let width = pairs.len().trailing_zeros();
    let windows = stream::windows(row, stream::containers(out.len()), width);
    for (out, window) in out.chunks_mut(2).zip(windows) {
        out.copy_from_slice(&pairs[window as usize][..out.len()]);
    }
}

impl PackedView<'_> {
    /// The integers of a row, before scales; `out` has K elements. `None` for the float codecs, which have none.
    pub fn integers(&self, row: usize, out: &mut [i8]) -> Option<()> {
        assert_eq!(out.len(), self.spec.cols(), "one integer per column");
        match self.spec.codec().facts().storage {
            Storage::Float { .. } => return None,
            Storage::Int8 => out.iter_mut().zip(self.row(row)).for_each(|(out, byte)| *out = *byte as i8),
            Storage::Pairs { .. } => pair_row(self.spec.codec(), self.row(row), out),
        }
        Some(())
    }

    /// The weights of a row: `scale * integer`, plus the offset where there is one, each operation rounded to f32;
    /// `out` has K elements.
    pub fn weights(&self, row: usize, out: &mut [f32]) {
        let mut integers = vec![0; self.spec.cols()];
        if self.integers(row, &mut integers).is_none() {
            return floats(self.spec.codec(), self.row(row), out);
        }
        for group in 0..self.spec.groups() {
            let columns = self.spec.group().columns(self.spec.cols(), group);
            let (scale, offset) = (self.scale(row, group), self.offset(row, group));
            for (out, integer) in out[columns.clone()].iter_mut().zip(&integers[columns]) {
                *out = scale * f32::from(*integer);
                if self.spec.asymmetric() {
                    *out += offset;
                }
            }
        }
    }

    /// All weights, row-major.
    pub fn all_weights(&self) -> Vec<f32> {
        let cols = self.spec.cols();
        let mut out = vec![0.0; self.spec.rows() * cols];
        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
            self.weights(row, out);
        }
        out
    }
}

/// Reads little-endian values of a float codec. Other codecs have no floats to read: `out` is left as it is.
pub fn floats(codec: Codec, bytes: &[u8], out: &mut [f32]) {
    fn each<const N: usize>(bytes: &[u8], out: &mut [f32], value: fn([u8; N]) -> f32) {
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *out = value(*bytes);
        }
    }
    match codec {
        Codec::F32 => each(bytes, out, f32::from_le_bytes),
        Codec::F16 => each(bytes, out, |b| half::f16::from_le_bytes(b).to_f32()),
        Codec::Bf16 => each(bytes, out, |b| half::bf16::from_le_bytes(b).to_f32()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Pair;

    /// Decodes column `k` by the definition, one bit at a time.
    fn by_definition(pairs: &[Pair], row: &[u8], k: usize) -> i8 {
        let width = pairs.len().ilog2() as usize;
        let first = 7 * (k / 2);
        let mut window = 0;
        for bit in 0..width {
            let at = first + bit;
            if at / 8 < row.len() && row[at / 8] & (1 << (at % 8)) != 0 {
                window += 1 << bit;
            }
        }
        pairs[window][k % 2]
    }

    /// Every window of every codec occurs: rows are all the sequences of three containers around it.
    #[test]
    fn every_window_decodes_as_defined() {
        for codec in Codec::all().filter(|codec| codec.window().is_some()) {
            let pairs = table::pairs(codec);
            for window in 0..pairs.len() {
                for (cols, before) in [(5, 0u32), (6, 93), (6, 127)] {
                    let codes = [before as u8, (window & 127) as u8, (window >> 7) as u8 | 0x40];
                    let mut row = vec![0; stream::row_bytes(cols).unwrap()];
                    stream::write(codes, &mut row);
                    let mut out = vec![0; cols];
                    pair_row(codec, &row, &mut out);
                    assert_eq!(out[2..4], pairs[window], "{codec} {window}");
                    for (k, out) in out.iter().enumerate() {
                        assert_eq!(*out, by_definition(pairs, &row, k), "{codec} {window} {k}");
                    }
                }
            }
        }
    }

    #[test]
    fn floats_are_read_as_written() {
        let mut out = [0.0; 2];
        floats(Codec::F16, &[0x00, 0x3c, 0xff, 0x7b], &mut out);
        assert_eq!(out, [1.0, 65504.0]);
        floats(Codec::Bf16, &[0x80, 0x3f, 0x20, 0xc1], &mut out);
        assert_eq!(out, [1.0, -10.0]);
        floats(Codec::F32, &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x80], &mut out);
        assert_eq!(out, [1.0, -0.0]);
    }
}
