//! A parameter's transforms, applied in place to a block of f32 rows.
//!
//! Every transform is one pass over the block, in the order of the list; each number is changed by exactly the operations
//! that the transform's definition names, so that results do not depend on blocks or threads.

use q35_dialects::model::{Param, Transform};
use q35_format::rotate;
use q35_graph::WeightView;
use rayon::prelude::*;

/// A transform with its vectors in memory.
pub(crate) enum Ready {
    ScaleColumns(Vec<f32>),
    ScaleRows(Vec<f32>),
    Scale(f32),
    RotateInput { block: usize, seed: u64 },
    RotateOutput { block: usize, seed: u64 },
}

/// The transforms of a parameter.
pub(crate) fn prepare(param: &Param) -> Vec<Ready> {
    param
        .transforms
        .iter()
        .map(|transform| match transform {
            Transform::ScaleColumns(by) => Ready::ScaleColumns(vector(by)),
            Transform::ScaleRows(by) => Ready::ScaleRows(vector(by)),
            Transform::Scale(factor) => Ready::Scale(*factor),
            Transform::RotateInput { block, seed } => Ready::RotateInput { block: *block as usize, seed: *seed },
            Transform::RotateOutput { block, seed } => Ready::RotateOutput { block: *block as usize, seed: *seed },
        })
        .collect()
}

fn vector(view: &WeightView) -> Vec<f32> {
    let mut out = vec![0.0; (view.rows() * view.cols()) as usize];
    view.read_rows(0..view.rows(), &mut out);
    out
}

impl Ready {
    /// Changes a block of rows of `cols` numbers whose first row is row `first` of the parameter. For `RotateOutput` the
    /// block is whole blocks of the rotation.
    pub(crate) fn apply(&self, first: usize, cols: usize, block: &mut [f32]) {
        match self {
            Ready::ScaleColumns(by) => each_row(block, cols, |_, row| row.iter_mut().zip(by).for_each(|(x, by)| *x *= by)),
            Ready::ScaleRows(by) => each_row(block, cols, |at, row| row.iter_mut().for_each(|x| *x *= by[first + at])),
            Ready::Scale(by) => each_row(block, cols, |_, row| row.iter_mut().for_each(|x| *x *= by)),
            Ready::RotateInput { block: of, seed } => each_row(block, cols, |_, row| rotate::forward(row, *of, *seed)),
            Ready::RotateOutput { block: of, seed } => rotate_columns(block, cols, *of, *seed),
        }
    }
}

fn each_row(block: &mut [f32], cols: usize, change: impl Fn(usize, &mut [f32]) + Sync) {
    block.par_chunks_mut(cols).enumerate().for_each(|(at, row)| change(at, row));
}

/// [`rotate::forward`] on every column of every `of` rows: the same operations in the same order, row against row.
fn rotate_columns(block: &mut [f32], cols: usize, of: usize, seed: u64) {
    let signs: Vec<f32> = rotate::signs(seed, of).collect();
    each_row(block, cols, |at, row| row.iter_mut().for_each(|x| *x *= signs[at % of]));
    let mut half = 1;
    while half < of {
        block.par_chunks_mut(2 * half * cols).for_each(|pair| {
            let (low, high) = pair.split_at_mut(half * cols);
            low.par_chunks_mut(cols).zip(high.par_chunks_mut(cols)).for_each(|(low, high)| {
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            });
        });
        half *= 2;
    }
    let norm = 1.0 / (of as f32).sqrt();
    each_row(block, cols, |_, row| row.iter_mut().for_each(|x| *x *= norm));
}
