//! Sums of activations, and of an activation and a constant vector, which is a bias.

use super::activation::{Ask, Columns, Made, is_one};
use super::{Raised, Raiser, Res};
use crate::sym::{BaseId, Id, Node};
use q35_dialects::q35::Add;
use q35_graph::Value;

impl Raiser<'_> {
    /// Terms that vary are activations; the rest, if there is any, is the bias of a linear layer among them.
    pub(super) fn sum(&mut self, ask: Ask) -> Res<Option<Made>> {
        if !matches!(self.eval.sym.node(ask.expr), Node::Sum(..)) {
            return Ok(None);
        }
        let (terms, constant) = self.eval.sym.terms(ask.expr);
        // A constant that the choice of an expert picks is the bias of that expert.
        let (varying, fixed): (Vec<_>, Vec<_>) =
            terms.into_iter().partition(|(t, _)| self.is_varying(*t) && self.picked(*t).is_none());
        let fixed = self.eval.sym.linear(&fixed, constant);
        let mut values: Vec<Value> = Vec::new();
        let mut bias = (self.eval.sym.as_number(fixed) != Some(0.0)).then_some(fixed);
        for (term, c) in varying {
            if let (Some(element), Some((base, columns))) = (bias, self.linear_load(term, ask)) {
                bias = None;
                let element = if is_one(c) { element } else { self.eval.sym.scaled(element, 1.0 / c) };
                let value = self.linear_columns(base, columns, Some((element, ask.column)))?;
                values.push(self.applied(value, c)?);
                continue;
            }
            let (value, factor) = self.activation(term, ask.column, ask.width)?;
            values.push(self.applied(value, c * factor)?);
        }
        if bias.is_some() {
            return self.fault("adds constants to what is no linear layer");
        }
        let Some((&first, rest)) = values.split_first() else { return Ok(None) };
        let mut total = first;
        for &value in rest {
            total = self.add(Add {}, &[total, value])?;
        }
        Ok(Some((total, 1.0)))
    }

    /// The linear layer and the columns of a term that reads one.
    pub(super) fn linear_load(&mut self, term: Id, ask: Ask) -> Option<(BaseId, Columns)> {
        let (base, at) = self.raised_load(term)?;
        let columns = self.columns_at(at, ask.column, ask.width)?;
        match &self.raised[&base] {
            Raised::Linear(pending) if columns.end() <= pending.width() => Some((base, columns)),
            _ => None,
        }
    }
}
