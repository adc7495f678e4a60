//! Choice of experts.

use crate::attr::{ParamName, words};
use crate::data::{Data, Routing};
use crate::decl::op;
use crate::interp::Env;
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, vector};
use crate::ty::Ty;
use std::cmp::Ordering;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scoring {
    /// Over all experts of a row.
    Softmax,
    /// Each for itself.
    Sigmoid,
    /// By one softmax per choice, over logits that are near the chosen one's: the sparse mixer (Liu et al. 2023, arXiv 2310.00811) as
    /// Phi-3.5-MoE runs it.
    Mixer,
}

words!(Scoring { Softmax = "softmax", Sigmoid = "sigmoid", Mixer = "mixer" });

/// What a group of experts is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupScore {
    /// Its best expert.
    Best,
    /// The sum of its two best.
    Two,
}

words!(GroupScore { Best = "best", Two = "two" });

op! {
    /// Chooses experts for each row by its logits.
    ///
    /// The scores are the softmax or the sigmoid of the logits. Chosen are the `choices` experts whose score plus correction is largest,
    /// the best first; of equal ones the one with the lower number. With more than one group, experts are chosen only from the
    /// `top_groups` groups that are worth most (of equal ones the lower), a group being `experts / groups` neighbours.
    ///
    /// A `mixer` chooses by the logits, one expert after the other. With `m` the logit of the one chosen, its score is its softmax over
    /// itself and those that were not chosen before it and whose logit `x` is near: `m - x <= margin * max(|x|, m)`.
    ///
    /// The weight of a chosen expert is its score, without the correction; with `normalize` divided by the sum of the row's chosen
    /// scores plus `eps`, or by `floor` where that is larger; times `scale`. The reference computes in f64 and rounds the weights once.
    Route = "route"(logits: Act) -> Routing {
        /// How logits become scores.
        scoring: Scoring,
        /// Experts per row.
        choices: u32,
        /// Added to the scores for choosing, one number per expert. Absent: 0.
        correction: Option<ParamName>,
        /// Groups of experts; 1 for none.
        groups: u64,
        /// Groups that may be chosen from.
        top_groups: u64,
        /// What a group is worth.
        group_score: GroupScore,
        /// Whether the weights of a row are divided by their sum.
        normalize: bool,
        /// Added to that sum.
        eps: f32,
        /// What weights are divided by at least.
        floor: f32,
        /// Factor of the weights.
        scale: f32,
        /// How far below a chosen logit others are near it, relative to the larger of the two; 0 unless the scoring is `mixer`.
        margin: f32,
    }
}

impl Route {
    /// Choice among all experts, weights as they are scored.
    pub fn plain(scoring: Scoring, choices: u32) -> Self {
        Self {
            scoring,
            choices,
            correction: None,
            groups: 1,
            top_groups: 1,
            group_score: GroupScore::Best,
            normalize: false,
            eps: 0.0,
            floor: 0.0,
            scale: 1.0,
            margin: 0.0,
        }
    }

