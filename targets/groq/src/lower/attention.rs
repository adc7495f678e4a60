//! The cache and attention, on the VXM and SXM, in f32.
//!
//! A cache entry is one vector of keys and one of values for every vector of the layout, so that every lane meets its own column (module
//! `heads`). Per
//! block of as many entries as a head has lanes: the products of query and keys are added up by a merge tree: two vectors of products
//! become one whose lanes hold sums of half as many terms, of the first entry where a bit of the lane's number is 0 and of the second where
//! it is 1. In the end lane `j` of a head holds the score of entry `j` of the block. After the softmax the tree is walked the other way,
//! until every vector holds one entry's weight in all lanes of the head, and meets that entry's values. All entries of the bucket are
//! visited, whatever the step; what a token does not see weighs nothing. So a step's time never depends on data.

use super::layout::{LANES, Layout};
use crate::schedule::lanes::arrange;
use crate::schedule::vector::{Arg, Expr};
use crate::schedule::{Byte, Schedule, Word};
use q35_tsp::alu::AluOp;
use q35_tsp::program::{CacheVectors, Image, Input, Quad};

/// One layer of the cache.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    /// Keys and values: entry 0 of each vector of the layout.
    halves: [Vec<Word>; 2],
}

/// What attention does besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scores {
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
    pub(crate) window: Option<u32>,
    /// A parameter of one score per head.
    pub(crate) sinks: Option<String>,
}

impl Schedule {
    /// Appends a step's key and value.
    pub(crate) fn append_entry(&mut self, halves: [&[Word]; 2], layout: &Layout, entry: Byte, head_lanes: usize) -> Cache {
        let rows = (self.data.capacity as usize).next_multiple_of(head_lanes) as u16;
        let limit = self.data.capacity as u16;
        let halves = halves.map(|words| {
            let place = |word: &Word| {
                let quad = self.memory.constant(rows);
                self.data.images.push(Image::Zeros { quad, count: rows });
                Word { quad, ready: self.append(*word, quad, limit, entry) }
            };
            words.iter().map(place).collect::<Vec<Word>>()
        });
        let vectors = |words: &[Word]| CacheVectors {
            vectors: words.iter().enumerate().map(|(v, word)| (word.quad, layout.lanes(v, |e| e))).collect(),
        };
        self.data.cache.push([vectors(&halves[0]), vectors(&halves[1])]);
        Cache { halves }
    }

    /// Attention of heads of `head_lanes` lanes (half their columns), a power of two.
    pub(crate) fn attention(
        &mut self,
        query: &[Word],
        layout: &Layout,
        cache: &Cache,
        head_lanes: usize,
        scores: &Scores,
    ) -> Vec<Word> {
        let blocks = (self.data.capacity as usize).div_ceil(head_lanes);
        let masks: Vec<Word> = (0..blocks).map(|block| self.seen(block, head_lanes, scores.window)).collect();
        (0..query.len()).step_by(2).flat_map(|v| self.heads((query, layout), cache, v, head_lanes, scores, &masks)).collect()
    }

    /// The input vector that masks the entries of a block.
    fn seen(&mut self, block: usize, head_lanes: usize, window: Option<u32>) -> Word {
        let capacity = self.data.capacity as usize;
        let entry = |lane: usize| Some((block * head_lanes + lane % head_lanes) as u32).filter(|e| (*e as usize) < capacity);
        let lanes = arrange(|number| if number < LANES { entry(number) } else { None });
        let known = self.data.inputs.iter().find_map(|input| match input {
            Input::Seen { quad, lanes: l, window: w } if *l == lanes && *w == window => Some(*quad),
            _ => None,
        });
        let quad = known.unwrap_or_else(|| {
            let quad = self.memory.constant(1);
            self.data.inputs.push(Input::Seen { quad, lanes, window });
            quad
        });
        Word { quad, ready: 0 }
    }

