//! Sums and maxima over lanes, rotations, rounding: what ops that look at a whole row have in common.

use super::inputs::Inputs;
use super::layout::{LANES, Layout};
use crate::schedule::vector::{Arg, Expr, Shelf};
use crate::schedule::{Byte, Schedule, Word};
use q35_format::rotate;
use q35_tsp::alu::AluOp;
use q35_tsp::geometry::Side;

/// Terms of one expression, so that it fits the mesh.
const AT_ONCE: usize = 8;
/// Words that are many.
const MANY: usize = 4;

/// All bits of a float but its sign.
pub(crate) const MAGNITUDE: u32 = 0x7fff_ffff;

/// Rounded activations.
#[derive(Clone, Debug)]
pub(crate) struct Quant {
    /// The bytes.
    pub(crate) inputs: Inputs,
    /// The scale, in every lane.
    pub(crate) scale: Word,
    /// What the layers of codec `split` add to their sums, in every lane: `C` and `D` of module `linear`.
    pub(crate) corrections: [Option<Word>; 2],
}

/// A row that is rounded: words, times a weight of each element, times a factor that is the same in every lane, where there are such.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) words: Vec<Word>,
    pub(crate) weights: Option<Vec<Word>>,
    pub(crate) factor: Option<Word>,
}

impl Row {
    /// A vector of it but for the factor.
    fn element(&self, expr: &mut Expr, v: usize) -> Arg {
        let x = expr.word(self.words[v]);
        let Some(weights) = &self.weights else { return x };
        let weight = expr.word(weights[v]);
        expr.op(AluOp::MulF, x, weight)
    }
}

impl Schedule {
    /// `a op b`.
    pub(crate) fn binary(&mut self, op: AluOp, a: Word, b: Word) -> Word {
        let mut expr = Expr::default();
        let (a, b) = (expr.word(a), expr.word(b));
        let y = expr.op(op, a, b);
        expr.keep(y);
        self.word(&expr)
    }

    /// `words[0] op words[1] op ...`, as a tree. The words are released.
    pub(crate) fn fold(&mut self, op: AluOp, words: Vec<Word>) -> Word {
        if let [word] = words[..] {
            return word;
        }
        let folded = self.fold_of(op, words.len(), |expr, at| expr.word(words[at]));
        words.into_iter().for_each(|word| self.memory.release(word));
        folded
    }

    /// `term(0) op term(1) op ...`, as a tree, of so many terms, each of a word or two.
    pub(crate) fn fold_of(&mut self, op: AluOp, count: usize, term: impl Fn(&mut Expr, usize) -> Arg) -> Word {
        let group = |first: usize| {
            let mut expr = Expr::default();
            let mut terms: Vec<Arg> = (first..count.min(first + AT_ONCE)).map(|at| term(&mut expr, at)).collect();
            while terms.len() > 1 {
                terms = terms.chunks(2).map(|pair| if let [a, b] = *pair { expr.op(op, a, b) } else { pair[0] }).collect();
            }
            expr.keep(terms[0]);
            self.word(&expr)
        };
        let words = (0..count).step_by(AT_ONCE).map(group).collect();
        self.fold(op, words)
    }

    /// In every lane, `op` over all lanes of its run of `lanes` lanes, a power of two. The word is released.
    pub(crate) fn reduce(&mut self, op: AluOp, word: Word, lanes: usize) -> Word {
        self.reduce_all(op, vec![word], lanes)[0]
    }

    /// The same of several words, step by step of all. A permutation takes long and a unit does several at once, so eight lanes meet at a time;
    /// four where there are many words, which keep the permutors busy.
    pub(crate) fn reduce_all(&mut self, op: AluOp, mut words: Vec<Word>, lanes: usize) -> Vec<Word> {
        let (mut distance, most) = (1, if words.len() < MANY { 8 } else { 4 });
        while (distance as usize) < lanes {
            let partners = most.min(lanes as u32 / distance) - 1;
            let mut met: Vec<Vec<Word>> = words.iter().map(|word| vec![*word]).collect();
            for n in 1..=partners {
                met.iter_mut().for_each(|met| met.push(self.exchange(met[0], n * distance)));
            }
            words = met.into_iter().map(|met| self.fold(op, met)).collect();
            distance *= partners + 1;
        }
        words
    }

    /// The words of `mask` where lane number and `distance` have a bit in common: all ones, elsewhere zero.
    pub(crate) fn bit_mask(&mut self, distance: u32) -> Word {
        self.constant(|lane| if lane as u32 & distance != 0 { u32::MAX } else { 0 })
    }

