//! Linear layers of many sequences at once.
//!
//! What enters: a linear op or one of experts, its parameters, and what it reads for some sequences. What leaves: what it makes of them. Almost all the work of calibration is here,
//! so it is done by products of matrices ([`q35_quantize::dense`]) and not by the interpreter; integers give the interpreter's bits, floats differ from it in the last of them.

use q35_diag::Result;
use q35_dialects::data::{Data, Integers, Matrix, ParamValue, QuantMatrix, Routing};
use q35_dialects::interp::ParamValues;
use q35_dialects::q35::Op;
use q35_quantize::dense::{Part, View, add_product};
use rayon::prelude::*;
use std::sync::Arc;

/// A linear layer or a layer of experts.
pub(super) struct Layer {
    weight: Arc<ParamValue>,
    bias: Option<Vec<f32>>,
}

/// Rows that a layer reads.
#[derive(Clone)]
enum Rows {
    Float(Matrix),
    Quant(QuantMatrix),
}

impl Rows {
    /// Of several values of one type.
    fn joined(values: &[&Data]) -> Self {
        match values.first() {
            Some(Data::Quant(first)) => {
                let parts: Vec<&QuantMatrix> = values.iter().map(|value| value.quant()).collect();
                let data = parts.iter().flat_map(|x| &x.data).copied().collect();
                Self::Quant(QuantMatrix {
                    width: first.width,
                    data,
                    scales: parts.iter().flat_map(|x| &x.scales).copied().collect(),
                })
            }
            first => {
                let width = first.map_or(1, |first| first.act().width);
                Self::Float(Matrix::new(width, values.iter().flat_map(|value| &value.act().data).copied().collect()))
            }
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Float(x) => x.rows(),
            Self::Quant(x) => x.scales.len(),
        }
    }

    /// Some of the rows, in any order.
    fn chosen(&self, rows: &[usize]) -> Self {
        match self {
            Self::Float(x) => Self::Float(Matrix::new(x.width, rows.iter().flat_map(|row| x.row(*row)).copied().collect())),
            Self::Quant(x) => Self::Quant(QuantMatrix {
                width: x.width,
                data: rows.iter().flat_map(|row| x.row(*row)).copied().collect(),
                scales: rows.iter().map(|row| x.scales[*row]).collect(),
            }),
        }
    }
}

impl Layer {
    /// The op as a layer, if it is one. `quantized` says whether what it reads has been rounded to integers: otherwise a quantized weight counts as the numbers it stands for.
    pub(super) fn of(op: &Op, params: &dyn ParamValues, quantized: bool) -> Result<Option<Self>> {
        let (weight, bias) = match op {
            Op::Linear(op) => (&op.weight, &op.bias),
            Op::ExpertLinear(op) => (&op.weight, &op.bias),
            _ => return Ok(None),
        };
        let weight = params.value(weight)?;
        let weight = if quantized || matches!(*weight, ParamValue::Float(_)) {
            weight
        } else {
            Arc::new(ParamValue::Float(weight.matrix()))
        };
        let bias = bias.as_ref().map(|name| params.value(name)).transpose()?.map(|value| value.row(0));
        Ok(Some(Self { weight, bias }))
    }

    /// What the layer makes of one value per sequence, each with its routing where the layer is one of experts.
    pub(super) fn apply(&self, values: &[&Data], routings: &[&Routing]) -> Vec<Data> {
        let x = Rows::joined(values);
        let (outputs, data, counts) = match routings.first() {
            None => {
                let outputs = self.weight.shape().0;
                let count = |value: &&Data| match value {
                    Data::Quant(x) => x.scales.len(),
                    x => x.act().rows(),
                };
                let counts: Vec<usize> = values.iter().map(count).collect();
                (outputs, self.product(&x, 0, outputs), counts)
            }
            Some(first) => {
                let outputs = self.weight.shape().0 / first.experts;
                let counts = routings.iter().map(|routing| routing.chosen.len()).collect();
                (outputs, self.routed(&x, routings, outputs), counts)
            }
        };
        let mut rest = data.as_slice();
        let take = |count: usize| {
            let (own, others) = rest.split_at(count * outputs);
            rest = others;
            Data::Act(Matrix::new(outputs, own.to_vec()))
        };
        counts.into_iter().map(take).collect()
    }

