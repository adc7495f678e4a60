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
pub mod dense;
mod finite;
mod hessian;
mod inputs;
mod record;
mod survivors;
mod transform;

pub use aim::Observed;
pub use hessian::{Drift, Hessian};
pub use inputs::{Inputs, Thin};
pub use record::{Calibrated, Record, WorstRow, source};

use compensated::{Compensator, Weighted};
use finite::NotFinite;
use record::{Seen, Tally};
use std::ops::Range;
use transform::Ready;

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
    to_nearest(param, BLOCK_NUMBERS, sink, progress)
}

/// Packs with blocks of about so many numbers.
fn to_nearest(
    param: &Param,
    block_numbers: usize,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<Quantized> {
    let spec = spec(param)?;
    let mut packing = Packing::new(param, spec, block_numbers);
    packing.rows(0..param.source.rows(), &Rounding::Nearest(Box::new(Encoder::new(spec))), sink, progress)?;
    packing.finish(None)
}

/// Packs a parameter so that on the calibration tokens its layer's output is nearest to that of the float model; `inputs` says what is known of
/// those. A parameter that is not in a pair codec is packed by [`quantize`].
///
/// Errors: those of [`quantize`]; a Hessian that is not finite.
///
/// # Panics
/// If the experts of `inputs` do not divide the rows.
pub fn quantize_compensated(
    param: &Param,
    inputs: &Inputs<'_>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    progress: &mut dyn FnMut(u64),
) -> Result<Quantized> {
    if param.codec.window().is_none() {
        return quantize(param, sink, progress);
    }
    let (spec, rows) = (spec(param)?, param.source.rows());
    let mut packing = Packing::new(param, spec, BLOCK_NUMBERS);
    let mut seen = Seen::default();
    let mut pack = |part: Range<u64>, observed: Observed<'_>, seen: &mut Seen| {
        let compensator = Compensator::new(spec, observed, &param.origin)?;
        seen.tokens += observed.hessian.tokens();
        seen.damping = seen.damping.max(compensator.damping());
        packing.rows(part, &Rounding::Compensated(Box::new(compensator)), sink, progress)
    };
    match *inputs {
        Inputs::Layer(observed) => pack(0..rows, observed, &mut seen)?,
        Inputs::Experts { count, all, of } => {
            assert!(rows.is_multiple_of(count), "'{}' has {rows} rows for {count} experts", param.origin);
            let outputs = rows / count;
            for expert in 0..count {
                let own = of(expert);
                let tokens = own.tokens();
                let (hessian, lent) = inputs::filled(own, all);
                seen.thin.extend((lent > 0).then_some(Thin { expert, tokens, lent }));
                pack(expert * outputs..(expert + 1) * outputs, Observed::alone(&hessian), &mut seen)?;
            }
        }
    }
    packing.finish(Some(seen))
}

/// Shape and storage of a parameter.
///
/// # Errors
/// [`Code::BadOption`] for a codec that cannot store this shape.
pub fn spec(param: &Param) -> Result<PackedSpec> {
    let (rows, cols) = (param.source.rows() as usize, param.source.cols() as usize);
    PackedSpec::new(rows, cols, param.codec, param.group)
        .map_err(|error| Diagnostic::error(Code::BadOption, error.to_string()).at("tensor", &param.origin).into())
}

/// How rows become codes.
enum Rounding {
    /// Each weight for itself, but for the trellis.
    Nearest(Box<Encoder>),
    /// Each weight after the errors of those before it.
    Compensated(Box<Compensator>),
}

impl Rounding {
    /// Encodes rows, the first of which is row `first` of the parameter, on all cores, and measures each of them. Gives them in pieces of [`LANES`] rows.
    fn pack(&self, first: usize, rows: &[f32], cols: usize) -> Vec<(Packed, Vec<record::Row>)> {
        let pieces = rows.par_chunks(LANES * cols);
        match self {
            Rounding::Nearest(encoder) => pieces
                .map(|rows| {
                    // Whole rows always encode.
                    let packed = encoder.rows(rows).unwrap_or_else(|error| panic!("whole rows: {error}"));
                    let measured = measure(&packed, rows, |_| None);
                    (packed, measured)
                })
                .collect(),
            Rounding::Compensated(compensator) => {
                let packed = compensator.block(first, rows);
                let measure = |((packed, weighted), rows): ((Packed, Vec<Weighted>), &[f32])| {
                    let measured = measure(&packed, rows, |row| Some(weighted[row]));
                    (packed, measured)
                };
                packed.into_par_iter().zip(pieces).map(measure).collect()
            }
        }
    }
}

/// The rows of `packed`, which were encoded from `rows`, with what is known of each on the calibration tokens.
fn measure(packed: &Packed, rows: &[f32], weighted: impl Fn(usize) -> Option<Weighted>) -> Vec<record::Row> {
    // What was just encoded passes its own checks.
    let view = packed.view().unwrap_or_else(|error| panic!("fresh sections: {error}"));
    let row = |(row, weights)| record::Row::measure(&view, row, weights).weighted(weighted(row));
    rows.chunks_exact(packed.spec.cols()).enumerate().map(row).collect()
}

/// A parameter that is being packed.
struct Packing<'a> {
    param: &'a Param,
    spec: PackedSpec,
    transforms: Vec<Ready>,
    block_rows: u64,
    bad: NotFinite<'a>,
    tally: Tally,
    scales: Vec<u8>,
    offsets: Vec<u8>,
}

impl<'a> Packing<'a> {
    fn new(param: &'a Param, spec: PackedSpec, block_numbers: usize) -> Self {
        Self {
            param,
            spec,
            transforms: transform::prepare(param),
            block_rows: rows_of_block(param, block_numbers),
            bad: NotFinite::new(param),
            tally: Tally::new(spec),
            scales: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Packs the next rows: whole blocks of every rotation that mixes rows.
    fn rows(
        &mut self,
        rows: Range<u64>,
        rounding: &Rounding,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let cols = self.param.source.cols();
        let mut block = Vec::new();
        let mut first = rows.start;
        while first < rows.end {
            let count = (rows.end - first).min(self.block_rows);
            block.resize((count * cols) as usize, 0.0);
            read(self.param, first, &mut block);
            self.bad.look(first, &block, finite::Stage::Source);
            for transform in &self.transforms {
                transform.apply(first as usize, cols as usize, &mut block);
            }
            self.bad.look(first, &block, finite::Stage::Transformed);
            if self.bad.is_empty() {
                for (packed, rows) in rounding.pack(first as usize, &block, cols as usize) {
                    sink(&packed.codes)?;
                    self.scales.extend(packed.scales);
                    self.offsets.extend(packed.offsets);
                    self.tally.extend(rows);
                }
            }
            progress(count * cols);
            first += count;
        }
        Ok(())
    }

    fn finish(self, seen: Option<Seen>) -> Result<Quantized> {
        self.bad.into_result()?;
        let record = self.tally.finish(self.param, seen)?;
        Ok(Quantized { spec: self.spec, scales: self.scales, offsets: self.offsets, record })
    }
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
