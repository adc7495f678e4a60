//! Causal attention over the KV cache, with grouped heads, for few tokens.
//!
//! A group of threads takes one head of one token. Its waves take the cache entries in turn, several at once so that their loads are on the way
//! together; the lanes of a wave share the columns. Each wave keeps the softmax of what it has seen so far, corrected whenever a larger score
//! comes along (Milakov and Gimelshein 2018); at the end the waves' parts meet in shared memory and are joined in the order of waves.
//!
//! Where there are very few tokens, their heads would leave most of a card idle: the entries are shared among [`SPLITS`] groups then, which leave
//! [parts](Parts) in memory, and [`Join`] makes the result of them.

use super::blocked::{self, Blocked};
use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::Isa;
use q35_bundle::{Dim, Size};
use q35_dialects::Rows;
use q35_launch::kernels::{Choice, Split};
use q35_launch::spec::Attention;
use q35_launch::{Spec, layout};
use q35_mlir::builder::Val;
use q35_mlir::math::{exp, tanh};
use q35_mlir::types::F32;
use std::rc::Rc;

/// Waves of a group.
const WAVES: u32 = 4;
/// Columns of keys and values that a lane loads at once, about.
const COLUMNS_AT_ONCE: usize = 64;
/// The most entries that a wave takes at once.
const ENTRIES_AT_ONCE: usize = 8;
/// Groups that share the entries of a token's head.
const SPLITS: u64 = 8;
/// The most tokens of a step whose entries are shared so.
const VERY_FEW: u64 = 8;

/// The kernels of attention on a GPU. All of them take one argument more than the spec says: room for parts.
pub(crate) fn kernels(spec: &Attention) -> Split<dyn Kernel> {
    let choice = |kernel: Rc<dyn Kernel>, max_rows| Choice { kernel, max_rows };
    let blocked = Blocked::of(spec);
    let mut choices = vec![
        choice(Rc::new(Shared(spec.clone())), Some(VERY_FEW)),
        choice(Rc::new(Whole(spec.clone())), blocked.is_some().then_some(blocked::FEW)),
    ];
    choices.extend(blocked.map(|blocked| choice(Rc::new(blocked), None)));
    Split { choices, join: Rc::new(Join::of(spec)), bytes: Parts::of(spec).row_bytes() }
}

/// Where groups that share the entries of a token's head leave what they found: by token, head and group the largest score, the sum of the powers
/// relative to it, and the values weighted by those powers, f32.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parts {
    heads: u64,
    value_dim: u64,
}

impl Parts {
    fn of(spec: &Attention) -> Self {
        Self { heads: spec.heads, value_dim: spec.value_dim }
    }

    /// Bytes of a part.
    fn stride(self) -> i64 {
        4 * (2 + self.value_dim as i64)
    }

    /// Bytes of a token's parts.
    fn row_bytes(self) -> u64 {
        (self.heads * SPLITS * self.stride() as u64).next_multiple_of(layout::ALIGN as u64)
    }

    /// The parts of a token's head.
    fn at<'k>(self, parts: Val<'k>, token: Val<'k>, head: Val<'k>) -> Val<'k> {
        parts.at(token * self.row_bytes() as i64 + head * (SPLITS as i64 * self.stride()))
    }
}

/// All entries of a token's head in one group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Whole(pub(crate) Attention);

/// The entries of a token's head shared among groups.
#[derive(Clone, Debug, PartialEq)]
struct Shared(Attention);

impl Spec for Whole {
    fn name(&self) -> String {
        self.0.name()
    }

    fn args(&self) -> usize {
        self.0.args() + 1
    }

    fn tiles(&self, rows: Rows) -> Size {
        self.0.tiles(rows)
    }
}

impl Spec for Shared {
    fn name(&self) -> String {
        self.0.name() + "_shared"
    }

    fn args(&self) -> usize {
        self.0.args() + 1
    }

    fn tiles(&self, rows: Rows) -> Size {
        rows.size(self.0.heads * SPLITS)
    }
}

impl Kernel for Whole {
    fn threads(&self, isa: &dyn Isa) -> u32 {
        WAVES * isa.wave()
    }

    fn build(&self, call: &Call<'_>) {
        let spec = &self.0;
        let (token, head) = (call.tile.div_u(spec.heads as i64), call.tile.rem_u(spec.heads as i64));
        let walk = Walk::new(call, spec, token, head);
        let joined = walk.group(walk.first, walk.last);
        let y = row_at(call.arg(spec.args() - 1), token, spec.heads * spec.value_dim).at(head * (4 * spec.value_dim as i64));
        let sink = spec.sinks.then(|| element(call.arg(5), head));
        let (_, total, sums) = joined.all(call, sink);
        let inverse = call.b.f32(1.0) / total;
        call.each(Team::Group, spec.value_dim as i64, |column| set(y, column, sums(column) * inverse));
    }
}

