//! Choices of experts: a `TopK` over the scores of a router.
//!
//! The choice is made when its indices first pick an expert. How its weights are normalized shows only where they are used, in the sum
//! over the chosen experts; the op is completed there, and every use has to agree.

use super::{Raiser, Res};
use crate::sym::{Combine, Func, Id, Node, Power};
use q35_dialects::q35::{Op, Route, Scoring};
use q35_graph::source::SourceOp;
use q35_graph::{NodeId, Value};

/// A choice that the model has.
#[derive(Clone, Copy)]
pub(super) struct Routing {
    /// The `TopK`.
    pub node: NodeId,
    /// The result of `route`.
    pub value: Value,
    pub experts: u64,
    pub choices: u32,
    /// What the sum over the experts says about the weights.
    weights: Option<Weights>,
}

/// How chosen scores become weights.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Weights {
    pub normalize: bool,
    pub eps: f64,
    pub scale: f64,
}

/// What a `TopK` ranks, at some expert.
struct Ranked {
    /// `None` for the logits themselves: whoever weighs has to take a softmax over the chosen ones.
    scoring: Option<Scoring>,
    logit: Id,
    /// The score, where it is not the logit.
    score: Id,
    correction: Option<Id>,
}

impl Raiser<'_> {
    /// The `TopK` that an expression is an index of, and where: its rows, then the choice.
    pub(super) fn chosen(&self, expr: Id) -> Option<(NodeId, Vec<Id>)> {
        let Node::Load(base, index) = self.eval.sym.node(expr) else { return None };
        let value = self.eval.value_of(*base).filter(|value| value.result == 1)?;
        self.is_call(value.node, "TopK").then(|| (value.node, index.to_vec()))
    }

    fn is_call(&self, node: NodeId, op: &str) -> bool {
        matches!(&self.eval.graph.node(node).op, SourceOp::Call(call) if call.domain.is_empty() && call.op == op)
    }

    /// The choice that a `TopK` makes.
    pub(super) fn routing(&mut self, node: NodeId) -> Res<Routing> {
        if let Some(routing) = self.routings.get(&node) {
            return Ok(*routing);
        }
        let here = std::mem::replace(&mut self.node, node);
        let routing = self.new_routing(node);
        self.node = here;
        let routing = routing?;
        self.routings.insert(node, routing);
        Ok(routing)
    }

    fn new_routing(&mut self, node: NodeId) -> Res<Routing> {
        let call = self.eval.call(node)?;
        let scores = self.eval.operand(node, 0)?;
        let rank = self.eval.shape(scores)?.len();
        let axis = self.eval.axis(node, call.int("axis", -1), rank)?;
        let Some((at, experts)) = self.row_index(scores, "expert")?.filter(|_| axis + 1 == rank) else {
            return self.fault("chooses among what are no experts of a row");
        };
        let chosen = self.eval.shape(Value { node, result: 1 })?;
        let choices = chosen.last().and_then(|k| self.eval.sym.as_int(*k)).and_then(|k| u32::try_from(k).ok());
        let Some(choices) = choices.filter(|_| call.int("largest", 1) == 1) else {
            return self.fault("chooses an unknown number of experts");
        };
        let ranked = self.ranked(node, &at)?;
        let (logit, _) = self.settle(ranked.logit)?;
        let Some(&expert) = at.last() else { return self.consequence() };
        let logits = self.exact(logit, expert, experts)?;
        let correction = match ranked.correction {
            Some(element) => Some(self.vector(element, expert, experts, "a correction")?),
            None => None,
        };
        let scoring = ranked.scoring.unwrap_or(Scoring::Softmax);
        let value = self.add(Route { correction, ..Route::plain(scoring, choices) }, &[logits])?;
        Ok(Routing { node, value, experts, choices, weights: None })
    }

    /// What a `TopK` ranks at an index of its operand.
    fn ranked(&mut self, node: NodeId, at: &[Id]) -> Res<Ranked> {
        let scores = self.eval.operand(node, 0)?;
        let element = self.eval.element(scores, at)?;
        if self.is_poisoned(element) {
            return self.consequence();
        }
        if let Some(logit) = self.under_softmax(element)? {
            return Ok(Ranked { scoring: Some(Scoring::Softmax), logit, score: element, correction: None });
        }
        let (terms, constant) = self.eval.sym.terms(element);
        let (varying, fixed): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(t, _)| self.is_varying(*t));
        if let [(score, 1.0)] = varying[..]
            && let Node::Apply(Func::Sigmoid, logit) = *self.eval.sym.node(score)
        {
            let fixed = self.eval.sym.linear(&fixed, constant);
            let correction = (self.eval.sym.as_number(fixed) != Some(0.0)).then_some(fixed);
            return Ok(Ranked { scoring: Some(Scoring::Sigmoid), logit, score, correction });
        }
        Ok(Ranked { scoring: None, logit: element, score: element, correction: None })
    }

    /// What a softmax over the last dimension is taken of, at the same index.
    fn under_softmax(&mut self, element: Id) -> Res<Option<Id>> {
        let Node::Load(base, index) = self.eval.sym.node(element).clone() else { return Ok(None) };
        let Some(value) = self.eval.value_of(base).filter(|v| self.is_call(v.node, "Softmax")) else { return Ok(None) };
        let axis = self.eval.axis(value.node, self.eval.call(value.node)?.int("axis", -1), index.len())?;
        if axis + 1 != index.len() {
            return self.fault("scores experts by a softmax over something else");
        }
        let operand = self.eval.operand(value.node, 0)?;
        self.eval.element(operand, &index).map(Some)
    }

    /// The row (sequence, token) that a row of a `TopK` belongs to.
    pub(super) fn routed_row(&mut self, node: NodeId, at: &[Id]) -> Res<[Id; 2]> {
        let scores = self.eval.operand(node, 0)?;
        let Some(&experts) = self.eval.shape(scores)?.last() else { return self.consequence() };
        let expert = self.eval.sym.var("expert", experts);
        let ranked = self.ranked(node, &[at, &[expert]].concat())?;
        Ok(self.settle(ranked.logit)?.1)
    }

    /// The choices' variable.
    pub(super) fn choice(&mut self, choices: u32) -> Id {
        let count = self.eval.sym.number(choices.into());
        self.eval.sym.var("choice", count)
    }

    /// How the weight of `choice`, a variable, follows from the scores that a `TopK` saw at the rows `at`.
    pub(super) fn weights(&mut self, routing: Routing, at: &[Id], choice: Id, weight: Id) -> Res<Weights> {
        let node = routing.node;
        let here = [at, &[choice]].concat();
        let value = self.eval.opaque(Value { node, result: 0 }, &here)?;
        let index = self.eval.opaque(Value { node, result: 1 }, &here)?;
        let ranked = self.ranked(node, &[at, &[index]].concat())?;
        let (scale, rest) = self.eval.sym.coefficient(weight);
        if ranked.scoring.is_none() {
            return match self.under_softmax(rest)? {
                Some(logit) if logit == value || logit == ranked.logit => Ok(Weights { normalize: true, eps: 0.0, scale }),
                _ => self.fault("weighs experts by their logits"),
            };
        }
        let mut forms = vec![ranked.score];
        if ranked.correction.is_none() {
            forms.push(value);
        }
        let count = self.eval.sym.number(routing.choices.into());
        for score in forms {
            if rest == score {
                return Ok(Weights { normalize: false, eps: 0.0, scale });
            }
            let sum = self.eval.sym.fold(Combine::Sum, choice, count, score);
            let divisor = self.eval.sym.quotient(rest, score);
            if let [(divisor, Power::MINUS_ONE)] = self.eval.sym.factors(divisor)[..]
                && let (terms, eps) = self.eval.sym.terms(divisor)
                && terms[..] == [(sum, 1.0)]
            {
                return Ok(Weights { normalize: true, eps, scale });
            }
        }
        let text = self.eval.sym.show(weight);
        self.fault(format!("weighs experts in no known way: {text}"))
    }

    /// Completes the choice with what its use says.
    pub(super) fn weighted(&mut self, node: NodeId, weights: Weights) -> Res<()> {
        let Some(routing) = self.routings.get_mut(&node) else { return self.consequence() };
        if *routing.weights.get_or_insert(weights) != weights {
            return self.fault("weighs the same choice of experts in two ways");
        }
        if let Op::Route(op) = &mut self.model.graph.node_mut(routing.value.node).op {
            op.normalize = weights.normalize;
            op.eps = weights.eps as f32;
            op.scale = weights.scale as f32;
        }
        Ok(())
    }
}
