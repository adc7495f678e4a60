//! Causal attention over a cache of latent vectors.
//!
//! One tile is one head of one token. The head's keys are not written out: its query meets their matrix first, and then the latent
//! vectors themselves; the weighted sum of latent vectors meets the matrix of the values at the end. Both vectors lie on the stack. What is
//! between is attention over one head of the cache, whose values are the latent vectors, for neighbouring heads at once.

use q35_bundle::Dim;
use q35_launch::spec::LatentAttention;
use q35_mlir::builder::Val;
use q35_mlir::types::F32;

use super::cached::Cached;
use super::columns::{each, fold};
use super::scores::{Part, Weighted, neighbours, weighted_sums};
use super::table::TableRows;
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

/// Most columns of the latent vectors of neighbours together, of which two each lie on the stack.
const MOST_COLUMNS: u64 = 1 << 12;

/// Why there is no kernel for it, if there is none.
pub(super) fn unsupported(attention: &LatentAttention) -> Option<String> {
    (attention.latent > MOST_COLUMNS).then(|| {
        format!("latent vectors of {} columns have no kernel on the CPU, {MOST_COLUMNS} are the most", attention.latent)
    })
}

impl Kernel for LatentAttention {
    fn build<'k>(&self, level: Level, call: &Call<'k>) {
        let (b, count) = (call.b, lanes(level));
        let (query, slots, index) = (call.arg(0), call.arg(1), call.arg(2));
        let (latents, parts) = (call.arg(3), call.arg(4));
        let keys = TableRows::new(self.keys, call, 5, self.latent);
        let values = TableRows::new(self.values, call, 5 + self.keys.args(), self.latent);
        let y = call.arg(5 + self.keys.args() + self.values.args());
        let capacity = call.dim(Dim::Capacity);
        let cached = Cached { dtype: self.dtype, level };
        let (key_dim, value_dim, query_dim) = (self.key_dim as i64, self.value_dim as i64, self.rotated + self.key_dim);
        // All heads of a token see the same entries; what neighbours have lies on the stack.
        let most = neighbours(self.heads);
        let most = if u64::from(most) * self.latent <= MOST_COLUMNS { most } else { 1 };
        let vector_bytes = 4 * self.latent as i64;
        let vectors = || b.alloca(most * vector_bytes as u32, 64);
        let (absorbed, sums, totals) = (vectors(), vectors(), b.alloca(4 * most, 64));
        let zeros = b.constant(F32.x(count), 0.0);
        call.for_neighbours(most, |tile, neighbours| {
            let (token, first) = (tile.div_u(self.heads as i64), tile.rem_u(self.heads as i64));
            let slot = entry(slots, token) * capacity;
            let (latents, parts) = (latents.at(slot * cached.bytes(self.latent)), parts.at(slot * cached.bytes(self.rotated)));
            let turned = row_at(query, token, self.heads * query_dim).at(first * (4 * query_dim as i64));
            let y = row_at(y, token, self.heads * self.value_dim).at(first * (4 * value_dim));
            let each_head =
                |vectors: Val<'k>, bytes: i64| (0..i64::from(neighbours)).map(|at| vectors.at(at * bytes)).collect();

            b.for_(0, i64::from(neighbours), 1, |at| {
                let (head, plain) = (first + at, turned.at(at * (4 * query_dim as i64)).at(4 * self.rotated as i64));
                each(b, count, self.latent, |columns| {
                    let add = |row: Val<'k>, sum| {
                        keys.load(columns, head * key_dim + row).mul_add(plain.at(row * 4).load(F32, 4), sum)
                    };
                    columns.store(absorbed.at(at * vector_bytes), b.for_iter(0, key_dim, 1, zeros, add));
                });
            });
            let halves = [
                Part { queries: each_head(turned, 4 * query_dim as i64), rows: parts, width: self.rotated },
                Part { queries: each_head(absorbed, vector_bytes), rows: latents, width: self.latent },
            ];
            let weighted = Weighted { rows: latents, width: self.latent, sums: each_head(sums, vector_bytes) };
            let found = weighted_sums(&self.scores, cached, entry(index, token), None, &halves, &weighted);
            found.into_iter().enumerate().for_each(|(at, total)| totals.at(4 * at as i64).store(total, 4));
            b.for_(0, i64::from(neighbours), 1, |at| {
                let (head, sum, inverse) =
                    (first + at, sums.at(at * vector_bytes), b.f32(1.0) / totals.at(at * 4).load(F32, 4));
                each(b, count, self.value_dim, |out| {
                    // Lanes past the last row read it once more, and are not written.
                    let row = |lane: u32| head * value_dim + (out.column + i64::from(lane)).min(value_dim - 1);
                    let rows: Vec<Val<'k>> = (0..count).map(row).collect();
                    let dots = fold(b, count, self.latent, vec![zeros; count as usize], |at, dots| {
                        let sum = at.load(sum);
                        dots.iter().zip(&rows).map(|(&dot, &row)| values.load(at, row).mul_add(sum, dot)).collect()
                    });
                    out.store(y.at(at * (4 * value_dim)), Val::sums(&dots) * inverse);
                });
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, cached_numbers, close, numbers, rows, run};
    use super::*;
    use q35_bundle::CacheDtype;
    use q35_dialects::ParamName;
    use q35_dialects::data::{CacheRef, Data, Matrix, ParamValue};
    use q35_dialects::interp::{Entry, Env, StepInput};
    use q35_dialects::q35::{self, Op};
    use q35_format::{Codec, Group, Packed, PackedSpec, encode::encode};
    use q35_launch::spec::{Scores, Table};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    const SLOTS: [u32; 5] = [1, 0, 1, 2, 0];
    const INDEX: [u32; 5] = [0, 36, 16, 3, 15];
    const CAPACITY: usize = 40;

    fn plain(heads: u64, latent: u64, rotated: u64, key_dim: u64, value_dim: u64) -> LatentAttention {
        let (keys, values) = (Table::F32, Table::F32);
        let scores = Scores { scale: 0.4, window: None, softcap: None };
        LatentAttention { heads, latent, rotated, dtype: CacheDtype::F32, key_dim, value_dim, keys, values, scores }
    }

    fn with_scores(plain: LatentAttention, window: Option<u64>, softcap: Option<f32>) -> LatentAttention {
        LatentAttention { scores: Scores { window, softcap, ..plain.scores }, ..plain }
    }

    fn codec(table: Table) -> (Codec, Group) {
        match table {
            Table::F32 => (Codec::F32, Group::Row),
            Table::F16 => (Codec::F16, Group::Row),
            Table::Bf16 => (Codec::Bf16, Group::Row),
            Table::Q8(group, _) => (Codec::Q8, group),
        }
    }

    /// The matrix of the keys or the values.
    fn matrix(table: Table, rows: u64, cols: u64) -> Packed {
        let (codec, group) = codec(table);
        let mut spec = PackedSpec::new(rows as usize, cols as usize, codec, group).unwrap();
        if let Table::Q8(_, scale) = table {
            spec = spec.with_scale(scale).unwrap();
        }
        encode(spec, &numbers((rows * cols) as usize, 1.0)).unwrap()
    }

    /// Against the reference evaluation of the op.
    fn check(spec: &LatentAttention) {
        let [heads, latent, rotated] = [spec.heads, spec.latent, spec.rotated].map(|n| n as usize);
        let (query_width, width) = (heads * (rotated + spec.key_dim as usize), heads * spec.value_dim as usize);
        let query = numbers(SLOTS.len() * query_width, 2.0);
        let (latents, parts) = (3 * CAPACITY * latent, 3 * CAPACITY * rotated);
        let (latents, parts) = (cached_numbers(spec.dtype, latents, 1.5), cached_numbers(spec.dtype, parts, 2.0));
        let keys = matrix(spec.keys, spec.heads * spec.key_dim, spec.latent);
        let values = matrix(spec.values, spec.heads * spec.value_dim, spec.latent);

        let names = ["k", "v"].map(|name| ParamName::from(name.to_owned()));
        let of = |packed: &Packed| Arc::new(ParamValue::decode(&packed.view().unwrap()));
        let params = BTreeMap::from([(names[0].clone(), of(&keys)), (names[1].clone(), of(&values))]);
        let [k, v] = names;
        let Scores { scale, window, softcap } = spec.scores;
        let op = Op::from(q35::LatentAttention { keys: k, values: v, heads: spec.heads, scale, window, softcap });
        let place = |at: usize| ((at / CAPACITY) as u32, (at % CAPACITY) as u32);
        let cached = |at: usize| Entry {
            key: latents[at * latent..][..latent].to_vec(),
            value: parts[at * rotated..][..rotated].to_vec(),
        };
        let mut caches = BTreeMap::from([(0, (0..3 * CAPACITY).map(|at| (place(at), cached(at))).collect())]);
        let input = StepInput { slots: SLOTS.to_vec(), index: INDEX.to_vec(), ..StepInput::default() };
        let mut env = Env { input: &input, params: &params, caches: &mut caches };
        let cache = CacheRef { layer: 0, kv_heads: 1, key_dim: latent, value_dim: rotated };
        let of_query = Data::Act(Matrix::new(query_width, query.clone()));
        let wanted = op.eval(&[&of_query, &Data::Cache(cache)], &mut env).unwrap();
        let wanted: Vec<f64> = wanted.act().data.iter().map(|x| f64::from(*x)).collect();

        let ints = |all: [u32; 5]| Arg::ints(&all.map(|n| n as i32));
        let mut args = vec![
            Arg::rows(&query, query_width),
            ints(SLOTS),
            ints(INDEX),
            Arg::cached(spec.dtype, &latents),
            Arg::cached(spec.dtype, &parts),
        ];
        for (table, packed) in [(spec.keys, &keys), (spec.values, &values)] {
            args.push(Arg::bytes(&packed.codes));
            args.extend((table.args() > 1).then(|| Arg::bytes(&packed.scales)));
        }
        args.push(Arg::zeros(SLOTS.len(), width));
        let tiles = (SLOTS.len() * heads) as i64;
        run(spec, args, [5, 0, 3, CAPACITY as i64], tiles, |level, args| {
            close(&rows(args.last().unwrap(), width), &wanted, 1e-5, &format!("{spec:?} {level:?}"));
        });
    }

    #[test]
    fn odd_sizes() {
        for (heads, latent, rotated, key_dim, value_dim) in
            [(1, 1, 1, 1, 1), (3, 16, 16, 16, 16), (2, 35, 6, 11, 21), (5, 32, 8, 12, 3), (2, 7, 20, 5, 40)]
        {
            let spec = plain(heads, latent, rotated, key_dim, value_dim);
            check(&spec);
            check(&LatentAttention { dtype: CacheDtype::F16, ..spec });
        }
    }

    #[test]
    fn windows_and_soft_caps() {
        for window in [1, 5, 16, 17, 1000] {
            check(&with_scores(plain(2, 20, 4, 6, 9), Some(window), None));
        }
        check(&with_scores(plain(2, 20, 4, 6, 9), None, Some(2.5)));
    }

    #[test]
    fn every_storage_of_the_matrices() {
        use q35_format::ScaleType;
        let rows = Table::Q8(Group::Row, ScaleType::F32);
        for (keys, values) in [
            (Table::F16, Table::Bf16),
            (Table::Bf16, rows),
            (rows, Table::F16),
            (Table::Q8(Group::Columns(64), ScaleType::F16), rows),
        ] {
            check(&LatentAttention { keys, values, ..plain(2, 150, 8, 7, 19) });
        }
    }

    #[test]
    fn latent_vectors_that_do_not_fit_the_stack_are_refused() {
        assert_eq!(unsupported(&plain(1, 4096, 2, 2, 2)), None);
        let text = "latent vectors of 4097 columns have no kernel on the CPU, 4096 are the most";
        assert_eq!(unsupported(&plain(1, 4097, 2, 2, 2)).as_deref(), Some(text));
    }
}