impl Kernel for Shared {
    fn threads(&self, isa: &dyn Isa) -> u32 {
        WAVES * isa.wave()
    }

    fn build(&self, call: &Call<'_>) {
        let (b, spec, splits) = (call.b, &self.0, SPLITS as i64);
        let (of_head, split) = (call.tile.div_u(splits), call.tile.rem_u(splits));
        let (token, head) = (of_head.div_u(spec.heads as i64), of_head.rem_u(spec.heads as i64));
        let walk = Walk::new(call, spec, token, head);
        let share = (walk.last - walk.first).div_u(splits) + 1;
        let first = walk.first + split * share;
        let joined = walk.group(first, (first + share - 1).min(walk.last));
        let (top, total, sums) = joined.all(call, None);
        let part = Parts::of(spec).at(call.arg(spec.args()), token, head).at(split * Parts::of(spec).stride());
        b.if_(call.thread.eq(0), || {
            part.store(top, 4);
            part.at(4).store(total, 4);
        });
        call.each(Team::Group, spec.value_dim as i64, |column| set(part.at(8), column, sums(column)));
    }
}

/// Makes results of parts, row by row, where a step has so few tokens that there are any. Arguments: parts, the sinks where there are any, y, which
/// it leaves alone otherwise.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Join {
    parts: Parts,
    sinks: bool,
}

impl Join {
    fn of(spec: &Attention) -> Self {
        Self { parts: Parts::of(spec), sinks: spec.sinks }
    }
}

impl Spec for Join {
    fn name(&self) -> String {
        let sinks = if self.sinks { "_sinks" } else { "" };
        format!("join_{}_of_{}{sinks}", self.parts.heads, self.parts.value_dim)
    }

    fn args(&self) -> usize {
        2 + usize::from(self.sinks)
    }
}

impl Kernel for Join {
    fn build(&self, call: &Call<'_>) {
        let (parts, columns) = (self.parts, self.parts.value_dim as i64);
        call.b.if_(call.dim(Dim::Tokens).le(VERY_FEW as i64), || {
            let y = row_at(call.arg(self.args() - 1), call.tile, parts.heads * parts.value_dim);
            call.each(Team::Group, parts.heads as i64 * columns, |at| {
                let (head, column) = (at.div_u(columns), at.rem_u(columns));
                let start = parts.at(call.arg(0), call.tile, head);
                let joined = Joined { start, stride: parts.stride(), count: SPLITS as i64 };
                let (_, total, sums) = joined.all(call, self.sinks.then(|| element(call.arg(1), head)));
                set(y, at, sums(column) / total);
            });
        });
    }
}

/// Parts that lie beside each other.
struct Joined<'k> {
    start: Val<'k>,
    /// Bytes from one to the next.
    stride: i64,
    count: i64,
}

impl<'k> Joined<'k> {
    /// All of them together, with a score that belongs to no entry: the largest score, the total, and the sum of a column.
    fn all(&self, call: &Call<'k>, sink: Option<Val<'k>>) -> (Val<'k>, Val<'k>, impl Fn(Val<'k>) -> Val<'k>) {
        let (b, start, stride) = (call.b, self.start, self.stride);
        let part = move |number: i64, place: i64| start.at(number * stride + 4 * place).load(F32, 4);
        let tops: Vec<Val<'k>> = (0..self.count).map(|number| part(number, 0)).collect();
        let top = tops.iter().copied().chain(sink).reduce(|a, b| a.max(b));
        let top = top.unwrap_or_else(|| unreachable!("there are parts"));
        // Who saw nothing has no top, and counts for nothing; nor is there one where nobody saw anything.
        let base = top.eq(f64::NEG_INFINITY).select(b.f32(0.0), top);
        let shrinks: Vec<Val<'k>> = tops.iter().map(|&own| exp(own - base)).collect();
        let start_of_total = sink.map_or(b.f32(0.0), |sink| exp(sink - base));
        let total = (0..).zip(&shrinks).fold(start_of_total, |total, (number, &shrink)| part(number, 1).mul_add(shrink, total));
        let sums = move |column: Val<'k>| {
            let value = |number: i64| start.at(column * 4 + (number * stride + 8)).load(F32, 4);
            (0..).zip(&shrinks).fold(b.f32(0.0), |sum, (number, &shrink)| value(number).mul_add(shrink, sum))
        };
        (top, total, sums)
    }
}

