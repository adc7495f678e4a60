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
    /// With `x` rounded to int8 the integers are multiplied and summed exactly, one sum per row of `W` and group of columns,
    /// and then, each operation rounded to f32, groups in order: `t = f32(sum q_x q_w) * scale_group`; where the codec has
    /// offsets, `t = t + f32(sum q_x) * offset_group`; `y = (t_0 + t_1 + ...) * scale_x + bias`.
    ///
    /// With `x` in f32 the reference sums `x * w` in f64, rounds once to f32 and adds the bias in f32; a quantized `W` counts
    /// as the numbers it stands for.
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
        let (rows, outputs) = (row_count(operands[0]), weight.shape().0);
        Ok(Data::Act(products(operands[0], &weight, bias.as_deref(), [rows, outputs], |row| (row, 0))))
    }
}

/// Rows of activations, plain or rounded.
pub(super) fn row_count(x: &Data) -> usize {
    match x {
        Data::Quant(x) => x.scales.len(),
        x => x.act().rows(),
    }
}

/// The matrix `[rows, outputs]` whose row `r` is the product of a row of `x` with `outputs` rows of the weight, plus their bias; `of`
/// says which row, and the first row of the weight.
pub(super) fn products(
    x: &Data,
    weight: &ParamValue,
    bias: Option<&[f32]>,
    [rows, outputs]: [usize; 2],
    of: impl Fn(usize) -> (usize, usize) + Sync,
) -> Matrix {
    let dot: Box<dyn Fn(usize, usize) -> f32 + Sync> = match (x, weight) {
        (Data::Quant(x), ParamValue::Integers(w)) => Box::new(|row, output| integer_dot(x, w, row, output)),
        (Data::Quant(x), ParamValue::Float(w)) => {
            let x = dequantized(x);
            Box::new(move |row, output| dot(x.row(row), w.row(output)) as f32)
        }
        (x, ParamValue::Float(w)) => Box::new(|row, output| dot(x.act().row(row), w.row(output)) as f32),
        (x, w) => {
            let w = w.matrix();
            Box::new(move |row, output| dot(x.act().row(row), w.row(output)) as f32)
        }
    };
    let element = |at: usize| {
        let (row, first) = of(at / outputs);
        let output = first + at % outputs;
        let y = dot(row, output);
        bias.map_or(y, |bias| y + bias[output])
    };
    Matrix::new(outputs, (0..rows * outputs).into_par_iter().with_min_len(256).map(element).collect())
}

