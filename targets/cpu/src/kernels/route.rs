//! Choice of experts, and the routed rows by expert.
//!
//! What enters is a row of logits; what leaves is a row of a routing, and for all rows of a step together the list that lets a layer of
//! experts read each weight once. Both lie as [`layout`](q35_launch::layout) says. Scores are f64, as in the reference evaluation,
//! summed in the same order, so that equal scores stay equal and the lower number wins.

use q35_dialects::q35::{GroupScore, Scoring};
use q35_launch::layout::routing_stride;
use q35_launch::spec::{Divisor, Groups, Route, SortByExpert};
use q35_mlir::builder::{Builder, Val};
use q35_mlir::math::{exp, sigmoid};
use q35_mlir::types::{F32, F64, I32};

use super::columns::each;
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

/// Most experts to choose from: their scores lie on the stack.
const MOST_EXPERTS: u64 = 1 << 12;
/// The rank of what may not be chosen (any more).
const OUT: f64 = f64::NEG_INFINITY;
/// The rank of a score that is not a number, so that there are always enough experts to choose from.
const LOWEST: f64 = f64::MIN;

/// Numbers of a row on the stack.
struct Scratch<'k> {
    /// Scores, by expert.
    scores: Val<'k>,
    /// What experts are chosen by.
    ranks: Val<'k>,
    /// What groups are chosen by.
    worths: Val<'k>,
}

/// Why there is no kernel for it, if there is none.
pub(super) fn unsupported(route: &Route) -> Option<String> {
    (route.experts > MOST_EXPERTS)
        .then(|| format!("a choice among {} experts has no kernel on the CPU, {MOST_EXPERTS} are the most", route.experts))
}

/// Scores, and ranks before groups are looked at.
fn score<'k>(route: &Route, count: u32, logits: Val<'k>, correction: Option<Val<'k>>, to: &Scratch<'k>) {
    let b = logits.builder();
    let wide = F64.x(count);
    let sum = match route.scoring {
        Scoring::Sigmoid | Scoring::Mixer => None,
        Scoring::Softmax => {
            let largest = b.for_iter(0, route.experts as i64, 1, b.constant(F32, f64::NEG_INFINITY), |at, largest| {
                largest.max(logits.at(at * 4).load(F32, 4))
            });
            each(b, count, route.experts, |at| {
                place(to.scores, at.column).store(exp(at.load(logits).to(wide) - largest.to(F64)), 8);
            });
            let add = |at, sum: Val<'k>| sum + number(to.scores, at);
            Some(b.for_iter(0, route.experts as i64, 1, b.f64(0.0), add))
        }
    };
    each(b, count, route.experts, |at| {
        let at_scores = place(to.scores, at.column);
        let score = match (route.scoring, sum) {
            (_, Some(sum)) => at_scores.load(wide, 8) / sum,
            (Scoring::Mixer, _) => at.load(logits).to(wide),
            _ => sigmoid(at.load(logits).to(wide)),
        };
        at_scores.store(score, 8);
        let rank = correction.map_or(score, |correction| score + at.load(correction).to(wide));
        place(to.ranks, at.column).store(b.constant(wide, LOWEST).max(rank), 8);
    });
}

/// Takes the experts out whose group is not among the best.
fn drop_groups<'k>(route: &Route, b: &'k Builder<'k>, groups: Groups, on: &Scratch<'k>) {
    let (count, size) = (groups.count as i64, (route.experts / groups.count) as i64);
    b.for_(0, count, 1, |group| {
        let two = b.for_iter(0, size, 1, [b.f64(OUT), b.f64(OUT)], |at, [first, second]| {
            let rank = number(on.ranks, group * size + at);
            let (best, next) = (rank.gt(first), rank.gt(second));
            [best.select(rank, first), best.select(first, next.select(rank, second))]
        });
        let worth = match groups.worth {
            GroupScore::Two if size > 1 => b.f64(LOWEST).max(two[0] + two[1]),
            GroupScore::Two | GroupScore::Best => two[0],
        };
        place(on.worths, group).store(worth, 8);
    });
    b.for_(0, groups.top as i64, 1, |_| {
        take_best(b, on.worths, count);
    });
    b.for_(0, route.experts as i64, 1, |expert| {
        let kept = number(on.worths, expert.div_u(size)).eq(OUT);
        place(on.ranks, expert).store(kept.select(number(on.ranks, expert), OUT), 8);
    });
}