/// A walk over entries of the cache.
struct Walk<'a, 'k> {
    call: &'a Call<'k>,
    spec: &'a Attention,
    /// What the lane has of the query.
    query: Vec<Val<'k>>,
    /// Entries before those of the slot and head.
    cached: Val<'k>,
    /// The first entry that the token sees, and the last.
    first: Val<'k>,
    last: Val<'k>,
}

impl<'a, 'k> Walk<'a, 'k> {
    fn new(call: &'a Call<'k>, spec: &'a Attention, token: Val<'k>, head: Val<'k>) -> Self {
        let (slot, last) = (entry(call.arg(1), token), entry(call.arg(2), token));
        let first =
            spec.scores.window.map_or(call.b.i64(0), |window| (last - (i64::try_from(window).unwrap_or(i64::MAX) - 1)).max(0));
        let cached = slot * spec.kv_heads as i64 + head.div_u((spec.heads / spec.kv_heads) as i64);
        let query = row_at(call.arg(0), token, spec.heads * spec.key_dim).at(head * (4 * spec.key_dim as i64));
        let query = Share::new(call, spec.key_dim).load(query);
        Self { call, spec, query, cached: cached * call.dim(Dim::Capacity), first, last }
    }

    /// What the group finds in the entries from `first` to `last`, if there are any, as parts of its waves in shared memory.
    fn group(&self, first: Val<'k>, last: Val<'k>) -> Joined<'k> {
        let (call, b, spec) = (self.call, self.call.b, self.spec);
        let (keys, values) = (call.arg(3), call.arg(4));
        let (of_key, of_value) = (Share::new(call, spec.key_dim), Share::new(call, spec.value_dim));
        let columns = of_key.columns.len() + of_value.columns.len();
        let together = (COLUMNS_AT_ONCE / columns).clamp(1, ENTRIES_AT_ONCE);
        let waves = i64::from(call.waves());
        let none = (b.f32(f32::NEG_INFINITY), b.f32(0.0), vec![b.f32(0.0); of_value.columns.len()]);
        // The entries that a wave takes at once are as far apart as there are waves.
        let (start, step) = (first + call.wave(), waves * together as i64);
        let (top, total, sums) = b.for_iter(start, last + 1, step, none, |at, (top, total, sums): State<'k>| {
            let entries: Vec<Val<'k>> = (0..together as i64).map(|number| at + number * waves).collect();
            let rows: Vec<Val<'k>> = entries.iter().map(|entry| self.cached + entry.min(last)).collect();
            let row = |cache: Val<'k>, row: Val<'k>, dim: u64| cache.at(row * (4 * dim as i64));
            let loaded: Vec<Vec<Val<'k>>> = rows.iter().map(|&at| of_key.load(row(keys, at, spec.key_dim))).collect();
            let loaded_values: Vec<Vec<Val<'k>>> =
                rows.iter().map(|&at| of_value.load(row(values, at, spec.value_dim))).collect();
            let score = |(entry, key): (&Val<'k>, &Vec<Val<'k>>)| {
                let products = key.iter().zip(&self.query).fold(b.f32(0.0), |sum, (&k, &q)| k.mul_add(q, sum));
                let mut score = call.sum(Team::Wave, products) * f64::from(spec.scores.scale);
                if let Some(cap) = spec.scores.softcap.map(f64::from) {
                    score = tanh(score / cap) * cap;
                }
                entry.le(last).select(score, f64::NEG_INFINITY)
            };
            let scores: Vec<Val<'k>> = entries.iter().zip(&loaded).map(score).collect();
            let new_top = scores.iter().fold(top, |top, &score| top.max(score));
            let shrink = exp(top - new_top);
            let parts: Vec<Val<'k>> = scores.iter().map(|&score| exp(score - new_top)).collect();
            let total = parts.iter().fold(total * shrink, |total, &part| total + part);
            let sums = (0..).zip(&sums).map(|(column, &sum): (usize, &Val<'k>)| {
                let of_entries = loaded_values.iter().zip(&parts);
                of_entries.fold(sum * shrink, |sum, (value, &part)| value[column].mul_add(part, sum))
            });
            (new_top, total, sums.collect())
        });

        // Per wave its top, its total, and its sums of values.
        let stride = 4 * (2 + spec.value_dim as i64);
        let shared = b.shared((waves * stride) as u32, 16);
        let own = shared.at(call.wave() * stride);
        b.if_(call.lane().eq(0), || {
            own.store(top, 4);
            own.at(4).store(total, 4);
        });
        of_value.store(own.at(8), &sums);
        call.barrier();
        Joined { start: shared, stride, count: waves }
    }
}

/// Top, total and sums of a wave.
type State<'k> = (Val<'k>, Val<'k>, Vec<Val<'k>>);

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
