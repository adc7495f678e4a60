//! The forward pass of the search, written once for vectors of any width.
//!
//! A step of sixteen rows is one vector of AVX-512, two of AVX2, or sixteen numbers; one or two vectors go through the whole table together, best costs and containers in
//! registers. Floating-point operations are never fused or reordered, so that all widths give the same containers.

use super::{Entry, LANES, Lane, Trellis};
use pulp::{Arch, Simd, WithSimd};

/// One call: columns in, the best containers into each next state out.
pub(super) struct Forward<'a> {
    pub(super) trellis: &'a Trellis,
    pub(super) x: &'a [Lane<f32>],
    /// `2^m` per step.
    pub(super) back: &'a mut [Lane<u8>],
}

impl Forward<'_> {
    /// Fills `back`, using the widest vectors the machine has.
    pub(super) fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { trellis, x, back } = self;
        let states = 1 << trellis.overlap;
        let mut cost = vec![[0.0f32; LANES]; states];
        let mut next = vec![[f32::INFINITY; LANES]; states];
        let count = x.len().div_ceil(2);
        for (step, (x, back)) in x.chunks(2).zip(back.chunks_exact_mut(states)).enumerate() {
            let (x0, x1, table) = match x {
                [x0, x1] => (x0, x1, &trellis.table),
                _ => (&x[0], &[0.0; LANES], &trellis.half),
            };
            // Only state 0 follows the last container.
            let next_states = if step + 1 == count { 1 } else { states };
            for ((next, back), entries) in next.iter_mut().zip(back).zip(table.chunks_exact(128)).take(next_states) {
                let mut containers = [0.0f32; LANES];
                if S::F32_LANES == LANES {
                    best::<S, 1>(simd, 0, entries, &cost, [x0, x1], next, &mut containers);
                } else {
                    for first in (0..LANES / S::F32_LANES).step_by(2) {
                        best::<S, 2>(simd, first, entries, &cost, [x0, x1], next, &mut containers);
                    }
                }
                *back = containers.map(|container| container as u8);
            }
            let (next, _) = next.split_at(next_states);
            let mut least = next[0];
            for best in &next[1..] {
                for lane in 0..LANES {
                    least[lane] = least[lane].min(best[lane]);
                }
            }
            for (cost, best) in cost.iter_mut().zip(next) {
                for lane in 0..LANES {
                    cost[lane] = best[lane] - least[lane];
                }
            }
        }
    }
}

/// The best of the 128 containers before one next state, for the rows of `N` vectors: the cost of the path and the container, as a number.
#[inline(always)]
fn best<S: Simd, const N: usize>(
    simd: S,
    first: usize,
    entries: &[Entry],
    cost: &[Lane<f32>],
    x: [&Lane<f32>; 2],
    next: &mut Lane<f32>,
    containers: &mut Lane<f32>,
) {
    let part = |lane: &Lane<f32>| -> [S::f32s; N] { std::array::from_fn(|v| S::as_simd_f32s(lane).0[first + v]) };
    let [x0, x1] = x.map(part);
    let (mut best, mut arg) = ([simd.splat_f32s(f32::INFINITY); N], [simd.splat_f32s(0.0); N]);
    for (entries, cost) in entries.chunks_exact(entries.len() / cost.len()).zip(cost) {
        let cost = part(cost);
        for &entry in entries {
            let [a, b, norm, container] = entry.map(|number| simd.splat_f32s(number));
            for v in 0..N {
                let distance = simd.add_f32s(simd.add_f32s(norm, simd.mul_f32s(a, x0[v])), simd.mul_f32s(b, x1[v]));
                let total = simd.add_f32s(cost[v], distance);
                arg[v] = simd.select_f32s(simd.less_than_f32s(total, best[v]), container, arg[v]);
                best[v] = simd.min_f32s(total, best[v]);
            }
        }
    }
    S::as_mut_simd_f32s(next).0[first..first + N].copy_from_slice(&best);
    S::as_mut_simd_f32s(containers).0[first..first + N].copy_from_slice(&arg);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gauss::Gauss;
    use crate::{Codec, table};

    /// The pass by its definition: one row, one container at a time.
    fn plain(trellis: &Trellis, pairs: &[[f32; 2]], x: &[f32], back: &mut [u8]) {
        let states = 1 << trellis.overlap;
        let count = x.len().div_ceil(2);
        let mut cost = vec![0.0f32; states];
        for step in 0..count {
            let x1 = x.get(2 * step + 1).copied();
            let found: Vec<(f32, usize)> = (0..if step + 1 == count { 1 } else { states })
                .map(|t| {
                    let mut best = (f32::INFINITY, 0);
                    for (s, cost) in cost.iter().enumerate() {
                        for container in (s..128).step_by(states) {
                            let [a, b] = pairs[t << 7 | container];
                            let (b, norm) = if x1.is_some() { (b, a * a + b * b) } else { (0.0, a * a) };
                            let total = cost + (norm + -2.0 * a * x[2 * step] + -2.0 * b * x1.unwrap_or(0.0));
                            if total < best.0 {
                                best = (total, container);
                            }
                        }
                    }
                    best
                })
                .collect();
            let least = found.iter().fold(f32::INFINITY, |least, (cost, _)| least.min(*cost));
            for (t, (total, container)) in found.into_iter().enumerate() {
                cost[t] = total - least;
                back[step * states + t] = container as u8;
            }
        }
    }

    /// Every width that this machine has, and single numbers, against the definition; an odd number of columns.
    #[test]
    fn all_widths_are_the_definition() {
        for codec in Codec::all().filter(|codec| codec.window().is_some()) {
            let pairs: Vec<[f32; 2]> = table::pairs(codec).iter().map(|pair| pair.map(f32::from)).collect();
            let trellis = Trellis::new(&pairs);
            let mut source = Gauss::new(21);
            let x: Vec<Lane<f32>> = (0..101).map(|_| std::array::from_fn(|_| 36.0 * source.next().unwrap())).collect();
            let states = 1 << trellis.overlap;
            let expected: Vec<Vec<u8>> = (0..LANES)
                .map(|lane| {
                    let mut back = vec![0; 51 * states];
                    let x: Vec<f32> = x.iter().map(|x| x[lane]).collect();
                    plain(&trellis, &pairs, &x, &mut back);
                    back
                })
                .collect();
            for arch in widths() {
                let mut back = vec![[0; LANES]; 51 * states];
                arch.dispatch(Forward { trellis: &trellis, x: &x, back: &mut back });
                for (lane, expected) in expected.iter().enumerate() {
                    let found: Vec<u8> = back.iter().map(|back| back[lane]).collect();
                    assert_eq!(&found, expected, "{codec} {arch:?} row {lane}");
                }
            }
        }
    }

    /// What can be dispatched to here: the widest, and those below it.
    pub(in crate::trellis) fn widths() -> Vec<Arch> {
        #[cfg(target_arch = "x86_64")]
        let below = pulp::x86::V3::try_new().map(Arch::V3);
        #[cfg(not(target_arch = "x86_64"))]
        let below = None;
        [Some(Arch::new()), below, Some(Arch::Scalar)].into_iter().flatten().collect()
    }
}
