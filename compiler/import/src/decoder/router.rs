//! How experts are chosen and weighed, from the logits of a router.

use super::shared::Shared;
use super::{Choice, Experts, GroupScore, Groups, Scoring, Write};
use crate::onnx::proto::Attribute;
use crate::onnx::proto::build::BOOL;

/// Score of an expert that may not be chosen.
const NEVER: f32 = f32::MIN;

impl Write<'_> {
    /// Chosen experts and their weights, `[batch, sequence, choices]` each.
    pub(super) fn choose(&mut self, module: &str, logits: &str, e: &Experts, shared: &Shared) -> (String, String) {
        self.w.enter(&format!("{module}.{}", e.router));
        let choice = &e.choice;
        let (indices, mut weights) = match choice.scoring {
            Scoring::Softmax | Scoring::Sigmoid => self.best(module, logits, e, shared),
            Scoring::Mixer => self.mix(logits, choice),
        };
        if choice.normalize {
            let axis = self.w.ints(&[-1]);
            let mut sum = self.w.op("ReduceSum", [&weights, &axis], [Attribute::int("keepdims", 1)]);
            if choice.eps > 0.0 {
                let eps = self.w.number(choice.eps);
                sum = self.w.op("Add", [&sum, &eps], []);
            }
            if choice.floor > 0.0 {
                let floor = self.w.number(choice.floor);
                sum = self.w.op("Max", [&sum, &floor], []);
            }
            weights = self.w.op("Div", [&weights, &sum], []);
        }
        (indices, self.times(weights, choice.scale))
    }

    /// The experts with the best scores, and these.
    fn best(&mut self, module: &str, logits: &str, e: &Experts, shared: &Shared) -> (String, String) {
        let choice = &e.choice;
        let last = || [Attribute::int("axis", -1)];
        let scores = match choice.scoring {
            Scoring::Sigmoid => self.w.op("Sigmoid", [logits], []),
            _ => self.w.op("Softmax", [logits], last()),
        };
        let mut ranked = match choice.correction {
            None => scores.clone(),
            Some((name, leading)) => {
                let correction = self.weight(&format!("{module}.{name}"), &[leading, &[e.count]].concat());
                let flat = self.w.ints(&[e.count as i64]);
                let correction = self.w.op("Reshape", [&correction, &flat], []);
                self.w.op("Add", [&scores, &correction], [])
            }
        };
        if let Some(groups) = choice.groups {
            ranked = self.among_top_groups(&ranked, e.count, groups, shared);
        }
        let count = self.w.ints(&[choice.count as i64]);
        let mut top = self.w.ops("TopK", [&ranked, &count], last(), 2).into_iter();
        let (values, indices) = (top.next().unwrap_or_default(), top.next().unwrap_or_default());
        let weights = match ranked == scores {
            true => values,
            false => self.w.op("GatherElements", [&scores, &indices], last()),
        };
        (indices, weights)
    }

    /// One expert after the other, the best of what is left, and the softmax of its logit over those that are left and near it.
    fn mix(&mut self, logits: &str, choice: &Choice) -> (String, String) {
        let last = || [Attribute::int("axis", -1)];
        let (axis, never, margin) = (self.w.ints(&[-1]), self.w.number(f32::NEG_INFINITY), self.w.number(choice.margin));
        let size = self.w.op("Abs", [logits], []);
        let (mut left, mut places, mut weights) = (logits.to_owned(), Vec::new(), Vec::new());
        for step in 1..=choice.count {
            let largest = self.w.op("ReduceMax", [&left, &axis], [Attribute::int("keepdims", 1)]);
            let place = self.w.op("ArgMax", [&left], [Attribute::int("axis", -1), Attribute::int("keepdims", 1)]);
            let unit = self.w.op("Max", [&size, &largest], []);
            let gap = self.w.op("Sub", [&largest, logits], []);
            let distance = self.w.op("Div", [&gap, &unit], []);
            let far = self.w.op("Greater", [&distance, &margin], []);
            let near = self.w.op("Where", [&far, &never, &left], []);
            let shares = self.w.op("Softmax", [&near], last());
            weights.push(self.w.op("GatherElements", [&shares, &place], last()));
            if step < choice.count {
                let shape = self.w.op("Shape", [&place], []);
                let taken = self.w.op("Expand", [&never, &shape], []);
                left = self.w.op("ScatterElements", [&left, &place, &taken], last());
            }
            places.push(place);
        }
        (self.w.concat(&places, -1), self.w.concat(&weights, -1))
    }

    /// Scores with those of experts outside the best groups made so small that they are never chosen.
    fn among_top_groups(&mut self, scores: &str, experts: u64, groups: Groups, shared: &Shared) -> String {
        let last = || [Attribute::int("axis", -1)];
        let (count, each, all) = (
            self.w.ints(&[groups.count as i64]),
            self.w.ints(&[(experts / groups.count) as i64]),
            self.w.ints(&[experts as i64]),
        );
        let apart = self.w.op("Concat", [&shared.batch, &shared.sequence, &count, &each], [Attribute::int("axis", 0)]);
        let whole = self.w.op("Concat", [&shared.batch, &shared.sequence, &all], [Attribute::int("axis", 0)]);
        let grouped = self.w.op("Reshape", [scores, &apart], []);
        let axis = self.w.ints(&[-1]);
        let worth = match groups.score {
            GroupScore::Best => self.w.op("ReduceMax", [&grouped, &axis], [Attribute::int("keepdims", 0)]),
            GroupScore::Two => {
                let two = self.w.ints(&[2]);
                let best = self.w.ops("TopK", [&grouped, &two], last(), 2).remove(0);
                self.w.op("ReduceSum", [&best, &axis], [Attribute::int("keepdims", 0)])
            }
        };
        let top = self.w.ints(&[groups.top as i64]);
        let top = self.w.ops("TopK", [&worth, &top], last(), 2).remove(1);
        let (zero, one, never) = (self.w.number(0.0), self.w.number(1.0), self.w.number(NEVER));
        let zeros = self.w.op("Mul", [&worth, &zero], []);
        let shape = self.w.op("Shape", [&top], []);
        let ones = self.w.op("Expand", [&one, &shape], []);
        let marks = self.w.op("ScatterElements", [&zeros, &top, &ones], last());
        let marks = self.w.op("Unsqueeze", [&marks, &axis], []);
        let marks = self.w.op("Expand", [&marks, &apart], []);
        let marks = self.w.op("Reshape", [&marks, &whole], []);
        let may = self.w.op("Cast", [&marks], [Attribute::int("to", BOOL.into())]);
        self.w.op("Where", [&may, scores, &never], [])
    }
}
