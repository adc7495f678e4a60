//! Causal attention over a cache of latent vectors.

use super::attention::{element_bytes, layout, seen, softmax};
use crate::attr::ParamName;
use crate::data::{CacheRef, Data, Matrix, ParamValue};
use crate::decl::op;
use crate::interp::{Entry, Env};
use crate::semantics::{Cost, ParamTable, Semantics, ensure, matrix, shape};
use crate::ty::{Rows, Ty};
use q35_bundle::{Dim, Size};
use rayon::prelude::*;

op! {
    /// Multi-head latent attention. The cache has one head: an entry's key is a latent vector `c`, which stands for the keys and the
    /// values of all heads; its value is `r`, the rotated part of the keys, which all heads share. Row `h` of `query` is, for each
    /// head, as many columns as `r` has, then those that meet the key of that head.
    ///
    /// Entries are seen as by `attention`. With `K_h` and `V_h` the head's rows of `keys` and `values`: `score_j = scale * (q_r . r_j +
    /// q_k . (K_h c_j))`, with a soft cap `cap * tanh(score_j / cap)`; `p = softmax(score)`; `y = V_h sum p_j c_j`. The reference
    /// computes in f64, `K_h^T q_k` first, and rounds once; a quantized parameter counts as the numbers it stands for.
    LatentAttention = "latent_attention"(query: Act, cache: Cache) -> Act {
        /// `[heads * key columns, latent columns]`, head by head.
        keys: ParamName,
        /// `[heads * value columns, latent columns]`, head by head.
        values: ParamName,
        /// Heads of the query.
        heads: u64,
        /// Factor of the scores.
        scale: f32,
        /// Entries a token sees, itself included. Absent: all.
        window: Option<u64>,
        /// Bound of the scores. Absent: none.
        softcap: Option<f32>,
    }
}

impl LatentAttention {
    /// Columns per head that `keys` and `values` have rows for.
    fn widths(&self, latent: u64, params: &dyn ParamTable) -> Result<[u64; 2], String> {
        let per_head = |name: &ParamName| {
            let (rows, cols) = shape(params, name)?;
            ensure(cols == latent, || format!("@{name} has {cols} columns, and the latent vectors {latent}"))?;
            ensure(self.heads > 0 && rows > 0 && rows.is_multiple_of(self.heads), || {
                format!("the {rows} rows of @{name} do not divide into {} heads", self.heads)
            })?;
            Ok::<u64, String>(rows / self.heads)
        };
        Ok([per_head(&self.keys)?, per_head(&self.values)?])
    }

    /// One head of one token.
    fn head(&self, head: usize, query: &[f32], weights: [&ParamValue; 2], cache: &CacheRef, seen: &[&Entry]) -> Vec<f32> {
        let [keys, values] = weights.map(|w| {
            let rows = w.shape().0 / self.heads as usize;
            (head * rows..(head + 1) * rows).map(|row| w.row(row)).collect::<Vec<_>>()
        });
        let (rotated, plain) = query.split_at(cache.value_dim);
        let dot = |a: &[f64], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum::<f64>();
        let rotated: Vec<f64> = rotated.iter().map(|x| f64::from(*x)).collect();
        let mut absorbed = vec![0.0f64; cache.key_dim];
        for (q, row) in plain.iter().zip(&keys) {
            absorbed.iter_mut().zip(row).for_each(|(a, w)| *a += f64::from(*q) * f64::from(*w));
        }
        let score = |entry: &&Entry| {
            let score = f64::from(self.scale) * (dot(&rotated, &entry.value) + dot(&absorbed, &entry.key));
            self.softcap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
        };
        let p = softmax(seen.iter().map(score).collect(), f64::NEG_INFINITY);
        let mut latent = vec![0.0f64; cache.key_dim];
        for (p, entry) in p.iter().zip(seen) {
            latent.iter_mut().zip(&entry.key).for_each(|(y, c)| *y += p * f64::from(*c));
        }
        values.iter().map(|row| dot(&latent, row) as f32).collect()
    }
}

impl Semantics for LatentAttention {
    fn infer(&self, operands: &[Ty], params: &dyn ParamTable) -> Result<Ty, String> {
        let (rows, width) = matrix(&operands[0]);
        let (kv_heads, latent, rotated) = layout(&operands[1]);
        ensure(rows == Rows::Tokens, || "operand 'query' has not one row per token".to_owned())?;
        ensure(kv_heads == 1, || format!("the cache has {kv_heads} heads, not one of latent vectors"))?;
        let [key, value] = self.widths(latent, params)?;
        ensure(rotated.checked_add(key).and_then(|n| n.checked_mul(self.heads)) == Some(width), || {
            format!("{} heads of {rotated} and {key} columns are not the {width} columns of 'query'", self.heads)
        })?;
        ensure(self.window != Some(0), || "a window of 0 entries shows nothing".to_owned())?;
        ensure(self.softcap.is_none_or(|cap| cap > 0.0), || "'softcap' is not positive".to_owned())?;
        Ok(Ty::Act { rows, width: self.heads * value })
    }

