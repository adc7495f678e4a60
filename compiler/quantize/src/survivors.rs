//! The search of error-compensated rounding: sixteen rows at a time, every survivor with its own errors.
//!
//! With `H = F D F^T` ([`crate::hessian`]) a row `w` is rounded so as to keep `sum_k D_k (r_k - q_k)^2` small, where
//! `r_k = w_k + sum_{j<k} (w_j - q_j) F_jk` is what is left to hit after the errors of the columns before. The unit is the pair:
//! for columns `k, k+1` and `f = F_{k,k+1}`, an entry `(a, b)` of the table costs
//!
//! ```text
//! D_k (r_k - a)^2 + D_{k+1} ((r_{k+1} + f w_k) - (b + f a))^2
//! ```
//!
//! and which pairs a container can mean depends on the next container's low bits alone ([`q35_format::trellis`]): the search
//! is a Viterbi search in which each of the `2^m` states keeps its survivor's own errors. Those reach the columns of the
//! strip at hand and of the next one directly; at the end of a strip the best survivor's path through the strip *before* is
//! fixed, survivors that came another way are dropped, and the errors of the fixed columns reach all columns to come at once.
//! So no container is fixed without the low bits of the one after it, and the errors fed forward are exactly those of the
//! finished row. Equal costs are decided for the lower state and then the lower container.
//!
//! What enters: weights and scales, lanes innermost. What leaves: containers, lanes innermost. The search is written once for vectors of any width; floating-point operations are
//! never reordered, so that all widths give the same containers.

use crate::hessian::Factor;
use pulp::{Arch, Simd, WithSimd};
use q35_format::table::Pair;
use q35_format::trellis::{LANES, Lane};

/// Columns of a strip. Groups of columns are whole strips.
pub(crate) const STRIP: usize = 32;
/// Containers of a strip.
const PAIRS: usize = STRIP / 2;

/// A table as the search walks it.
#[derive(Clone, Debug)]
pub(crate) struct Search {
    overlap: u32,
    values: Vec<[f32; 2]>,
}

/// Containers of a strip, by lane.
type Path = [[u8; PAIRS]; LANES];

/// The best way into one state.
#[derive(Clone)]
struct Survivor {
    cost: Lane<f32>,
    /// What is left to hit in the columns of this strip; of the next strip, what this strip's errors add to that.
    ahead: [[f32; 2 * STRIP]; LANES],
    /// Containers of this strip so far.
    path: Path,
    /// State at the start of this strip.
    origin: Lane<u8>,
}

/// A table's entry at one pair of columns: `a`, `b + f a`, its share of the cost that no weight enters, and the container that means it.
type Entry = [f32; 4];

impl Search {
    pub(crate) fn new(pairs: &[Pair]) -> Self {
        Self { overlap: pairs.len().ilog2() - 7, values: pairs.iter().map(|pair| pair.map(f32::from)).collect() }
    }

    /// The integers that containers mean, two columns each.
    pub(crate) fn integers(&self, containers: &[Lane<u8>]) -> Vec<Lane<f32>> {
        let mut out = vec![[0.0; LANES]; 2 * containers.len()];
        for (j, pair) in out.chunks_exact_mut(2).enumerate() {
            for lane in 0..LANES {
                let next = containers.get(j + 1).map_or(0, |next| next[lane]);
                let [a, b] = self.value(next, containers[j][lane]);
                (pair[0][lane], pair[1][lane]) = (a, b);
            }
        }
        out
    }

    /// The pair that `container` means before `next`.
    #[inline(always)]
    fn value(&self, next: u8, container: u8) -> [f32; 2] {
        self.values[(usize::from(next) << 7 | usize::from(container)) & (self.values.len() - 1)]
    }

    /// Finds the containers of sixteen rows of an even number of columns, as many as `factor` has; `scale` gives the scales of a strip.
    pub(crate) fn run(
        &self,
        factor: &Factor,
        weights: &[Lane<f32>],
        scale: &(dyn Fn(usize) -> Lane<f32> + Sync),
    ) -> Vec<Lane<u8>> {
        assert_eq!(weights.len(), factor.cols(), "one weight per column");
        Arch::new().dispatch(Run { search: self, factor, weights, scale })
    }
}

