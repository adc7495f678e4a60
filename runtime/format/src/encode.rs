//! Weights to bytes.
//!
//! What enters: rows of finite `f32` weights, K each. What leaves: a [`Packed`] of those rows. The rows of a matrix may
//! be encoded in any number of calls, on any number of threads: a row's bytes depend on the row and the spec alone.
//!
//! | storage | how |
//! | --- | --- |
//! | float | the nearest value, ties to even; `f16` saturates at 65504 |
//! | int8 | `scale = max \|w\| / 127` per row or group, `q = clamp(round_ties_even(w / scale), -127, 127)` |
//! | pairs | trellis search and least-squares scales, `pairs.rs` |

use crate::codec::Storage;
use crate::packed::{Packed, PackedSpec};
use crate::{Codec, FormatError, table};

mod moments;
mod pairs;

/// Encodes the rows of matrices of one spec.
#[derive(Debug, Clone)]
pub struct Encoder {
    spec: PackedSpec,
    pairs: Option<pairs::PairEncoder>,
}

impl Encoder {
    /// An encoder for rows of `spec`.
    pub fn new(spec: PackedSpec) -> Self {
        let pairs = spec.codec().window().map(|_| pairs::PairEncoder::new(table::pairs(spec.codec()), spec));
        Encoder { spec, pairs }
    }

    /// The spec of whole matrices.
    pub fn spec(&self) -> PackedSpec {
        self.spec
    }

    /// Encodes `weights.len() / K` rows, row-major; the result's spec has that many rows. Sixteen rows take little
    /// longer than one.
    ///
    /// Fails where `weights` is not a whole, positive number of rows. Weights that are not finite give bytes without
    /// meaning.
    pub fn rows(&self, weights: &[f32]) -> Result<Packed, FormatError> {
        let cols = self.spec.cols();
        if weights.is_empty() || !weights.len().is_multiple_of(cols) {
            return Err(FormatError::Size { rows: weights.len() / cols, cols });
        }
        let spec = self.spec.with_rows(weights.len() / cols)?;
        let mut packed = Packed {
            spec,
            codes: Vec::with_capacity(spec.codes_bytes()),
            scales: Vec::with_capacity(spec.scales_bytes()),
            offsets: Vec::with_capacity(spec.offsets_bytes()),
        };
        match (&self.pairs, spec.codec().facts().storage) {
            (Some(pairs), _) => pairs.encode(weights, &mut packed),
            (None, Storage::Float { .. }) => floats(spec.codec(), weights, &mut packed.codes),
            (None, _) => weights.chunks_exact(cols).for_each(|row| int8_row(row, &mut packed)),
        }
        Ok(packed)
    }
}

/// Encodes a whole matrix, row-major, `rows * cols` weights.
pub fn encode(spec: PackedSpec, weights: &[f32]) -> Result<Packed, FormatError> {
    let packed = Encoder::new(spec).rows(weights)?;
    if packed.spec != spec {
        return Err(FormatError::Size { rows: packed.spec.rows(), cols: packed.spec.cols() });
    }
    Ok(packed)
}

/// Appends the values of a float codec, little-endian. Nothing for the other codecs.
pub fn floats(codec: Codec, weights: &[f32], out: &mut Vec<u8>) {
    match codec {
        Codec::F32 => weights.iter().for_each(|w| out.extend(w.to_le_bytes())),
        Codec::F16 => weights.iter().for_each(|w| out.extend(half::f16::from_f32(w.clamp(-65504.0, 65504.0)).to_le_bytes())),
        Codec::Bf16 => weights.iter().for_each(|w| out.extend(half::bf16::from_f32(*w).to_le_bytes())),
        _ => {}
    }
}

fn int8_row(row: &[f32], packed: &mut Packed) {
    let spec = packed.spec;
    for group in 0..spec.groups() {
        let weights = &row[spec.group().columns(spec.cols(), group)];
        let largest = weights.iter().fold(0.0f32, |largest, w| largest.max(w.abs()));
        let scale = spec.scale().round(largest / 127.0);
        spec.scale().push(&mut packed.scales, scale);
        let nearest = |w: &f32| if scale == 0.0 { 0 } else { (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8 };
        packed.codes.extend(weights.iter().map(|w| nearest(w) as u8));
    }
}
