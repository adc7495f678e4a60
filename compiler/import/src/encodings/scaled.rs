//! 8-bit floats with scales beside them: `w[r, c] = q[r, c] * scale[r / tile_rows, c / tile_columns]`.

use q35_graph::{DType, Decode, Tensor};
use std::ops::Range;

/// A matrix of 8-bit floats, and its scales.
#[derive(Debug)]
pub(crate) struct Scaled {
    quantized: Tensor,
    scales: Vec<f32>,
    cols: u64,
    /// Rows and columns of a tile.
    tile: [u64; 2],
    tiles_across: u64,
    /// The number that each byte stands for.
    numbers: Box<[f32; 256]>,
}

impl Scaled {
    /// A matrix whose scales have the shape that tiles of this size, or none given, make of it. `None` if they do not fit.
    pub(crate) fn new(quantized: Tensor, scales: &Tensor, tile: Option<[u64; 2]>) -> Option<Self> {
        let &[rows, cols] = quantized.dims() else { return None };
        let of_scales: Vec<u64> = scales.dims().iter().copied().filter(|d| *d != 1).collect();
        let tile = match (&of_scales[..], tile) {
            ([], None) => [rows, cols],
            ([n], None) if *n == rows => [1, cols],
            (_, Some(tile)) if !tile.contains(&0) && scales.dims() == [rows.div_ceil(tile[0]), cols.div_ceil(tile[1])] => tile,
            _ => return None,
        };
        if !matches!(quantized.dtype(), DType::F8E4M3 | DType::F8E5M2) || !scales.dtype().is_float() || rows == 0 || cols == 0 {
            return None;
        }
        let mut numbers = Box::new([0.0; 256]);
        let every: Vec<u8> = (0..=255).collect();
        Tensor::new(quantized.dtype(), vec![256], every.into(), 0).ok()?.read(0, &mut numbers[..]);
        let mut values = vec![0.0; scales.count() as usize];
        scales.read(0, &mut values);
        Some(Self { quantized, scales: values, cols, tile, tiles_across: cols.div_ceil(tile[1]), numbers })
    }
}

impl Decode for Scaled {
    fn count(&self) -> u64 {
        self.quantized.count()
    }

    fn read(&self, start: u64, out: &mut [f32]) {
        let bytes = &self.quantized.bytes()[start as usize..][..out.len()];
        for (at, (x, byte)) in (start..).zip(out.iter_mut().zip(bytes)) {
            let (row, col) = (at / self.cols, at % self.cols);
            let scale = self.scales[(row / self.tile[0] * self.tiles_across + col / self.tile[1]) as usize];
            *x = self.numbers[usize::from(*byte)] * scale;
        }
    }

    fn stored(&self) -> (DType, bool) {
        (self.quantized.dtype(), true)
    }

    fn release(&self, _: Range<u64>) {
        self.quantized.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1, 2, -1, 0.5 as e4m3.
    const BYTES: [u8; 4] = [0x38, 0x40, 0xB8, 0x30];

    fn matrix(rows: u64, cols: u64) -> Tensor {
        let bytes: Vec<u8> = (0..rows * cols).map(|i| BYTES[i as usize % 4]).collect();
        Tensor::new(DType::F8E4M3, vec![rows, cols], bytes.into(), 0).unwrap()
    }

    fn read(scaled: &Scaled) -> Vec<f32> {
        let mut out = vec![0.0; scaled.count() as usize];
        scaled.read(0, &mut out);
        out
    }

    #[test]
    fn scales_are_for_all_for_a_row_or_for_a_tile() {
        let scales = |dims: &[u64]| {
            Tensor::from_f32(dims.to_vec(), &(1..=dims.iter().product()).map(|i: u64| i as f32).collect::<Vec<_>>())
        };
        let with = |dims: &[u64], tile| Scaled::new(matrix(2, 4), &scales(dims), tile).map(|s| read(&s));
        assert_eq!(with(&[], None).unwrap(), [1.0, 2.0, -1.0, 0.5, 1.0, 2.0, -1.0, 0.5]);
        assert_eq!(with(&[2, 1], None).unwrap(), [1.0, 2.0, -1.0, 0.5, 2.0, 4.0, -2.0, 1.0]);
        assert_eq!(with(&[2, 2], Some([1, 3])).unwrap(), [1.0, 2.0, -1.0, 1.0, 3.0, 6.0, -3.0, 2.0]);
        assert!(with(&[2, 2], None).is_none() && with(&[3], None).is_none() && with(&[1, 2], Some([1, 3])).is_none());
        assert!(with(&[2, 2], Some([0, 3])).is_none());
    }
}
