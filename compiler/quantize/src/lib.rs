//! From a parameter to packed bytes, a block of rows at a time.
//!
//! What enters: a [`Param`], that is a view of the model file, a list of transforms, a codec and a group. What leaves: the
//! codes of its rows, in order, to a sink; its scales and offsets; and a [`Record`] of how good they are. Numbers are
//! read into a block of f32 rows, transformed in place, encoded sixteen rows to a task on all cores, and decoded again
//! for the record; then the pages of the model file are given back. Memory is a few blocks, whatever the size of the
//! parameter; a block is [`BLOCK_NUMBERS`] numbers, or as many rows as a rotation of the outputs mixes.
//!
//! This crate must not know where parameters come from, how a target arranges the bytes, or what a bundle is.
//!
//! Invariants:
//!
//! 1. The bytes depend on the parameter alone, not on the number of threads or the size of a block.
//! 2. The sink sees whole canonical rows, in order, and all of them if the result is `Ok`.
//! 3. Nothing that is not finite is encoded.
//! 4. The integer dot product of any row with int8 activations fits 32 bits.

use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::model::{Param, Transform};
use q35_format::encode::Encoder;
use q35_format::trellis::LANES;
use q35_format::{Codec, Packed, PackedSpec};
use rayon::prelude::*;

mod aim;
mod compensated;
mod finite;
mod hessian;
mod record;
mod survivors;
mod transform;

pub use aim::Observed;
pub use hessian::{Drift, Hessian};
pub use record::{Calibrated, Record, WorstRow};

use compensated::Compensator;
use finite::NotFinite;
use record::Tally;

/// Numbers of a block: 16 MB of f32.
pub const BLOCK_NUMBERS: usize = 4 << 20;

/// What remains of a parameter when its codes have gone to the sink.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Shape and storage.
    pub spec: PackedSpec,
    /// The scales section.
    pub scales: Vec<u8>,
    /// The offsets section.
    pub offsets: Vec<u8>,
    /// How good it is.
    pub record: Record,
}

/// Packs a parameter. `sink` gets the codes section in pieces of whole rows; `progress` gets the numbers done since it was last
/// called.
///
/// Errors: numbers that are NaN or infinite, in the file or after the transforms; numbers beyond the range of an `f16` parameter; a row
/// whose accumulator could overflow; whatever the sink returns. The codes already in the sink are then worthless.
pub fn quantize(param: &Param, sink: &mut dyn FnMut(&[u8]) -> Result<()>, progress: &mut dyn FnMut(u64)) -> Result<Quantized> {
    let encoder = Encoder::new(spec(param)?);
    in_blocks(param, BLOCK_NUMBERS, &Rounding::Nearest(encoder), sink, progress)
}

/// Packs a parameter so that on the calibration tokens its layer's output is nearest to that of the float model. A parameter that is not in a pair
/// codec is packed by [`quantize`].
///
/// Errors: those of [`quantize`]; a Hessian that is not finite.
pub fn quantize_compensated(
    param: &Param,
    observed: Observed<'_>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<Quantized> {
    if param.codec.window().is_none() {
        return quantize(param, sink, progress);
    }
    let rounding = Rounding::Compensated(Compensator::new(spec(param)?, observed, &param.origin)?);
    in_blocks(param, BLOCK_NUMBERS, &rounding, sink, progress)
}

fn spec(param: &Param) -> Result<PackedSpec> {
    let (rows, cols) = (param.source.rows() as usize, param.source.cols() as usize);
    PackedSpec::new(rows, cols, param.codec, param.group)
        .map_err(|error| Diagnostic::error(Code::BadOption, error.to_string()).at("tensor", &param.origin).into())
}

/// How rows become codes.
enum Rounding<'a> {
    /// Each weight for itself, but for the trellis.
    Nearest(Encoder),
    /// Each weight after the errors of those before it.
    Compensated(Compensator<'a>),
}