    fn cost(&self, operands: &[Ty], result: &Ty, params: &dyn ParamTable) -> Cost {
        let (_, latent, rotated) = layout(&operands[1]);
        let per_entry = |n: u64| match self.window {
            Some(window) => (n * window, vec![Dim::Tokens]),
            None => (n, vec![Dim::Tokens, Dim::Capacity]),
        };
        let weights = [&self.keys, &self.values].into_iter().filter_map(|name| params.packed(name));
        let (mut bytes, mut products) = (0, 0);
        for packed in weights {
            (bytes, products) = (bytes + packed.bytes(), products + packed.rows * packed.cols);
        }
        let mut cost = Cost::elementwise(operands, result, 0);
        cost.read.0.extend([(bytes, Vec::new()), per_entry(element_bytes(&operands[1]) * (latent + rotated))]);
        cost.operations = Size(vec![per_entry(self.heads * (4 * latent + 2 * rotated + 2)), (2 * products, vec![Dim::Tokens])]);
        cost
    }

    fn eval(&self, operands: &[&Data], env: &mut Env<'_>) -> q35_diag::Result<Data> {
        let (query, cache) = (operands[0].act(), operands[1].cache());
        let (keys, values) = (env.params.value(&self.keys)?, env.params.value(&self.values)?);
        let (entries, input, heads) = (&env.caches[&cache.layer], env.input, self.heads as usize);
        let row = |row: usize| {
            let seen = seen(entries, input.slots[row], input.index[row], self.window)?;
            let (width, query) = (query.width / heads, query.row(row));
            let head = |head| self.head(head, &query[head * width..][..width], [&keys, &values], cache, &seen);
            Ok((0..heads).flat_map(head).collect::<Vec<f32>>())
        };
        let rows: q35_diag::Result<Vec<_>> = (0..query.rows()).into_par_iter().map(row).collect();
        Ok(Data::Act(Matrix::new(values.shape().0, rows?.concat())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::q35::testing::{Bench, act, infer, near, numbers, tokens};
    use crate::q35::{Append, Attention};
    use q35_bundle::CacheDtype;

    fn op() -> LatentAttention {
        LatentAttention { keys: "k".into(), values: "v".into(), heads: 2, scale: 0.5, window: None, softcap: None }
    }

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * step).sin() * 2.0).collect()
    }

    /// Two heads; latent vectors of 3 columns, a rotated part of 2, keys of 2 more, values of 4. The same attention with the keys and
    /// values of all heads written out.
    fn check(op: &LatentAttention) {
        let (k, v) = (wave(4 * 3, 0.9), wave(8 * 3, 0.4));
        let mut bench = Bench::with_params(&[("k", 3, &k), ("v", 3, &v)]);
        bench.input.slots = vec![0, 5, 0, 0];
        bench.input.index = vec![0, 0, 1, 2];
        let (q, c, r) = (wave(4 * 8, 0.7), wave(4 * 3, 1.3), wave(4 * 2, 2.1));
        let cache = bench.eval(Append::plain(0, 1), &[&act(3, &c), &act(2, &r)]);
        let y = bench.eval(op.clone(), &[&act(8, &q), &cache]);

        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for m in 0..4 {
            let latent = &c[m * 3..][..3];
            for head in 0..2 {
                keys.extend_from_slice(&r[m * 2..][..2]);
                keys.extend((0..2).map(|i| dot(&k[(head * 2 + i) * 3..][..3], latent)));
                values.extend((0..4).map(|i| dot(&v[(head * 4 + i) * 3..][..3], latent)));
            }
        }
        let plain = Attention { heads: op.heads, scale: op.scale, window: op.window, softcap: op.softcap, sinks: None };
        let cache = bench.eval(Append::plain(1, 2), &[&act(8, &keys), &act(8, &values)]);
        let wanted = bench.eval(plain, &[&act(8, &q), &cache]);
        let wanted: Vec<f64> = numbers(&wanted).iter().map(|x| f64::from(*x)).collect();
        near(numbers(&y), &wanted, 2e-6);
    }

    #[test]
    fn agrees_with_attention_over_what_the_latent_vectors_stand_for() {
        check(&op());
        check(&LatentAttention { window: Some(2), ..op() });
        check(&LatentAttention { softcap: Some(0.8), ..op() });
    }

    #[test]
    fn weights_must_fit_the_cache() {
        let cache = Ty::Cache { layer: 0, kv_heads: 1, key_dim: 3, value_dim: 2, dtype: CacheDtype::F32 };
        let params = [("k", 4, 3), ("v", 8, 3)];
        assert_eq!(infer(op(), &[tokens(8), cache], &params), Ok(tokens(8)));
        assert_eq!(
            infer(op(), &[tokens(9), cache], &params),
            Err("2 heads of 2 and 2 columns are not the 9 columns of 'query'".into())
        );
        assert_eq!(
            infer(op(), &[tokens(8), cache], &[("k", 4, 5), ("v", 8, 3)]),
            Err("@k has 5 columns, and the latent vectors 3".into())
        );
        assert_eq!(
            infer(op(), &[tokens(8), cache], &[("k", 4, 3), ("v", 7, 3)]),
            Err("the 7 rows of @v do not divide into 2 heads".into())
        );
        let heads = Ty::Cache { layer: 0, kv_heads: 2, key_dim: 3, value_dim: 2, dtype: CacheDtype::F32 };
        assert_eq!(infer(op(), &[tokens(8), heads], &params), Err("the cache has 2 heads, not one of latent vectors".into()));
    }
}