    /// Every row through the experts that it was sent to.
    fn routed(&self, x: &Rows, routings: &[&Routing], outputs: usize) -> Vec<f32> {
        let chosen: Vec<u32> = routings.iter().flat_map(|routing| &routing.chosen).copied().collect();
        let share = if x.count() == chosen.len() { 1 } else { routings[0].choices };
        let mut out = vec![0.0; chosen.len() * outputs];
        for expert in 0..routings[0].experts {
            let sent: Vec<usize> = (0..chosen.len()).filter(|at| chosen[*at] as usize == expert).collect();
            if sent.is_empty() {
                continue;
            }
            let rows: Vec<usize> = sent.iter().map(|at| at / share).collect();
            let y = self.product(&x.chosen(&rows), expert * outputs, outputs);
            for (at, y) in sent.iter().zip(y.chunks_exact(outputs)) {
                out[at * outputs..][..outputs].copy_from_slice(y);
            }
        }
        out
    }

    /// `x W^T + bias` for `outputs` rows of the weight from `first` on.
    fn product(&self, x: &Rows, first: usize, outputs: usize) -> Vec<f32> {
        let mut y = match (x, &*self.weight) {
            (Rows::Quant(x), ParamValue::Integers(w)) => integers(x, w, first, outputs),
            (Rows::Quant(x), ParamValue::Float(w)) => {
                let number = |(at, q): (usize, &i8)| f32::from(*q) * x.scales[at / x.width];
                floats(&Matrix::new(x.width, x.data.iter().enumerate().map(number).collect()), w, first, outputs)
            }
            (Rows::Float(x), ParamValue::Float(w)) => floats(x, w, first, outputs),
            (Rows::Float(_), ParamValue::Integers(_)) => unreachable!("the weight was decoded when the layer was made"),
        };
        if let Some(bias) = &self.bias {
            let bias = &bias[first..][..outputs];
            y.par_chunks_mut(outputs).for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
        }
        y
    }
}

fn floats(x: &Matrix, w: &Matrix, first: usize, outputs: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; x.rows() * outputs];
    let w = View::matrix(&w.data[first * w.width..][..outputs * w.width], w.width).transposed();
    add_product(&mut sums, outputs, 1.0f32, View::matrix(&x.data, x.width), w, Part::Whole);
    sums.into_par_iter().map(|sum| sum as f32).collect()
}

