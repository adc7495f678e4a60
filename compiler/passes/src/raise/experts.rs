//! Experts in the gathered form: a product whose weight is picked from a stack by the chosen experts, and the weighted sum behind it.
//!
//! Between the two, rows are routed: their elements are loads at (sequence, token, choice, column), and every form that works row by row
//! works there too.

use super::linear::PendingLinear;
use super::{BTreeMap, HashMap, Raised, Raiser, Res};
use crate::sym::{Base, BaseId, Combine, Id, Kind, Node};
use q35_dialects::Ty;
use q35_dialects::q35::Combine as Sum;
use q35_graph::{Axis, NodeId, Value, WeightView};

impl Raiser<'_> {
    /// A product with a stack of constant matrices, one of which a choice picks; `false` for any other product.
    pub(super) fn gathered_product(&mut self, node: NodeId) -> Res<bool> {
        let (a, b) = (self.eval.operand(node, 0)?, self.eval.operand(node, 1)?);
        let (dims_a, dims_b) = (self.eval.shape(a)?, self.eval.shape(b)?);
        let (rank, one) = (dims_a.len(), self.eval.sym.int(1));
        if rank < 3 || dims_b.len() != rank {
            return Ok(false);
        }
        // [.., N, K] times a column, or a row times [.., K, N].
        let (x, w, dims_w, weight_left) = if dims_b[rank - 1] == one {
            (b, a, dims_a, true)
        } else if dims_a[rank - 2] == one {
            (a, b, dims_b, false)
        } else {
            return Ok(false);
        };
        let (outputs, inputs) =
            if weight_left { (dims_w[rank - 2], dims_w[rank - 1]) } else { (dims_w[rank - 1], dims_w[rank - 2]) };
        let (n, k, zero) = (self.eval.sym.var("n", outputs), self.eval.sym.var("k", inputs), self.eval.sym.int(0));
        let rows = self.eval.index_vars(w, "row")?[..rank - 2].to_vec();
        let index = |last: [Id; 2]| [&rows[..], &last].concat();
        let (at_w, at_x, at_y) = if weight_left {
            (index([n, k]), index([k, zero]), index([n, zero]))
        } else {
            (index([k, n]), index([zero, k]), index([zero, n]))
        };
        let element = self.eval.element(w, &at_w)?;
        let (factor, load) = self.eval.sym.coefficient(element);
        let Some((expert, topk, chosen_at)) = self.picked(load) else { return Ok(false) };
        let (Some(width), Some(cols)) = (self.eval.sym.as_int(outputs), self.eval.sym.as_int(inputs)) else {
            return self.fault("has experts of unknown width");
        };
        let routing = self.routing(topk)?;
        let Some((&choice, rows)) = chosen_at.split_last() else { return self.consequence() };
        let row = self.routed_row(topk, rows)?;
        let count = self.eval.sym.number(routing.experts as f64);
        let e = self.eval.sym.var("expert", count);
        let load = self.eval.sym.subst(load, &HashMap::from([(expert, e)]));
        let Some((weight, origin)) = self.stack_view(load, [e, n, k], [routing.experts, width as u64, cols as u64]) else {
            return self.fault("multiplies with experts that are no stack of constant matrices");
        };
        let x = self.eval.element(x, &at_x)?;
        let (x, row_x, choice_x) = self.settle_routed(x)?;
        if !self.is_same_row(row_x, row) || choice_x.is_some_and(|c| c != choice) {
            return self.fault("multiplies with experts of other tokens");
        }
        let (input, scale) = self.activation(x, k, cols as u64)?;
        let pending = PendingLinear::new(input, weight, origin, node, Some(routing.value));
        let base = self.raise_base(Raised::Linear(Box::new(pending)));
        let load = self.eval.sym.load(base, &[row[0], row[1], choice, n]);
        let result = self.eval.sym.scaled(load, factor * scale);
        self.eval.cut(Value { node, result: 0 }, at_y, result);
        Ok(true)
    }

    /// The index of a constant's element that a choice of experts made, its `TopK`, and the place there.
    fn picked(&self, load: Id) -> Option<(Id, NodeId, Vec<Id>)> {
        let Node::Load(base, index) = self.eval.sym.node(load) else { return None };
        if !matches!(self.eval.sym.base(*base), Base::Constant(..)) {
            return None;
        }
        index.iter().find_map(|at| self.chosen(*at).map(|(topk, place)| (*at, topk, place)))
    }

    /// A stack of matrices behind an element that is a function of expert, row and column.
    pub(super) fn stack_view(&mut self, element: Id, vars: [Id; 3], lens: [u64; 3]) -> Option<(WeightView, String)> {
        let (tensor, name, offset, strides) = self.strided(element, &vars)?;
        let axis = |at: usize| Axis { len: lens[at], stride: strides[at] };
        let view = WeightView::dense(tensor, offset, axis(1), axis(2))?.stacked(axis(0))?;
        Some((view, name))
    }

    /// `sum over choices of weight * expert's output`. Other sums are part of some expression.
    pub(super) fn weighted_sum(&mut self, node: NodeId) -> Res<()> {
        let output = Value { node, result: 0 };
        if self.eval.kind(output)? != Kind::Real {
            return Ok(());
        }
        let Some((index, width)) = self.row_index(output, "n")? else { return Ok(()) };
        let Ok(element) = self.eval.element(output, &index) else { return Ok(()) };
        let (factor, fold) = self.eval.sym.coefficient(element);
        let Node::Fold(Combine::Sum, bound, body) = *self.eval.sym.node(fold) else { return Ok(()) };
        let Some((base, topk)) = self.routed_in(body) else { return Ok(()) };
        let routing = self.routing(topk)?;
        let choice = self.own_choice(base);
        let body = self.eval.sym.subst(body, &HashMap::from([(bound, choice)]));
        let factors = self.eval.sym.factors(body);
        let (experts, weights): (Vec<_>, Vec<_>) = factors.into_iter().partition(|(f, _)| self.routed_in(*f).is_some());
        let (experts, weights) = (self.eval.sym.powers(&experts), self.eval.sym.powers(&weights));
        let Some(&column) = index.last() else { return self.consequence() };
        let (experts, row, at) = self.settle_routed(experts)?;
        let Some(rows) = self.rows_in(weights, topk) else { return self.fault("sums experts without their weights") };
        let routed = self.routed_row(topk, &rows)?;
        if at != Some(choice) || !self.is_same_row(routed, row) {
            return self.fault("sums experts of other tokens");
        }
        let (value, inner) = self.activation(experts, column, width)?;
        let mut weights = self.weights(routing, &rows, choice, weights)?;
        weights.scale *= factor * inner;
        self.weighted(topk, weights)?;
        let sum = self.add(Sum {}, &[value, routing.value])?;
        self.cut(output, index, Raised::Whole(sum, width), [row[0], row[1], column], 1.0);
        Ok(())
    }

    /// Whether two rows are one, in whatever way their quotients and remainders are spelled.
    pub(super) fn is_same_row(&mut self, a: [Id; 2], b: [Id; 2]) -> bool {
        a.into_iter().zip(b).all(|(a, b)| {
            let difference = self.eval.sym.sub(a, b);
            self.eval.sym.as_number(difference) == Some(0.0)
        })
    }

    /// A routed value inside an expression, and the `TopK` that routed it.
    fn routed_in(&self, expr: Id) -> Option<(BaseId, NodeId)> {
        let mut found = None;
        self.eval.sym.visit(expr, |_, node| {
            if let Node::Load(base, _) = node
                && let Some(Raised::Linear(pending)) = self.raised.get(base)
                && let Some(value) = pending.routing()
            {
                found = self.routings.values().find(|r| r.value == value).map(|r| (*base, r.node));
            }
            found.is_none()
        });
        found
    }

    /// The rows at which an expression reads a `TopK`.
    fn rows_in(&self, expr: Id, topk: NodeId) -> Option<Vec<Id>> {
        let mut found = BTreeMap::new();
        self.eval.sym.visit(expr, |id, node| {
            if let Node::Load(base, index) = node
                && self.eval.value_of(*base).is_some_and(|value| value.node == topk)
            {
                found.insert(id, index[..index.len() - 1].to_vec());
            }
            true
        });
        let mut rows = found.into_values();
        let first = rows.next()?;
        rows.all(|other| other == first).then_some(first)
    }

    /// The choices' variable of something routed.
    pub(super) fn own_choice(&mut self, base: BaseId) -> Id {
        let value = match self.raised.get(&base) {
            Some(Raised::Linear(pending)) => pending.routing(),
            _ => None,
        };
        let choices = value.map_or(1, |value| match *self.model.graph.ty(value) {
            Ty::Routing { choices, .. } => choices,
            _ => 1,
        });
        self.choice(choices)
    }
}