/// One search.
struct Run<'a> {
    search: &'a Search,
    factor: &'a Factor,
    weights: &'a [Lane<f32>],
    scale: &'a (dyn Fn(usize) -> Lane<f32> + Sync),
}

impl WithSimd for Run<'_> {
    type Output = Vec<Lane<u8>>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<Lane<u8>> {
        let Self { search, factor, weights, scale } = self;
        let states = 1usize << search.overlap;
        let first =
            Survivor { cost: [0.0; LANES], ahead: [[0.0; 2 * STRIP]; LANES], path: Path::default(), origin: [0; LANES] };
        let mut survivors = vec![first; states];
        let mut before = vec![Path::default(); states];
        let mut fixed = Fixed { search, weights, containers: Vec::new(), errors: Vec::new() };
        let mut entries: Vec<Entry> = (0..search.values.len()).map(|window| [0.0, 0.0, 0.0, (window % 128) as f32]).collect();
        let strips = weights.len().div_ceil(STRIP);
        for strip in 0..strips {
            let at = strip * STRIP;
            let columns = (weights.len() - at).min(STRIP);
            enter(&mut survivors, &fixed.left(factor, at, columns));
            let near = near(factor, at, columns);
            let scales = scale(strip);
            for pair in 0..columns / 2 {
                let [f, d0, d1] =
                    [near[2 * pair][2 * pair + 1], factor.weight(at + 2 * pair), factor.weight(at + 2 * pair + 1)];
                for (entry, [a, b]) in entries.iter_mut().zip(&search.values) {
                    let b = b + f * a;
                    (entry[0], entry[1], entry[2]) = (*a, b, d0 * a * a + d1 * b * b);
                }
                let last = at + 2 * pair + 2 == weights.len();
                let here = [weights[at + 2 * pair], weights[at + 2 * pair + 1]];
                let step = Step { search, entries: &entries, near: &near, pair, weights: here, scales, f, d0, d1 };
                survivors = step.run(simd, &survivors, if last { 1 } else { states });
            }
            let scales_before = strip.checked_sub(1).map(scale);
            let best: Lane<usize> = std::array::from_fn(|lane| cheapest(&survivors, lane));
            let origin: Lane<u8> = std::array::from_fn(|lane| survivors[best[lane]].origin[lane]);
            if let Some(scales) = scales_before {
                fixed.fix(&std::array::from_fn(|lane| before[usize::from(origin[lane])][lane]), PAIRS, origin, scales);
            }
            if strip + 1 == strips {
                fixed.fix(&survivors[0].path, columns / 2, [0; LANES], scales);
                break;
            }
            for (state, survivor) in survivors.iter_mut().enumerate() {
                for (cost, (mine, kept)) in survivor.cost.iter_mut().zip(survivor.origin.iter().zip(&origin)) {
                    if mine != kept {
                        *cost = f32::INFINITY;
                    }
                }
                before[state] = survivor.path;
                survivor.origin = [state as u8; LANES];
            }
        }
        fixed.containers
    }
}

/// The state of least cost; the lowest of equals.
#[inline(always)]
fn cheapest(survivors: &[Survivor], lane: usize) -> usize {
    (1..survivors.len())
        .fold(0, |best, state| if survivors[state].cost[lane] < survivors[best].cost[lane] { state } else { best })
}

/// Moves survivors to the start of a strip in which `left` is still to hit, the last strip's errors not counted.
#[inline(always)]
fn enter(survivors: &mut [Survivor], left: &[Lane<f32>]) {
    for survivor in survivors {
        for (lane, ahead) in survivor.ahead.iter_mut().enumerate() {
            let (here, next) = ahead.split_at_mut(STRIP);
            here.copy_from_slice(next);
            next.fill(0.0);
            here.iter_mut().zip(left).for_each(|(here, left)| *here += left[lane]);
        }
    }
}

/// `F_jk` for the columns `j` of the strip at `at` and the columns `k` of that strip and the next one.
#[inline(always)]
fn near(factor: &Factor, at: usize, columns: usize) -> [[f32; 2 * STRIP]; STRIP] {
    let mut near = [[0.0; 2 * STRIP]; STRIP];
    for k in 0..(factor.cols() - at).min(2 * STRIP) {
        let into = &factor.feedback(at + k)[at..][..columns];
        near.iter_mut().zip(into).for_each(|(near, f)| near[k] = *f);
    }
    near
}

