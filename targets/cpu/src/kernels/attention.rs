//! Causal attention over the KV cache, with grouped heads.
//!
//! One tile is one head of one token. Its cache entries are visited once, together with those of neighbours that read the same head of the
//! cache; the result row serves as accumulator.

use q35_bundle::Dim;
use q35_launch::spec::Attention;
use q35_mlir::builder::Val;
use q35_mlir::types::F32;

use super::cached::Cached;
use super::columns::each;
use super::scores::{Part, Weighted, neighbours, weighted_sums};
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

impl Kernel for Attention {
    fn build<'k>(&self, level: Level, call: &Call<'k>) {
        let (b, count) = (call.b, lanes(level));
        let (query, slots, index) = (call.arg(0), call.arg(1), call.arg(2));
        let (keys, values) = (call.arg(3), call.arg(4));
        let sinks = self.sinks.then(|| call.arg(5));
        let y = call.arg(5 + usize::from(self.sinks));
        let capacity = call.dim(Dim::Capacity);
        let cached = Cached { dtype: self.dtype, level };
        let (key_bytes, value_bytes) = (cached.bytes(self.key_dim), cached.bytes(self.value_dim));
        let group = self.heads / self.kv_heads;
        call.for_neighbours(neighbours(group), |tile, neighbours| {
            let (token, head) = (tile.div_u(self.heads as i64), tile.rem_u(self.heads as i64));
            let cached_head = entry(slots, token) * self.kv_heads as i64 + head.div_u(group as i64);
            let (keys, values) = (keys.at(cached_head * capacity * key_bytes), values.at(cached_head * capacity * value_bytes));
            let heads: Vec<Val<'k>> = (0..i64::from(neighbours)).map(|at| head + at).collect();
            let of_head = |rows, width: u64| {
                let row = row_at(rows, token, self.heads * width);
                heads.iter().map(|&head| row.at(head * (4 * width as i64))).collect::<Vec<_>>()
            };
            let (queries, sums) = (of_head(query, self.key_dim), of_head(y, self.value_dim));

            let sinks = sinks.map(|sinks| heads.iter().map(|&head| sinks.at(head * 4).load(F32, 4)).collect());
            let weighted = Weighted { rows: values, width: self.value_dim, sums };
            let parts = [Part { queries, rows: keys, width: self.key_dim }];
            let totals = weighted_sums(&self.scores, cached, entry(index, token), sinks, &parts, &weighted);
            let inverses: Vec<Val<'k>> = totals.into_iter().map(|total| b.f32(1.0) / total).collect();
            each(b, count, self.value_dim, |at| {
                weighted.sums.iter().zip(&inverses).for_each(|(&sum, &inverse)| at.store(sum, at.load(sum) * inverse));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, cached_numbers, close, numbers, rows, run};
    use super::*;
    use q35_bundle::CacheDtype;
    use q35_launch::spec::Scores;

    const SLOTS: [i32; 5] = [1, 0, 1, 2, 0];
    const INDEX: [i32; 5] = [0, 36, 16, 3, 15];
    const CAPACITY: usize = 40;

    struct Case {
        spec: Attention,
        query: Vec<f32>,
        keys: Vec<f32>,
        values: Vec<f32>,
        sinks: Vec<f32>,
    }

    impl Case {
        fn new(spec: Attention) -> Self {
            let [heads, kv_heads, key_dim, value_dim] =
                [spec.heads, spec.kv_heads, spec.key_dim, spec.value_dim].map(|n| n as usize);
            Case {
                query: numbers(SLOTS.len() * heads * key_dim, 3.0),
                keys: cached_numbers(spec.dtype, 3 * kv_heads * CAPACITY * key_dim, 2.0),
                values: cached_numbers(spec.dtype, 3 * kv_heads * CAPACITY * value_dim, 4.0),
                sinks: numbers(heads, 2.0),
                spec,
            }
        }

        /// One head of one token, in f64 and two passes.
        fn exact(&self, token: usize, head: usize) -> Vec<f64> {
            let spec = &self.spec;
            let [heads, kv_heads, key_dim, value_dim] =
                [spec.heads, spec.kv_heads, spec.key_dim, spec.value_dim].map(|n| n as usize);
            let place = (SLOTS[token] as usize * kv_heads + head / (heads / kv_heads)) * CAPACITY;
            let last = INDEX[token] as usize;
            let first = spec.scores.window.map_or(0, |w| (last + 1).saturating_sub(w as usize));
            let query = &self.query[(token * heads + head) * key_dim..][..key_dim];
            let score = |j: usize| {
                let key = &self.keys[(place + j) * key_dim..][..key_dim];
                let dot: f64 = key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum();
                let scaled = dot * f64::from(spec.scores.scale);
                spec.scores.softcap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh())
            };
            let weights: Vec<f64> = (first..=last).map(|j| score(j).exp()).collect();
            let sink = if spec.sinks { f64::from(self.sinks[head]).exp() } else { 0.0 };
            let total: f64 = weights.iter().sum::<f64>() + sink;
            (0..value_dim)
                .map(|col| {
                    let value = |j: usize| f64::from(self.values[(place + j) * value_dim + col]);
                    weights.iter().enumerate().map(|(at, w)| w / total * value(first + at)).sum()
                })
                .collect()
        }

        fn check(&self) {
            let (heads, key_dim) = (self.spec.heads as usize, self.spec.key_dim as usize);
            let width = heads * self.spec.value_dim as usize;
            let tiles = SLOTS.len() * heads;
            let exact: Vec<f64> = (0..tiles).flat_map(|tile| self.exact(tile / heads, tile % heads)).collect();
            let mut args = vec![
                Arg::rows(&self.query, heads * key_dim),
                Arg::ints(&SLOTS),
                Arg::ints(&INDEX),
                Arg::cached(self.spec.dtype, &self.keys),
                Arg::cached(self.spec.dtype, &self.values),
                Arg::floats(&self.sinks),
                Arg::zeros(SLOTS.len(), width),
            ];
            if !self.spec.sinks {
                args.remove(5);
            }
            run(&self.spec, args, [5, 0, 3, CAPACITY as i64], tiles as i64, |level, args| {
                close(&rows(args.last().unwrap(), width), &exact, 1e-5, &format!("{:?} {level:?}", self.spec));
            });
        }
    }

    fn plain(heads: u64, kv_heads: u64, key_dim: u64, value_dim: u64) -> Attention {
        let scale = 1.0 / (key_dim as f32).sqrt();
        let scores = Scores { scale, window: None, softcap: None };
        Attention { heads, kv_heads, key_dim, value_dim, dtype: CacheDtype::F32, scores, sinks: false }
    }

    fn halves(plain: Attention) -> Attention {
        Attention { dtype: CacheDtype::F16, ..plain }
    }

    fn with_scores(plain: Attention, window: Option<u64>, softcap: Option<f32>) -> Attention {
        Attention { scores: Scores { window, softcap, ..plain.scores }, ..plain }
    }

    #[test]
    fn head_groups_and_odd_sizes() {
        for (heads, kv_heads, key_dim, value_dim) in
            [(1, 1, 1, 1), (4, 4, 16, 16), (6, 2, 20, 24), (4, 1, 64, 37), (7, 1, 9, 20), (10, 2, 8, 3)]
        {
            Case::new(plain(heads, kv_heads, key_dim, value_dim)).check();
            Case::new(halves(plain(heads, kv_heads, key_dim, value_dim))).check();
        }
    }

    #[test]
    fn windows() {
        for window in [1, 5, 16, 17, 1000] {
            Case::new(with_scores(plain(2, 1, 16, 16), Some(window), None)).check();
        }
    }

    #[test]
    fn soft_caps_and_sinks() {
        Case::new(with_scores(plain(2, 2, 24, 8), None, Some(2.5))).check();
        Case::new(Attention { sinks: true, ..plain(4, 2, 16, 16) }).check();
        Case::new(Attention { sinks: true, ..with_scores(halves(plain(4, 2, 16, 16)), Some(4), Some(10.0)) }).check();
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut case = Case::new(plain(2, 1, 32, 16));
        case.query.iter_mut().for_each(|q| *q *= 20.0);
        case.check();
    }
}
