//! Softmax over cache entries that are visited once.
//!
//! As many entries at a time as there are lanes: their scores, then the softmax of what has been seen so far, corrected whenever a larger
//! score comes along (Milakov and Gimelshein 2018).

use q35_launch::spec::Scores;
use q35_mlir::builder::Val;
use q35_mlir::math::{exp, tanh};
use q35_mlir::types::{F32, I64};

use super::cached::Cached;
use super::columns::each;

/// Rows of the cache, one per entry, and where their weighted sum goes.
#[derive(Clone, Copy)]
pub(super) struct Weighted<'k> {
    pub(super) cached: Cached,
    pub(super) rows: Val<'k>,
    pub(super) width: u64,
    pub(super) sum: Val<'k>,
}

/// Sums rows, weighted with the powers of their scores, over the entries that a token sees whose own is `last`; returns what the sum
/// must be divided by. `sink` is a score without a row. `dots` gives, per entry, a vector whose lanes add up to the dot product.
pub(super) fn weighted_sum<'k>(
    of: &Scores,
    count: u32,
    last: Val<'k>,
    sink: Option<Val<'k>>,
    weighted: Weighted<'k>,
    dots: impl FnOnce(&[Val<'k>]) -> Vec<Val<'k>>,
) -> Val<'k> {
    let b = last.builder();
    let first = of.window.map_or(b.i64(0), |window| (last - (i64::try_from(window).unwrap_or(i64::MAX) - 1)).max(0));
    let Weighted { cached, rows, width, sum: y } = weighted;
    let zeros = b.constant(F32.x(count), 0.0);
    each(b, count, width, |at| at.store(y, zeros));
    let seen = sink.map_or((b.f32(f32::NEG_INFINITY), b.f32(0.0)), |sink| (sink, b.f32(1.0)));
    let (_, total) = b.for_iter(first, last + 1, i64::from(count), seen, |start, (top, total)| {
        // Lanes past the last entry read it once more, and count for nothing.
        let entries: Vec<Val<'k>> = (0..i64::from(count)).map(|lane| (start + lane).min(last)).collect();
        let mut scores = Val::sums(&dots(&entries)) * f64::from(of.scale);
        if let Some(cap) = of.softcap.map(f64::from) {
            scores = tanh(scores / cap) * cap;
        }
        let is_entry = (b.iota(I64.x(count)) + start).le(last);
        let scores = is_entry.select(scores, f64::NEG_INFINITY);
        let new_top = top.max(scores.max_lane());
        let (shares, shrink) = (exp(scores - new_top), exp(top - new_top));
        each(b, count, width, |at| {
            let row = |entry: Val<'k>| rows.at(entry * cached.bytes(width));
            let add = |sum: Val<'k>, (lane, &entry): (usize, &Val<'k>)| {
                cached.load(at, row(entry)).mul_add(shares.lane(lane as u32), sum)
            };
            at.store(y, entries.iter().enumerate().fold(at.load(y) * shrink, add));
        });
        (new_top, total * shrink + shares.sum())
    });
    total
}