/// The containers that no later decision changes, and their errors.
struct Fixed<'a> {
    search: &'a Search,
    weights: &'a [Lane<f32>],
    containers: Vec<Lane<u8>>,
    /// `w - q`, by column.
    errors: Vec<Lane<f32>>,
}

impl Fixed<'_> {
    /// Fixes the first `count` containers of `path`, before a container whose low bits are `next`.
    #[inline(always)]
    fn fix(&mut self, path: &Path, count: usize, next: Lane<u8>, scales: Lane<f32>) {
        for j in 0..count {
            let at = self.errors.len();
            let (mut e0, mut e1) = (self.weights[at], self.weights[at + 1]);
            for lane in 0..LANES {
                let next = if j + 1 < count { path[lane][j + 1] } else { next[lane] };
                let [a, b] = self.search.value(next, path[lane][j]);
                e0[lane] -= scales[lane] * a;
                e1[lane] -= scales[lane] * b;
            }
            self.errors.extend([e0, e1]);
            self.containers.push(std::array::from_fn(|lane| path[lane][j]));
        }
    }

    /// What the fixed columns leave to hit in `columns` columns from `at` on.
    #[inline(always)]
    fn left(&self, factor: &Factor, at: usize, columns: usize) -> Vec<Lane<f32>> {
        let mut left = self.weights[at..][..columns].to_vec();
        // Pairs of columns: every error is loaded once for both.
        for (k, left) in left.chunks_exact_mut(2).enumerate() {
            let [f0, f1] = [0, 1].map(|next| &factor.feedback(at + 2 * k + next)[..self.errors.len()]);
            let [mut sum0, mut sum1] = [left[0], left[1]];
            for (error, (f0, f1)) in self.errors.iter().zip(f0.iter().zip(f1)) {
                for lane in 0..LANES {
                    sum0[lane] += error[lane] * f0;
                    sum1[lane] += error[lane] * f1;
                }
            }
            left.copy_from_slice(&[sum0, sum1]);
        }
        left
    }
}

/// One pair of columns.
struct Step<'a> {
    search: &'a Search,
    entries: &'a [Entry],
    near: &'a [[f32; 2 * STRIP]; STRIP],
    pair: usize,
    weights: [Lane<f32>; 2],
    scales: Lane<f32>,
    f: f32,
    d0: f32,
    d1: f32,
}

/// A survivor's costs of an entry `[a, b, n]`: `fixed + square n + first a + second b`.
struct Costs {
    fixed: Lane<f32>,
    first: Lane<f32>,
    second: Lane<f32>,
}

