//! The forward pass of the search, one function compiled for several widths of vectors.
//!
//! The source is plain loops over lanes; `target_feature` lets the compiler use wider registers for them. It never fuses or
//! reorders floating-point operations, so that all versions give the same containers.

use super::{Entry, LANES, Lane, Trellis};

/// Columns in, the best containers into each next state out.
type Forward = fn(&Trellis, &[Lane<f32>], &mut [Lane<u8>]);

/// The forward pass by overlap.
pub(super) const BY_OVERLAP: [Forward; 6] =
    [forward::<0, 1>, forward::<1, 2>, forward::<2, 4>, forward::<3, 8>, forward::<4, 16>, forward::<5, 32>];

/// Fills `back`, using the widest vectors the machine has.
fn forward<const M: usize, const STATES: usize>(trellis: &Trellis, x: &[Lane<f32>], back: &mut [Lane<u8>]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature that the function enables has just been detected.
            return unsafe { forward_avx512::<M, STATES>(trellis, x, back) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature that the function enables has just been detected.
            return unsafe { forward_avx2::<M, STATES>(trellis, x, back) };
        }
    }
    forward_portable::<M, STATES>(trellis, x, back);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn forward_avx512<const M: usize, const STATES: usize>(trellis: &Trellis, x: &[Lane<f32>], back: &mut [Lane<u8>]) {
    forward_portable::<M, STATES>(trellis, x, back);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn forward_avx2<const M: usize, const STATES: usize>(trellis: &Trellis, x: &[Lane<f32>], back: &mut [Lane<u8>]) {
    forward_portable::<M, STATES>(trellis, x, back);
}

#[inline(always)]
fn forward_portable<const M: usize, const STATES: usize>(trellis: &Trellis, x: &[Lane<f32>], back: &mut [Lane<u8>]) {
    let mut cost = [[0.0f32; LANES]; STATES];
    let count = x.len().div_ceil(2);
    for (step, (x, back)) in x.chunks(2).zip(back.chunks_exact_mut(STATES)).enumerate() {
        let (x0, x1, table) = match x {
            [x0, x1] => (*x0, *x1, &trellis.table),
            _ => (x[0], [0.0; LANES], &trellis.half),
        };
        // Only state 0 follows the last container.
        let next_states = if step + 1 == count { 1 } else { STATES };
        let mut next = [[f32::INFINITY; LANES]; STATES];
        for (t, entries) in table.chunks_exact(128).take(next_states).enumerate() {
            let mut best = ([f32::INFINITY; LANES], [0i32; LANES]);
            for (s, (entries, cost)) in entries.chunks_exact(128 / STATES).zip(&cost).enumerate() {
                for (u, entry) in entries.iter().enumerate() {
                    best = better(best, cost, entry, &x0, &x1, (u << M | s) as i32);
                }
            }
            let (best, arg) = best;
            next[t] = best;
            back[t] = arg.map(|container| container as u8);
        }
        let mut least = next[0];
        for best in &next[1..next_states] {
            for lane in 0..LANES {
                least[lane] = least[lane].min(best[lane]);
            }
        }
        for (cost, best) in cost.iter_mut().zip(&next) {
            for lane in 0..LANES {
                cost[lane] = best[lane] - least[lane];
            }
        }
    }
}

/// The better of `best` and `container`, whose window means `entry` and whose path so far costs `cost`.
#[inline(always)]
fn better(
    (best, arg): (Lane<f32>, Lane<i32>),
    cost: &Lane<f32>,
    &[a, b, norm]: &Entry,
    x0: &Lane<f32>,
    x1: &Lane<f32>,
    container: i32,
) -> (Lane<f32>, Lane<i32>) {
    let total: Lane<f32> = std::array::from_fn(|lane| cost[lane] + (norm + a * x0[lane] + b * x1[lane]));
    (
        std::array::from_fn(|lane| if total[lane] < best[lane] { total[lane] } else { best[lane] }),
        std::array::from_fn(|lane| if total[lane] < best[lane] { container } else { arg[lane] }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauss::Gauss;
    use crate::{Codec, table};

    fn every_width<const M: usize, const STATES: usize>(codec: Codec) {
        let pairs: Vec<[f32; 2]> = table::pairs(codec).iter().map(|pair| pair.map(f32::from)).collect();
        let trellis = Trellis::new(&pairs);
        let mut source = Gauss::new(21);
        let x: Vec<Lane<f32>> = (0..301).map(|_| std::array::from_fn(|_| 36.0 * source.next().unwrap())).collect();
        let run = |pass: Forward| {
            let mut back = vec![[0; LANES]; 151 * STATES];
            pass(&trellis, &x, &mut back);
            back
        };
        let portable = run(forward_portable::<M, STATES>);
        assert_eq!(run(forward::<M, STATES>), portable, "{codec}");
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature that the function enables has just been detected.
            assert_eq!(run(|trellis, x, back| unsafe { forward_avx2::<M, STATES>(trellis, x, back) }), portable, "{codec}");
        }
    }

    #[test]
    fn all_widths_agree() {
        every_width::<0, 1>(Codec::Split);
        every_width::<0, 1>(Codec::W7);
        every_width::<1, 2>(Codec::W8);
        every_width::<2, 4>(Codec::W9);
        every_width::<3, 8>(Codec::W10);
        every_width::<4, 16>(Codec::W11);
        every_width::<5, 32>(Codec::W12);
    }
}
