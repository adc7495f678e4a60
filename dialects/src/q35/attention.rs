//! Causal attention over the KV cache.

use crate::attr::ParamName;
use crate::data::{CacheRef, Data, Matrix};
use crate::decl::op;
use crate::interp::{Entry, Env, bad_input};
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, vector};
use crate::ty::{Rows, Ty};
use q35_bundle::{Dim, Size};
use rayon::prelude::*;
use std::collections::BTreeMap;

op! {
    /// Token `m` sees the entries `j` of its slot with `j <= index[m]` and, with a window, `j > index[m] - window`. Head `h` of
    /// the query reads head `h / (heads / kv_heads)` of the cache: `score_j = scale * (q . key_j)`, with a soft cap `cap *
    /// tanh(score_j / cap)`; `p = softmax(score)`, where a sink is one more score that has no value; `y = sum p_j value_j`. The
    /// reference computes in f64 and rounds once.
    Attention = "attention"(query: Act, cache: Cache) -> Act {
        /// Heads of the query.
        heads: u64,
        /// Factor of the scores.
        scale: f32,
        /// Entries a token sees, itself included. Absent: all.
        window: Option<u64>,
        /// Bound of the scores. Absent: none.
        softcap: Option<f32>,
        /// One score per head that takes part in the softmax only. Absent: none.
        sinks: Option<ParamName>,
    }
}

/// The layout of the cache a query meets.
pub(super) fn layout(cache: &Ty) -> (u64, u64, u64) {
    match *cache {
        Ty::Cache { kv_heads, key_dim, value_dim, .. } => (kv_heads, key_dim, value_dim),
        ref other => unreachable!("the declaration excludes {other}"),
    }
}

/// Bytes of an element of the cache.
pub(super) fn element_bytes(cache: &Ty) -> u64 {
    match cache {
        Ty::Cache { dtype, .. } => dtype.bytes(),
        other => unreachable!("the declaration excludes {other}"),
    }
}

/// The entries that a token at `index` of a slot sees.
pub(super) fn seen(
    entries: &BTreeMap<(u32, u32), Entry>,
    slot: u32,
    index: u32,
    window: Option<u64>,
) -> q35_diag::Result<Vec<&Entry>> {
    let first = window.map_or(0, |window| (u64::from(index) + 1).saturating_sub(window) as u32);
    let seen: Vec<&Entry> = entries.range((slot, first)..=(slot, index)).map(|(_, entry)| entry).collect();
    let expected = (index - first) as usize + 1;
    if seen.len() != expected {
        let what = format!(
            "slot {slot} of the cache holds {} of the {expected} entries that a token sees at index {index}",
            seen.len()
        );
        return Err(bad_input(what).into());
    }
    Ok(seen)
}

/// Scores to weights, beside one more score that gets the rest.
pub(super) fn softmax(scores: Vec<f64>, sink: f64) -> Vec<f64> {
    let max = scores.iter().copied().fold(sink, f64::max);
    let powers: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let total = powers.iter().sum::<f64>() + (sink - max).exp();
    powers.into_iter().map(|power| power / total).collect()
}

impl Semantics for Attention {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, width) = matrix(&operands[0]);
        let (kv_heads, key_dim, value_dim) = layout(&operands[1]);
        ensure(rows == Rows::Tokens, || "operand 'query' has not one row per token".to_owned())?;
        ensure(self.heads > 0 && self.heads.is_multiple_of(kv_heads), || {
            format!("{} heads do not share the {kv_heads} heads of the cache evenly", self.heads)
        })?;
        ensure(self.heads.checked_mul(key_dim) == Some(width), || {
            format!("{} heads of {key_dim} columns are not the {width} columns of 'query'", self.heads)
        })?;
        ensure(self.window != Some(0), || "a window of 0 entries shows nothing".to_owned())?;
        ensure(self.softcap.is_none_or(|cap| cap > 0.0), || "'softcap' is not positive".to_owned())?;
        if let Some(sinks) = &self.sinks {
            vector(params, sinks, &format!("{} (heads)", self.heads), |len| len == self.heads)?;
        }
        let width = self.heads.checked_mul(value_dim).ok_or("the result has more columns than can be counted")?;
        Ok(Ty::Act { rows, width })
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let (kv_heads, key_dim, value_dim) = layout(&operands[1]);
        let per_entry = |n: u64| match self.window {
            Some(window) => (n * window, vec![Dim::Tokens]),
            None => (n, vec![Dim::Tokens, Dim::Capacity]),
        };
        let mut cost = Cost::elementwise(operands, result, 0).reading(&self.sinks, params);
        cost.read.0.push(per_entry(element_bytes(&operands[1]) * kv_heads * (key_dim + value_dim)));
        cost.operations = Size(vec![per_entry(self.heads * (2 * key_dim + 2 * value_dim + 2))]);
        cost
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (query, cache) = (operands[0].act(), operands[1].cache());
        let entries = &env.caches[&cache.layer];
        let sinks = self.sinks.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let input = env.input;
        let row = |row: usize| {
            let seen = seen(entries, input.slots[row], input.index[row], self.window)?;
            let head = |head| self.head(head, query.row(row), cache, &seen, sinks.as_deref());
            Ok((0..self.heads as usize).flat_map(head).collect::<Vec<f32>>())
        };
        let rows: q35_diag::Result<Vec<_>> = (0..query.rows()).into_par_iter().map(row).collect();
        Ok(Data::Act(Matrix::new(self.heads as usize * cache.value_dim, rows?.concat())))
    }
}