    /// What experts are chosen by, before corrections, and what weights are made of where that does not depend on the choice.
    fn scores(&self, logits: &[f32]) -> Vec<f64> {
        let logits = logits.iter().map(|x| f64::from(*x));
        match self.scoring {
            Scoring::Mixer => logits.collect(),
            Scoring::Sigmoid => logits.map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            Scoring::Softmax => {
                let largest = logits.clone().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = logits.map(|x| (x - largest).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.iter().map(|x| x / sum).collect()
            }
        }
    }

    /// The scores of what a mixer chose, in order.
    fn mixed(&self, logits: &[f64], chosen: &[usize]) -> Vec<f64> {
        let score = |(step, &at): (usize, &usize)| {
            let m = logits[at];
            let near = |x: f64| m - x <= f64::from(self.margin) * x.abs().max(m);
            let others = (0..logits.len()).filter(|e| !chosen[..=step].contains(e)).map(|e| logits[e]);
            1.0 / others.filter(|x| near(*x)).fold(1.0, |sum, x| sum + (x - m).exp())
        };
        chosen.iter().enumerate().map(score).collect()
    }

    /// Experts that may be chosen: those of the best groups.
    fn eligible(&self, ranked: &[f64]) -> Vec<usize> {
        let size = ranked.len() / self.groups as usize;
        let worth: Vec<f64> = ranked
            .chunks(size)
            .map(|group| match self.group_score {
                GroupScore::Best => largest(group, 1)[0],
                GroupScore::Two => largest(group, 2).iter().sum(),
            })
            .collect();
        let mut groups = best(&worth, &(0..worth.len()).collect::<Vec<_>>(), self.top_groups as usize);
        groups.sort_unstable();
        groups.into_iter().flat_map(|group| group * size..(group + 1) * size).collect()
    }
}

/// The `count` largest numbers, or all if there are fewer.
fn largest(values: &[f64], count: usize) -> Vec<f64> {
    best(values, &(0..values.len()).collect::<Vec<_>>(), count).into_iter().map(|at| values[at]).collect()
}

/// Of `among`, which is ascending, those `count` whose values are largest, the largest first, of equal ones the lower.
fn best(values: &[f64], among: &[usize], count: usize) -> Vec<usize> {
    let mut order = among.to_vec();
    order.sort_by(|a, b| values[*b].partial_cmp(&values[*a]).unwrap_or(Ordering::Equal));
    order.truncate(count);
    order
}

impl Semantics for Route {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, experts) = matrix(&operands[0]);
        ensure(rows.routed(self.choices).is_some(), || "operand 'logits' is routed already".to_owned())?;
        let even = self.groups > 0 && experts.is_multiple_of(self.groups);
        ensure(even, || format!("{experts} experts do not make {} groups", self.groups))?;
        ensure((1..=self.groups).contains(&self.top_groups), || "'top_groups' is not within 'groups'".to_owned())?;
        let eligible = experts / self.groups * self.top_groups;
        ensure((1..=eligible).contains(&self.choices.into()), || format!("'choices' is not within {eligible} experts"))?;
        let mixer = self.scoring == Scoring::Mixer;
        ensure(!mixer || self.groups == 1 && self.correction.is_none(), || {
            "a mixer has neither groups nor corrections".to_owned()
        })?;
        ensure(self.margin == 0.0 || mixer && self.margin > 0.0, || "'margin' is not for this scoring".to_owned())?;
        if let Some(correction) = &self.correction {
            vector(params, correction, &format!("{experts} (experts)"), |len| len == experts)?;
        }
        Ok(Ty::Routing { rows, experts, choices: self.choices })
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let (rows, experts) = matrix(&operands[0]);
        let cost = Cost { operations: rows.size(4 * experts), ..Cost::elementwise(operands, result, 0) };
        cost.reading(&self.correction, params)
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let correction = self.correction.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let logits = operands[0].act();
        let choices = self.choices as usize;
        let mut routing = Routing { experts: logits.width, choices, chosen: Vec::new(), weights: Vec::new() };
        for row in 0..logits.rows() {
            let scores = self.scores(logits.row(row));
            let mut ranked = scores.clone();
            for (rank, c) in ranked.iter_mut().zip(correction.iter().flatten()) {
                *rank += f64::from(*c);
            }
            let chosen = best(&ranked, &self.eligible(&ranked), choices);
            let scores: Vec<f64> = match self.scoring {
                Scoring::Mixer => self.mixed(&scores, &chosen),
                Scoring::Softmax | Scoring::Sigmoid => chosen.iter().map(|at| scores[*at]).collect(),
            };
            let sum: f64 = scores.iter().sum();
            let total = if self.normalize { (sum + f64::from(self.eps)).max(self.floor.into()) } else { 1.0 };
            routing.weights.extend(scores.iter().map(|score| (score / total * f64::from(self.scale)) as f32));
            routing.chosen.extend(chosen.iter().map(|at| *at as u32));
        }
        Ok(Data::Routing(routing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, tokens};
    use crate::ty::Rows;

    fn routed(op: Route, logits: &[f32], correction: Option<&[f32]>) -> (Vec<u32>, Vec<f32>) {
        let mut bench = Bench::default();
        if let Some(c) = correction {
            bench = Bench::with_params(&[("c", c.len(), c)]);
        }
        let y = bench.eval(op, &[&act(logits.len(), logits)]);
        (y.routing().chosen.clone(), y.routing().weights.clone())
    }

    #[test]
    fn the_best_experts_get_their_softmax() {
        // softmax(ln 1, ln 2, ln 4, ln 1) = 1/8, 2/8, 4/8, 1/8
        let logits = [0.0, 2f32.ln(), 4f32.ln(), 0.0];
        let (experts, weights) = routed(Route::plain(Scoring::Softmax, 3), &logits, None);
        assert_eq!(experts, [2, 1, 0]);
        near(&weights, &[0.5, 0.25, 0.125], 1e-7);
        let op = Route { normalize: true, scale: 3.0, ..Route::plain(Scoring::Softmax, 2) };
        near(&routed(op, &logits, None).1, &[2.0, 1.0], 1e-6);
    }

    /// The correction chooses but does not weigh.
    #[test]
    fn corrected_sigmoids() {
        let op = Route { correction: Some("c".into()), eps: 0.5, normalize: true, ..Route::plain(Scoring::Sigmoid, 2) };
        let (experts, weights) = routed(op, &[0.0, 0.0, -30.0, 0.0], Some(&[0.0, 0.1, 9.0, 0.0]));
        assert_eq!(experts, [2, 1]);
        near(&weights, &[0.0, 0.5], 1e-6);
    }

    /// The numbers are those of `sparsemixer` in transformers, with a jitter of 0.01.
    #[test]
    fn a_mixer_shares_with_what_is_near() {
        let op = Route { margin: 0.02, ..Route::plain(Scoring::Mixer, 2) };
        let near_alone = |logits: &[f32]| routed(op.clone(), logits, None);
        // 1.0 and 0.985 are near each other, and 0.97 near the second only; by size, not by distance.
        let (experts, weights) = near_alone(&[0.97, 1.0, -3.0, 0.985]);
        assert_eq!(experts, [1, 3]);
        let share = |gaps: &[f64]| 1.0 / (1.0 + gaps.iter().map(|gap| (-gap).exp()).sum::<f64>());
        near(&weights, &[share(&[0.015]), share(&[0.015])], 1e-6);
        let (experts, weights) = near_alone(&[-100.0, -101.0, -101.5, -104.0]);
        assert_eq!(experts, [0, 1]);
        near(&weights, &[share(&[1.0, 1.5]), share(&[0.5])], 1e-6);
        near(&near_alone(&[0.0; 3]).1, &[1.0 / 3.0, 0.5], 1e-6);
        let scaled = Route { normalize: true, scale: 3.0, ..op.clone() };
        near(&routed(scaled, &[0.0; 3], None).1, &[1.2, 1.8], 1e-6);
    }

    /// 1/8 and 1/8 are far below the floor of 1/2.
    #[test]
    fn sums_have_a_floor() {
        let op = Route { correction: Some("c".into()), floor: 0.5, normalize: true, ..Route::plain(Scoring::Softmax, 2) };
        let logits = [0.0, 2f32.ln(), 4f32.ln(), 0.0];
        near(&routed(op.clone(), &logits, Some(&[2.0, 0.0, 0.0, 2.0])).1, &[0.25, 0.25], 1e-7);
        near(&routed(op, &logits, Some(&[0.0; 4])).1, &[2.0 / 3.0, 1.0 / 3.0], 1e-7);
    }

    /// Group worths 3+0 against 2+2 and, by the best alone, 3 against 2.
    #[test]
    fn groups_are_chosen_first() {
        let logits: Vec<f32> = [0.9, 0.01, 0.6, 0.6].iter().map(|p: &f32| (p / (1.0 - p)).ln()).collect();
        let op = |group_score| Route { groups: 2, group_score, ..Route::plain(Scoring::Sigmoid, 2) };
        assert_eq!(routed(op(GroupScore::Two), &logits, None).0, [2, 3]);
        assert_eq!(routed(op(GroupScore::Best), &logits, None).0, [0, 1]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let op = Route::plain(Scoring::Softmax, 2);
        assert_eq!(infer(op.clone(), &[tokens(4)], &[]), Ok(Ty::Routing { rows: Rows::Tokens, experts: 4, choices: 2 }));
        assert_eq!(infer(op.clone(), &[tokens(1)], &[]), Err("'choices' is not within 1 experts".into()));
        let again = Ty::Act { rows: Rows::LogitChoices(2), width: 4 };
        assert_eq!(infer(op.clone(), &[again], &[]), Err("operand 'logits' is routed already".into()));
        assert!(infer(Route { groups: 3, ..op.clone() }, &[tokens(4)], &[]).is_err());
        assert!(infer(Route { groups: 0, ..op.clone() }, &[tokens(4)], &[]).is_err());
        assert!(infer(Route { top_groups: 2, ..op.clone() }, &[tokens(4)], &[]).is_err());
        assert!(infer(Route { margin: 0.02, ..op.clone() }, &[tokens(4)], &[]).is_err());
        let mixer = Route { margin: 0.02, ..Route::plain(Scoring::Mixer, 2) };
        assert!(infer(mixer.clone(), &[tokens(4)], &[]).is_ok());
        assert!(infer(Route { groups: 2, ..mixer }, &[tokens(4)], &[]).is_err());
        let op = Route { correction: Some("c".into()), ..op };
        assert_eq!(infer(op, &[tokens(4)], &[("c", 1, 3)]), Err("@c has 3 elements, not 4 (experts)".into()));
    }
}
