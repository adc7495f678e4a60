//! Mixtures of experts: the router, the choice, and the sum of what was chosen.
//!
//! Scores lie in every lane again and again ([`Layout::periodic`]), so what is found over one period is found in every lane: the largest
//! score, the lowest number that has it, its weight. A choice leaves the largest score out of those of the next one. What comes of a choice
//! is a vector of addresses, with which the layers of experts gather their weights (module `linear`). The number of choices is fixed, and
//! nothing is skipped: a step's time does not depend on what is chosen.

use super::layout::{LANES, Layout, period};
use super::pointwise::sigmoid;
use super::rows::MAGNITUDE;
use crate::schedule::lanes::lane;
use crate::schedule::vector::Arg::Constant;
use crate::schedule::vector::{Arg, Expr, Shelf};
use crate::schedule::{Map, Schedule, Word};
use q35_dialects::q35::{Route, Scoring};
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::{SUPERLANE, Side};
use q35_tsp::program::Image;

/// The score of what cannot be chosen.
const NEVER: f32 = -1.0e30;
/// More than any number of an expert.
const BEYOND: f32 = 1.0e9;
/// Vectors that one expression sums up.
const AT_ONCE: usize = 4;

/// A chosen expert.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// Its weight, in every lane.
    pub(crate) weight: Word,
    /// Its number, as an address.
    pub(crate) map: Map,
}

/// `a` where the mask has ones, `b` elsewhere.
fn select(expr: &mut Expr, mask: Arg, a: Arg, b: Arg) -> Arg {
    let (a, b) = (expr.op(AluOp::And, a, mask), expr.op(AluOp::AndNot, b, mask));
    expr.op(AluOp::Or, a, b)
}

/// All ones where `a` and `b` are equal floats. A difference is zero only then: subnormals are kept.
fn equal(expr: &mut Expr, a: Arg, b: Arg) -> Arg {
    let difference = expr.op(AluOp::SubF, a, b);
    let size = expr.op(AluOp::And, difference, Constant(MAGNITUDE));
    let below = expr.op(AluOp::SubI, size, Constant(1));
    expr.op(AluOp::Sar, below, Constant(31))
}

impl Schedule {
    /// A layer in f32 of few outputs, which come in a layout that is periodic.
    pub(crate) fn router(
        &mut self,
        x: &[Word],
        inputs: &Layout,
        param: &str,
        bias: Option<&str>,
        outputs: &Layout,
        width: u64,
    ) -> Vec<Word> {
        let period = period(width);
        let mut logits = Vec::new();
        for odd in 0..2 {
            let mut sums = Vec::new();
            for output in (0..period as u64).map(|at| 2 * at + odd as u64) {
                sums.push(if output < width {
                    self.product(x, inputs, param, output as u32)
                } else {
                    let zero = self.constant(|_| 0);
                    self.copy(zero)
                });
            }
            let mut sum = self.merge(vec![sums])[0];
            let mut distance = period as u32;
            while (distance as usize) < LANES {
                let other = self.exchange(sum, distance);
                let next = self.binary(AluOp::AddF, sum, other);
                [sum, other].into_iter().for_each(|word| self.memory.release(word));
                (sum, distance) = (next, 2 * distance);
            }
            if let Some(param) = bias {
                let quad = self.memory.constant(1);
                let lanes = outputs.lanes(odd, |output| output);
                self.data.images.push(Image::Numbers { quad, param: param.to_owned(), row: 0, lanes });
                sum = self.binary(AluOp::AddF, sum, Word { quad, ready: 0 });
            }
            logits.push(sum);
        }
        logits
    }

    /// The products of a row of a parameter with `x`, added up over vectors, not over lanes.
    fn product(&mut self, x: &[Word], inputs: &Layout, param: &str, row: u32) -> Word {
        let mut sums = Vec::new();
        for (first, group) in (0..).step_by(AT_ONCE).zip(x.chunks(AT_ONCE)) {
            let pairs: Vec<(Word, Word)> = (first..)
                .zip(group)
                .map(|(v, word)| {
                    let quad = self.memory.constant(1);
                    let lanes = inputs.lanes(v, |column| column);
                    self.data.images.push(Image::Numbers { quad, param: param.to_owned(), row, lanes });
                    (*word, Word { quad, ready: 0 })
                })
                .collect();
            sums.push(self.dot(&pairs));
        }
        self.fold(AluOp::AddF, sums)
    }

