//! Experts in the gathered form: a product whose weight is picked from a stack by the chosen experts.
//!
//! Between that and the weighted sum ([`super::combine`]), rows are routed: their elements are loads at (sequence, token, choice, column),
//! and every form that works row by row works there too.

use super::linear::PendingLinear;
use super::{HashMap, Raised, Raiser, Res};
use crate::sym::{Base, BaseId, Id, Node};
use q35_dialects::q35::Op;
use q35_dialects::{ParamName, Rows, Ty};
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
    pub(super) fn picked(&self, load: Id) -> Option<(Id, NodeId, Vec<Id>)> {
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

    /// Whether two rows are one, in whatever way their quotients and remainders are spelled.
    pub(super) fn is_same_row(&mut self, a: [Id; 2], b: [Id; 2]) -> bool {
        a.into_iter().zip(b).all(|(a, b)| {
            let difference = self.eval.sym.sub(a, b);
            self.eval.sym.as_number(difference) == Some(0.0)
        })
    }

    /// The choice that a value was routed by, if it was.
    pub(super) fn routing_behind(&self, base: BaseId) -> Option<Value> {
        let mut value = match self.raised.get(&base)? {
            Raised::Linear(pending) => match pending.routing() {
                Some(routing) => return Some(routing),
                None => pending.input(),
            },
            Raised::Whole(value, _) => *value,
            Raised::Poison => return None,
        };
        while let Ty::Act { rows: Rows::TokenChoices(_) | Rows::LogitChoices(_), .. } = self.model.graph.ty(value) {
            let operands = self.model.graph.operands(value.node);
            match self.model.graph.node(value.node).op {
                Op::ExpertLinear(_) => return operands.get(1).copied().flatten(),
                _ => value = operands.first().copied().flatten()?,
            }
        }
        None
    }

    /// The choices' variable of something routed.
    pub(super) fn own_choice(&mut self, base: BaseId) -> Id {
        let choices = self.routing_behind(base).map_or(1, |value| match *self.model.graph.ty(value) {
            Ty::Routing { choices, .. } => choices,
            _ => 1,
        });
        self.choice(choices)
    }

    /// The biases behind a constant's element at the expert that was chosen, one expert after the other; `None` if they are zeros.
    pub(super) fn picked_bias(&mut self, element: Id, column: Id, lens: [u64; 2]) -> Res<Option<ParamName>> {
        let (factor, load) = self.eval.sym.coefficient(element);
        let Some((expert, ..)) = self.picked(load) else {
            return self.fault("adds one bias to all experts");
        };
        let count = self.eval.sym.number(lens[0] as f64);
        let e = self.eval.sym.var("expert", count);
        let element = self.eval.sym.subst(load, &HashMap::from([(expert, e)]));
        self.expert_bias(element, [e, column], lens, factor)
    }
}