/// The softmax of a mixer's chosen logit over itself and those near it that may still be chosen; it takes the logit's place.
fn mix<'k>(route: &Route, b: &'k Builder<'k>, from: &Scratch<'k>, expert: Val<'k>) {
    let logit = number(from.scores, expert);
    let sum = b.for_iter(0, route.experts as i64, 1, b.f64(1.0), |at, sum| {
        let other = number(from.ranks, at);
        let near = (logit - other).le(logit.max(other.abs()) * f64::from(route.margin)) & other.gt(OUT);
        sum + near.select(exp(other - logit), 0.0)
    });
    place(from.scores, expert).store(b.f64(1.0) / sum, 8);
}

/// Chooses experts and writes a row of the routing.
fn choose<'k>(route: &Route, b: &'k Builder<'k>, from: &Scratch<'k>, row: Val<'k>) {
    let (experts, choices) = (route.experts as i64, route.choices as i64);
    let sum = b.for_iter(0, choices, 1, b.f64(0.0), |choice, sum| {
        let expert = take_best(b, from.ranks, experts);
        row.at(choice * 4).store(expert.to(I32), 4);
        if route.scoring == Scoring::Mixer {
            mix(route, b, from, expert);
        }
        sum + number(from.scores, expert)
    });
    b.for_(0, choices, 1, |choice| {
        let score = number(from.scores, entry(row, choice));
        let share =
            route.normalize.map_or(score, |Divisor { eps, floor }| score / (sum + f64::from(eps)).max(f64::from(floor)));
        row.at((choice + choices) * 4).store((share * f64::from(route.scale)).to(F32), 4);
    });
}

/// Where number `at` of an array of f64 lies.
fn place<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 8)
}

/// Number `at` of an array of f64.
fn number<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    place(array, at).load(F64, 8)
}

/// The place of the largest of `count` numbers, of equal ones the first; what stood there is out.
fn take_best<'k>(b: &'k Builder<'k>, numbers: Val<'k>, count: i64) -> Val<'k> {
    let (_, best) = b.for_iter(0, count, 1, (b.f64(OUT), b.i64(0)), |at, (largest, best)| {
        let value = number(numbers, at);
        let better = value.gt(largest);
        (better.select(value, largest), better.select(at, best))
    });
    place(numbers, best).store(b.f64(OUT), 8);
    best
}

impl Kernel for Route {
    fn build<'k>(&self, level: Level, call: &Call<'k>) {
        let (b, count) = (call.b, lanes(level) / 2);
        let logits = call.arg(0);
        let correction = self.correction.then(|| call.arg(1));
        let routing = call.arg(1 + usize::from(self.correction));
        let numbers = |n: u64| b.alloca(8 * n.next_multiple_of(count.into()) as u32, 64);
        let groups = self.groups.map_or(1, |groups| groups.count);
        let scratch = Scratch { scores: numbers(self.experts), ranks: numbers(self.experts), worths: numbers(groups) };
        call.for_tiles(|row| {
            score(self, count, row_at(logits, row, self.experts), correction, &scratch);
            if let Some(groups) = self.groups {
                drop_groups(self, b, groups, &scratch);
            }
            choose(self, b, &scratch, routing.at(row * routing_stride(self.choices as usize) as i64));
        });
    }
}

