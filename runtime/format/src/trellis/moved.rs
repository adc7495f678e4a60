//! The search over a table in which the next state moves all points alike: window `t << 7 | c` means `own(c) + move(t)`.
//!
//! Additive tables are of this kind. The distance falls into three parts,
//!
//! ```text
//! |x - own - move|^2 - |x|^2 = (|own|^2 - 2 own x) + (2 own move) + (|move|^2 - 2 move x)
//!                              near(c)              cross(t, c)    far(t)
//! ```
//!
//! and the one that belongs to a container *and* a next state is a constant: it takes an addition and a minimum where the general search takes
//! eight operations. Which container was the best is not kept on the way, only its state; it is found again on the way back, among the few of that
//! state. Equal distances are decided for the lower `u`, equal costs for the lower `s`. As in the general search floating-point operations are
//! never fused or reordered.

use super::{LANES, Lane, Scratch};
use pulp::{Arch, Simd, WithSimd};

/// A point as the search sees it: `[-2a, -2b, a^2 + b^2]`.
type Point = [f32; 3];

/// Containers that are looked at together; every state has as many, or a multiple.
const TOGETHER: usize = 4;

/// A table in parts.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    overlap: u32,
    /// By state `s`, then `u`.
    own: Vec<Point>,
    /// By next state.
    moves: Vec<Point>,
    /// Twice the products of the two, by next state, then as `own`.
    cross: Vec<f32>,
}

fn point([a, b]: [f32; 2]) -> Point {
    [-2.0 * a, -2.0 * b, a * a + b * b]
}

/// `|p - x|^2 - |x|^2`.
#[inline(always)]
fn distance([a, b, norm]: Point, x0: f32, x1: f32) -> f32 {
    norm + a * x0 + b * x1
}

impl Moved {
    /// The parts of a table of `2^(7 + overlap)` pairs of integers, if it has them and states to gain from.
    pub(super) fn of(pairs: &[[f32; 2]], overlap: u32) -> Option<Self> {
        let minus = |a: [f32; 2], b: [f32; 2]| [a[0] - b[0], a[1] - b[1]];
        let moves: Vec<[f32; 2]> = pairs.iter().step_by(128).map(|pair| minus(*pair, pairs[0])).collect();
        let moved = |(window, pair): (usize, &[f32; 2])| minus(*pair, pairs[window % 128]) == moves[window / 128];
        if overlap == 0 || !pairs.iter().enumerate().all(moved) {
            return None;
        }
        let states = 1 << overlap;
        let own: Vec<[f32; 2]> = (0..states).flat_map(|s| (s..128).step_by(states)).map(|container| pairs[container]).collect();
        Some(Self::new(overlap, &own, &moves))
    }

    fn new(overlap: u32, own: &[[f32; 2]], moves: &[[f32; 2]]) -> Self {
        let cross = moves.iter().flat_map(|[p, q]| own.iter().map(move |[a, b]| 2.0 * (a * p + b * q))).collect();
        let points = |of: &[[f32; 2]]| of.iter().copied().map(point).collect();
        Self { overlap, own: points(own), moves: points(moves), cross }
    }

    /// The same table where the second weight of a pair is padding and does not count.
    pub(super) fn half(&self) -> Self {
        let first = |points: &[Point]| -> Vec<[f32; 2]> { points.iter().map(|[a, ..]| [a / -2.0, 0.0]).collect() };
        Self::new(self.overlap, &first(&self.own), &first(&self.moves))
    }

    /// The best container of a state before a next state, for one row.
    fn container(&self, next: usize, state: usize, x: [f32; 2]) -> u8 {
        let each = 128 >> self.overlap;
        let of_state = state * each..(state + 1) * each;
        let points = self.own[of_state.clone()].iter().zip(&self.cross[128 * next..][of_state]);
        let mut best = (f32::INFINITY, 0);
        for (u, (own, cross)) in points.enumerate() {
            let distance = distance(*own, x[0], x[1]) + cross;
            if distance < best.0 {
                best = (distance, u);
            }
        }
        (best.1 << self.overlap | state) as u8
    }
}

/// Finds the containers of sixteen rows, given the table and its [half](Moved::half).
pub(super) fn search(tables: &[Moved; 2], x: &[Lane<f32>], containers: &mut [Lane<u8>], scratch: &mut Scratch) {
    scratch.back.resize(containers.len() << tables[0].overlap, [0; LANES]);
    Arch::new().dispatch(Forward { tables, x, back: &mut scratch.back });
    walk_back(tables, x, containers, &scratch.back);
}

