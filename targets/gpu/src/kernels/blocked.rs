//! Attention for many tokens: blocks of queries against blocks of the cache, with matrix instructions (Dao et al. 2022).
//!
//! A group takes one head of the cache and some tokens that follow each other; its *queries* are those of all heads that share the head of the
//! cache. It walks the cache in blocks of [`ENTRIES`], each of which it reads once for all of its queries:
//!
//! | phase | who | what |
//! | --- | --- | --- |
//! | scores | a wave per 16 entries | keys times queries, to shared memory |
//! | softmax | some threads per query | the largest so far, what sums so far shrink by, weights of the entries as halves, to shared memory |
//! | sums | a wave per 16 columns of values, and further ones | values times weights, in registers |
//!
//! Operands are halves, sums are f32. Blocks begin at multiples of their size, and entries that a query does not see have weight 0: what a token gets
//! does not depend on which other tokens its group has. Tokens of several slots in one group are treated slot by slot.

use super::{Kernel, element, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::{COLUMNS, Isa, Matrix, PARTS, ROWS};
use crate::linear::seats;
use q35_bundle::{Dim, Size};
use q35_dialects::Rows;
use q35_launch::Spec;
use q35_launch::spec::Attention;
use q35_mlir::builder::Val;
use q35_mlir::math::{exp, tanh};
use q35_mlir::types::{F16, F32, I32, I64};

/// Waves of a group.
const WAVES: u32 = 4;
/// Entries of a block.
const ENTRIES: u32 = WAVES * ROWS;
/// Columns of a matrix instruction.
const DEPTH: u32 = PARTS * COLUMNS;
/// Queries of a group, where heads allow it.
const QUERIES: u64 = 32;
/// The most queries of a group.
const MOST_QUERIES: u64 = 64;
/// The most columns of a head.
const MOST_COLUMNS: u64 = 512;
/// Groups among which tokens are shared, per head of the cache.
const TOKEN_GROUPS: u64 = 64;
/// The most sums in a lane's registers, and the most shared memory, on any GPU.
const MOST_SUMS: u32 = 96;
const MOST_SHARED: u32 = 48 << 10;
/// Lanes of the smallest wave.
const FEWEST_LANES: u32 = 32;
/// Numbers between the ends of rows in shared memory and the beginnings of the next, so that lanes meet different banks.
const GAP: [u32; 2] = [16, 4];
/// The largest half.
const LARGEST: f64 = 65504.0;
/// How many tokens a step must have for this to be quicker than a group per token and head.
pub(crate) const FEW: u64 = 32;

/// [`Attention`] in blocks: its arguments, and room for parts, of which there are none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Blocked(pub(crate) Attention);

impl Blocked {
    /// The kernel, where registers and shared memory hold a block.
    pub(crate) fn of(spec: &Attention) -> Option<Self> {
        let blocked = Self(spec.clone());
        let few = blocked.queries() <= MOST_QUERIES && spec.key_dim.max(spec.value_dim) <= MOST_COLUMNS;
        let sums = || blocked.tiles_of_wave() * ROWS * blocked.queries() as u32 / FEWEST_LANES;
        (few && sums() <= MOST_SUMS && blocked.shared_bytes() <= MOST_SHARED).then_some(blocked)
    }

    /// Heads that share a head of the cache.
    fn sharing(&self) -> u64 {
        self.0.heads / self.0.kv_heads
    }

    /// Tokens of a group at a time.
    fn tokens(&self) -> u64 {
        (QUERIES / self.sharing()).max(1)
    }

    /// Room for queries.
    fn queries(&self) -> u64 {
        (self.tokens() * self.sharing()).next_power_of_two().max(16)
    }

    fn instructions(&self, matrix: Matrix) -> u32 {
        self.queries() as u32 / matrix.tokens
    }

    /// Tiles of columns of values that a wave takes.
    fn tiles_of_wave(&self) -> u32 {
        (self.0.value_dim as u32).div_ceil(ROWS).div_ceil(WAVES)
    }

    /// Columns of a key, up to a whole matrix instruction.
    fn key_columns(&self) -> u32 {
        (self.0.key_dim as u32).next_multiple_of(DEPTH)
    }

    /// Bytes of rows in shared memory: of a query, of its scores, of its weights.
    fn strides(&self) -> [u32; 3] {
        let [halves, floats] = GAP;
        [2 * (self.key_columns() + halves), 4 * (ENTRIES + floats), 2 * (ENTRIES + halves)]
    }
}

impl Spec for Blocked {
    fn name(&self) -> String {
        self.0.name() + "_blocked"
    }

    fn args(&self) -> usize {
        self.0.args() + 1
    }

    fn tiles(&self, _: Rows) -> Size {
        Size::constant(self.0.kv_heads * TOKEN_GROUPS)
    }
}

impl Kernel for Blocked {
    fn threads(&self, isa: &dyn Isa) -> u32 {
        WAVES * isa.wave()
    }

    /// Queries, scores, weights; what sums shrink by, and the last entry of every query.
    fn shared_bytes(&self) -> u32 {
        self.queries() as u32 * (self.strides().iter().sum::<u32>() + 8)
    }

    fn build<'k>(&self, call: &Call<'k>) {
        let (b, queries) = (call.b, self.queries() as u32);
        let mut start = 0;
        let shared = b.shared(self.shared_bytes(), 16);
        let mut room = |stride: u32| {
            let place = shared.at(i64::from(start));
            start += stride * queries;
            place
        };
        let [query, score, weight] = self.strides();
        let group = Group {
            call,
            of: self,
            head: call.tile.rem_u(self.0.kv_heads as i64),
            queries: room(query),
            scores: room(score),
            weights: room(weight),
            shrinks: room(4),
            lasts: room(4),
        };
        let (tokens, count) = (self.tokens() as i64, call.dim(Dim::Tokens));
        let first = call.tile.div_u(self.0.kv_heads as i64) * tokens;
        b.for_(first, count, tokens * TOKEN_GROUPS as i64, |first| {
            let end = (first + tokens).min(count);
            group.take_queries(first, end);
            b.for_(first, end, 1, |leader| {
                // The first of its slot among those that follow each other speaks for all of its slot.
                let slot = entry(call.arg(1), leader);
                let before = entry(call.arg(1), (leader - 1).max(first));
                b.if_(leader.eq(first) | slot.ne(before), || group.of_slot(first, end, slot));
            });
        });
    }
}