    /// The heads of vectors `v` and `v + 1`.
    fn heads(
        &mut self,
        (query, layout): (&[Word], &Layout),
        cache: &Cache,
        v: usize,
        head_lanes: usize,
        how: &Scores,
        masks: &[Word],
    ) -> Vec<Word> {
        // Every round meets the same vectors.
        let met = v % cache.halves[0].len();
        let [keys, values] = [0, 1].map(|half| [cache.halves[half][met], cache.halves[half][met + 1]]);
        let entry = |at: Word, entry: usize| Word { quad: Quad { address: at.quad.address + entry as u16, ..at.quad }, ..at };
        let mut scores = Vec::new();
        for (block, mask) in masks.iter().enumerate() {
            let products: Vec<Word> = (0..head_lanes)
                .map(|e| {
                    let mut expr = Expr::default();
                    let terms = [0, 1].map(|odd| {
                        let (q, k) = (expr.word(query[v + odd]), expr.word(entry(keys[odd], block * head_lanes + e)));
                        expr.op(AluOp::MulF, q, k)
                    });
                    let sum = expr.op(AluOp::AddF, terms[0], terms[1]);
                    expr.keep(sum);
                    self.word(&expr)
                })
                .collect();
            let sums = self.merge(products);
            scores.push(self.score(sums, *mask, how));
        }
        let sinks = how.sinks.as_ref().map(|param| {
            let quad = self.memory.constant(1);
            let lanes = layout.lanes(v, |column| column / (2 * head_lanes as u32));
            self.data.images.push(Image::Numbers { quad, param: param.clone(), row: 0, lanes });
            Word { quad, ready: 0 }
        });
        let weights = self.softmax(scores, sinks, head_lanes);
        let mut sums = [Vec::new(), Vec::new()];
        for (block, weights) in weights.into_iter().enumerate() {
            let each = self.split(weights, head_lanes);
            for (at, group) in each.chunks(4).enumerate() {
                for (odd, sums) in sums.iter_mut().enumerate() {
                    let first = block * head_lanes + 4 * at;
                    let pairs = group.iter().enumerate().map(|(i, weight)| (*weight, entry(values[odd], first + i)));
                    sums.push(self.dot(&pairs.collect::<Vec<_>>()));
                }
                group.iter().for_each(|weight| self.memory.release(*weight));
            }
        }
        sums.into_iter().map(|sums| self.fold(AluOp::AddF, sums)).collect()
    }

    /// `sum a b`, as a tree.
    pub(crate) fn dot(&mut self, pairs: &[(Word, Word)]) -> Word {
        let mut expr = Expr::default();
        let product = |(a, b): &(Word, Word)| {
            let (a, b) = (expr.word(*a), expr.word(*b));
            expr.op(AluOp::MulF, a, b)
        };
        let mut terms: Vec<Arg> = pairs.iter().map(product).collect();
        while terms.len() > 1 {
            terms = terms.chunks(2).map(|t| if let [a, b] = *t { expr.op(AluOp::AddF, a, b) } else { t[0] }).collect();
        }
        expr.keep(terms[0]);
        self.word(&expr)
    }

    /// The merge tree. The products are released.
    pub(crate) fn merge(&mut self, mut vectors: Vec<Word>) -> Word {
        let mut distance = 1;
        while vectors.len() > 1 {
            let mask = self.bit_mask(distance);
            let merge = |pair: &[Word]| {
                let mut expr = Expr::default();
                let (a, b, mask) = (expr.word(pair[0]), expr.word(pair[1]), expr.word(mask));
                let (own_a, own_b) = (expr.op(AluOp::AndNot, a, mask), expr.op(AluOp::And, b, mask));
                let (far_a, far_b) = (expr.op(AluOp::And, a, mask), expr.op(AluOp::AndNot, b, mask));
                let (own, far) = (expr.op(AluOp::Or, own_a, own_b), expr.op(AluOp::Or, far_a, far_b));
                expr.keep(own);
                expr.keep(far);
                let (words, _) = self.eval(&expr);
                let other = self.exchange(words[1], distance);
                let sum = self.binary(AluOp::AddF, words[0], other);
                [pair[0], pair[1], words[0], words[1], other].into_iter().for_each(|word| self.memory.release(word));
                sum
            };
            vectors = vectors.chunks(2).map(merge).collect();
            distance *= 2;
        }
        vectors[0]
    }

