//! Columns of a linear layer in another order, or only some of them, with or without a bias: the rows of its weight in that order are a layer of its
//! own.

use super::activation::{Ask, Made, is_one};
use super::{BaseId, HashMap, Raised, Raiser, Res};
use crate::sym::{Base, Id, Node};
use q35_dialects::q35::Linear;
use q35_dialects::{Param, ParamRole};
use q35_graph::{Tensor, WeightView};

/// More columns are not looked at one by one.
const MOST_COLUMNS: u64 = 1 << 20;

/// Columns of a layer: `factor * (row of the weight . x + bias)` for each.
struct Picked {
    factor: f64,
    rows: Vec<u64>,
    biases: Vec<f64>,
}

impl Raiser<'_> {
    /// An expression that, whatever the column, is a column of one and the same linear layer.
    pub(super) fn picked_columns(&mut self, ask: Ask) -> Res<Option<Made>> {
        let Some(base) = self.only_layer(ask.expr, ask.column) else { return Ok(None) };
        let Some(Picked { factor, rows, biases }) = self.picks(base, ask.expr, ask.column, ask.width) else { return Ok(None) };
        let Some(Raised::Linear(pending)) = self.raised.get(&base) else { return self.consequence() };
        let (input, node, (weight, origin)) = (pending.input(), pending.node(), pending.weight());
        let Some(view) = rows_of(weight, &rows) else { return self.fault("reads columns that are not there") };
        let param = Param::new(view, ParamRole::Linear, origin);
        let weight = self.param(param);
        let bias = biases.iter().any(|bias| *bias != 0.0).then(|| {
            let numbers: Vec<f32> = biases.iter().map(|bias| *bias as f32).collect();
            let view = WeightView::vector(Tensor::from_f32(vec![ask.width], &numbers));
            let origin = self.origin_of(ask.expr);
            self.param(Param::new(view, ParamRole::Vector, origin))
        });
        let here = std::mem::replace(&mut self.node, node);
        let value = self.add(Linear { weight, bias }, &[input]);
        self.node = here;
        Ok(Some((value?, factor)))
    }

    /// The linear layer that is all an expression reads of the run, if there are cases of the column.
    fn only_layer(&self, expr: Id, column: Id) -> Option<BaseId> {
        // A bias without cases is that of a layer as it is.
        let (mut layers, mut plain, mut cases, mut biased) = (Vec::new(), true, false, false);
        self.eval.sym.visit(expr, |_, node| {
            match node {
                Node::Load(base, index) if matches!(self.raised.get(base), Some(Raised::Linear(p)) if p.routing().is_none()) => {
                    plain &= index.len() == 3 && !index[..2].iter().any(|at| self.eval.sym.contains(*at, column));
                    layers.push(*base);
                }
                Node::Load(base, _) if matches!(self.eval.sym.base(*base), Base::Constant(..)) => biased = true,
                Node::Load(..) | Node::Apply(..) | Node::Fold(..) | Node::Product(..) => {
                    // Products of integers are part of an index.
                    plain &= matches!(node, Node::Product(..));
                }
                Node::Select(condition, ..) => cases |= self.eval.sym.contains(*condition, column),
                Node::Div(at, _) | Node::Mod(at, _) => cases |= self.eval.sym.contains(*at, column),
                _ => {}
            }
            plain
        });
        let first = *layers.first()?;
        (plain && (cases || !biased) && layers.iter().all(|base| *base == first)).then_some(first)
    }

    /// What each column is.
    fn picks(&mut self, layer: BaseId, expr: Id, column: Id, width: u64) -> Option<Picked> {
        if width > MOST_COLUMNS {
            return None;
        }
        let mut rows = Vec::with_capacity(width as usize);
        let mut biases = Vec::with_capacity(width as usize);
        let mut common = None;
        for c in 0..width {
            let number = self.eval.sym.number(c as f64);
            let element = match self.eval.sym.as_number(column) {
                Some(_) => expr,
                None => self.eval.sym.subst(expr, &HashMap::from([(column, number)])),
            };
            let (terms, bias) = self.eval.sym.terms(element);
            let [(load, factor)] = terms[..] else { return None };
            let Node::Load(base, index) = self.eval.sym.node(load) else { return None };
            let row = self.eval.sym.as_int(*index.get(2)?).and_then(|row| u64::try_from(row).ok())?;
            if *base != layer || !is_one(factor / *common.get_or_insert(factor)) {
                return None;
            }
            rows.push(row);
            biases.push(bias / factor);
        }
        Some(Picked { factor: common?, rows, biases })
    }
}

/// Rows of a weight in some order; `None` if one is not there.
pub(super) fn rows_of(weight: &WeightView, rows: &[u64]) -> Option<WeightView> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < rows.len() {
        // As far as the rows go on in equal steps they are one view.
        let step = rows.get(at + 1).map_or(1, |next| next.wrapping_sub(rows[at]));
        let ascending = (1..1 << 32).contains(&step);
        let same = |i: &usize| rows[*i].wrapping_sub(rows[*i - 1]) == step;
        let len = if ascending { 1 + (at + 1..rows.len()).take_while(same).count() } else { 1 };
        parts.push(weight.clone().step_rows(rows[at], if len == 1 { 1 } else { step }, len as u64)?);
        at += len;
    }
    if parts.len() == 1 { parts.pop() } else { WeightView::joined(parts) }
}

#[cfg(test)]
mod tests {
    use super::rows_of;
    use q35_graph::{Axis, Tensor, WeightView};

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let numbers: Vec<f32> = (0..10).map(|i| i as f32).collect();
        let axis = |len, stride| Axis { len, stride };
        let weight = WeightView::dense(Tensor::from_f32(vec![10, 1], &numbers), 0, axis(10, 1), axis(1, 1)).unwrap();
        for rows in [vec![0, 1, 2], vec![8, 0, 2, 4, 1, 3, 5], vec![3, 3, 2, 1, 9], vec![7], vec![9, 1, 0]] {
            let view = rows_of(&weight, &rows).unwrap();
            let mut out = vec![0.0; rows.len()];
            view.read_rows(0..rows.len() as u64, &mut out);
            assert_eq!(out.iter().map(|x| *x as u64).collect::<Vec<_>>(), rows);
        }
        assert!(rows_of(&weight, &[0, 10]).is_none() && rows_of(&weight, &[]).is_none());
    }
}