/// The numbers that rounded activations stand for.
fn dequantized(x: &QuantMatrix) -> Matrix {
    let number = |(at, q): (usize, &i8)| f32::from(*q) * x.scales[at / x.width];
    Matrix::new(x.width, x.data.iter().enumerate().map(number).collect())
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

fn integer_dot(x: &QuantMatrix, w: &Integers, row: usize, output: usize) -> f32 {
    let groups = w.group.count(w.cols);
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
}

/// # Panics
/// If the sum does not fit in 32 bits: compilation proves that it does.
fn exact_dot(x: &[i8], w: &[i8]) -> i32 {
    let sum: i64 = x.iter().zip(w).map(|(x, w)| i64::from(i32::from(*x) * i32::from(*w))).sum();
    i32::try_from(sum).unwrap_or_else(|_| panic!("accumulator {sum} exceeds 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};
    use crate::ty::Rows;
    use q35_format::Group;

    fn op(bias: Option<&str>) -> Linear {
        Linear { weight: "w".into(), bias: bias.map(Into::into) }
    }

    #[test]
    fn floats_by_hand() {
        let mut bench = Bench::with_params(&[("w", 3, &[1.0, 2.0, 3.0, -1.0, 0.0, 0.5]), ("b", 2, &[10.0, 20.0])]);
        let x = act(3, &[1.0, 1.0, 1.0, 2.0, 0.0, -4.0]);
        assert_eq!(numbers(&bench.eval(op(None), &[&x])), [6.0, -0.5, -10.0, -4.0]);
        assert_eq!(numbers(&bench.eval(op(Some("b")), &[&x])), [16.0, 19.5, 0.0, 16.0]);
    }

    /// A long dot product against integers, which f64 adds exactly.
    #[test]
    fn long_sums_are_exact() {
        let count = 1003;
        let x: Vec<f32> = (0..count).map(|k| (k * 7 % 31) as f32 - 15.0).collect();
        let w: Vec<f32> = (0..count).map(|k| (k * k % 17) as f32 - 8.0).collect();
        let exact: i64 = (0..count as i64).map(|k| (k * 7 % 31 - 15) * (k * k % 17 - 8)).sum();
        let mut bench = Bench::with_params(&[("w", count, &w)]);
        assert_eq!(numbers(&bench.eval(op(None), &[&act(count, &x)])), [exact as f32]);
    }

    fn grouped(offsets: Option<Vec<f32>>) -> ParamValue {
        let q: Vec<i8> = (0..2 * 70).map(|i| (i * 37 % 255 - 127) as i8).collect();
        ParamValue::Integers(Integers { cols: 70, group: Group::Columns(64), q, scales: vec![0.5, 0.25, 1.0, 2.0], offsets })
    }

    /// The stated order of operations, with sums in i128 and every f32 operation spelled out.
    #[test]
    fn integers_follow_the_stated_order() {
        let data: Vec<i8> = (0..70).map(|i| (i * 53 % 255 - 127) as i8).collect();
        let x = Data::Quant(QuantMatrix { width: 70, data: data.clone(), scales: vec![0.3] });
        for offsets in [None, Some(vec![0.1f32, 0.2, -0.3, 0.4])] {
            let mut bench = Bench::with_params(&[("b", 2, &[0.7, 0.9])]);
            let weight = grouped(offsets.clone());
            bench.param("w", weight.clone());
            let y = bench.eval(op(Some("b")), &[&x]);
            let ParamValue::Integers(w) = weight else { unreachable!() };
            for output in 0..2 {
                let term = |columns: std::ops::Range<usize>, group: usize| {
                    let sum: i128 = columns.clone().map(|k| i128::from(data[k]) * i128::from(w.q[output * 70 + k])).sum();
                    let t = sum as f32 * w.scales[2 * output + group];
                    let ones: i128 = columns.map(|k| i128::from(data[k])).sum();
                    offsets.as_ref().map_or(t, |o| t + ones as f32 * o[2 * output + group])
                };
                let expected = (term(0..64, 0) + term(64..70, 1)) * 0.3 + [0.7, 0.9][output];
                assert_eq!(numbers(&y)[output].to_bits(), expected.to_bits());
            }
        }
    }

    #[test]
    fn mixed_forms_agree_with_the_numbers_they_stand_for() {
        let x = QuantMatrix { width: 70, data: (0..70).map(|i| i as i8 - 35).collect(), scales: vec![0.125] };
        let w = grouped(None);
        let exact: Vec<f64> = (0..2)
            .map(|output| w.row(output).iter().zip(&x.data).map(|(w, q)| f64::from(*w) * f64::from(*q) * 0.125).sum())
            .collect();
        let floats = act(70, &dequantized(&x).data);
        for (x, w) in [(Data::Quant(x.clone()), ParamValue::Float(w.matrix())), (floats, w.clone()), (Data::Quant(x), w)] {
            let mut bench = Bench::default();
            bench.param("w", w);
            near(numbers(&bench.eval(op(None), &[&x])), &exact, 1e-6);
        }
    }

    #[test]
    fn shapes_must_fit() {
        assert_eq!(infer(op(None), &[tokens(3)], &[("w", 5, 3)]), Ok(tokens(5)));
        let quant = Ty::Quant { rows: Rows::Logits, width: 3 };
        assert_eq!(infer(op(None), &[quant], &[("w", 5, 3)]), Ok(Ty::Act { rows: Rows::Logits, width: 5 }));
        assert_eq!(infer(op(None), &[tokens(4)], &[("w", 5, 3)]), Err("@w takes 3 inputs, and 'x' has 4 columns".into()));
        assert_eq!(
            infer(op(Some("b")), &[tokens(3)], &[("w", 5, 3), ("b", 1, 3)]),
            Err("@b has 3 elements, not 5 (outputs)".into())
        );
    }
}
