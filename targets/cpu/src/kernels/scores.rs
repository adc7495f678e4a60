//! Softmax over cache entries that are visited once.
//!
//! As many entries at a time as there are lanes: their scores, then the softmax of what has been seen so far, corrected whenever a larger
//! score comes along (Milakov and Gimelshein 2018). Queries that see the same entries go together, so that a row is read once for all of them;
//! what comes out for one does not depend on the others.

use q35_launch::spec::Scores;
use q35_mlir::builder::Val;
use q35_mlir::math::{exp, tanh};
use q35_mlir::types::{F32, I64};

use super::cached::Cached;
use super::columns::{each, fold};
use super::lanes;

/// Queries that go together, the first of these that divides how many see the same entries: more would leave few tiles for threads.
const NEIGHBOURS: [u32; 5] = [4, 3, 2, 5, 7];

/// How many of `queries` that see the same entries go together.
pub(super) fn neighbours(queries: u64) -> u32 {
    NEIGHBOURS.into_iter().find(|count| queries.is_multiple_of(u64::from(*count))).unwrap_or(1)
}

/// Columns of the queries, and the rows of the cache, one per entry, that they meet.
pub(super) struct Part<'k> {
    pub(super) queries: Vec<Val<'k>>,
    pub(super) rows: Val<'k>,
    pub(super) width: u64,
}

/// Rows of the cache, one per entry, and where their weighted sum goes for each query.
pub(super) struct Weighted<'k> {
    pub(super) rows: Val<'k>,
    pub(super) width: u64,
    pub(super) sums: Vec<Val<'k>>,
}

/// Sums rows, weighted with the powers of their scores, over the entries that a token sees whose own is `last`; returns what the sum of each
/// query must be divided by. A score is the dot product over all `parts`; `sinks` are scores without a row.
pub(super) fn weighted_sums<'k>(
    of: &Scores,
    cached: Cached,
    last: Val<'k>,
    sinks: Option<Vec<Val<'k>>>,
    parts: &[Part<'k>],
    weighted: &Weighted<'k>,
) -> Vec<Val<'k>> {
    let (b, count) = (last.builder(), lanes(cached.level));
    let first = of.window.map_or(b.i64(0), |window| (last - (i64::try_from(window).unwrap_or(i64::MAX) - 1)).max(0));
    let Weighted { rows, width, sums } = weighted;
    let zeros = b.constant(F32.x(count), 0.0);
    each(b, count, *width, |at| sums.iter().for_each(|&sum| at.store(sum, zeros)));
    let nothing = || vec![(b.f32(f32::NEG_INFINITY), b.f32(0.0)); sums.len()];
    let seen = sinks.map_or_else(nothing, |sinks| sinks.into_iter().map(|sink| (sink, b.f32(1.0))).collect());
    let seen = b.for_iter(first, last + 1, i64::from(count), seen, |start, seen| {
        // Lanes past the last entry read it once more, and count for nothing.
        let entries: Vec<Val<'k>> = (0..i64::from(count)).map(|lane| (start + lane).min(last)).collect();
        let is_entry = (b.iota(I64.x(count)) + start).le(last);
        let step = |dots: Vec<Val<'k>>, top: Val<'k>| {
            let mut scores = Val::sums(&dots) * f64::from(of.scale);
            if let Some(cap) = of.softcap.map(f64::from) {
                scores = tanh(scores / cap) * cap;
            }
            let scores = is_entry.select(scores, f64::NEG_INFINITY);
            let new_top = top.max(scores.max_lane());
            (new_top, exp(scores - new_top), exp(top - new_top))
        };
        let steps: Vec<_> =
            dots(cached, parts, &entries).into_iter().zip(&seen).map(|(dots, (top, _))| step(dots, *top)).collect();
        each(b, count, *width, |at| {
            let mut new: Vec<Val<'k>> = sums.iter().zip(&steps).map(|(&sum, (_, _, shrink))| at.load(sum) * *shrink).collect();
            for (lane, &entry) in entries.iter().enumerate() {
                let row = cached.load(at, rows.at(entry * cached.bytes(*width)));
                for (new, (_, shares, _)) in new.iter_mut().zip(&steps) {
                    *new = row.mul_add(shares.lane(lane as u32), *new);
                }
            }
            new.into_iter().zip(sums).for_each(|(new, &sum)| at.store(sum, new));
        });
        let total = |(total, shares, shrink): (Val<'k>, Val<'k>, Val<'k>)| total * shrink + shares.sum();
        steps.into_iter().zip(seen).map(|((top, shares, shrink), (_, before))| (top, total((before, shares, shrink)))).collect()
    });
    seen.into_iter().map(|(_, total)| total).collect()
}

/// Per query and entry, a vector whose lanes add up to the dot product.
fn dots<'k>(cached: Cached, parts: &[Part<'k>], entries: &[Val<'k>]) -> Vec<Vec<Val<'k>>> {
    let queries = parts[0].queries.len();
    let mut all = vec![Vec::new(); queries];
    // As many sums at a time as one query alone has.
    for entries in entries.chunks((entries.len() / queries).max(1)) {
        let b = entries[0].builder();
        let count = lanes(cached.level);
        let mut sums = vec![vec![b.constant(F32.x(count), 0.0); entries.len()]; queries];
        for Part { queries, rows, width } in parts {
            sums = fold(b, count, *width, sums, |at, mut sums| {
                let queries: Vec<Val<'k>> = queries.iter().map(|&query| at.load(query)).collect();
                for (number, &entry) in entries.iter().enumerate() {
                    let row = cached.load(at, rows.at(entry * cached.bytes(*width)));
                    for (sums, &query) in sums.iter_mut().zip(&queries) {
                        sums[number] = row.mul_add(query, sums[number]);
                    }
                }
                sums
            });
        }
        all.iter_mut().zip(sums).for_each(|(all, sums)| all.extend(sums));
    }
    all
}
