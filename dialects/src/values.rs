//! The values of a model's parameters as the model file has them, with the transforms applied and nothing rounded to a codec.

use crate::attr::ParamName;
use crate::data::{Matrix, ParamValue};
use crate::interp::ParamValues;
use crate::model::{Model, Param, Transform};
use q35_diag::{Code, Diagnostic, Result};
use q35_format::rotate;
use q35_graph::WeightView;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Reads parameters on first use, and keeps them.
pub struct SourceValues<'a> {
    params: BTreeMap<&'a ParamName, (&'a Param, OnceLock<Arc<ParamValue>>)>,
}

impl<'a> SourceValues<'a> {
    /// The parameters of a model.
    pub fn new(model: &'a Model) -> Self {
        Self { params: model.params.iter().map(|(name, param)| (name, (param, OnceLock::new()))).collect() }
    }
}

impl ParamValues for SourceValues<'_> {
    fn value(&self, name: &ParamName) -> Result<Arc<ParamValue>> {
        let missing = || Diagnostic::error(Code::MissingTensor, "a parameter has no value").at("parameter", name);
        let (param, value) = self.params.get(name).ok_or_else(missing)?;
        Ok(value.get_or_init(|| Arc::new(ParamValue::Float(transformed(param)))).clone())
    }
}

/// All numbers of a view.
pub fn read(view: &WeightView) -> Matrix {
    let mut data = vec![0.0; (view.rows() * view.cols()) as usize];
    view.read_rows(0..view.rows(), &mut data);
    Matrix::new(view.cols() as usize, data)
}

/// A parameter's numbers after its transforms, each in f32, in order.
pub fn transformed(param: &Param) -> Matrix {
    let mut w = read(&param.source);
    let (rows, cols) = (w.rows(), w.width);
    for transform in &param.transforms {
        match transform {
            Transform::ScaleColumns(by) => {
                let by = read(by).data;
                w.data.iter_mut().enumerate().for_each(|(at, x)| *x *= by[at % cols]);
            }
            Transform::ScaleRows(by) => {
                let by = read(by).data;
                w.data.iter_mut().enumerate().for_each(|(at, x)| *x *= by[at / cols]);
            }
            Transform::Scale(factor) => w.data.iter_mut().for_each(|x| *x *= factor),
            Transform::RotateInput { block, seed } => {
                w.data.chunks_exact_mut(cols).for_each(|row| rotate::forward(row, *block as usize, *seed));
            }
            Transform::RotateOutput { block, seed } => {
                for col in 0..cols {
                    let mut column: Vec<f32> = (0..rows).map(|row| w.data[row * cols + col]).collect();
                    rotate::forward(&mut column, *block as usize, *seed);
                    column.into_iter().enumerate().for_each(|(row, x)| w.data[row * cols + col] = x);
                }
            }
        }
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ParamRole;
    use q35_graph::{Axis, Tensor};

    fn view(rows: u64, cols: u64, values: &[f32]) -> WeightView {
        let axes = (Axis { len: rows, stride: cols as i64 }, Axis { len: cols, stride: 1 });
        WeightView::dense(Tensor::from_f32(vec![rows, cols], values), 0, axes.0, axes.1).unwrap()
    }

    fn with(transforms: Vec<Transform>) -> Vec<f32> {
        let source = view(2, 2, &[1.0, 2.0, 3.0, 4.0]);
        transformed(&Param { transforms, ..Param::new(source, ParamRole::Linear, "w") }).data
    }

    #[test]
    fn scales_reach_rows_and_columns_in_order() {
        let vector = || view(1, 2, &[10.0, 100.0]);
        assert_eq!(with(vec![]), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(with(vec![Transform::ScaleColumns(vector())]), [10.0, 200.0, 30.0, 400.0]);
        assert_eq!(with(vec![Transform::ScaleRows(vector())]), [10.0, 20.0, 300.0, 400.0]);
        assert_eq!(with(vec![Transform::Scale(0.5), Transform::ScaleRows(vector())]), [5.0, 10.0, 150.0, 200.0]);
    }

    /// With `R` as a matrix in f64: `W R^T` and `R W`.
    #[test]
    fn rotations_are_matrix_products() {
        let seed = 9;
        let sign = |i| f64::from(rotate::sign(seed, i));
        let r = |i: usize, j: usize| if i & j == 1 { -1.0 } else { 1.0 } * sign(j) / 2f64.sqrt();
        let w = [[1.0, 2.0], [3.0, 4.0]];
        for (transform, input) in
            [(Transform::RotateInput { block: 2, seed }, true), (Transform::RotateOutput { block: 2, seed }, false)]
        {
            let found = with(vec![transform]);
            for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let exact: f64 = (0..2).map(|k| if input { w[i][k] * r(j, k) } else { r(i, k) * w[k][j] }).sum();
                assert!((f64::from(found[2 * i + j]) - exact).abs() < 1e-6, "{input} {i} {j}");
            }
        }
    }
}
