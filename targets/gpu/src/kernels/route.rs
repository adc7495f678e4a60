//! Choice of experts.
//!
//! A wave takes a row. Scores are f64, as in the reference evaluation; what they are chosen by stands beside them in shared memory, and the
//! best is found lane by lane, then among lanes, of equal ones the first.

use super::Kernel;
use crate::abi::Call;
use crate::group::Team;
use crate::isa::Isa;
use q35_dialects::q35::{GroupScore, Scoring};
use q35_launch::Spec;
use q35_launch::layout::{entry, routing_stride, row_at};
use q35_launch::spec::{Divisor, Groups, Route};
use q35_mlir::builder::Val;
use q35_mlir::math::{exp, sigmoid};
use q35_mlir::types::{F32, F64, I32, I64};

/// Most experts to choose from: their scores lie in shared memory.
const MOST_EXPERTS: u64 = 1 << 11;
/// The rank of what may not be chosen (any more).
const OUT: f64 = f64::NEG_INFINITY;
/// The rank of a score that is not a number, so that there are always enough experts to choose from.
const LOWEST: f64 = f64::MIN;

/// Why there is no kernel for it, if there is none.
pub(super) fn unsupported(route: &Route) -> Option<String> {
    (route.experts > MOST_EXPERTS)
        .then(|| format!("a choice among {} experts has no kernel on GPUs, {MOST_EXPERTS} are the most", route.experts))
}

impl Kernel for Route {
    fn threads(&self, isa: &dyn Isa) -> u32 {
        isa.wave()
    }

    fn shared_bytes(&self) -> u32 {
        (16 * self.experts + 8 * self.groups.map_or(0, |groups| groups.count)) as u32
    }

    fn build(&self, call: &Call<'_>) {
        let shared = call.b.shared(self.shared_bytes(), 16);
        let at = |place: u64| shared.at(8 * place as i64);
        let row = Row { route: self, call, scores: at(0), ranks: at(self.experts), worths: at(2 * self.experts) };
        row.score();
        call.barrier();
        if let Some(groups) = self.groups {
            row.drop_groups(groups);
        }
        row.choose();
    }
}

/// A row at work; its numbers lie in shared memory.
struct Row<'a, 'k> {
    route: &'a Route,
    call: &'a Call<'k>,
    /// Scores, by expert.
    scores: Val<'k>,
    /// What experts are chosen by.
    ranks: Val<'k>,
    /// What groups are chosen by.
    worths: Val<'k>,
}

/// Number `at` of an array of f64.
fn number<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 8).load(F64, 8)
}

/// Writes number `at` of an array of f64.
fn put<'k>(array: Val<'k>, at: Val<'k>, value: Val<'k>) {
    array.at(at * 8).store(value, 8);
}