    /// `op` over all lanes of both vectors, in every lane. The words are released.
    fn over(&mut self, op: AluOp, words: Vec<Word>, period: usize) -> Word {
        let word = self.fold(op, words);
        self.reduce(op, word, period)
    }

    /// An expression for the vectors of even and of odd experts.
    fn each(&mut self, words: &[Word], f: &dyn Fn(&mut Expr, usize, Arg) -> Arg) -> Vec<Word> {
        let one = |(odd, word): (usize, &Word)| {
            let mut expr = Expr::default();
            let x = expr.word(*word);
            let y = f(&mut expr, odd, x);
            expr.keep(y);
            self.word(&expr)
        };
        words.iter().enumerate().map(one).collect()
    }

    /// The op `route`.
    pub(crate) fn route(&mut self, op: &Route, logits: &[Word], layout: &Layout, experts: u64) -> Vec<Chosen> {
        let period = period(experts);
        let number = |n: usize, odd: usize| 2 * (n % period) + odd;
        let there = [0, 1].map(|odd| self.constant(|n| if (number(n, odd) as u64) < experts { u32::MAX } else { 0 }));
        let index = [0, 1].map(|odd| self.constant(|n| (number(n, odd) as f32).to_bits()));
        let never = Constant(NEVER.to_bits());
        let only = |expr: &mut Expr, odd: usize, x: Arg| {
            let mask = expr.word(there[odd]);
            select(expr, mask, x, never)
        };
        let logits = self.each(logits, &only);
        let scores = match op.scoring {
            Scoring::Mixer => unreachable!("refused by the check"),
            Scoring::Sigmoid => self.each(&logits, &|expr, _, x| sigmoid(expr, x)),
            Scoring::Softmax => {
                let copies = logits.iter().map(|word| self.copy(*word)).collect();
                let largest = self.over(AluOp::MaxF, copies, period);
                let powers = self.each(&logits, &|expr, _, x| {
                    let largest = expr.word(largest);
                    let below = expr.op(AluOp::SubF, x, largest);
                    expr.unary(AluOp::Exp, below)
                });
                let copies = powers.iter().map(|word| self.copy(*word)).collect();
                let sum = self.over(AluOp::AddF, copies, period);
                let scores = self.each(&powers, &|expr, _, x| {
                    let sum = expr.word(sum);
                    let root = expr.unary(AluOp::Rsqrt, sum);
                    let inverse = expr.op(AluOp::MulF, root, root);
                    expr.op(AluOp::MulF, x, inverse)
                });
                powers.into_iter().chain([largest, sum]).for_each(|word| self.memory.release(word));
                scores
            }
        };
        // Both scorings grow with the logits: without a correction these say what is best, and are exact.
        let mut keys = logits;
        if let Some(param) = &op.correction {
            let corrections: Vec<Word> = (0..2)
                .map(|odd| {
                    let quad = self.memory.constant(1);
                    let lanes = layout.lanes(odd, |expert| expert);
                    self.data.images.push(Image::Numbers { quad, param: param.to_string(), row: 0, lanes });
                    Word { quad, ready: 0 }
                })
                .collect();
            keys.into_iter().for_each(|word| self.memory.release(word));
            keys = self.each(&scores, &|expr, odd, x| {
                let correction = expr.word(corrections[odd]);
                let key = expr.op(AluOp::AddF, x, correction);
                only(expr, odd, key)
            });
        }
        let mut found = Vec::new();
        for choice in 1..=op.choices {
            let copies = keys.iter().map(|word| self.copy(*word)).collect();
            let best = self.over(AluOp::MaxF, copies, period);
            let candidates = self.each(&keys, &|expr, odd, key| {
                let (best, index) = (expr.word(best), expr.word(index[odd]));
                let equal = equal(expr, best, key);
                select(expr, equal, index, Constant(BEYOND.to_bits()))
            });
            let number = self.over(AluOp::MinF, candidates, period);
            let is_chosen = |expr: &mut Expr, odd: usize| {
                let (number, index) = (expr.word(number), expr.word(index[odd]));
                equal(expr, number, index)
            };
            let shares = self.each(&scores, &|expr, odd, score| {
                let mask = is_chosen(expr, odd);
                expr.op(AluOp::And, score, mask)
            });
            if choice < op.choices {
                let next = self.each(&keys, &|expr, odd, key| {
                    let mask = is_chosen(expr, odd);
                    select(expr, mask, never, key)
                });
                std::mem::replace(&mut keys, next).into_iter().for_each(|word| self.memory.release(word));
            }
            self.memory.release(best);
            let score = self.over(AluOp::AddF, shares, period);
            found.push((score, self.address(number)));
            self.memory.release(number);
        }
        keys.into_iter().chain(scores).for_each(|word| self.memory.release(word));
        self.weigh(op, found)
    }

