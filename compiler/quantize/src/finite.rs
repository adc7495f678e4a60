//! Numbers that cannot be packed: one diagnostic per parameter and kind, with the count and the first place.

use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::model::Param;
use rayon::prelude::*;

use crate::limit;

/// When a number is looked at.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Stage {
    /// As the model file has it.
    Source,
    /// After all transforms.
    Transformed,
}

/// What has been found so far.
pub(crate) struct NotFinite<'a> {
    param: &'a Param,
    not_finite: Found,
    too_large: Found,
}

/// How many, and the first one's row and column.
#[derive(Clone, Copy, Default)]
struct Found {
    count: u64,
    first: Option<(u64, u64)>,
}

impl<'a> NotFinite<'a> {
    pub(crate) fn new(param: &'a Param) -> Self {
        Self { param, not_finite: Found::default(), too_large: Found::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.not_finite.count + self.too_large.count == 0
    }

    /// Looks at a block that starts at row `first`. Once the source has been found bad, what comes of it is not looked at.
    pub(crate) fn look(&mut self, first: u64, block: &[f32], stage: Stage) {
        let cols = self.param.source.cols() as usize;
        let limit = if stage == Stage::Source { f32::MAX } else { limit(self.param.codec) };
        if stage == Stage::Transformed && self.not_finite.count > 0 {
            return;
        }
        let found = if stage == Stage::Source { &mut self.not_finite } else { &mut self.too_large };
        // NaN is within no limit.
        let within = |x: &f32| x.abs() <= limit;
        let bad = |row: &[f32]| row.iter().filter(|x| !within(x)).count() as u64;
        let counts: Vec<u64> = block.par_chunks(cols).map(bad).collect();
        for (row, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let col = || block[row * cols..].iter().position(|x| !within(x)).unwrap_or(0);
            found.first.get_or_insert_with(|| (first + row as u64, col() as u64));
            found.count += count;
        }
    }

    pub(crate) fn into_result(self) -> Result<()> {
        let origin = &self.param.origin;
        let mut all = Diagnostics::new();
        let place = |found: Found| found.first.map(|(row, col)| (found.count, row, col));
        if let Some((count, row, col)) = place(self.not_finite) {
            let what = format!("{count} of its weights are NaN or infinite, the first at output {row}, input {col}");
            all.push(
                Diagnostic::error(Code::NotFinite, what)
                    .at("tensor", origin)
                    .help("the checkpoint is damaged or training diverged; export it again"),
            );
        }
        if let Some((count, row, col)) = place(self.too_large) {
            let codec = self.param.codec;
            let what = format!("{count} of its weights are too large for {codec}, the first at output {row}, input {col}");
            all.push(Diagnostic::error(Code::BadOption, what).at("tensor", origin).help("choose another codec, or f32"));
        }
        all.into_result(())
    }
}
