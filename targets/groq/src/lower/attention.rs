//! The cache and attention, on the VXM and SXM, in f32.
//!
//! A cache entry is one vector of keys and one of values for every vector of the layout, so that every lane meets its own column (module
//! `heads`). Per
//! block of as many entries as a head has lanes: the products of query and keys are added up by a merge tree: two vectors of products
//! become one whose lanes hold sums of half as many terms, of the first entry where a bit of the lane's number is 0 and of the second where
//! it is 1. In the end lane `j` of a head holds the score of entry `j` of the block. After the softmax the tree is walked the other way,
//! until every vector holds one entry's weight in all lanes of the head, and meets that entry's values. Several trees are walked abreast, level by
//! level. All entries of the bucket are
//! visited, whatever the step; what a token does not see weighs nothing. So a step's time never depends on data.

use super::layout::{LANES, Layout};
use crate::schedule::lanes::arrange;
use crate::schedule::vector::{Arg, Expr};
use crate::schedule::{Byte, Schedule, Word};
use q35_tsp::alu::AluOp;
use q35_tsp::program::{CacheVectors, Image, Input, Quad};

/// Blocks of entries, of two vectors of the query each, that are on their way at once: as many products wait in memory, and what one of them
/// waits for leaves time for the others.
const ABREAST: usize = 8;
/// Entries whose weighted values one expression adds up, so that it fits the mesh.
const TOGETHER: usize = 4;

/// Vectors `v` and `v + 1` of the query, and a block of entries.
#[derive(Clone, Copy)]
struct Part {
    v: usize,
    block: usize,
}

/// One layer of the cache.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    /// Keys and values: entry 0 of each vector of the layout.
    halves: [Vec<Word>; 2],
}

impl Cache {
    /// An entry of a block as the even or odd vector of the query meets it: its key (half 0) or value (half 1). Every round meets the same vectors.
    fn entry(&self, half: usize, part: Part, odd: usize, entry: usize, head_lanes: usize) -> Word {
        let words = &self.halves[half];
        let first = words[part.v % words.len() + odd];
        let address = first.quad.address + (part.block * head_lanes + entry) as u16;
        Word { quad: Quad { address, ..first.quad }, ..first }
    }
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
        let parts: Vec<Part> =
            (0..query.len()).step_by(2).flat_map(|v| (0..blocks).map(move |block| Part { v, block })).collect();
        let mut sums = Vec::new();
        for parts in parts.chunks(ABREAST) {
            let products = parts.iter().map(|part| self.products(query, cache, *part, head_lanes)).collect();
            let merged = self.merge(products);
            sums.extend(parts.iter().zip(merged).map(|(part, sums)| self.score(sums, masks[part.block], scores)));
        }
        let sinks: Vec<Option<Word>> =
            (0..query.len()).step_by(2).map(|v| self.sinks(layout, v, head_lanes, scores.sinks.as_ref())).collect();
        let weights = self.softmax(sums.chunks(blocks).map(<[Word]>::to_vec).collect(), &sinks, head_lanes).concat();
        let mut values = vec![Vec::new(); query.len()];
        for (parts, weights) in parts.chunks(ABREAST).zip(weights.chunks(ABREAST)) {
            let each = self.split(weights, head_lanes);
            for (part, weights) in parts.iter().zip(each) {
                let sums = self.weighted(&weights, cache, *part, head_lanes);
                values[part.v..].iter_mut().zip(sums).for_each(|(values, sum)| values.push(sum));
            }
        }
        values.into_iter().map(|values| self.fold(AluOp::AddF, values)).collect()
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

    /// The products of vectors `v` and `v + 1` of the query and each entry's keys.
    fn products(&mut self, query: &[Word], cache: &Cache, part: Part, head_lanes: usize) -> Vec<Word> {
        let product = |entry| {
            let mut expr = Expr::default();
            let terms = [0, 1].map(|odd| {
                let (q, k) = (expr.word(query[part.v + odd]), expr.word(cache.entry(0, part, odd, entry, head_lanes)));
                expr.op(AluOp::MulF, q, k)
            });
            let sum = expr.op(AluOp::AddF, terms[0], terms[1]);
            expr.keep(sum);
            self.word(&expr)
        };
        (0..head_lanes).map(product).collect()
    }

    /// What the entries of a block give to the heads of vectors `v` and `v + 1`, by their weights, which are released.
    fn weighted(&mut self, weights: &[Word], cache: &Cache, part: Part, head_lanes: usize) -> [Word; 2] {
        let mut sums = [Vec::new(), Vec::new()];
        for (at, group) in weights.chunks(TOGETHER).enumerate() {
            for (odd, sums) in sums.iter_mut().enumerate() {
                let value = |i| cache.entry(1, part, odd, TOGETHER * at + i, head_lanes);
                let pairs: Vec<_> = group.iter().enumerate().map(|(i, weight)| (*weight, value(i))).collect();
                sums.push(self.dot(&pairs));
            }
            group.iter().for_each(|weight| self.memory.release(*weight));
        }
        sums.map(|sums| self.fold(AluOp::AddF, sums))
    }