impl Step<'_> {
    /// The survivors of the first `next` states after this pair. The others are dropped.
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, survivors: &[Survivor], next: usize) -> Vec<Survivor> {
        // Loops, not closures: what is not inlined here would lose the vectors.
        let mut costs = Vec::with_capacity(survivors.len());
        for survivor in survivors {
            costs.push(self.costs(survivor));
        }
        let mut found = Vec::with_capacity(next);
        for state in 0..next {
            found.push(self.best(simd, state, &costs));
        }
        let mut least = [f32::INFINITY; LANES];
        for (cost, _) in &found {
            for lane in 0..LANES {
                least[lane] = least[lane].min(cost[lane]);
            }
        }
        let mut after = Vec::with_capacity(survivors.len());
        for (state, survivor) in survivors.iter().enumerate() {
            let Some((mut cost, containers)) = found.get(state).copied() else {
                after.push(Survivor { cost: [f32::INFINITY; LANES], ..survivor.clone() });
                continue;
            };
            for lane in 0..LANES {
                cost[lane] -= least[lane];
            }
            after.push(self.extend(survivors, state as u8, cost, &containers));
        }
        after
    }

    #[inline(always)]
    fn costs(&self, survivor: &Survivor) -> Costs {
        let z0: Lane<f32> = std::array::from_fn(|lane| survivor.ahead[lane][2 * self.pair]);
        let z1: Lane<f32> =
            std::array::from_fn(|lane| survivor.ahead[lane][2 * self.pair + 1] + self.f * self.weights[0][lane]);
        Costs {
            fixed: std::array::from_fn(|lane| {
                survivor.cost[lane] + (self.d0 * z0[lane] * z0[lane] + self.d1 * z1[lane] * z1[lane])
            }),
            first: std::array::from_fn(|lane| -2.0 * self.scales[lane] * self.d0 * z0[lane]),
            second: std::array::from_fn(|lane| -2.0 * self.scales[lane] * self.d1 * z1[lane]),
        }
    }

    /// The best container before a container whose low bits are `next`, and the cost of the way to it.
    #[inline(always)]
    fn best<S: Simd>(&self, simd: S, next: usize, costs: &[Costs]) -> (Lane<f32>, Lane<u8>) {
        let entries = &self.entries[next << 7..][..128];
        let (mut best, mut arg) = ([0.0; LANES], [0.0; LANES]);
        if S::F32_LANES == LANES {
            self.vectors::<S, 1>(simd, 0, entries, costs, [&mut best, &mut arg]);
        } else {
            for first in (0..LANES / S::F32_LANES).step_by(2) {
                self.vectors::<S, 2>(simd, first, entries, costs, [&mut best, &mut arg]);
            }
        }
        (best, arg.map(|container| container as u8))
    }

    /// The same for the rows of `N` vectors.
    #[inline(always)]
    fn vectors<S: Simd, const N: usize>(
        &self,
        simd: S,
        at: usize,
        entries: &[Entry],
        costs: &[Costs],
        [cost_out, arg_out]: [&mut Lane<f32>; 2],
    ) {
        let part = |lane: &Lane<f32>| -> [S::f32s; N] { std::array::from_fn(|v| S::as_simd_f32s(lane).0[at + v]) };
        let square = part(&self.scales.map(|scale| scale * scale));
        let (mut best, mut arg) = ([simd.splat_f32s(f32::INFINITY); N], [simd.splat_f32s(0.0); N]);
        for (state, of) in costs.iter().enumerate() {
            let [fixed, first, second] = [&of.fixed, &of.first, &of.second].map(part);
            for entry in entries[state..].iter().step_by(costs.len()) {
                let [a, b, norm, container] = entry.map(|number| simd.splat_f32s(number));
                for v in 0..N {
                    let own = simd.add_f32s(simd.mul_f32s(square[v], norm), simd.mul_f32s(first[v], a));
                    let cost = simd.add_f32s(fixed[v], simd.add_f32s(own, simd.mul_f32s(second[v], b)));
                    arg[v] = simd.select_f32s(simd.less_than_f32s(cost, best[v]), container, arg[v]);
                    best[v] = simd.min_f32s(cost, best[v]);
                }
            }
        }
        S::as_mut_simd_f32s(cost_out).0[at..at + N].copy_from_slice(&best);
        S::as_mut_simd_f32s(arg_out).0[at..at + N].copy_from_slice(&arg);
    }

    /// The survivor that goes on with these containers.
    #[inline(always)]
    fn extend(&self, survivors: &[Survivor], next: u8, cost: Lane<f32>, containers: &Lane<u8>) -> Survivor {
        let mask = survivors.len() as u8 - 1;
        let parent = |lane: usize| &survivors[usize::from(containers[lane] & mask)];
        let [n0, n1] = [&self.near[2 * self.pair], &self.near[2 * self.pair + 1]];
        let mut ahead = [[0.0; 2 * STRIP]; LANES];
        for (lane, ahead) in ahead.iter_mut().enumerate() {
            let [a, b] = self.search.value(next, containers[lane]);
            let e0 = self.weights[0][lane] - self.scales[lane] * a;
            let e1 = self.weights[1][lane] - self.scales[lane] * b;
            let from = &parent(lane).ahead[lane];
            for k in 0..2 * STRIP {
                ahead[k] = from[k] + (e0 * n0[k] + e1 * n1[k]);
            }
        }
        let path = std::array::from_fn(|lane| {
            let mut path = parent(lane).path[lane];
            path[self.pair] = containers[lane];
            path
        });
        Survivor { cost, ahead, path, origin: std::array::from_fn(|lane| parent(lane).origin[lane]) }
    }
}