/// The columns of a step, and the table that holds for them.
fn step<'a>(tables: &'a [Moved; 2], columns: &[Lane<f32>]) -> (&'a Moved, [Lane<f32>; 2]) {
    match columns {
        [x0, x1] => (&tables[0], [*x0, *x1]),
        _ => (&tables[1], [columns[0], [0.0; LANES]]),
    }
}

fn walk_back(tables: &[Moved; 2], x: &[Lane<f32>], containers: &mut [Lane<u8>], back: &[Lane<u8>]) {
    let states = 1 << tables[0].overlap;
    let mut next = [0u8; LANES];
    for ((columns, containers), back) in x.chunks(2).zip(containers).zip(back.chunks_exact(states)).rev() {
        let (table, [x0, x1]) = step(tables, columns);
        for lane in 0..LANES {
            let state = back[usize::from(next[lane])][lane];
            containers[lane] = table.container(usize::from(next[lane]), usize::from(state), [x0[lane], x1[lane]]);
            next[lane] = state;
        }
    }
}

/// The way forward: columns in, the best state before each next state out.
struct Forward<'a> {
    tables: &'a [Moved; 2],
    x: &'a [Lane<f32>],
    /// `2^m` per step.
    back: &'a mut [Lane<u8>],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tables, x, back } = self;
        let states = 1 << tables[0].overlap;
        let mut cost = vec![[0.0f32; LANES]; states];
        let mut total = vec![[0.0f32; LANES]; states];
        let mut near = [[0.0f32; LANES]; 128];
        let count = x.len().div_ceil(2);
        for (at, (columns, back)) in x.chunks(2).zip(back.chunks_exact_mut(states)).enumerate() {
            let (table, [x0, x1]) = step(tables, columns);
            for (near, own) in near.iter_mut().zip(&table.own) {
                *near = std::array::from_fn(|lane| distance(*own, x0[lane], x1[lane]));
            }
            // Only state 0 follows the last container.
            let next_states = if at + 1 == count { 1 } else { states };
            let nexts = total.iter_mut().zip(back).zip(table.cross.chunks_exact(128)).zip(&table.moves).take(next_states);
            for (((total, back), cross), moved) in nexts {
                let mut from = [0.0f32; LANES];
                if S::F32_LANES == LANES {
                    best::<S, 1>(simd, 0, &near, cross, &cost, total, &mut from);
                } else {
                    for first in (0..LANES / S::F32_LANES).step_by(2) {
                        best::<S, 2>(simd, first, &near, cross, &cost, total, &mut from);
                    }
                }
                *total = std::array::from_fn(|lane| total[lane] + distance(*moved, x0[lane], x1[lane]));
                *back = from.map(|state| state as u8);
            }
            let (total, _) = total.split_at(next_states);
            let mut least = total[0];
            for total in &total[1..] {
                least = std::array::from_fn(|lane| least[lane].min(total[lane]));
            }
            for (cost, total) in cost.iter_mut().zip(total) {
                *cost = std::array::from_fn(|lane| total[lane] - least[lane]);
            }
        }
    }
}

/// The least cost of a path into one next state, without what belongs to that state alone, for the rows of `N` vectors, and the state it comes from.
#[inline(always)]
fn best<S: Simd, const N: usize>(
    simd: S,
    first: usize,
    near: &[Lane<f32>; 128],
    cross: &[f32],
    cost: &[Lane<f32>],
    total: &mut Lane<f32>,
    from: &mut Lane<f32>,
) {
    let part = |lane: &Lane<f32>, v: usize| S::as_simd_f32s(lane).0[first + v];
    let infinity = simd.splat_f32s(f32::INFINITY);
    let (mut best, mut arg) = ([infinity; N], [simd.splat_f32s(0.0); N]);
    let each = 128 / cost.len();
    for (state, (cost, (near, cross))) in cost.iter().zip(near.chunks_exact(each).zip(cross.chunks_exact(each))).enumerate() {
        let mut least = [infinity; N];
        for (near, cross) in near.as_chunks::<TOGETHER>().0.iter().zip(cross.as_chunks::<TOGETHER>().0) {
            let cross = cross.map(|cross| simd.splat_f32s(cross));
            for (v, least) in least.iter_mut().enumerate() {
                let [a, b, c, d]: [S::f32s; TOGETHER] = std::array::from_fn(|i| simd.add_f32s(part(&near[i], v), cross[i]));
                *least = simd.min_f32s(*least, simd.min_f32s(simd.min_f32s(a, b), simd.min_f32s(c, d)));
            }
        }
        let state = simd.splat_f32s(state as f32);
        for v in 0..N {
            let total = simd.add_f32s(part(cost, v), least[v]);
            arg[v] = simd.select_f32s(simd.less_than_f32s(total, best[v]), state, arg[v]);
            best[v] = simd.min_f32s(total, best[v]);
        }
    }
    S::as_mut_simd_f32s(total).0[first..first + N].copy_from_slice(&best);
    S::as_mut_simd_f32s(from).0[first..first + N].copy_from_slice(&arg);
}