    /// Weights of the chosen ones.
    fn weigh(&mut self, op: &Route, found: Vec<(Word, Map)>) -> Vec<Chosen> {
        let total = op.normalize.then(|| {
            let copies = found.iter().map(|(score, _)| self.copy(*score)).collect();
            self.fold(AluOp::AddF, copies)
        });
        let weigh = |(score, map): (Word, Map)| {
            let mut expr = Expr::default();
            let mut weight = expr.word(score);
            if let Some(total) = total {
                let (total, eps) = (expr.word(total), expr.float(op.eps));
                let mut total = expr.op(AluOp::AddF, total, eps);
                if op.floor > 0.0 {
                    let floor = expr.float(op.floor);
                    total = expr.op(AluOp::MaxF, total, floor);
                }
                let root = expr.unary(AluOp::Rsqrt, total);
                let inverse = expr.op(AluOp::MulF, root, root);
                weight = expr.op(AluOp::MulF, weight, inverse);
            }
            let scale = expr.float(op.scale);
            let weight = expr.op(AluOp::MulF, weight, scale);
            expr.keep(weight);
            let weight = self.word(&expr);
            self.memory.release(score);
            Chosen { weight, map }
        };
        let chosen = found.into_iter().map(weigh).collect();
        total.into_iter().for_each(|total| self.memory.release(total));
        chosen
    }

    /// A number as an address: its bytes in the first two lanes of each superlane that weights use.
    fn address(&mut self, number: Word) -> Map {
        let byte = |at: usize| move |n: usize| if n < LANES && lane(n) % SUPERLANE == at { 0xff } else { 0 };
        let [low, high] = [self.constant(byte(0)), self.constant(byte(1))];
        let mut expr = Expr::default();
        let number = expr.word(number);
        let number = expr.unary(AluOp::ToInt, number);
        let (low_mask, high_mask) = (expr.word(low), expr.word(high));
        let upper = expr.op(AluOp::Sar, number, Constant(8));
        let (low, high) = (expr.op(AluOp::And, number, low_mask), expr.op(AluOp::And, upper, high_mask));
        let address = expr.op(AluOp::Or, low, high);
        for shelf in Side::ALL.map(Shelf::Near).into_iter().chain(Side::ALL.map(Shelf::Far)) {
            let copy = expr.unary(AluOp::Pass, address);
            expr.keep_byte(copy, shelf);
        }
        let (_, bytes) = self.eval(&expr);
        Map { near: [bytes[0], bytes[1]], far: [bytes[2], bytes[3]] }
    }

    /// The op `combine`: of rows of vectors.
    pub(crate) fn combine(&mut self, rows: &[Vec<Word>], chosen: &[Chosen]) -> Vec<Word> {
        let vectors = rows.first().map_or(0, Vec::len);
        let mut sums = Vec::new();
        for v in 0..vectors {
            let pairs: Vec<(Word, Word)> = rows.iter().zip(chosen).map(|(row, chosen)| (chosen.weight, row[v])).collect();
            let parts = pairs.chunks(AT_ONCE).map(|pairs| self.dot(pairs)).collect();
            sums.push(self.fold(AluOp::AddF, parts));
        }
        sums
    }
}
