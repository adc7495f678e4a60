//! Linear layers.

use crate::attr::ParamName;
use crate::data::{Data, Integers, Matrix, ParamValue, QuantMatrix};
use crate::decl::op;
use crate::interp::Env;
use crate::q35::same_rows;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, shape, vector};
use crate::ty::Ty;
use rayon::prelude::*;

op! {
    /// `y = x W^T + bias`.
    ///
    /// With `x` rounded to int8 the integers are multiplied and summed exactly, one sum per row of `W` and group of columns, and then, each
    /// operation rounded to f32, groups in order: `t = f32(sum q_x q_w) * scale_group`; where the codec has offsets,
    /// `t = t + f32(sum q_x) * offset_group`; `y = (t_0 + t_1 + ...) * scale_x + bias`.
    ///
    /// With `x` in f32 the reference sums `x * w` in f64, rounds once to f32 and adds the bias in f32; a quantized `W` counts as the numbers it stands for.
    Linear = "linear"(x: Act | Quant) -> Act {
        /// `W`, `[outputs, inputs]`.
        weight: ParamName,
        /// One number per output. Absent: 0.
        bias: Option<ParamName>,
    }
}

impl Semantics for Linear {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (_, width) = matrix(&operands[0]);
        let (outputs, inputs) = shape(params, &self.weight)?;
        ensure(inputs == width, || format!("@{} takes {inputs} inputs, and 'x' has {width} columns", self.weight))?;
        if let Some(bias) = &self.bias {
            vector(params, bias, &format!("{outputs} (outputs)"), |len| len == outputs)?;
        }
        Ok(same_rows(&operands[0], outputs))
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let (_, inputs) = matrix(&operands[0]);
        Cost::elementwise(operands, result, 2 * inputs).reading([&self.weight].into_iter().chain(&self.bias), params)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let weight = env.params.value(&self.weight)?;
        let bias = self.bias.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let mut y = match (operands[0], &*weight) {
            (Data::Quant(x), ParamValue::Integers(w)) => integers(x, w),
            (Data::Quant(x), ParamValue::Float(w)) => floats(&dequantized(x), w),
            (x, ParamValue::Float(w)) => floats(x.act(), w),
            (x, w) => floats(x.act(), &w.matrix()),
        };
        if let Some(bias) = bias {
            y.data.iter_mut().enumerate().for_each(|(at, y)| *y += bias[at % bias.len()]);
        }
        Ok(Data::Act(y))
    }
}

/// The numbers that rounded activations stand for.
fn dequantized(x: &QuantMatrix) -> Matrix {
    let number = |(at, q): (usize, &i8)| f32::from(*q) * x.scales[at / x.width];
    Matrix::new(x.width, x.data.iter().enumerate().map(number).collect())
}

/// `f(row, output)` for every row and output.
fn product(rows: usize, outputs: usize, f: impl Fn(usize, usize) -> f32 + Sync) -> Matrix {
    let data = (0..rows * outputs).into_par_iter().with_min_len(256).map(|at| f(at / outputs, at % outputs)).collect();
    Matrix::new(outputs, data)
}

fn floats(x: &Matrix, w: &Matrix) -> Matrix {
    product(x.rows(), w.rows(), |row, output| dot(x.row(row), w.row(output)) as f32)
}

/// Sum of products in f64. Element `k` goes to partial sum `k % 8`, and the partial sums are added in order.
fn dot(x: &[f32], w: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for (x, w) in x.chunks(8).zip(w.chunks(8)) {
        for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
            *sum += f64::from(*x) * f64::from(*w);
        }
    }
    sums.iter().sum()
}

fn integers(x: &QuantMatrix, w: &Integers) -> Matrix {
    let groups = w.group.count(w.cols);
    product(x.scales.len(), w.q.len() / w.cols, |row, output| {
        let (q_x, q_w) = (x.row(row), &w.q[output * w.cols..][..w.cols]);
        let mut y = 0.0f32;
        for group in 0..groups {
            let columns = w.group.columns(w.cols, group);
            let at = output * groups + group;
            let mut t = exact_dot(&q_x[columns.clone()], &q_w[columns.clone()]) as f32 * w.scales[at];
            if let Some(offsets) = &w.offsets {
                t += q_x[columns].iter().map(|q| i32::from(*q)).sum::<i32>() as f32 * offsets[at];
            }
            y = if group == 0 { t } else { y + t };
        }
        y * x.scales[row]
    })
}

/// # Panics
/// If the sum does not fit in 32 bits: compilation proves that it does.
fn exact_dot(x: &[i8], w: &[i8]) -> i32 {
    let sum: i64 = x.iter().zip(w).map(|(x, w)| i64::from(i32::from(*x) * i32::from(*w))).sum();
    i32::try_from(sum).unwrap_or_else(|_| panic!("accumulator {sum} exceeds 32 bits"))
}
