//! Weights of a sparse mixer (Liu et al. 2023, arXiv 2310.00811), as Phi-3.5-MoE runs it.
//!
//! Experts are chosen one after the other. The weight of a choice is its softmax over the logits without those chosen before and those that are
//! far from it: `(m - x) / max(|x|, m) > margin`, where `m` is the chosen logit. What the model should compute at any expert, for the margin
//! that stands in it, is built and compared: a mixer that does anything else is not recognised.

use super::routing::Routing;
use super::{HashMap, Raiser, Res};
use crate::sym::{Combine as Fold, Id, Node};

impl Raiser<'_> {
    /// The margin, if the weights of a choice at the rows `at` are those of a mixer.
    pub(super) fn mixed(&mut self, routing: Routing, at: &[Id], choice: Id, weight: Id) -> Res<Option<f64>> {
        let scores = self.eval.candidates(routing.node)?;
        let Some(&experts) = self.eval.shape(scores)?.last() else { return self.consequence() };
        let (expert, other) = (self.eval.sym.var("expert", experts), self.eval.sym.var("other expert", experts));
        let score = self.eval.element(scores, &[at, &[expert]].concat())?;
        let mut margin = None;
        for (step, chooser) in self.eval.choosers(routing.node).into_iter().enumerate() {
            let number = self.eval.sym.number(step as f64);
            let share = self.eval.sym.subst(weight, &HashMap::from([(choice, number)]));
            let Node::Load(_, index) = self.eval.sym.node(share).clone() else { return Ok(None) };
            let Some((place, row)) = index.split_last() else { return Ok(None) };
            let is_own = self.chosen(*place).is_some_and(|(node, place)| node == chooser && place[..place.len() - 1] == *at);
            let zero = self.eval.sym.int(0);
            let generic = self.eval.sym.subst(share, &HashMap::from([(*place, expert)]));
            let Some(found) = self.under_softmax(generic)?.filter(|_| is_own && *row == *at && expert != zero) else {
                return Ok(None);
            };
            let left = self.eval.operand(chooser, 0)?;
            let own = self.eval.element(left, &[at, &[expert]].concat())?;
            let any = self.eval.element(left, &[at, &[other]].concat())?;
            let largest = self.eval.sym.fold(Fold::Max, other, experts, any);
            let Some(here) = self.margin(found, [score, own, largest]) else { return Ok(None) };
            if *margin.get_or_insert(here) != here {
                return Ok(None);
            }
        }
        Ok(margin)
    }

    /// The margin within which an expression keeps what is left of the logits: `score` at this expert, `own` without what was chosen before,
    /// and the largest of those.
    fn margin(&mut self, found: Id, [score, own, largest]: [Id; 3]) -> Option<f64> {
        let Node::Select(condition, ..) = *self.eval.sym.node(found) else { return None };
        let near = match *self.eval.sym.node(condition) {
            Node::Not(near) => near,
            _ => condition,
        };
        let Node::NonNegative(gap) = *self.eval.sym.node(near) else { return None };
        let (_, margin) = self.eval.sym.terms(gap);
        let size = self.eval.sym.abs(score);
        let (distance, unit) = (self.eval.sym.sub(largest, score), self.eval.sym.max(size, largest));
        let (ratio, bound) = (self.eval.sym.quotient(distance, unit), self.eval.sym.number(margin));
        let (far, never) = (self.eval.sym.less(bound, ratio), self.eval.sym.number(f64::NEG_INFINITY));
        (self.eval.sym.select(far, never, own) == found && margin > 0.0).then_some(margin)
    }
}
