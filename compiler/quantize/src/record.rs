//! How good a packed parameter is, measured on what its bytes decode to.
//!
//! Squares are summed in f64, along each row and then over the rows in order.

use crate::compensated::Weighted;
use crate::inputs::Thin;
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::model::Param;
use q35_format::{PackedSpec, PackedView};

/// What a compile reports of one parameter.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// The type that the model's file stores it as, where that is a rounding to few bits already: what that rounding cost is in no figure here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Bits per weight, scales and offsets included.
    pub effective_bits: f64,
    /// `|W - Q| / |W|` in the Frobenius norm, `Q` being what the bytes decode to and `W` what was encoded; 0 for a zero parameter.
    pub relative_error: f64,
    /// The same in decibels, `-20 log10`, to a hundredth; absent where the error is 0.
    pub snr_db: Option<f64>,
    /// The row of the largest relative error.
    pub worst_row: WorstRow,
    /// Largest magnitude the 32-bit sum of any row, or of any group of its columns where it has groups, can reach: the sum of its integers' magnitudes times 255, which covers
    /// activations in [-127, 127] and the unsigned form `q + 128` that some instructions want. Absent for the float codecs.
    pub accumulator_bound: Option<u64>,
    /// What calibration says; absent where there was none.
    pub calibrated: Option<Calibrated>,
}

/// How good a parameter is on the calibration tokens.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Calibrated {
    /// `|X (W' - Q)^T| / |X W'^T|` in the Frobenius norm, `W'` being the weights whose output is nearest to the float model's: the relative error of the
    /// layer's output; 0 for an output of zeros.
    pub weighted_error: f64,
    /// Tokens, the rows of `X`; of all experts together.
    pub tokens: u64,
    /// Share of the mean diagonal of `X^T X` that was added to its diagonal for rounding (not for this record); the largest of all experts'.
    pub damping: f64,
    /// Experts that the text reached with fewer tokens than they have inputs. What they were lent counts in the weighted error.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub thin_experts: Vec<Thin>,
}

/// [`Record::source`] of a parameter.
pub fn source(param: &Param) -> Option<String> {
    let (dtype, quantized) = param.source.stored();
    quantized.then(|| dtype.name().to_owned())
}

/// What calibration saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tokens: u64,
    pub(crate) damping: f64,
    pub(crate) thin: Vec<Thin>,
}

/// A row and its error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WorstRow {
    /// Output channel.
    pub row: u64,
    /// `|w - q| / |w|` of that row.
    pub relative_error: f64,
}

/// What one row adds.
pub(crate) struct Row {
    weights: f64,
    errors: f64,
    magnitudes: u64,
    /// Its error on the calibration tokens.
    weighted: Option<Weighted>,
}

impl Row {
    /// Decodes row `row` of `view` and compares it with what was encoded.
    pub(crate) fn measure(view: &PackedView, row: usize, weights: &[f32]) -> Self {
        let spec = view.spec();
        let mut decoded = vec![0.0; weights.len()];
        view.weights(row, &mut decoded);
        let mut integers = vec![0; weights.len()];
        let magnitudes = match view.integers(row, &mut integers) {
            Some(()) => {
                let sum = |group| {
                    integers[spec.group().columns(spec.cols(), group)].iter().map(|q| u64::from(q.unsigned_abs())).sum()
                };
                (0..spec.groups()).map(sum).max().unwrap_or(0)
            }
            None => 0,
        };
        let square = |x: f64| x * x;
        Self {
            weights: weights.iter().map(|w| square(f64::from(*w))).sum(),
            errors: weights.iter().zip(&decoded).map(|(w, q)| square(f64::from(*w) - f64::from(*q))).sum(),
            magnitudes,
            weighted: None,
        }
    }

    /// The same with what is known of its error on the calibration tokens.
    pub(crate) fn weighted(self, weighted: Option<Weighted>) -> Self {
        Self { weighted, ..self }
    }

    fn relative_error(&self) -> f64 {
        relative(self.errors, self.weights)
    }
}

fn relative(errors: f64, weights: f64) -> f64 {
    if errors == 0.0 { 0.0 } else { (errors / weights).sqrt() }
}

/// Rows measured so far.
pub(crate) struct Tally {
    spec: PackedSpec,
    rows: u64,
    weights: f64,
    errors: f64,
    worst: WorstRow,
    /// Row of the largest sum of magnitudes of a group, and that sum.
    largest: (u64, u64),
    weighted: Option<Weighted>,
}

impl Tally {
    pub(crate) fn new(spec: PackedSpec) -> Self {
        let worst = WorstRow { row: 0, relative_error: 0.0 };
        Self { spec, rows: 0, weights: 0.0, errors: 0.0, worst, largest: (0, 0), weighted: None }
    }

    /// Adds the next rows.
    pub(crate) fn extend(&mut self, rows: Vec<Row>) {
        for row in rows {
            self.weights += row.weights;
            self.errors += row.errors;
            if row.relative_error() > self.worst.relative_error {
                self.worst = WorstRow { row: self.rows, relative_error: row.relative_error() };
            }
            if row.magnitudes > self.largest.1 {
                self.largest = (self.rows, row.magnitudes);
            }
            if let Some(row) = row.weighted {
                let sum = self.weighted.get_or_insert_default();
                sum.error += row.error;
                sum.size += row.size;
            }
            self.rows += 1;
        }
    }

    /// `seen` is what calibration saw, if there was one.
    pub(crate) fn finish(self, param: &Param, seen: Option<Seen>) -> Result<Record> {
        let relative_error = relative(self.errors, self.weights);
        let bound = self.largest.1 * 255;
        let has_integers = self.spec.codec().has_scales();
        if has_integers && bound >= 1 << 31 {
            let what = format!(
                "the sum of output {} over {} inputs could reach {bound}, beyond 32 bits",
                self.largest.0,
                self.spec.cols()
            );
            return Err(Diagnostic::error(Code::AccumulatorOverflow, what)
                .at("tensor", &param.origin)
                .help("store this tensor in a float codec")
                .into());
        }
        Ok(Record {
            source: source(param),
            effective_bits: self.spec.effective_bits(),
            relative_error,
            snr_db: (relative_error > 0.0).then(|| (-2000.0 * relative_error.log10()).round() / 100.0),
            worst_row: self.worst,
            accumulator_bound: has_integers.then_some(bound),
            calibrated: self.weighted.zip(seen).map(|(sum, Seen { tokens, damping, thin })| Calibrated {
                weighted_error: relative(sum.error, sum.size),
                tokens,
                damping,
                thin_experts: thin,
            }),
        })
    }
}
