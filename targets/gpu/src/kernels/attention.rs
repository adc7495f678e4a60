//! Causal attention over the KV cache, with grouped heads.
//!
//! A tile is one head of one token. The waves of a group take the cache entries in turn; the lanes of a wave share the columns. Each wave
//! keeps the softmax of what it has seen so far, corrected whenever a larger score comes along (Milakov and Gimelshein 2018); at the end
//! the waves' parts meet in shared memory and are joined in the order of waves.

use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::Isa;
use q35_bundle::Dim;
use q35_launch::Spec;
use q35_launch::spec::Attention;
use q35_mlir::builder::Val;
use q35_mlir::math::{exp, tanh};
use q35_mlir::types::F32;

/// Waves of a group.
const WAVES: u32 = 4;

impl Kernel for Attention {
    fn threads(&self, isa: &dyn Isa) -> u32 {
        WAVES * isa.wave()
    }

    fn build(&self, call: &Call<'_>) {
        let b = call.b;
        let (token, head) = (call.tile.div_u(self.heads as i64), call.tile.rem_u(self.heads as i64));
        let (slot, last) = (entry(call.arg(1), token), entry(call.arg(2), token));
        let first =
            self.scores.window.map_or(b.i64(0), |window| (last - (i64::try_from(window).unwrap_or(i64::MAX) - 1)).max(0));
        let cached = (slot * self.kv_heads as i64 + head.div_u((self.heads / self.kv_heads) as i64)) * call.dim(Dim::Capacity);
        let (keys, values) = (call.arg(3), call.arg(4));
        let (key_dim, value_dim) = (self.key_dim as i64, self.value_dim as i64);
        let query = row_at(call.arg(0), token, self.heads * self.key_dim).at(head * (4 * key_dim));
        let y = row_at(call.arg(self.args() - 1), token, self.heads * self.value_dim).at(head * (4 * value_dim));

        let mine = Share::new(call, self.key_dim);
        let query = mine.load(query);
        let share = Share::new(call, self.value_dim);
        let none = (b.f32(f32::NEG_INFINITY), b.f32(0.0), vec![b.f32(0.0); share.columns.len()]);
        let waves = i64::from(call.waves());
        let (top, total, sums) = b.for_iter(first + call.wave(), last + 1, waves, none, |at, (top, total, sums)| {
            let key = mine.load(keys.at((cached + at) * (4 * key_dim)));
            let products = key.iter().zip(&query).fold(b.f32(0.0), |sum, (&k, &q)| k.mul_add(q, sum));
            let mut score = call.sum(Team::Wave, products) * f64::from(self.scores.scale);
            if let Some(cap) = self.scores.softcap.map(f64::from) {
                score = tanh(score / cap) * cap;
            }
            let new_top = top.max(score);
            let (part, shrink) = (exp(score - new_top), exp(top - new_top));
            let value = share.load(values.at((cached + at) * (4 * value_dim)));
            let sums = sums.iter().zip(&value).map(|(&sum, &v)| sum.mul_add(shrink, v * part)).collect();
            (new_top, total.mul_add(shrink, part), sums)
        });

        // Per wave its top, its total, and its sums of values.
        let stride = 4 * (2 + value_dim);
        let parts = b.shared((waves * stride) as u32, 16);
        let own = parts.at(call.wave() * stride);
        b.if_(call.lane().eq(0), || {
            own.store(top, 4);
            own.at(4).store(total, 4);
        });
        share.store(own.at(8), &sums);
        call.barrier();
        let part = |wave: i64, place: i64| parts.at(wave * stride + 4 * place).load(F32, 4);
        let sink = self.sinks.then(|| element(call.arg(5), head));
        let top = (0..waves).map(|wave| part(wave, 0)).chain(sink).reduce(|a, b| a.max(b));
        let top = top.unwrap_or_else(|| unreachable!("a group has waves"));
        // A wave that saw nothing has no top; it counts for nothing.
        let shrinks: Vec<Val<'_>> = (0..waves).map(|wave| exp(part(wave, 0) - top)).collect();
        let start = sink.map_or(b.f32(0.0), |sink| exp(sink - top));
        let total = (0..).zip(&shrinks).fold(start, |total, (wave, &shrink)| part(wave, 1).mul_add(shrink, total));
        let inverse = b.f32(1.0) / total;
        call.each(Team::Group, value_dim, |column| {
            let value = |wave: i64| parts.at(column * 4 + (wave * stride + 8)).load(F32, 4);
            let sum = (0..).zip(&shrinks).fold(b.f32(0.0), |sum, (wave, &shrink)| value(wave).mul_add(shrink, sum));
            set(y, column, sum * inverse);
        });
    }
}

/// The columns of a head that a lane takes: its number plus multiples of the wave's size.
struct Share<'k> {
    /// Each column, and whether it exists where that depends on the lane.
    columns: Vec<(Val<'k>, Option<Val<'k>>)>,
    last: i64,
}

impl<'k> Share<'k> {
    fn new(call: &Call<'k>, columns: u64) -> Self {
        let (columns, lanes) = (columns as i64, i64::from(call.wave_size()));
        let column = |first: i64| {
            let column = call.lane() + first;
            (column, (first + lanes > columns).then(|| column.lt(columns)))
        };
        Self { columns: (0..columns).step_by(lanes as usize).map(column).collect(), last: columns - 1 }
    }

    /// The lane's columns of a row of f32; 0 where there is none.
    fn load(&self, row: Val<'k>) -> Vec<Val<'k>> {
        let one = |&(column, exists): &(Val<'k>, Option<Val<'k>>)| match exists {
            Some(exists) => exists.select(element(row, column.min(self.last)), 0.0),
            None => element(row, column),
        };
        self.columns.iter().map(one).collect()
    }

    /// Writes the lane's columns of a row of f32.
    fn store(&self, row: Val<'k>, values: &[Val<'k>]) {
        for (&(column, exists), &value) in self.columns.iter().zip(values) {
            match exists {
                Some(exists) => row.builder().if_(exists, || set(row, column, value)),
                None => set(row, column, value),
            }
        }
    }
}