/// A group at work.
struct Group<'a, 'k> {
    call: &'a Call<'k>,
    of: &'a Blocked,
    /// The head of the cache.
    head: Val<'k>,
    /// Shared memory: by query its columns, halves.
    queries: Val<'k>,
    /// By query the scores of a block, f32.
    scores: Val<'k>,
    /// By query the weights of a block, halves.
    weights: Val<'k>,
    /// By query what its sums shrink by, f32.
    shrinks: Val<'k>,
    /// By query the last entry it sees, i32; -1 where there is no such query.
    lasts: Val<'k>,
}

/// Sums of a lane, by tile of columns and matrix instruction.
type Sums<'k> = Vec<Vec<Vec<Val<'k>>>>;

/// Halves of floats, the largest where they are larger.
fn halves(floats: Val<'_>) -> Val<'_> {
    floats.max(-LARGEST).min(LARGEST).to(F16.x(floats.lanes()))
}

impl<'k> Group<'_, 'k> {
    fn spec(&self) -> &Attention {
        &self.of.0
    }

    fn matrix(&self) -> Matrix {
        self.call.isa.matrix()
    }

    /// The place of a query in an array of rows in shared memory.
    fn of_query(array: Val<'k>, query: Val<'k>, stride: u32) -> Val<'k> {
        array.at(query * i64::from(stride))
    }

    /// Four columns of a row of f32 from `column` on, those past the last as 0.
    fn four(&self, row: Val<'k>, column: Val<'k>, columns: u64) -> Val<'k> {
        let (b, last) = (self.call.b, columns as i64 - 1);
        if columns.is_multiple_of(u64::from(COLUMNS)) {
            let start = column.min(columns as i64 - i64::from(COLUMNS));
            let values = row.at(start * 4).load(F32.x(COLUMNS), 16);
            return column.le(last).select(values, b.constant(F32.x(COLUMNS), 0.0));
        }
        (0..COLUMNS).fold(b.constant(F32.x(COLUMNS), 0.0), |all, i| {
            let column = column + i64::from(i);
            all.with_lane(i, column.le(last).select(element(row, column.min(last)), 0.0))
        })
    }

    /// Brings the queries of tokens to shared memory; those that do not exist are 0.
    fn take_queries(&self, first: Val<'k>, end: Val<'k>) {
        let (call, spec, sharing) = (self.call, self.spec(), self.of.sharing() as i64);
        let fours = i64::from(self.of.key_columns() / COLUMNS);
        // Whoever reads the queries before has met the others since.
        call.each(Team::Group, self.of.queries() as i64 * fours, |at| {
            let (query, column) = (at.div_u(fours), at.rem_u(fours) * i64::from(COLUMNS));
            let token = first + query.div_u(sharing);
            let head = self.head * sharing + query.rem_u(sharing);
            let row = row_at(call.arg(0), token.min(end - 1), spec.heads * spec.key_dim).at(head * (4 * spec.key_dim as i64));
            let values = token.lt(end).select(self.four(row, column, spec.key_dim), call.b.constant(F32.x(COLUMNS), 0.0));
            Self::of_query(self.queries, query, self.of.strides()[0]).at(column * 2).store(halves(values), 8);
        });
    }

    /// Threads per query in the softmax.
    fn team(&self) -> i64 {
        i64::from(self.call.threads) / self.of.queries() as i64
    }

    /// Attention of those of the tokens that are of a slot.
    fn of_slot(&self, first: Val<'k>, end: Val<'k>, slot: Val<'k>) {
        let (call, b, spec) = (self.call, self.call.b, self.spec());
        // What the thread's query sees, and where the walk begins and ends: every wave looks at all tokens.
        let seen = |token: Val<'k>| {
            let at = token.min(end - 1);
            let exists = token.lt(end) & entry(call.arg(1), at).eq(slot);
            exists.select(entry(call.arg(2), at), -1)
        };
        let from = |last: Val<'k>| {
            spec.scores.window.map_or(b.i64(0), |window| (last - (i64::try_from(window).unwrap_or(i64::MAX) - 1)).max(0))
        };
        let of_lane = seen(first + call.lane());
        let last = call.wave_all(of_lane.to(I32), |a: Val<'k>, b| a.max(b)).to(I64);
        let start = of_lane.ge(0).select(from(of_lane), last).to(I32);
        let start = call.wave_all(start, |a: Val<'k>, b| a.min(b)).to(I64);
        let start = start.div_u(i64::from(ENTRIES)) * i64::from(ENTRIES);

        let own = call.thread.div_u(self.team());
        let token = first + own.div_u(self.of.sharing() as i64);
        let own_last = seen(token);
        let own_first = from(own_last);
        call.barrier();
        b.if_(call.thread.rem_u(self.team()).eq(0), || self.lasts.at(own * 4).store(own_last.to(I32), 4));

        let places = call.isa.sums(call.lane()).len();
        let none: Sums<'k> = (0..self.of.tiles_of_wave())
            .map(|_| vec![vec![b.f32(0.0); places]; self.of.instructions(self.matrix()) as usize])
            .collect();
        let state = (b.f32(f32::NEG_INFINITY), b.f32(0.0), none);
        let cached = (slot * spec.kv_heads as i64 + self.head) * call.dim(Dim::Capacity);
        let entries = i64::from(ENTRIES);
        let (top, total, sums) = b.for_iter(start, last + 1, entries, state, |block, (top, total, sums)| {
            self.score(cached, block, last);
            call.barrier();
            let (top, total) = self.weigh(block, own_first, own_last, top, total);
            call.barrier();
            (top, total, self.add(cached, block, last, sums))
        });

        // What the sums are divided by at the end takes the place of what they shrink by.
        let sink = self.spec().sinks.then(|| {
            let head = self.head * self.of.sharing() as i64 + own.rem_u(self.of.sharing() as i64);
            element(call.arg(5), head.min(spec.heads as i64 - 1))
        });
        let factor = match sink {
            None => b.f32(1.0) / total,
            Some(sink) => {
                let highest = top.max(sink);
                let shrink = exp(top - highest);
                shrink / total.mul_add(shrink, exp(sink - highest))
            }
        };
        call.barrier();
        b.if_(call.thread.rem_u(self.team()).eq(0), || self.shrinks.at(own * 4).store(factor, 4));
        call.barrier();
        self.write(first, &sums);
    }

    /// The scores of a wave's 16 entries, but for cap and mask.
    fn score(&self, cached: Val<'k>, block: Val<'k>, last: Val<'k>) {
        let (call, b, spec, matrix) = (self.call, self.call.b, self.spec(), self.matrix());
        let [query_bytes, score_bytes, _] = self.of.strides();
        let first = block + call.wave() * i64::from(ROWS);
        let keys: Vec<(Val<'k>, Val<'k>)> = seats(call)
            .flat_map(|seat| {
                let (row, part) = matrix.place(seat);
                (0..matrix.seat_rows).map(move |at| (row + i64::from(at * ROWS / matrix.seat_rows), part))
            })
            .map(|(row, part)| {
                // Entries past the last have not been written; nobody reads their scores.
                let entry = (first + row).min(last);
                (call.arg(3).at((cached + entry) * (4 * spec.key_dim as i64)), part)
            })
            .collect();
        let (of_lane, _) = matrix.place(call.lane());
        let instructions = self.of.instructions(matrix);
        let rows: Vec<Val<'k>> = (0..instructions)
            .map(|at| Self::of_query(self.queries, of_lane + i64::from(at * matrix.tokens), query_bytes))
            .collect();
        let parts = call.isa.token_parts(call.lane());
        let places = call.isa.sums(call.lane());
        let none = vec![vec![b.f32(0.0); places.len()]; instructions as usize];
        let columns = i64::from(self.of.key_columns());
        let sums = b.for_iter(0, columns, i64::from(DEPTH), none, |column, mut sums: Vec<Vec<Val<'k>>>| {
            let keys = keys.iter().map(|&(row, part)| halves(self.four(row, column + part * i64::from(COLUMNS), spec.key_dim)));
            let keys: Vec<Val<'k>> = keys.collect();
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let four = |&part: &Val<'k>| row.at((column + part * i64::from(COLUMNS)) * 2).load(F16.x(COLUMNS), 8);
                *sums = call.isa.multiply(&keys, &parts.iter().map(four).collect::<Vec<_>>(), sums);
            }
            sums
        });
        for (at, sums) in (0..).zip(&sums) {
            for (&sum, &(row, query)) in sums.iter().zip(&places) {
                let query = query + i64::from(at * matrix.tokens);
                let place = Self::of_query(self.scores, query, score_bytes);
                set(place, call.wave() * i64::from(ROWS) + row, sum * f64::from(spec.scores.scale));
            }
        }
    }

    /// The weights of a block for the thread's query, and its largest score and its total afterwards.
    fn weigh(&self, block: Val<'k>, first: Val<'k>, last: Val<'k>, top: Val<'k>, total: Val<'k>) -> (Val<'k>, Val<'k>) {
        let (call, b, team) = (self.call, self.call.b, self.team());
        let (query, member) = (call.thread.div_u(team), call.thread.rem_u(team));
        let [_, score_bytes, weight_bytes] = self.of.strides();
        let (scores, weights) =
            (Self::of_query(self.scores, query, score_bytes), Self::of_query(self.weights, query, weight_bytes));
        let none = b.f32(f32::NEG_INFINITY);
        let own: Vec<(Val<'k>, Val<'k>)> = (0..i64::from(ENTRIES) / team)
            .map(|at| {
                let place = member + at * team;
                let mut score = element(scores, place);
                if let Some(cap) = self.spec().scores.softcap.map(f64::from) {
                    score = tanh(score / cap) * cap;
                }
                let entry = block + place;
                (place, (entry.ge(first) & entry.le(last)).select(score, none))
            })
            .collect();
        let largest = own.iter().fold(top, |largest, &(_, score)| largest.max(score));
        let largest = call.lanes_all(team as u32, largest, |a: Val<'k>, b| a.max(b));
        // Before the first entry that a query sees, all of its scores are minus infinity.
        let base = largest.eq(none).select(b.f32(0.0), largest);
        let shrink = exp(top - base);
        let parts = own.iter().map(|&(place, score)| {
            let part = exp(score - base);
            weights.at(place * 2).store(part.to(F16), 2);
            part
        });
        let sum = parts.reduce(|a, b| a + b).unwrap_or_else(|| unreachable!("a thread has entries"));
        let sum = call.lanes_all(team as u32, sum, |a: Val<'k>, b| a + b);
        b.if_(member.eq(0), || self.shrinks.at(query * 4).store(shrink, 4));
        (largest, total.mul_add(shrink, sum))
    }

    /// Number of the wave's `at`-th tile of columns of values; where there are no more, the last again.
    fn tile(&self, at: u32) -> Val<'k> {
        let tiles = (self.spec().value_dim as i64 + i64::from(ROWS) - 1) / i64::from(ROWS);
        (self.call.wave() + i64::from(at * WAVES)).min(tiles - 1)
    }

    /// The sums shrunk, and the values of a block by their weights.
    fn add(&self, cached: Val<'k>, block: Val<'k>, last: Val<'k>, sums: Sums<'k>) -> Sums<'k> {
        let (call, b, spec, matrix) = (self.call, self.call.b, self.spec(), self.matrix());
        let (weight_bytes, columns) = (self.of.strides()[2], spec.value_dim as i64);
        let places = call.isa.sums(call.lane());
        let shrunk = |of_tile: &Vec<Vec<Val<'k>>>| {
            let of_instruction = |(at, sums): (u32, &Vec<Val<'k>>)| {
                let shrink = |query: Val<'k>| element(self.shrinks, query + i64::from(at * matrix.tokens));
                sums.iter().zip(&places).map(|(&sum, &(_, query))| sum * shrink(query)).collect()
            };
            (0..).zip(of_tile).map(of_instruction).collect()
        };
        let sums: Sums<'k> = sums.iter().map(shrunk).collect();
        let (of_lane, _) = matrix.place(call.lane());
        let rows: Vec<Val<'k>> = (0..self.of.instructions(matrix))
            .map(|at| Self::of_query(self.weights, of_lane + i64::from(at * matrix.tokens), weight_bytes))
            .collect();
        let parts = call.isa.token_parts(call.lane());
        b.for_iter(0, i64::from(ENTRIES), i64::from(DEPTH), sums, |step, mut sums: Sums<'k>| {
            let weights: Vec<Vec<Val<'k>>> = rows
                .iter()
                .map(|row| {
                    let four = |&part: &Val<'k>| row.at((step + part * i64::from(COLUMNS)) * 2).load(F16.x(COLUMNS), 8);
                    parts.iter().map(four).collect()
                })
                .collect();
            for (at, of_tile) in (0..).zip(sums.iter_mut()) {
                let first = self.tile(at) * i64::from(ROWS);
                let values: Vec<Val<'k>> = seats(call)
                    .flat_map(|seat| {
                        let (row, part) = matrix.place(seat);
                        (0..matrix.seat_rows).map(move |at| (row + i64::from(at * ROWS / matrix.seat_rows), part))
                    })
                    .map(|(row, part)| {
                        let column = (first + row).min(columns - 1);
                        let four = (0..COLUMNS).fold(b.constant(F32.x(COLUMNS), 0.0), |all, i| {
                            // Entries past the last have weight 0, and have not been written.
                            let entry = (block + step + part * i64::from(COLUMNS) + i64::from(i)).min(last);
                            all.with_lane(i, element(call.arg(4).at((cached + entry) * (4 * columns)), column))
                        });
                        halves(four)
                    })
                    .collect();
                for (sums, weights) in of_tile.iter_mut().zip(&weights) {
                    *sums = call.isa.multiply(&values, weights, sums);
                }
            }
            sums
        })
    }

    /// Writes what the queries of the slot get.
    fn write(&self, first: Val<'k>, sums: &Sums<'k>) {
        let (call, b, spec, matrix) = (self.call, self.call.b, self.spec(), self.matrix());
        let sharing = self.of.sharing() as i64;
        let places = call.isa.sums(call.lane());
        let y = call.arg(spec.args() - 1);
        for (tile, of_tile) in (0..).zip(sums) {
            let begun = self.tile(tile) * i64::from(ROWS);
            // Waves that have no such tile have computed the last one once more.
            let own = (call.wave() + i64::from(tile * WAVES)) * i64::from(ROWS);
            for (at, sums) in (0..).zip(of_tile) {
                for (&sum, &(row, query)) in sums.iter().zip(&places) {
                    let query = query + i64::from(at * matrix.tokens);
                    let (column, last) = (begun + row, self.lasts.at(query * 4).load(I32, 4));
                    let wanted = last.ge(0) & (own + row).lt(spec.value_dim as i64);
                    b.if_(wanted, || {
                        let head = self.head * sharing + query.rem_u(sharing);
                        let row = row_at(y, first + query.div_u(sharing), spec.heads * spec.value_dim);
                        let row = row.at(head * (4 * spec.value_dim as i64));
                        set(row, column, sum * element(self.shrinks, query));
                    });
                }
            }
        }
    }
}