#[cfg(test)]
mod tests {
    use super::super::forward::tests::widths;
    use super::*;
    use crate::gauss::Gauss;
    use crate::{Codec, table};

    fn floats(codec: Codec) -> Vec<[f32; 2]> {
        table::pairs(codec).iter().map(|pair| pair.map(f32::from)).collect()
    }

    #[test]
    fn additive_tables_have_parts_and_others_do_not() {
        for codec in Codec::all().filter(|codec| codec.window() > Some(7)) {
            let pairs = floats(codec);
            let found = Moved::of(&pairs, pairs.len().ilog2() - 7).is_some();
            assert_eq!(found, !table::parts(codec).is_empty(), "{codec}");
        }
    }

    /// The squared distance of a row from what its containers mean.
    fn error(pairs: &[[f32; 2]], x: &[f32], containers: &[u8]) -> f64 {
        let next = |at: usize| usize::from(containers.get(at + 1).copied().unwrap_or(0));
        let pair = |at: usize| pairs[(next(at) << 7 | usize::from(containers[at])) & (pairs.len() - 1)];
        x.iter().enumerate().map(|(k, x)| f64::from(x - pair(k / 2)[k % 2]).powi(2)).sum()
    }

    /// The least squared distance by the general search's definition, in f64: every container before every next state.
    fn least(pairs: &[[f32; 2]], x: &[f32]) -> f64 {
        let states = pairs.len() / 128;
        let mut cost = vec![0.0; states];
        for x in x.chunks(2) {
            let square = |pair: [f32; 2]| x.iter().zip(pair).map(|(x, p)| f64::from(x - p).powi(2)).sum::<f64>();
            let into = |t: usize| (0..128).map(|c| cost[c % states] + square(pairs[t << 7 | c])).fold(f64::INFINITY, f64::min);
            cost = (0..states).map(into).collect();
        }
        cost[0]
    }

    /// Every width that this machine has gives the same containers, and no others lie nearer; odd and even numbers of columns.
    #[test]
    fn all_widths_are_alike_and_the_best() {
        let pairs = floats(Codec::A11);
        let table = Moved::of(&pairs, 4).unwrap();
        let tables = [table.clone(), table.half()];
        for columns in [1, 2, 7, 100, 101] {
            let mut source = Gauss::new(23);
            let x: Vec<Lane<f32>> = (0..columns).map(|_| std::array::from_fn(|_| 16.0 * source.next().unwrap())).collect();
            let runs: Vec<Vec<Lane<u8>>> = widths()
                .into_iter()
                .map(|arch| {
                    let count = x.len().div_ceil(2);
                    let (mut back, mut containers) = (vec![[0; LANES]; count * 16], vec![[0; LANES]; count]);
                    arch.dispatch(Forward { tables: &tables, x: &x, back: &mut back });
                    walk_back(&tables, &x, &mut containers, &back);
                    containers
                })
                .collect();
            assert!(runs.iter().all(|run| run == &runs[0]), "{columns} columns");
            for lane in 0..LANES {
                let x: Vec<f32> = x.iter().map(|x| x[lane]).collect();
                let containers: Vec<u8> = runs[0].iter().map(|containers| containers[lane]).collect();
                let (ours, least) = (error(&pairs, &x, &containers), least(&pairs, &x));
                assert!(ours <= least * (1.0 + 1e-5), "{columns} columns, row {lane}: {ours} against {least}");
            }
        }
    }
}