impl Attention {
    /// One head of one token.
    fn head(&self, head: usize, query: &[f32], cache: &CacheRef, seen: &[&Entry], sinks: Option<&[f32]>) -> Vec<f32> {
        let kv_head = head / (self.heads as usize / cache.kv_heads);
        let of = |row: &[f32], head: usize, dim: usize| -> Vec<f64> {
            row[head * dim..][..dim].iter().map(|x| f64::from(*x)).collect()
        };
        let query = of(query, head, cache.key_dim);
        let score = |entry: &&Entry| {
            let key = of(&entry.key, kv_head, cache.key_dim);
            let score = f64::from(self.scale) * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
            self.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
        };
        let sink = sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[head].into());
        let weights = softmax(seen.iter().map(score).collect(), sink);
        let mut y = vec![0.0f64; cache.value_dim];
        for (weight, entry) in weights.iter().zip(seen) {
            for (y, value) in y.iter_mut().zip(of(&entry.value, kv_head, cache.value_dim)) {
                *y += weight * value;
            }
        }
        y.into_iter().map(|y| y as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::Append;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};
    use q35_bundle::CacheDtype;

    fn op() -> Attention {
        Attention { heads: 4, scale: 0.5, window: None, softcap: None, sinks: None }
    }

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin() * 2.0).collect()
    }

    /// Three tokens of slot 0 and two of slot 5, interleaved; 4 query heads over 2 of the cache, keys of 3 columns, values of
    /// 2. The oracle computes dense scores with an explicit mask over the rows of the batch.
    fn check(op: &Attention, sinks: &[f32]) {
        let (slots, index) = ([0, 5, 0, 0, 5], [0, 0, 1, 2, 1]);
        let mut bench = Bench::with_params(&[("s", 4, sinks)]);
        bench.input.slots = slots.to_vec();
        bench.input.index = index.to_vec();
        let (q, k, v) = (wave(5 * 12, 0.7), wave(5 * 6, 1.3), wave(5 * 4, 2.1));
        let cache = bench.eval(Append::plain(0, 2), &[&act(6, &k), &act(4, &v)]);
        let y = bench.eval(op.clone(), &[&act(12, &q), &cache]);
        let mut expected = Vec::new();
        for m in 0..5 {
            for head in 0..4 {
                let kv = head / 2;
                let masked = |n: usize| {
                    slots[n] != slots[m]
                        || index[n] > index[m]
                        || op.window.is_some_and(|w| index[n] as i64 <= index[m] as i64 - w as i64)
                };
                let weight = |n: usize| {
                    let dot: f64 = (0..3).map(|i| f64::from(q[m * 12 + head * 3 + i]) * f64::from(k[n * 6 + kv * 3 + i])).sum();
                    let score = dot * f64::from(op.scale);
                    let score = op.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                    if masked(n) { 0.0 } else { score.exp() }
                };
                let sink = op.sinks.as_ref().map_or(0.0, |_| f64::from(sinks[head]).exp());
                let total: f64 = (0..5).map(weight).sum::<f64>() + sink;
                expected
                    .extend((0..2).map(|d| (0..5).map(|n| weight(n) * f64::from(v[n * 4 + kv * 2 + d])).sum::<f64>() / total));
            }
        }
        near(numbers(&y), &expected, 1e-6);
    }

    #[test]
    fn agrees_with_dense_masked_attention() {
        let sinks = [0.5, -1.0, 2.0, 0.0];
        check(&op(), &sinks);
        check(&Attention { window: Some(2), ..op() }, &sinks);
        check(&Attention { window: Some(1), ..op() }, &sinks);
        check(&Attention { softcap: Some(0.8), ..op() }, &sinks);
        check(&Attention { sinks: Some("s".into()), ..op() }, &sinks);
    }

    #[test]
    fn a_hole_in_the_cache_is_an_error() {
        let mut bench = Bench::default();
        bench.input.slots = vec![1];
        bench.input.index = vec![2];
        let cache = bench.eval(Append::plain(0, 1), &[&act(4, &[0.0; 4]), &act(1, &[0.0])]);
        let query = act(16, &[0.0; 16]);
        let error = bench.try_eval(op(), &[&query, &cache]).unwrap_err().to_string();
        assert_eq!(error, "error[Q35-0604]: slot 1 of the cache holds 1 of the 3 entries that a token sees at index 2");
    }

    #[test]
    fn heads_must_fit_the_cache() {
        let cache = Ty::Cache { layer: 0, kv_heads: 2, key_dim: 3, value_dim: 5, dtype: CacheDtype::F32 };
        assert_eq!(infer(op(), &[tokens(12), cache], &[]), Ok(tokens(20)));
        assert_eq!(
            infer(op(), &[tokens(16), cache], &[]),
            Err("4 heads of 3 columns are not the 16 columns of 'query'".into())
        );
        let odd = Attention { heads: 3, ..op() };
        assert_eq!(infer(odd, &[tokens(9), cache], &[]), Err("3 heads do not share the 2 heads of the cache evenly".into()));
        assert!(infer(Attention { window: Some(0), ..op() }, &[tokens(12), cache], &[]).is_err());
        let sinks = Attention { sinks: Some("s".into()), ..op() };
        assert_eq!(infer(sinks, &[tokens(12), cache], &[("s", 1, 2)]), Err("@s has 2 elements, not 4 (heads)".into()));
    }
}
