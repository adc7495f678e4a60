//! Causal attention over the KV cache.

use crate::attr::ParamName;
use crate::data::{CacheRef, Data, Matrix};
use crate::decl::op;
use crate::interp::{Entry, Env, bad_input};
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, vector};
use crate::ty::{Rows, Ty};
use q35_bundle::{Dim, Size};
use rayon::prelude::*;

op! {
    /// Token `m` sees the entries `j` of its slot with `j <= index[m]` and, with a window, `j > index[m] - window`. Head `h` of the query reads head
    /// `h / (heads / kv_heads)` of the cache: `score_j = scale * (q . key_j)`, with a soft cap `cap * tanh(score_j / cap)`; `p = softmax(score)`, where a
    /// sink is one more score that has no value; `y = sum p_j value_j`. The reference computes in f64 and rounds once.
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
fn layout(cache: &Ty) -> (u64, u64, u64) {
    match *cache {
        Ty::Cache { kv_heads, key_dim, value_dim, .. } => (kv_heads, key_dim, value_dim),
        ref other => unreachable!("the declaration excludes {other}"),
    }
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
        Ok(Ty::Act { rows, width: self.heads * value_dim })
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let (kv_heads, key_dim, value_dim) = layout(&operands[1]);
        let per_entry = |n: u64| match self.window {
            Some(window) => (n * window, vec![Dim::Tokens]),
            None => (n, vec![Dim::Tokens, Dim::Capacity]),
        };
        let mut cost = Cost::elementwise(operands, result, 0).reading(&self.sinks, params);
        cost.read.0.push(per_entry(4 * kv_heads * (key_dim + value_dim)));
        cost.operations = Size(vec![per_entry(self.heads * (2 * key_dim + 2 * value_dim + 2))]);
        cost
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (query, cache) = (operands[0].act(), operands[1].cache());
        let entries = &env.caches[&cache.layer];
        let sinks = self.sinks.as_ref().map(|name| env.params.value(name)).transpose()?.map(|value| value.row(0));
        let input = env.input;
        let row = |row: usize| {
            let (slot, index) = (input.slots[row], input.index[row]);
            let first = self.window.map_or(0, |window| (u64::from(index) + 1).saturating_sub(window) as u32);
            let seen: Vec<&Entry> = entries.range((slot, first)..=(slot, index)).map(|(_, entry)| entry).collect();
            let expected = (index - first) as usize + 1;
            if seen.len() != expected {
                let what = format!("slot {slot} of the cache holds {} of the {expected} entries that a token sees at index {index}", seen.len());
                return Err(bad_input(what));
            }
            let head = |head| self.head(head, query.row(row), cache, &seen, sinks.as_deref());
            Ok((0..self.heads as usize).flat_map(head).collect::<Vec<f32>>())
        };
        let rows: Result<Vec<_>, _> = (0..query.rows()).into_par_iter().map(row).collect();
        Ok(Data::Act(Matrix::new(self.heads as usize * cache.value_dim, rows?.concat())))
    }
}

impl Attention {
    /// One head of one token.
    fn head(&self, head: usize, query: &[f32], cache: &CacheRef, seen: &[&Entry], sinks: Option<&[f32]>) -> Vec<f32> {
        let kv_head = head / (self.heads as usize / cache.kv_heads);
        let of = |row: &[f32], head: usize, dim: usize| -> Vec<f64> { row[head * dim..][..dim].iter().map(|x| f64::from(*x)).collect() };
        let query = of(query, head, cache.key_dim);
        let score = |entry: &&Entry| {
            let key = of(&entry.key, kv_head, cache.key_dim);
            let score = f64::from(self.scale) * query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
            self.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
        };
        let scores: Vec<f64> = seen.iter().map(score).collect();
        let sink = sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[head].into());
        let max = scores.iter().copied().fold(sink, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total = weights.iter().sum::<f64>() + (sink - max).exp();
        let mut y = vec![0.0f64; cache.value_dim];
        for (weight, entry) in weights.iter().zip(seen) {
            for (y, value) in y.iter_mut().zip(of(&entry.value, kv_head, cache.value_dim)) {
                *y += weight / total * value;
            }
        }
        y.into_iter().map(|y| y as f32).collect()
    }
}
