//! Weighted sums of what experts gave: `row factor * sum over choices of weight * expert's output`.
//!
//! The sum is either one over a row's choices, of values that are routed, or one over all experts, each of which is counted where a choice
//! names it ([`super::unrolled`]). Factors of the row join the weights, wherever the exporter multiplied them.

use super::activation::{Ask, Made};
use super::routing::Routing;
use super::{BTreeMap, HashMap, Raiser, Res};
use crate::sym::{Combine as Fold, Id, Node};
use q35_dialects::q35::Combine;
use q35_graph::{NodeId, Value};

impl Raiser<'_> {
    /// The form.
    pub(super) fn combined(&mut self, ask: Ask) -> Res<Option<Made>> {
        let factors = self.eval.sym.factors(ask.expr);
        let (columns, rows): (Vec<_>, Vec<_>) = factors.into_iter().partition(|(f, _)| self.eval.sym.contains(*f, ask.column));
        let (sum, of_row) = (self.eval.sym.powers(&columns), self.eval.sym.powers(&rows));
        if let Some(unrolled) = self.unrolled(sum, ask.column)? {
            let value = self.merged_experts(&unrolled, ask)?;
            let weight = self.eval.sym.mul(unrolled.weight, of_row);
            return self
                .weighted_sum(unrolled.routing, weight, value, unrolled.factor * ask.factor)
                .map(|y| Some((y, 1.0 / ask.factor)));
        }
        let (bound, body) = match *self.eval.sym.node(sum) {
            Node::Fold(Fold::Sum, bound, body) => (Some(bound), body),
            // One choice per row: nothing is left of the sum but the weight.
            _ => (None, ask.expr),
        };
        let Some(topk) = self.routed_in(body) else { return Ok(None) };
        let routing = self.routing(topk)?;
        let choice = self.choice(routing.choices);
        let body = match bound {
            Some(bound) => {
                let body = self.eval.sym.mul(body, of_row);
                self.eval.sym.subst(body, &HashMap::from([(bound, choice)]))
            }
            None => body,
        };
        let factors = self.eval.sym.factors(body);
        let (experts, weights): (Vec<_>, Vec<_>) =
            factors.into_iter().partition(|(f, _)| self.eval.sym.contains(*f, ask.column));
        let (experts, weight) = (self.eval.sym.powers(&experts), self.eval.sym.powers(&weights));
        if bound.is_none() && (routing.choices != 1 || self.weighed_rows(weight, topk)?.is_none()) {
            return Ok(None);
        }
        let (experts, row, at) = self.settle_routed(experts)?;
        if row != [self.grid.b, self.grid.s] || at.is_none_or(|at| at != choice) {
            return self.fault("sums experts of other tokens");
        }
        let (value, factor) = self.activation(experts, ask.column, ask.width)?;
        self.weighted_sum(routing, weight, value, factor * ask.factor).map(|y| Some((y, 1.0 / ask.factor)))
    }

    /// `factor * sum over choices of weight * value`.
    fn weighted_sum(&mut self, routing: Routing, weight: Id, value: Value, factor: f64) -> Res<Value> {
        let choice = self.choice(routing.choices);
        let Some(rows) = self.weighed_rows(weight, routing.node)? else {
            return self.fault("sums experts without their weights");
        };
        let row = self.routed_row(routing.node, &rows)?;
        if !self.is_same_row(row, [self.grid.b, self.grid.s]) {
            return self.fault("sums experts of other tokens");
        }
        let mut weights = self.weights(routing, &rows, choice, weight)?;
        weights.scale *= factor;
        self.weighted(routing.node, weights)?;
        self.add(Combine {}, &[value, routing.value])
    }

    /// Whether an expression is such a sum, as far as it shows.
    pub(super) fn is_combination(&mut self, expr: Id, column: Id) -> bool {
        let factors = self.eval.sym.factors(expr);
        let columns: Vec<_> = factors.into_iter().filter(|(f, _)| self.eval.sym.contains(*f, column)).collect();
        let sum = self.eval.sym.powers(&columns);
        match self.eval.sym.node(sum) {
            Node::Fold(Fold::Sum, _, body) if self.routed_in(*body).is_some() => true,
            _ => matches!(self.unrolled(sum, column), Ok(Some(_))),
        }
    }

    /// The `TopK` that routed a value inside an expression.
    fn routed_in(&self, expr: Id) -> Option<NodeId> {
        let mut found = None;
        self.eval.sym.visit(expr, |_, node| {
            if let Node::Load(base, index) = node
                && index.len() == 4
                && let Some(value) = self.routing_behind(*base)
            {
                found = self.routings.values().find(|r| r.value == value).map(|r| r.node);
            }
            found.is_none()
        });
        found
    }

    /// The rows whose choices a weight belongs to; a softmax over the chosen is looked into.
    fn weighed_rows(&mut self, weight: Id, topk: NodeId) -> Res<Option<Vec<Id>>> {
        let (_, rest) = self.eval.sym.coefficient(weight);
        let inner = self.under_softmax(rest)?;
        Ok(self.rows_in(inner.unwrap_or(weight), topk))
    }

    /// The rows at which an expression reads the places of a choice.
    fn rows_in(&self, expr: Id, topk: NodeId) -> Option<Vec<Id>> {
        let (mut found, choosers) = (BTreeMap::new(), self.eval.choosers(topk));
        self.eval.sym.visit(expr, |id, _| {
            if let Some((node, at)) = self.chosen(id)
                && (node == topk || choosers.contains(&node))
            {
                found.insert(id, at[..at.len() - 1].to_vec());
            }
            true
        });
        let mut rows = found.into_values();
        let first = rows.next()?;
        rows.all(|other| other == first).then_some(first)
    }
}
