//! Experts one by one: every expert is a dense layer of its own, counted for those rows that chose it.
//!
//! As an expression, what a row gets is the sum over experts `e` and choices `c` of `weight[c] * y_e` where choice `c` is `e`. What each
//! `y_e` is made by has one shape for all experts; these are merged, op by op, into one over routed rows. The ops of single experts are
//! dropped when nobody reads them.

use super::activation::{Ask, is_one};
use super::routing::Routing;
use super::{HashMap, Raiser, Res};
use crate::sym::{Combine as Fold, Id, Node};
use q35_dialects::q35::{ExpertLinear, Linear, Op};
use q35_dialects::{Param, ParamName, ParamRole};
use q35_graph::{NodeId, Value, WeightView};

/// A sum over all experts.
pub(super) struct Unrolled {
    pub routing: Routing,
    /// Of the choice.
    pub weight: Id,
    pub factor: f64,
    /// What each expert gives, in order.
    experts: Vec<Id>,
}

/// What one term of the sum says.
struct Term {
    topk: NodeId,
    expert: u64,
    factor: f64,
    weight: Id,
    gives: Id,
}

impl Raiser<'_> {
    /// Reads a sum that counts every expert where it is chosen; `None` for anything else, also if experts are missing.
    pub(super) fn unrolled(&mut self, sum: Id, column: Id) -> Res<Option<Unrolled>> {
        let (terms, constant) = self.eval.sym.terms(sum);
        if constant != 0.0 {
            return Ok(None);
        }
        let mut found: Vec<Term> = Vec::with_capacity(terms.len());
        for (term, factor) in terms {
            match self.counted(term, factor, column) {
                Some(term) => found.push(term),
                None => return Ok(None),
            }
        }
        found.sort_by_key(|term| term.expert);
        let Some(first) = found.first() else { return Ok(None) };
        let (topk, weight, factor) = (first.topk, first.weight, first.factor);
        let same = |t: &Term| t.topk == topk && t.weight == weight && is_one(t.factor / factor);
        let scores = self.eval.candidates(topk)?;
        let experts = self.eval.shape(scores)?.last().and_then(|n| self.eval.sym.as_int(*n));
        let complete = experts == Some(found.len() as i64) && found.iter().enumerate().all(|(i, t)| t.expert == i as u64);
        if !complete || !found.iter().all(same) {
            return Ok(None);
        }
        let routing = self.routing(topk)?;
        Ok(Some(Unrolled { routing, weight, factor, experts: found.into_iter().map(|t| t.gives).collect() }))
    }

    /// `sum over choices c of (choice c is this expert ? weight * what it gives : 0)`.
    fn counted(&mut self, term: Id, factor: f64, column: Id) -> Option<Term> {
        let (bound, body) = match *self.eval.sym.node(term) {
            Node::Fold(Fold::Sum, bound, body) => (Some(bound), body),
            _ => (None, term),
        };
        let (condition, counted) = self.eval.sym.kept(body)?;
        let Node::Zero(gap) = *self.eval.sym.node(condition) else { return None };
        let (terms, constant) = self.eval.sym.terms(gap);
        let [(place, c)] = terms[..] else { return None };
        let (topk, at) = self.chosen(place)?;
        let expert = -constant / c;
        let choice = match bound {
            Some(bound) => {
                let extent = self.eval.sym.bound_extent(bound)?;
                (at.last() == Some(&bound)).then(|| self.eval.sym.var("choice", extent))?
            }
            None => *at.last()?,
        };
        let counted = match bound {
            Some(bound) => self.eval.sym.subst(counted, &HashMap::from([(bound, choice)])),
            None => counted,
        };
        let (inner, counted) = self.eval.sym.coefficient(counted);
        let factors = self.eval.sym.factors(counted);
        let (gives, weights): (Vec<_>, Vec<_>) = factors.into_iter().partition(|(f, _)| self.eval.sym.contains(*f, column));
        let (gives, weight) = (self.eval.sym.powers(&gives), self.eval.sym.powers(&weights));
        (expert >= 0.0 && expert.fract() == 0.0).then_some(Term {
            topk,
            expert: expert as u64,
            factor: factor * inner,
            weight,
            gives,
        })
    }

    /// What the chosen experts give, as one value of routed rows.
    pub(super) fn merged_experts(&mut self, unrolled: &Unrolled, ask: Ask) -> Res<Value> {
        let mut values = Vec::with_capacity(unrolled.experts.len());
        for &gives in &unrolled.experts {
            let (gives, row) = self.settle(gives)?;
            if row != [self.grid.b, self.grid.s] {
                return self.fault("sums experts of other tokens");
            }
            values.push(self.exact(gives, ask.column, ask.width)?);
        }
        self.merged(&values, unrolled.routing.value)
    }

    /// One value for the values of all experts: the same op on what their operands are merged to.
    fn merged(&mut self, values: &[Value], routing: Value) -> Res<Value> {
        let Some(&first) = values.first() else { return self.consequence() };
        if values.iter().all(|value| *value == first) {
            return Ok(first);
        }
        let key = [values, &[routing]].concat();
        if let Some(&value) = self.merged.get(&key) {
            return Ok(value);
        }
        let operands: Vec<Vec<Value>> =
            values.iter().map(|value| self.model.graph.operands(value.node).into_iter().flatten().collect()).collect();
        let ops: Vec<Op> = values.iter().map(|value| self.model.graph.node(value.node).op.clone()).collect();
        let layers: Vec<Linear> =
            ops.iter().filter_map(|op| if let Op::Linear(op) = op { Some(op.clone()) } else { None }).collect();
        let like_first = |op: &Op| *op == ops[0];
        if operands.iter().any(|list| list.len() != operands[0].len()) || layers.is_empty() && !ops.iter().all(like_first) {
            return self.fault("has experts that compute different things");
        }
        let mut merged = Vec::with_capacity(operands[0].len());
        for at in 0..operands[0].len() {
            let column: Vec<Value> = operands.iter().map(|list| list[at]).collect();
            merged.push(self.merged(&column, routing)?);
        }
        let value = if layers.is_empty() {
            self.add(ops[0].clone(), &merged)?
        } else if layers.len() == values.len() {
            let weights: Vec<ParamName> = layers.iter().map(|l| l.weight.clone()).collect();
            let weight = self.stacked(&weights)?;
            let biases: Vec<ParamName> = layers.iter().filter_map(|l| l.bias.clone()).collect();
            let bias = match biases.len() {
                0 => None,
                n if n == layers.len() => Some(self.stacked_vectors(&biases)?),
                _ => return self.fault("has experts of which some have a bias"),
            };
            self.add(ExpertLinear { weight, bias }, &[merged[0], routing])?
        } else {
            return self.fault("has experts that compute different things");
        };
        self.merged.insert(key, value);
        Ok(value)
    }

    /// What the parameters hold, one below the other, and the name of the first in the model.
    fn joined(&mut self, names: &[ParamName]) -> Res<(WeightView, String)> {
        let params: Vec<&Param> = names.iter().filter_map(|name| self.model.params.get(name)).collect();
        let origin = params.first().map_or(String::new(), |p| p.origin.clone());
        let rows = params.first().map(|p| p.source.rows());
        let views: Vec<WeightView> = params.iter().map(|p| p.source.clone()).collect();
        match WeightView::joined(views).filter(|_| params.iter().all(|p| Some(p.source.rows()) == rows)) {
            Some(view) => Ok((view, origin)),
            None => self.fault("has experts of different sizes"),
        }
    }

    /// The weights of all experts as one parameter.
    fn stacked(&mut self, names: &[ParamName]) -> Res<ParamName> {
        let (view, origin) = self.joined(names)?;
        match view.split(names.len() as u64) {
            Some(view) => Ok(self.param(Param::new(view, ParamRole::Linear, origin))),
            None => self.fault("has experts of different sizes"),
        }
    }

    /// The biases of all experts as one vector.
    fn stacked_vectors(&mut self, names: &[ParamName]) -> Res<ParamName> {
        let (view, origin) = self.joined(names)?;
        match view.flattened() {
            Some(view) => Ok(self.param(Param::new(view, ParamRole::Vector, origin))),
            None => self.fault("has experts of different sizes"),
        }
    }
}