    /// The scores that sinks add to the heads of vectors `v` and `v + 1`.
    fn sinks(&mut self, layout: &Layout, v: usize, head_lanes: usize, sinks: Option<&String>) -> Option<Word> {
        let quad = sinks.map(|_| self.memory.constant(1))?;
        let lanes = layout.lanes(v, |column| column / (2 * head_lanes as u32));
        self.data.images.extend(sinks.map(|param| Image::Numbers { quad, param: param.clone(), row: 0, lanes }));
        Some(Word { quad, ready: 0 })
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

    /// Merge trees, level by level of all: in a permutor's queue stands what goes by one map. The products are released.
    pub(crate) fn merge(&mut self, mut trees: Vec<Vec<Word>>) -> Vec<Word> {
        let mut distance = 1;
        while trees.iter().any(|tree| tree.len() > 1) {
            let mask = self.bit_mask(distance);
            let mut merge = |pair: &[Word]| {
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
            trees = trees.into_iter().map(|tree| tree.chunks(2).map(&mut merge).collect()).collect();
            distance *= 2;
        }
        trees.concat()
    }

    /// Merge trees backwards: of each word the vectors of each lane's value in all lanes of its head. The words are released.
    fn split(&mut self, words: &[Word], lanes: usize) -> Vec<Vec<Word>> {
        let mut trees: Vec<Vec<Word>> = words.iter().map(|word| vec![*word]).collect();
        let mut distance = lanes as u32;
        while distance > 1 {
            distance /= 2;
            let mask = self.bit_mask(distance);
            let mut split = |word: Word| {
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
            trees = trees.into_iter().map(|tree| tree.into_iter().flat_map(&mut split).collect()).collect();
        }
        trees
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

    /// Weights of the scores of all blocks, of each pair of vectors, which may have sinks. Scores and sinks are released.
    fn softmax(&mut self, scores: Vec<Vec<Word>>, sinks: &[Option<Word>], lanes: usize) -> Vec<Vec<Word>> {
        let total = |schedule: &mut Self, op, words: &[Vec<Word>]| -> Vec<Word> {
            let mut fold = |words: &Vec<Word>| schedule.fold_of(op, words.len(), |expr, at| expr.word(words[at]));
            let folded = words.iter().map(&mut fold).collect();
            schedule.reduce_all(op, folded, lanes)
        };
        let with: Vec<Vec<Word>> =
            scores.iter().zip(sinks).map(|(scores, sink)| scores.iter().chain(sink).copied().collect()).collect();
        let largest = total(self, AluOp::MaxF, &with);
        let mut exponential = |(words, largest): (&Vec<Word>, &Word)| -> Vec<Word> {
            let each = words.iter().map(|word| {
                let mut expr = Expr::default();
                let (score, largest) = (expr.word(*word), expr.word(*largest));
                let below = expr.op(AluOp::SubF, score, largest);
                let y = expr.unary(AluOp::Exp, below);
                expr.keep(y);
                self.word(&expr)
            });
            each.collect()
        };
        let powers: Vec<Vec<Word>> = with.iter().zip(&largest).map(&mut exponential).collect();
        let weights: Vec<Vec<Word>> =
            powers.iter().zip(&scores).map(|(powers, scores)| powers[..scores.len()].to_vec()).collect();
        let mut sums = total(self, AluOp::AddF, &weights);
        for (sum, sink) in sums.iter_mut().zip(powers.iter().zip(sinks).filter_map(|(powers, sink)| sink.and(powers.last()))) {
            let with = self.binary(AluOp::AddF, *sum, *sink);
            self.memory.release(*sum);
            *sum = with;
        }
        let mut normalize = |(weights, sum): (&Vec<Word>, &Word)| -> Vec<Word> {
            let each = weights.iter().map(|weight| {
                let mut expr = Expr::default();
                let (sum, weight) = (expr.word(*sum), expr.word(*weight));
                let root = expr.unary(AluOp::Rsqrt, sum);
                let inverse = expr.op(AluOp::MulF, root, root);
                let y = expr.op(AluOp::MulF, inverse, weight);
                expr.keep(y);
                self.word(&expr)
            });
            each.collect()
        };
        let normalized = weights.iter().zip(&sums).map(&mut normalize).collect();
        let done = [largest, sums, with.concat(), powers.concat()].concat();
        done.into_iter().for_each(|word| self.memory.release(word));
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
