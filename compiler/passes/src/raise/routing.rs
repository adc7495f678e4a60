//! Choices of experts among the scores of a router: a `TopK`, or one choice after the other ([`crate::eval::choices`]).
//!
//! The choice is made when its indices first pick an expert. How its weights are normalized shows only where they are used, in the sum
//! over the chosen experts; the op is completed there, and every use has to agree.

use super::attention::UNSEEN;
use super::{Raiser, Res};
use crate::eval::choices::choice_of;
use crate::sym::{Base, Combine as Fold, Func, Id, Node, Power};
use q35_dialects::q35::{GroupScore, Op, Route, Scoring};
use q35_graph::source::SourceOp;
use q35_graph::{NodeId, Value};

/// A choice that the model has.
#[derive(Clone, Copy)]
pub(super) struct Routing {
    /// What makes the choice.
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
    pub floor: f64,
    pub scale: f64,
    /// The margin of a sparse mixer, whose scores are not those that it chooses by.
    pub mixed: Option<f64>,
}

impl Weights {
    /// Scores, as they are.
    pub(super) const PLAIN: Self = Self { normalize: false, eps: 0.0, floor: 0.0, scale: 1.0, mixed: None };
}

/// What a choice ranks, at some expert.
struct Ranked {
    /// `None` for the logits themselves: whoever weighs has to take a softmax over the chosen ones.
    scoring: Option<Scoring>,
    logit: Id,
    /// The score, where it is not the logit.
    score: Id,
    correction: Option<Id>,
    /// What has to hold for an expert to be chosen, and the number that stands for its score if it does not.
    eligible: Option<(Id, f64)>,
}

/// The best groups, among which experts are chosen.
struct Groups {
    count: u64,
    top: u64,
    worth: GroupScore,
}