impl Rounding<'_> {
    fn spec(&self) -> PackedSpec {
        match self {
            Rounding::Nearest(encoder) => encoder.spec(),
            Rounding::Compensated(compensator) => compensator.spec(),
        }
    }

    /// Tokens that calibration saw, and the damping.
    fn seen(&self) -> Option<(u64, f64)> {
        match self {
            Rounding::Nearest(_) => None,
            Rounding::Compensated(compensator) => Some((compensator.tokens(), compensator.damping())),
        }
    }

    /// Encodes a few rows, the first of which is row `first` of the parameter, and measures each of them.
    fn pack(&self, first: usize, rows: &[f32]) -> (Packed, Vec<record::Row>) {
        let (packed, weighted) = match self {
            // Whole rows always encode.
            Rounding::Nearest(encoder) => (encoder.rows(rows).unwrap_or_else(|error| panic!("whole rows: {error}")), None),
            Rounding::Compensated(compensator) => {
                let (packed, weighted) = compensator.rows(first, rows);
                (packed, Some(weighted))
            }
        };
        // What was just encoded passes its own checks.
        let view = packed.view().unwrap_or_else(|error| panic!("fresh sections: {error}"));
        let measure = |(row, weights)| {
            let measured = record::Row::measure(&view, row, weights);
            match &weighted {
                Some(weighted) => measured.weighted(weighted[row]),
                None => measured,
            }
        };
        let measured = rows.chunks_exact(self.spec().cols()).enumerate().map(measure).collect();
        (packed, measured)
    }
}

fn in_blocks(
    param: &Param,
    block_numbers: usize,
    rounding: &Rounding<'_>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<Quantized> {
    let (rows, cols) = (param.source.rows(), param.source.cols());
    let spec = rounding.spec();
    let transforms = transform::prepare(param);
    let block_rows = rows_of_block(param, block_numbers);
    let mut bad = NotFinite::new(param);
    let mut tally = Tally::new(spec);
    let (mut scales, mut offsets) = (Vec::new(), Vec::new());
    let mut block = Vec::new();
    let mut first = 0;
    while first < rows {
        let count = (rows - first).min(block_rows);
        block.resize((count * cols) as usize, 0.0);
        read(param, first, &mut block);
        bad.look(first, &block, finite::Stage::Source);
        for transform in &transforms {
            transform.apply(first as usize, cols as usize, &mut block);
        }
        bad.look(first, &block, finite::Stage::Transformed);
        if bad.is_empty() {
            let lanes = block.par_chunks(LANES * cols as usize).enumerate();
            let packed: Vec<_> = lanes.map(|(at, rows)| rounding.pack(first as usize + at * LANES, rows)).collect();
            for (packed, rows) in packed {
                sink(&packed.codes)?;
                scales.extend(packed.scales);
                offsets.extend(packed.offsets);
                tally.extend(rows);
            }
        }
        progress(count * cols);
        first += count;
    }
    bad.into_result()?;
    let record = tally.finish(param, rounding.seen())?;
    Ok(Quantized { spec, scales, offsets, record })
}

/// Rows of a block: whole lanes, and whole blocks of every rotation that mixes rows.
fn rows_of_block(param: &Param, block_numbers: usize) -> u64 {
    let mixed = param.transforms.iter().map(|transform| match transform {
        Transform::RotateOutput { block, .. } => *block,
        _ => 1,
    });
    // Powers of two all: the largest is a multiple of the others.
    let unit = mixed.fold(LANES as u64, u64::max);
    (block_numbers as u64 / param.source.cols()).max(1).next_multiple_of(unit)
}

/// Fills `block` with the rows from `first` on, and gives the pages they came from back.
fn read(param: &Param, first: u64, block: &mut [f32]) {
    /// Rows of a task: enough for a source that is stored column by column to use what it loads.
    const ROWS: usize = 64;
    let cols = param.source.cols() as usize;
    block.par_chunks_mut(ROWS * cols).enumerate().for_each(|(chunk, out)| {
        let start = first + (chunk * ROWS) as u64;
        param.source.read_rows(start..start + (out.len() / cols) as u64, out);
    });
    param.source.release();
}

/// Largest magnitude a codec can hold without saturating, where that is less than f32's.
fn limit(codec: Codec) -> f32 {
    match codec {
        Codec::F16 => 65504.0,
        // The largest value that does not round to infinity.
        Codec::Bf16 => f32::from_bits(0x7f7f_7fff),
        _ => f32::MAX,
    }
}

#[cfg(test)]
mod compensated_tests;
#[cfg(test)]
mod tests;