impl<'k> Row<'_, 'k> {
    fn experts(&self) -> i64 {
        self.route.experts as i64
    }

    /// Scores, and ranks before groups are looked at. A lane reads later what it wrote itself, or after a barrier.
    fn score(&self) {
        let (call, b) = (self.call, self.call.b);
        let logits = row_at(call.arg(0), call.tile, self.route.experts);
        let logit = |at: Val<'k>| logits.at(at * 4).load(F32, 4);
        let correction = self.route.correction.then(|| call.arg(1));
        let (lanes, lane) = call.members(Team::Wave);
        let sum = match self.route.scoring {
            Scoring::Sigmoid | Scoring::Mixer => None,
            Scoring::Softmax => {
                let none = b.f32(f32::NEG_INFINITY);
                let largest =
                    b.for_iter(lane, self.experts(), i64::from(lanes), none, |at, largest: Val<'k>| largest.max(logit(at)));
                let largest = call.wave_all(largest, |a: Val<'k>, b| a.max(b)).to(F64);
                let sum = b.for_iter(lane, self.experts(), i64::from(lanes), b.f64(0.0), |at, sum: Val<'k>| {
                    let power = exp(logit(at).to(F64) - largest);
                    put(self.scores, at, power);
                    sum + power
                });
                Some(call.wave_all(sum, |a: Val<'k>, b| a + b))
            }
        };
        call.each(Team::Wave, self.experts(), |at| {
            let score = match (self.route.scoring, sum) {
                (_, Some(sum)) => number(self.scores, at) / sum,
                (Scoring::Mixer, _) => logit(at).to(F64),
                _ => sigmoid(logit(at).to(F64)),
            };
            put(self.scores, at, score);
            let rank = correction.map_or(score, |correction| score + correction.at(at * 4).load(F32, 4).to(F64));
            put(self.ranks, at, b.f64(LOWEST).max(rank));
        });
    }

    /// The place of the largest of `count` numbers, of equal ones the first, for all lanes; what stood there is out.
    fn take_best(&self, numbers: Val<'k>, count: i64) -> Val<'k> {
        let (call, b) = (self.call, self.call.b);
        let (lanes, lane) = call.members(Team::Wave);
        let none = (b.f64(OUT), b.i32(0));
        let own = b.for_iter(lane, count, i64::from(lanes), none, |at, (largest, best): (Val<'k>, Val<'k>)| {
            let value = number(numbers, at);
            let better = value.gt(largest);
            (better.select(value, largest), better.select(at.to(I32), best))
        });
        let (_, best) = call.wave_all(own, |(value, at): (Val<'k>, Val<'k>), (other, other_at)| {
            let better = other.gt(value) | (other.eq(value) & other_at.lt(at));
            (better.select(other, value), better.select(other_at, at))
        });
        let best = best.to_u(I64);
        call.barrier();
        b.if_(lane.eq(0), || put(numbers, best, b.f64(OUT)));
        call.barrier();
        best
    }

    /// Takes the experts out whose group is not among the best.
    fn drop_groups(&self, groups: Groups) {
        let (call, b) = (self.call, self.call.b);
        let (count, size) = (groups.count as i64, (self.route.experts / groups.count) as i64);
        call.each(Team::Wave, count, |group| {
            let two = b.for_iter(0, size, 1, [b.f64(OUT), b.f64(OUT)], |at, [first, second]: [Val<'k>; 2]| {
                let rank = number(self.ranks, group * size + at);
                let (best, next) = (rank.gt(first), rank.gt(second));
                [best.select(rank, first), best.select(first, next.select(rank, second))]
            });
            let worth = match groups.worth {
                GroupScore::Two if size > 1 => b.f64(LOWEST).max(two[0] + two[1]),
                GroupScore::Two | GroupScore::Best => two[0],
            };
            put(self.worths, group, worth);
        });
        call.barrier();
        b.for_(0, groups.top as i64, 1, |_| {
            self.take_best(self.worths, count);
        });
        call.each(Team::Wave, self.experts(), |expert| {
            let kept = number(self.worths, expert.div_u(size)).eq(OUT);
            put(self.ranks, expert, kept.select(number(self.ranks, expert), OUT));
        });
        call.barrier();
    }

    /// The softmax of a mixer's chosen logit over itself and those near it that may still be chosen; it takes the logit's place.
    fn mix(&self, expert: Val<'k>) {
        let (call, b) = (self.call, self.call.b);
        let (lanes, lane) = call.members(Team::Wave);
        let logit = number(self.scores, expert);
        let sum = b.for_iter(lane, self.experts(), i64::from(lanes), b.f64(0.0), |at, sum: Val<'k>| {
            let other = number(self.ranks, at);
            let near = (logit - other).le(logit.max(other.abs()) * f64::from(self.route.margin)) & other.gt(OUT);
            sum + near.select(exp(other - logit), 0.0)
        });
        let sum = call.wave_all(sum, |a: Val<'k>, b| a + b) + 1.0;
        call.barrier();
        b.if_(lane.eq(0), || put(self.scores, expert, b.f64(1.0) / sum));
        call.barrier();
    }

    /// Chooses experts and writes a row of the routing.
    fn choose(&self) {
        let (call, b, route) = (self.call, self.call.b, self.route);
        let choices = route.choices as i64;
        let row = call.arg(route.args() - 1).at(call.tile * routing_stride(route.choices as usize) as i64);
        let sum = b.for_iter(0, choices, 1, b.f64(0.0), |choice, sum: Val<'k>| {
            let expert = self.take_best(self.ranks, self.experts());
            b.if_(call.lane().eq(0), || row.at(choice * 4).store(expert.to(I32), 4));
            if route.scoring == Scoring::Mixer {
                self.mix(expert);
            }
            sum + number(self.scores, expert)
        });
        call.barrier();
        call.each(Team::Wave, choices, |choice| {
            let score = number(self.scores, entry(row, choice));
            let divisor = |Divisor { eps, floor }| (sum + f64::from(eps)).max(f64::from(floor));
            let share = route.normalize.map_or(score, |by| score / divisor(by));
            row.at((choice + choices) * 4).store((share * f64::from(route.scale)).to(F32), 4);
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::testing::{Arg, GPUS, Random, floats, run};
    use q35_dialects::data::{Data, Matrix, ParamValue};
    use q35_dialects::interp::{Env, StepInput};
    use q35_dialects::q35::{self, Op};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    const ROWS: usize = 5;

    fn check(op: q35::Route, experts: usize) {
        let choices = op.choices as usize;
        let mut logits = Random(experts as u64).numbers(ROWS * experts, 4.0);
        for (row, logits) in logits.chunks_mut(experts).enumerate() {
            logits[experts - 1] = logits[row % experts];
        }
        let correction = Random(9).numbers(experts, 0.2);
        let name = op.correction.iter().cloned();
        let value = || Arc::new(ParamValue::Float(Matrix::new(experts, correction.clone())));
        let params = name.map(|name| (name, value())).collect::<BTreeMap<_, _>>();
        let (input, mut caches) = (StepInput::default(), BTreeMap::new());
        let mut env = Env { input: &input, params: &params, caches: &mut caches };
        let expected = Op::from(op.clone()).eval(&[&Data::Act(Matrix::new(experts, logits.clone()))], &mut env).unwrap();
        let expected = expected.routing();
        let kernel = Route::of(&op, experts as u64);
        let corrections = kernel.correction.then(|| Arg::floats(&correction));
        let stride = routing_stride(choices);
        let args: Vec<Arg> =
            [Some(Arg::rows(&logits, experts)), corrections, Some(Arg::space(ROWS * stride))].into_iter().flatten().collect();
        for gpu in &GPUS {
            let after = run(gpu, &kernel, &args, [ROWS as i64, 0, 0, 0]);
            for (row, found) in after.last().unwrap().chunks(stride).enumerate() {
                let found = floats(&found[..8 * choices]);
                for (choice, (got, weight)) in found[..choices].iter().zip(&found[choices..]).enumerate() {
                    let (at, what) = (row * choices + choice, format!("{} {} row {row}", gpu.name, kernel.name()));
                    assert_eq!(got.to_bits(), expected.chosen[at], "{what}");
                    let error = (weight - expected.weights[at]).abs();
                    assert!(error <= 1.2e-7 * expected.weights[at].abs(), "{what}: {weight}, not {}", expected.weights[at]);
                }
            }
        }
    }

    #[test]
    fn every_scoring_chooses_and_weighs_as_the_reference_does() {
        use Scoring::{Mixer, Sigmoid, Softmax};
        let plain = q35::Route::plain;
        let corrected = |scoring, choices| q35::Route { correction: Some("c".into()), ..plain(scoring, choices) };
        check(q35::Route { normalize: true, floor: 0.3, ..corrected(Softmax, 2) }, 40);
        let groups = q35::Route { groups: 4, top_groups: 2, group_score: GroupScore::Two, ..corrected(Sigmoid, 3) };
        check(q35::Route { normalize: true, eps: 1e-20, scale: 2.5, ..groups }, 24);
        check(q35::Route { margin: 0.5, ..plain(Mixer, 2) }, 16);
        check(q35::Route { margin: 2.0, normalize: true, eps: 1e-3, floor: 0.9, ..plain(Mixer, 3) }, 70);
    }
}
