//! 8-bit floats with scales beside them: `w[r, c] = q[r, c] * scale[r / tile_rows, c / tile_columns]`.

use q35_graph::{DType, Decode, Tensor};
use std::ops::Range;
use std::sync::LazyLock;

/// The number that each byte stands for.
type Numbers = [f32; 256];

static E4M3: LazyLock<Numbers> = LazyLock::new(|| numbers(DType::F8E4M3));
static E5M2: LazyLock<Numbers> = LazyLock::new(|| numbers(DType::F8E5M2));

fn numbers(dtype: DType) -> Numbers {
    let (mut numbers, every) = ([0.0; 256], (0..=255).collect::<Vec<u8>>());
    if let Ok(tensor) = Tensor::new(dtype, vec![256], every.into(), 0) {
        tensor.read(0, &mut numbers);
    }
    numbers
}

/// A matrix of 8-bit floats, and its scales.
#[derive(Debug)]
pub(crate) struct Scaled {
    quantized: Tensor,
    scales: Tensor,
    cols: u64,
    /// Rows and columns of a tile.
    tile: [u64; 2],
    tiles_across: u64,
    numbers: &'static Numbers,
}

impl Scaled {
    /// A matrix whose scales have the shape that tiles of this size, or none given, make of it. `None` if they do not fit.
    pub(crate) fn new(quantized: Tensor, scales: Tensor, tile: Option<[u64; 2]>) -> Option<Self> {
        let &[rows, cols] = quantized.dims() else { return None };
        let of_scales: Vec<u64> = scales.dims().iter().copied().filter(|d| *d != 1).collect();
        let tile = match (&of_scales[..], tile) {
            ([], None) => [rows, cols],
            ([n], None) if *n == rows => [1, cols],
            (_, Some(tile)) if !tile.contains(&0) && scales.dims() == [rows.div_ceil(tile[0]), cols.div_ceil(tile[1])] => tile,
            _ => return None,
        };
        let numbers: &Numbers = match quantized.dtype() {
            DType::F8E4M3 => &E4M3,
            DType::F8E5M2 => &E5M2,
            _ => return None,
        };
        let fits = scales.dtype().is_float() && rows > 0 && cols > 0;
        fits.then(|| Self { quantized, scales, cols, tile, tiles_across: cols.div_ceil(tile[1]), numbers })
    }
}

impl Decode for Scaled {
    fn count(&self) -> u64 {
        self.quantized.count()
    }

    fn read(&self, start: u64, out: &mut [f32]) {
        let bytes = &self.quantized.bytes()[start as usize..][..out.len()];
        let mut done = 0;
        while done < out.len() {
            let at = start + done as u64;
            let (row, col) = (at / self.cols, at % self.cols);
            // To the end of the tile, or of the row.
            let end = (col / self.tile[1] + 1).saturating_mul(self.tile[1]).min(self.cols);
            let count = (out.len() - done).min((end - col) as usize);
            let scale = self.scales.number(row / self.tile[0] * self.tiles_across + col / self.tile[1]) as f32;
            let (out, bytes) = (&mut out[done..done + count], &bytes[done..done + count]);
            out.iter_mut().zip(bytes).for_each(|(x, byte)| *x = self.numbers[usize::from(*byte)] * scale);
            done += count;
        }
    }

    fn stored(&self) -> (DType, bool) {
        (self.quantized.dtype(), true)
    }

    fn release(&self, _: Range<u64>) {
        self.quantized.release();
        self.scales.release();
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
        let with = |dims: &[u64], tile| Scaled::new(matrix(2, 4), scales(dims), tile).map(|s| read(&s));
        assert_eq!(with(&[], None).unwrap(), [1.0, 2.0, -1.0, 0.5, 1.0, 2.0, -1.0, 0.5]);
        assert_eq!(with(&[2, 1], None).unwrap(), [1.0, 2.0, -1.0, 0.5, 2.0, 4.0, -2.0, 1.0]);
        assert_eq!(with(&[2, 2], Some([1, 3])).unwrap(), [1.0, 2.0, -1.0, 1.0, 3.0, 6.0, -3.0, 2.0]);
        assert!(with(&[2, 2], None).is_none() && with(&[3], None).is_none() && with(&[1, 2], Some([1, 3])).is_none());
        assert!(with(&[2, 2], Some([0, 3])).is_none());
    }
}