/// Groups of columns in order, each operation rounded to f32, as the op's definition has it.
fn integers(x: &QuantMatrix, w: &Integers, first: usize, outputs: usize) -> Vec<f32> {
    let (rows, groups) = (x.scales.len(), w.group.count(w.cols));
    let mut y = vec![0.0f32; rows * outputs];
    let mut sums = vec![0.0f64; rows * outputs];
    for group in 0..groups {
        let columns = w.group.columns(w.cols, group);
        sums.fill(0.0);
        let part = View::rows(&w.q[first * w.cols + columns.start..], outputs, columns.len(), w.cols).transposed();
        add_product(
            &mut sums,
            outputs,
            1.0f32,
            View::rows(&x.data[columns.start..], rows, columns.len(), x.width),
            part,
            Part::Whole,
        );
        y.par_chunks_mut(outputs).zip(sums.par_chunks(outputs)).enumerate().for_each(|(row, (y, sums))| {
            let ones: i32 = x.row(row)[columns.clone()].iter().map(|q| i32::from(*q)).sum();
            for (output, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
                let at = (first + output) * groups + group;
                let mut t = *sum as f32 * w.scales[at];
                if let Some(offsets) = &w.offsets {
                    t += ones as f32 * offsets[at];
                }
                *y = if group == 0 { t } else { *y + t };
            }
        });
    }
    y.par_chunks_mut(outputs).zip(&x.scales).for_each(|(y, scale)| y.iter_mut().for_each(|y| *y *= scale));
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_dialects::ParamName;
    use q35_dialects::interp::{Env, StepInput};
    use q35_dialects::q35::{ExpertLinear, Linear};
    use q35_format::Group;
    use q35_format::gauss::Gauss;
    use std::collections::BTreeMap;

    const COLS: usize = 300;

    fn gauss(seed: u64, count: usize) -> Vec<f32> {
        Gauss::new(seed).take(count).collect()
    }

    fn bytes(seed: u64, count: usize) -> Vec<i8> {
        gauss(seed, count).into_iter().map(|x| (60.0 * x).clamp(-127.0, 127.0) as i8).collect()
    }

    fn quant(seed: u64, rows: usize) -> Data {
        let scales = gauss(seed + 1, rows).into_iter().map(f32::abs).collect();
        Data::Quant(QuantMatrix { width: COLS, data: bytes(seed, rows * COLS), scales })
    }

    fn weights(rows: usize, group: Group, offsets: bool) -> ParamValue {
        let count = rows * group.count(COLS);
        let offsets = offsets.then(|| gauss(9, count));
        ParamValue::Integers(Integers { cols: COLS, group, q: bytes(7, rows * COLS), scales: gauss(8, count), offsets })
    }

    /// What the interpreter makes of one value.
    fn interpreted(op: &Op, params: &BTreeMap<ParamName, Arc<ParamValue>>, operands: &[&Data]) -> Vec<f32> {
        let mut env = Env { input: &StepInput::default(), params, caches: &mut BTreeMap::new() };
        op.eval(operands, &mut env).unwrap().act().data.clone()
    }

    #[test]
    fn integers_are_the_interpreter_to_the_bit() {
        for (group, offsets) in [(Group::Row, false), (Group::Columns(64), false), (Group::Columns(128), true)] {
            let bias = ParamValue::Float(Matrix::new(20, gauss(6, 20)));
            let params: BTreeMap<ParamName, _> =
                [("w".into(), Arc::new(weights(20, group, offsets))), ("b".into(), Arc::new(bias))].into();
            let op = Op::Linear(Linear { weight: "w".into(), bias: Some("b".into()) });
            let values = [quant(1, 5), quant(3, 2)];
            let layer = Layer::of(&op, &params, true).unwrap().unwrap();
            let found = layer.apply(&[&values[0], &values[1]], &[]);
            for (value, found) in values.iter().zip(found) {
                assert_eq!(found.act().data, interpreted(&op, &params, &[value]));
            }
        }
    }

    #[test]
    fn experts_are_the_interpreter_to_the_bit() {
        let params: BTreeMap<ParamName, _> = [("w".into(), Arc::new(weights(3 * 4, Group::Row, false)))].into();
        let op = Op::ExpertLinear(ExpertLinear { weight: "w".into(), bias: None });
        let routing = |chosen: &[u32]| {
            Data::Routing(Routing { experts: 3, choices: 2, chosen: chosen.to_vec(), weights: vec![0.5; chosen.len()] })
        };
        let routings = [routing(&[2, 0, 2, 1]), routing(&[0, 2])];
        // Rows that are sent to both of their experts, and rows that were routed already.
        for (rows, more) in [([2, 1], 1), ([4, 2], 2)] {
            let values = [quant(1, rows[0]), quant(3, rows[1])];
            let layer = Layer::of(&op, &params, true).unwrap().unwrap();
            let found = layer.apply(&[&values[0], &values[1]], &[routings[0].routing(), routings[1].routing()]);
            for ((value, routing), found) in values.iter().zip(&routings).zip(found) {
                assert_eq!(found.act().data, interpreted(&op, &params, &[value, routing]), "{more}");
            }
        }
    }

    #[test]
    fn floats_are_the_interpreter_but_for_rounding() {
        let decoded = weights(6, Group::Row, false);
        let params: BTreeMap<ParamName, _> = [("w".into(), Arc::new(decoded))].into();
        let op = Op::Linear(Linear { weight: "w".into(), bias: None });
        let x = Data::Act(Matrix::new(COLS, gauss(5, 3 * COLS)));
        let layer = Layer::of(&op, &params, false).unwrap().unwrap();
        let found = layer.apply(&[&x], &[]);
        let expected = interpreted(&op, &params, &[&x]);
        let size = expected.iter().fold(0.0f32, |size, y| size.max(y.abs()));
        for (found, expected) in found[0].act().data.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-6 * size, "{found} {expected}");
        }
    }
}