    /// Rounds a row to bytes, as module `activation` of the format crate says, but for the reciprocal of the scale, which is within two
    /// units in its last place. `vectors` is what [`Schedule::inputs`] says.
    ///
    /// What a norm multiplies the whole row with is multiplied with the scale alone: the bytes are the same without it.
    pub(crate) fn quantize(&mut self, row: &Row, layout: &Layout, vectors: Option<usize>) -> Quant {
        let largest = self.fold_of(AluOp::MaxF, row.words.len(), |expr, v| {
            let x = row.element(expr, v);
            expr.op(AluOp::And, x, Arg::Constant(MAGNITUDE))
        });
        let largest = self.reduce(AluOp::MaxF, largest, LANES);
        let mut expr = Expr::default();
        let size = expr.word(largest);
        let root = expr.unary(AluOp::Rsqrt, size);
        let inverse = expr.op(AluOp::MulF, root, root);
        let limit = expr.float(127.0);
        let inverse = expr.op(AluOp::MulF, inverse, limit);
        expr.keep(inverse);
        let inverse = self.word(&expr);
        let bytes = (0..row.words.len()).map(|v| {
            let mut expr = Expr::default();
            let x = row.element(&mut expr, v);
            let inverse = expr.word(inverse);
            let x = expr.op(AluOp::MulF, x, inverse);
            let q = expr.unary(AluOp::ToInt, x);
            expr.keep_byte(q, Shelf::Near(Side::East));
            let copy = expr.unary(AluOp::Pass, q);
            expr.keep_byte(copy, Shelf::Near(Side::West));
            let (_, bytes) = self.eval(&expr);
            [bytes[0], bytes[1]]
        });
        let bytes: Vec<[Byte; 2]> = bytes.collect();
        let inputs = self.inputs(&bytes, layout, vectors);
        let mut expr = Expr::default();
        let (mut size, seventh) = (expr.word(largest), expr.float(1.0 / 127.0));
        if let Some(factor) = row.factor {
            let factor = expr.word(factor);
            size = expr.op(AluOp::MulF, size, factor);
        }
        let scale = expr.op(AluOp::MulF, size, seventh);
        expr.keep(scale);
        let scale = self.word(&expr);
        [largest, inverse].into_iter().for_each(|word| self.memory.release(word));
        Quant { inputs, scale, corrections: [None; 2] }
    }

    /// The rotation of module `rotate` of the format crate, to the bit. Columns whose numbers differ in one bit below `block` lie in vectors or in
    /// lanes that differ in one bit.
    pub(crate) fn hadamard(&mut self, x: &[Word], layout: &Layout, (block, seed): (u64, u64), inverse: bool) -> Vec<Word> {
        let mut x = x.to_vec();
        let mut fresh = false;
        if !inverse {
            x = self.signs(&x, layout, (block, seed), &mut fresh);
        }
        let places = layout.places();
        let first = |v: usize| layout.vector(v).first().copied().flatten();
        for bit in 0..block.ilog2() {
            let partner = |v: usize| first(v).and_then(|column| places.get(&(column ^ 1 << bit)).copied());
            x = match partner(0) {
                Some((0, distance)) => self.lane_butterflies(&x, distance as u32, &mut fresh),
                _ => {
                    let low = |v: &usize| first(*v).is_some_and(|column| column & 1 << bit == 0);
                    let pairs = (0..x.len()).filter(low).filter_map(|v| Some((v, partner(v)?.0)));
                    self.butterflies(&x, &pairs.collect::<Vec<_>>(), &mut fresh)
                }
            };
        }
        let norm = 1.0 / (block as f32).sqrt();
        let scaled = x.iter().map(|word| {
            let mut expr = Expr::default();
            let (x, norm) = (expr.word(*word), expr.float(norm));
            let y = expr.op(AluOp::MulF, x, norm);
            expr.keep(y);
            self.word(&expr)
        });
        let scaled: Vec<Word> = scaled.collect();
        self.replace(&x, &mut fresh);
        if inverse { self.signs(&scaled, layout, (block, seed), &mut fresh) } else { scaled }
    }

    /// The vectors are not needed any more, unless they are the caller's.
    fn replace(&mut self, x: &[Word], fresh: &mut bool) {
        if *fresh {
            x.iter().for_each(|word| self.memory.release(*word));
        }
        *fresh = true;
    }

    fn signs(&mut self, x: &[Word], layout: &Layout, (block, seed): (u64, u64), fresh: &mut bool) -> Vec<Word> {
        let mut out = Vec::new();
        for (v, word) in x.iter().enumerate() {
            let sign = |column: u32| rotate::sign(seed, column as usize % block as usize).to_bits() & !MAGNITUDE;
            let signs = self.constant(|lane| layout.vector(v).get(lane).copied().flatten().map_or(0, sign));
            out.push(self.binary(AluOp::Xor, *word, signs));
        }
        self.replace(x, fresh);
        out
    }

    /// `(a, b) <- (a + b, a - b)` for whole vectors.
    fn butterflies(&mut self, x: &[Word], pairs: &[(usize, usize)], fresh: &mut bool) -> Vec<Word> {
        let mut out = x.to_vec();
        for (low, high) in pairs {
            let mut expr = Expr::default();
            let (a, b) = (expr.word(x[*low]), expr.word(x[*high]));
            let (sum, difference) = (expr.op(AluOp::AddF, a, b), expr.op(AluOp::SubF, a, b));
            expr.keep(sum);
            expr.keep(difference);
            let (words, _) = self.eval(&expr);
            (out[*low], out[*high]) = (words[0], words[1]);
        }
        self.replace(x, fresh);
        out
    }

    /// The same for lanes `distance` apart: the other lane's value, plus the own one with its sign turned in the upper lane.
    fn lane_butterflies(&mut self, x: &[Word], distance: u32, fresh: &mut bool) -> Vec<Word> {
        let turn = self.constant(|lane| if lane as u32 & distance != 0 { !MAGNITUDE } else { 0 });
        let mut out = Vec::new();
        for word in x {
            let other = self.exchange(*word, distance);
            let mut expr = Expr::default();
            let (own, turn) = (expr.word(*word), expr.word(turn));
            let own = expr.op(AluOp::Xor, own, turn);
            let other_arg = expr.word(other);
            let y = expr.op(AluOp::AddF, other_arg, own);
            expr.keep(y);
            out.push(self.word(&expr));
            self.memory.release(other);
        }
        self.replace(x, fresh);
        out
    }
}