impl Kernel for SortByExpert {
    fn build<'k>(&self, _: Level, call: &Call<'k>) {
        let b = call.b;
        let (routing, order) = (call.arg(0), call.arg(1));
        let (section, choices) = self.routed.section();
        let (choices, experts) = (choices as i64, self.experts as i64);
        let count = call.dim(section.dim());
        call.for_tiles(|_| {
            let starts = order.at(count * (choices * 4));
            let each_routed = |body: &dyn Fn(Val<'k>, Val<'k>)| {
                b.for_(0, count, 1, |row| {
                    let chosen = routing.at(row * routing_stride(choices as usize) as i64);
                    b.for_(0, choices, 1, |choice| body(row * choices + choice, entry(chosen, choice)));
                });
            };
            let start = |at: Val<'k>| starts.at(at * 4);
            let grow = |at: Val<'k>, by: Val<'k>| start(at).store(start(at).load(I32, 4) + by, 4);
            b.for_(0, experts + 2, 1, |at| start(at).store(b.i32(0), 4));
            // Two places further on: adding up leaves each expert's beginning one place further on, and placing its rows moves that to
            // its end, which is where the next one begins.
            each_routed(&|_, expert| grow(expert + 2, b.i32(1)));
            b.for_(2, experts + 2, 1, |at| grow(at, start(at - 1).load(I32, 4)));
            each_routed(&|row, expert| {
                order.at(entry(starts, expert + 1) * 4).store(row.to(I32), 4);
                grow(expert + 1, b.i32(1));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, rows, run};
    use super::*;
    use q35_dialects::data::{Data, Matrix, ParamValue};
    use q35_dialects::interp::{Env, StepInput};
    use q35_dialects::q35::Op;
    use q35_dialects::{ParamName, Rows};
    use q35_launch::Spec;
    use q35_launch::layout::sorted_bytes;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// The reference evaluation of the op that a kernel computes.
    fn reference(kernel: &Route, logits: &[f32], correction: &[f32]) -> (Vec<u32>, Vec<f32>) {
        let name = ParamName::from("c".to_owned());
        let groups = kernel.groups.unwrap_or(Groups { count: 1, top: 1, worth: GroupScore::Best });
        let op = q35_dialects::q35::Route {
            scoring: kernel.scoring,
            choices: kernel.choices as u32,
            correction: kernel.correction.then(|| name.clone()),
            groups: groups.count,
            top_groups: groups.top,
            group_score: groups.worth,
            normalize: kernel.normalize.is_some(),
            eps: kernel.normalize.unwrap_or_default().eps,
            floor: kernel.normalize.unwrap_or_default().floor,
            scale: kernel.scale,
            margin: kernel.margin,
        };
        let value = ParamValue::Float(Matrix::new(correction.len(), correction.to_vec()));
        let params = BTreeMap::from([(name, Arc::new(value))]);
        let (input, mut caches) = (StepInput::default(), BTreeMap::new());
        let mut env = Env { input: &input, params: &params, caches: &mut caches };
        let logits = Data::Act(Matrix::new(kernel.experts as usize, logits.to_vec()));
        let routing = Op::from(op).eval(&[&logits], &mut env).unwrap();
        (routing.routing().chosen.clone(), routing.routing().weights.clone())
    }

    fn check(kernel: &Route, logits: &[f32]) {
        let (experts, choices) = (kernel.experts as usize, kernel.choices as usize);
        let tokens = logits.len() / experts;
        let correction: Vec<f32> = numbers(experts, 0.2);
        let (chosen, weights) = reference(kernel, logits, &correction);
        let mut args = vec![Arg::rows(logits, experts), Arg::floats(&correction), Arg::zeros(tokens, 2 * choices)];
        if !kernel.correction {
            args.remove(1);
        }
        run(kernel, args, [tokens as i64, 0, 0, 0], tokens as i64, |level, args| {
            let found = rows(args.last().unwrap(), 2 * choices);
            for (row, found) in found.chunks(2 * choices).enumerate() {
                let what = format!("{} {level:?} row {row}", kernel.name());
                let of = |all: &[f32]| all[row * choices..][..choices].to_vec();
                let numbers: Vec<u32> = found[..choices].iter().map(|v| v.to_bits()).collect();
                assert_eq!(numbers, chosen[row * choices..][..choices], "{what}");
                for (x, y) in of(&weights).iter().zip(&found[choices..]) {
                    assert!((x - y).abs() <= 1.2e-7 * x.abs(), "{what}: {y}, not {x}");
                }
            }
        });
    }

    fn route(scoring: Scoring, choices: u64, experts: u64) -> Route {
        Route { experts, choices, scoring, correction: false, groups: None, normalize: None, scale: 1.0, margin: 0.0 }
    }

    /// Logits of many sizes, with equal ones in every row.
    fn logits(tokens: usize, experts: usize) -> Vec<f32> {
        let mut all = numbers(tokens * experts, 4.0);
        for (row, logits) in all.chunks_mut(experts).enumerate() {
            logits[experts - 1] = logits[row % experts];
            logits[experts / 2] = logits[row % experts];
        }
        all
    }

    #[test]
    fn every_attribute_chooses_as_the_reference_does() {
        use Scoring::{Mixer, Sigmoid, Softmax};
        let over = |eps, floor| Some(Divisor { eps, floor });
        let groups = |count, top, worth| Some(Groups { count, top, worth });
        let kernels = [
            route(Softmax, 2, 8),
            route(Softmax, 1, 1),
            Route { normalize: over(0.0, 0.0), ..route(Softmax, 4, 60) },
            Route { normalize: over(1e-20, 0.0), scale: 2.5, correction: true, ..route(Sigmoid, 3, 24) },
            Route { groups: groups(4, 2, GroupScore::Two), correction: true, ..route(Sigmoid, 5, 24) },
            Route { groups: groups(8, 3, GroupScore::Best), scale: 16.0, ..route(Softmax, 6, 40) },
            Route { groups: groups(6, 2, GroupScore::Two), ..route(Softmax, 2, 6) },
            Route { correction: true, ..route(Softmax, 35, 35) },
            Route { normalize: over(0.0, 0.3), correction: true, ..route(Softmax, 2, 16) },
            Route { margin: 0.5, ..route(Mixer, 2, 16) },
            Route { margin: 2.0, normalize: over(1e-3, 0.9), scale: 0.7, ..route(Mixer, 3, 11) },
            Route { margin: 0.02, ..route(Mixer, 5, 5) },
        ];
        for kernel in kernels {
            check(&kernel, &logits(7, kernel.experts as usize));
        }
    }

    #[test]
    fn far_and_equal_logits() {
        let kernel = Route { normalize: Some(Divisor::default()), ..route(Scoring::Softmax, 3, 5) };
        check(&kernel, &[-300.0, -300.0, -300.0, -300.0, -300.0, 88.0, -88.0, 1e30, -1e30, 0.0, 0.0, 1e-30, -1e-30, 0.0, -0.0]);
    }

    /// Nothing is said of weights then, but what is chosen exists, once.
    #[test]
    fn what_is_no_number_chooses_experts_that_exist() {
        let nan = f32::NAN;
        let groups = Some(Groups { count: 3, top: 1, worth: GroupScore::Two });
        let mixer = Route { margin: 0.02, ..route(Scoring::Mixer, 2, 6) };
        for kernel in [route(Scoring::Softmax, 2, 6), Route { groups, ..route(Scoring::Sigmoid, 2, 6) }, mixer] {
            let all = [[nan; 6], [nan, 1.0, nan, nan, 2.0, nan], [f32::NEG_INFINITY; 6], [f32::INFINITY; 6]].concat();
            run(&kernel, [Arg::rows(&all, 6), Arg::zeros(4, 4)], [4, 0, 0, 0], 4, |_, args| {
                for row in rows(&args[1], 4).chunks(4) {
                    let [a, b] = [row[0].to_bits(), row[1].to_bits()];
                    assert!(a < 6 && b < 6 && a != b, "{a} {b}");
                }
            });
        }
    }

    #[test]
    fn rows_are_listed_by_expert() {
        let (experts, choices) = (5, 3);
        let chosen = [[4, 0, 2], [2, 4, 1], [0, 4, 2], [4, 2, 0]];
        let stride = routing_stride(choices) / 4;
        let routing: Vec<i32> =
            chosen.iter().flat_map(|row| row.iter().copied().chain(std::iter::repeat(77)).take(stride)).collect();
        let mut order: Vec<i32> = (0..12).collect();
        order.sort_by_key(|&row| chosen[row as usize / 3][row as usize % 3]);
        let mut expected = order;
        expected.extend([0, 3, 4, 8, 8, 12]);
        for (routed, dims) in [(Rows::TokenChoices(3), [4, 9, 0, 0]), (Rows::LogitChoices(3), [9, 4, 0, 0])] {
            let bytes = vec![0xEE; 4 * sorted_bytes(choices, experts)];
            run(&SortByExpert { experts: 5, routed }, [Arg::ints(&routing), Arg::bytes(&bytes)], dims, 1, |level, args| {
                let found: Vec<i32> = args[1].as_floats().iter().map(|v| v.to_bits() as i32).collect();
                assert_eq!(found[..18], expected, "{level:?}");
            });
        }
    }

    #[test]
    fn too_many_experts_are_refused() {
        assert_eq!(unsupported(&route(Scoring::Softmax, 2, 4096)), None);
        let text = "a choice among 4097 experts has no kernel on the CPU, 4096 are the most";
        assert_eq!(unsupported(&route(Scoring::Softmax, 2, 4097)).as_deref(), Some(text));
    }
}