    /// The merge tree backwards: the vector of each lane's value in all lanes of its head. The word is released.
    fn split(&mut self, word: Word, lanes: usize) -> Vec<Word> {
        let mut vectors = vec![word];
        let mut distance = lanes as u32;
        while distance > 1 {
            distance /= 2;
            let mask = self.bit_mask(distance);
            let split = |word: Word| {
                let other = self.exchange(word, distance);
                let mut expr = Expr::default();
                let (own, far, mask) = (expr.word(word), expr.word(other), expr.word(mask));
                for (low, high) in [(own, far), (far, own)] {
                    let (low, high) = (expr.op(AluOp::AndNot, low, mask), expr.op(AluOp::And, high, mask));
                    let both = expr.op(AluOp::Or, low, high);
                    expr.keep(both);
                }
                let (words, _) = self.eval(&expr);
                self.memory.release(word);
                self.memory.release(other);
                words
            };
            vectors = vectors.into_iter().flat_map(split).collect();
        }
        vectors
    }

    /// Scaled, capped, masked. The sums are released.
    fn score(&mut self, sums: Word, mask: Word, how: &Scores) -> Word {
        let mut expr = Expr::default();
        let (sums_arg, scale) = (expr.word(sums), expr.float(how.scale));
        let mut score = expr.op(AluOp::MulF, sums_arg, scale);
        if let Some(cap) = how.softcap {
            let (inverse, cap) = (expr.float(1.0 / cap), expr.float(cap));
            score = expr.op(AluOp::MulF, score, inverse);
            score = expr.unary(AluOp::Tanh, score);
            score = expr.op(AluOp::MulF, score, cap);
        }
        let mask = expr.word(mask);
        let score = expr.op(AluOp::AddF, score, mask);
        expr.keep(score);
        let score = self.word(&expr);
        self.memory.release(sums);
        score
    }

    /// Weights of all blocks' scores. The scores are released.
    fn softmax(&mut self, scores: Vec<Word>, sinks: Option<Word>, lanes: usize) -> Vec<Word> {
        let copies: Vec<Word> = scores.iter().chain(&sinks).map(|score| self.copy(*score)).collect();
        let largest = self.fold(AluOp::MaxF, copies);
        let largest = self.reduce(AluOp::MaxF, largest, lanes);
        let mut exponential = |score: Word| {
            let mut expr = Expr::default();
            let (score, largest) = (expr.word(score), expr.word(largest));
            let below = expr.op(AluOp::SubF, score, largest);
            let y = expr.unary(AluOp::Exp, below);
            expr.keep(y);
            self.word(&expr)
        };
        let weights: Vec<Word> = scores.iter().map(|score| exponential(*score)).collect();
        let sink = sinks.map(exponential);
        let copies: Vec<Word> = weights.iter().map(|weight| self.copy(*weight)).collect();
        let sum = self.fold(AluOp::AddF, copies);
        let mut sum = self.reduce(AluOp::AddF, sum, lanes);
        if let Some(sink) = sink {
            let with = self.binary(AluOp::AddF, sum, sink);
            self.memory.release(sum);
            self.memory.release(sink);
            sum = with;
        }
        let mut normalized = Vec::new();
        for weight in &weights {
            let mut expr = Expr::default();
            let (sum, weight) = (expr.word(sum), expr.word(*weight));
            let root = expr.unary(AluOp::Rsqrt, sum);
            let inverse = expr.op(AluOp::MulF, root, root);
            let y = expr.op(AluOp::MulF, inverse, weight);
            expr.keep(y);
            normalized.push(self.word(&expr));
        }
        [largest, sum].into_iter().chain(scores).chain(weights).for_each(|word| self.memory.release(word));
        normalized
    }

    /// A copy of its own.
    pub(crate) fn copy(&mut self, word: Word) -> Word {
        let mut expr = Expr::default();
        let arg = expr.word(word);
        expr.keep(arg);
        self.word(&expr)
    }
}
