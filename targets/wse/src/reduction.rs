//! How a row sums: in one chain, or in groups whose last PEs, the roots, make a second chain. Closed forms of Luczynski et al., "Near-Optimal
//! Wafer-Scale Reduce" (2024): T = max(C, E/N + L) + (2 T_R + 1) D, with contention C, hops E over N links, distance L, dependent steps D, and
//! T_R cycles between a PE and its router.

/// Cycles between a PE and its router.
const RAMP: u64 = 2;

/// Cycles of a sum of `n` elements over `width` PEs in groups of `group`, until the last PE has it.
pub(crate) fn cycles(width: u64, group: u64, n: u64) -> u64 {
    // Every PE's elements take a hop: E/N is n. Distance and depth are the hops.
    let chain = |hops: u64, steps: u64| n + hops + (2 * RAMP + 1) * steps;
    match width {
        0 | 1 => 0,
        _ if group >= width => chain(width - 1, width - 1),
        _ => chain(group - 1, group - 1) + chain(width - group, width.div_ceil(group) - 1),
    }
}

/// The group of rows that sum these numbers of elements: `width` for one chain. Groups are even, so that PEs of one parity are never roots but at
/// the end of a row.
pub(crate) fn group(width: u64, lens: &[u64]) -> u64 {
    let all = |group: u64| lens.iter().map(|n| cycles(width, group, *n)).sum::<u64>();
    let groups = (2..width).step_by(2).chain([width]);
    // Of equal ones the larger: fewer routes.
    groups.min_by_key(|group| (all(*group), std::cmp::Reverse(*group))).unwrap_or(width).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of the formula for a row of 512 PEs and 64 elements: 3130 for a chain, about 860 for groups near the root of 512.
    #[test]
    fn long_rows_of_short_vectors_sum_in_groups() {
        assert_eq!(cycles(512, 512, 64), 64 + 6 * 511);
        let best = group(512, &[64]);
        assert!((16..=32).contains(&best), "{best}");
        assert!(cycles(512, best, 64) < 870, "{}", cycles(512, best, 64));
        // Long vectors, or short rows: a chain.
        assert_eq!((group(8, &[256]), group(1, &[5]), group(2, &[5])), (8, 1, 2));
    }
}