impl Raiser<'_> {
    /// What makes the choice that an expression is a place of, and where: its rows, then the choice.
    pub(super) fn chosen(&self, expr: Id) -> Option<(NodeId, Vec<Id>)> {
        choice_of(&self.eval, expr)
    }

    pub(super) fn is_call(&self, node: NodeId, op: &str) -> bool {
        matches!(&self.eval.graph.node(node).op, SourceOp::Call(call) if call.domain.is_empty() && call.op == op)
    }

    /// The choice that a node makes.
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
        let scores = self.eval.candidates(node)?;
        let Some((at, experts)) = self.row_index(scores, "expert")? else {
            return self.fault("chooses among what are no experts of a row");
        };
        let choices = match call.op.as_str() {
            "TopK" => self.eval.shape(self.eval.chosen_places(node))?.last().and_then(|k| self.eval.sym.as_int(*k)),
            _ => Some(self.eval.choosers(node).len() as i64),
        };
        let choices = choices.and_then(|k| u32::try_from(k).ok());
        let Some(choices) = choices.filter(|_| call.int("largest", 1) == 1) else {
            return self.fault("chooses an unknown number of experts");
        };
        let ranked = self.ranked(node, &at)?;
        let Some(&expert) = at.last() else { return self.consequence() };
        let groups = match ranked.eligible {
            Some((condition, low)) => Some(self.groups(node, &at, experts, &ranked, condition, low)?),
            None => None,
        };
        let (logit, _) = self.settle(ranked.logit)?;
        let logits = self.exact(logit, expert, experts)?;
        let correction = match ranked.correction {
            Some(element) => Some(self.vector(element, expert, experts, "a correction")?),
            None => None,
        };
        let plain = Route::plain(ranked.scoring.unwrap_or(Scoring::Softmax), choices);
        let route = match groups {
            Some(Groups { count, top, worth }) => Route { groups: count, top_groups: top, group_score: worth, ..plain },
            None => plain,
        };
        let value = self.add(Route { correction, ..route }, &[logits])?;
        Ok(Routing { node, value, experts, choices, weights: None })
    }

    /// What a choice ranks at an index of its candidates.
    fn ranked(&mut self, node: NodeId, at: &[Id]) -> Res<Ranked> {
        let scores = self.eval.candidates(node)?;
        let element = self.eval.element(scores, at)?;
        if self.is_poisoned(element) {
            return self.consequence();
        }
        if let Node::Select(condition, yes, no) = *self.eval.sym.node(element) {
            let (condition, inner, low) = match (self.eval.sym.as_number(yes), self.eval.sym.as_number(no)) {
                (None, Some(low)) => (condition, yes, low),
                (Some(low), None) => (self.eval.sym.not(condition), no, low),
                _ => return self.fault("chooses experts by what are no scores"),
            };
            let ranked = self.scored(inner)?;
            return Ok(Ranked { eligible: Some((condition, low)), ..ranked });
        }
        self.scored(element)
    }

    /// Takes a score with its correction apart.
    fn scored(&mut self, element: Id) -> Res<Ranked> {
        let plain = |scoring, logit| Ranked { scoring, logit, score: element, correction: None, eligible: None };
        if let Some(logit) = self.under_softmax(element)? {
            return Ok(plain(Some(Scoring::Softmax), logit));
        }
        let (terms, constant) = self.eval.sym.terms(element);
        let (varying, fixed): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(t, _)| self.reads_run(*t));
        if let [(score, 1.0)] = varying[..] {
            let found = match *self.eval.sym.node(score) {
                Node::Apply(Func::Sigmoid, logit) => Some((Scoring::Sigmoid, logit)),
                _ => self.under_softmax(score)?.map(|logit| (Scoring::Softmax, logit)),
            };
            if let Some((scoring, logit)) = found {
                let fixed = self.eval.sym.linear(&fixed, constant);
                let correction = (self.eval.sym.as_number(fixed) != Some(0.0)).then_some(fixed);
                return Ok(Ranked { scoring: Some(scoring), logit, score, correction, eligible: None });
            }
        }
        Ok(plain(None, element))
    }

    /// Whether an expression depends on more of the run than on which experts were chosen.
    fn reads_run(&self, expr: Id) -> bool {
        match self.eval.sym.node(expr) {
            Node::Load(base, _) => !matches!(self.eval.sym.base(*base), Base::Constant(..)),
            _ => self.is_varying(expr),
        }
    }

    /// The groups behind the condition under which an expert of the row `at` may be chosen: a `TopK` over what groups are worth names the
    /// expert's.
    fn groups(&mut self, node: NodeId, at: &[Id], experts: u64, ranked: &Ranked, condition: Id, low: f64) -> Res<Groups> {
        // Scores of 0 are below all others only if nothing was added to them.
        let below = low <= UNSEEN || low == 0.0 && ranked.scoring.is_some() && ranked.correction.is_none();
        let Some((&expert, rows)) = at.split_last() else { return self.consequence() };
        let Some((chosen, group, top)) = self.named_group(condition).filter(|_| below) else {
            let text = self.eval.sym.show(condition);
            return self.fault(format!("chooses experts under a condition of no known form: {text}"));
        };
        let worths = self.eval.operand(chosen, 0)?;
        let dims = self.eval.shape(worths)?;
        let count = dims.last().and_then(|d| self.eval.sym.as_int(*d)).filter(|n| *n > 0 && experts.is_multiple_of(*n as u64));
        let (Some(count), 1) = (count, self.eval.call(chosen)?.int("largest", 1)) else {
            return self.fault("chooses among groups of unknown number");
        };
        let size = self.eval.sym.number((experts / count as u64) as f64);
        let own = self.eval.sym.div_mod(expert, size).0;
        let count_id = self.eval.sym.int(count);
        let g = self.eval.sym.var("group", count_id);
        if group != own {
            return self.fault("chooses experts of groups that are not neighbours");
        }
        let worth = self.eval.element(worths, &[rows, &[g]].concat())?;
        let first = self.eval.sym.mul(g, size);
        let mut score_of = |r: &mut Self, within: Id| -> Res<Id> {
            let member = r.eval.sym.add(first, within);
            let at = [rows, &[member]].concat();
            let ranked = r.ranked(node, &at)?;
            let correction = ranked.correction.unwrap_or_else(|| r.eval.sym.int(0));
            Ok(r.eval.sym.add(ranked.score, correction))
        };
        let worth_is = match *self.eval.sym.node(worth) {
            Node::Fold(fold, bound, body) => {
                let Some(extent) = self.eval.sym.bound_extent(bound) else { return self.consequence() };
                match fold {
                    Fold::Max if extent == size && score_of(self, bound)? == body => Some(GroupScore::Best),
                    Fold::Sum if self.eval.sym.as_number(extent) == Some(2.0) => {
                        // The places of a group's two best, in the operand of another TopK.
                        let mut places = Vec::new();
                        self.eval.sym.visit(body, |id, _| {
                            places.extend(self.chosen(id).filter(|(_, at)| at.last() == Some(&bound)).map(|(n, _)| (id, n)));
                            true
                        });
                        match places[..] {
                            [(place, best)] if score_of(self, place)? == body && self.ranks_all(best, size)? => {
                                Some(GroupScore::Two)
                            }
                            _ => None,
                        }
                    }
                    _ => None,
                }
            }
            _ => self.best_of_group(worth, size, &mut score_of)?,
        };
        match worth_is {
            Some(worth) => Ok(Groups { count: count as u64, top, worth }),
            None => {
                let text = self.eval.sym.show(worth);
                self.fault(format!("chooses groups of experts by a worth of no known form: {text}"))
            }
        }
    }

    /// The score at the one place that a `TopK` of one gives.
    fn best_of_group(
        &mut self,
        worth: Id,
        size: Id,
        score_of: &mut dyn FnMut(&mut Self, Id) -> Res<Id>,
    ) -> Res<Option<GroupScore>> {
        let mut places = Vec::new();
        self.eval.sym.visit(worth, |id, _| {
            places.extend(self.chosen(id).map(|(n, _)| (id, n)));
            true
        });
        let [(place, best)] = places[..] else { return Ok(None) };
        Ok((score_of(self, place)? == worth && self.ranks_all(best, size)?).then_some(GroupScore::Best))
    }

    /// Whether a `TopK` gives the largest of so many.
    fn ranks_all(&mut self, node: NodeId, size: Id) -> Res<bool> {
        let operand = self.eval.operand(node, 0)?;
        let largest = self.eval.call(node)?.int("largest", 1) == 1;
        Ok(largest && self.eval.shape(operand)?.last() == Some(&size))
    }

    /// The `TopK` of groups behind `some chosen group is this one`, which group that is, and how many are chosen.
    fn named_group(&mut self, condition: Id) -> Option<(NodeId, Id, u64)> {
        let Node::Not(none) = *self.eval.sym.node(condition) else { return None };
        let Node::Zero(count) = *self.eval.sym.node(none) else { return None };
        let (bound, body) = match *self.eval.sym.node(count) {
            Node::Fold(Fold::Sum, bound, body) => (bound, body),
            _ => return None,
        };
        let top = self.eval.sym.as_int(self.eval.sym.bound_extent(bound)?)?;
        let (hit, one) = self.eval.sym.kept(body)?;
        let Node::Zero(gap) = *self.eval.sym.node(hit) else { return None };
        let (terms, _) = self.eval.sym.terms(gap);
        let (place, c) = terms.into_iter().find(|(t, _)| self.chosen(*t).is_some_and(|(_, at)| at.last() == Some(&bound)))?;
        let group = self.eval.sym.linear(&[(gap, -1.0 / c), (place, 1.0)], 0.0);
        let (chosen, _) = self.chosen(place)?;
        (self.eval.sym.as_number(one) == Some(1.0)).then_some((chosen, group, top as u64))
    }

    /// What a softmax over the last dimension is taken of, at the same index.
    pub(super) fn under_softmax(&mut self, element: Id) -> Res<Option<Id>> {
        let Node::Load(base, index) = self.eval.sym.node(element).clone() else { return Ok(None) };
        let Some(value) = self.eval.value_of(base).filter(|v| self.is_call(v.node, "Softmax")) else { return Ok(None) };
        let axis = self.eval.axis(value.node, self.eval.call(value.node)?.int("axis", -1), index.len())?;
        if axis + 1 != index.len() {
            return self.fault("scores experts by a softmax over something else");
        }
        let operand = self.eval.operand(value.node, 0)?;
        self.eval.element(operand, &index).map(Some)
    }

    /// The row (sequence, token) that a row of a choice belongs to.
    pub(super) fn routed_row(&mut self, node: NodeId, at: &[Id]) -> Res<[Id; 2]> {
        let scores = self.eval.candidates(node)?;
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

    /// How the weight of `choice`, a variable, follows from the scores that were chosen from at the rows `at`.
    pub(super) fn weights(&mut self, routing: Routing, at: &[Id], choice: Id, weight: Id) -> Res<Weights> {
        let node = routing.node;
        let here = [at, &[choice]].concat();
        let (scale, rest) = self.eval.sym.coefficient(weight);
        if let Some(margin) = self.mixed(routing, at, choice, rest)? {
            return Ok(Weights { scale, mixed: Some(margin), ..Weights::PLAIN });
        }
        let index = self.eval.opaque(self.eval.chosen_places(node), &here)?;
        let ranked = self.ranked(node, &[at, &[index]].concat())?;
        if ranked.scoring.is_none() {
            return match self.under_softmax(rest)? {
                Some(logit) if logit == ranked.logit => Ok(Weights { normalize: true, scale, ..Weights::PLAIN }),
                _ => self.fault("weighs experts by their logits"),
            };
        }
        if rest == ranked.score {
            return Ok(Weights { scale, ..Weights::PLAIN });
        }
        let count = self.eval.sym.number(routing.choices.into());
        let sum = self.eval.sym.fold(Fold::Sum, choice, count, ranked.score);
        let divisor = self.eval.sym.quotient(rest, ranked.score);
        if let [(divisor, Power::MINUS_ONE)] = self.eval.sym.factors(divisor)[..]
            && let (divisor, floor) = self.floored(divisor)
            && let (terms, eps) = self.eval.sym.terms(divisor)
            && terms[..] == [(sum, 1.0)]
        {
            return Ok(Weights { normalize: true, eps, floor, scale, mixed: None });
        }
        let text = self.eval.sym.show(weight);
        self.fault(format!("weighs experts in no known way: {text}"))
    }

    /// A number that is at least a positive constant, and that constant; 0 where there is none.
    fn floored(&self, x: Id) -> (Id, f64) {
        let Node::Max(a, b) = *self.eval.sym.node(x) else { return (x, 0.0) };
        match (self.eval.sym.as_number(a), self.eval.sym.as_number(b)) {
            (Some(floor), None) if floor > 0.0 => (b, floor),
            (None, Some(floor)) if floor > 0.0 => (a, floor),
            _ => (x, 0.0),
        }
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
            op.floor = weights.floor as f32;
            if let Some(margin) = weights.mixed {
                (op.scoring, op.margin) = (Scoring::Mixer, margin as f32);
            }
            op.scale = weights.scale as f32;
        }
        Ok(())
    }
}
