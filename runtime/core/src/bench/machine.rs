//! What the machine itself can do: the read bandwidth of its memory, which no kernel that reads its weights once can exceed, and the time to hand a
//! launch to all threads, which every launch pays.

use crate::pool::Pool;
use q35_console::memory;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Pieces of the buffer; threads claim one after the other.
const PIECES: usize = 256;
/// Words that are read together.
const WIDTH: usize = 32;

/// Launches of which the median is taken.
const LAUNCHES: usize = 10_000;

/// Median seconds of handing nothing to all threads and waiting until it is done, one launch soon after the other.
pub(super) fn empty_launch(threads: Option<usize>) -> f64 {
    let mut pool = Pool::new(threads);
    let chunks = pool.threads();
    let mut seconds: Vec<f64> = (0..LAUNCHES)
        .map(|_| {
            let begin = Instant::now();
            pool.run(chunks, |n| {
                black_box(n);
            });
            begin.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[LAUNCHES / 2]
}

/// Bytes per second at which all threads together read a buffer larger than any cache, once without being counted and then `runs` times: the
/// slowest, the median and the fastest.
pub(super) fn read_bandwidth(threads: Option<usize>, runs: usize) -> [f64; 3] {
    let wanted = memory::available().map_or(256 << 20, |free| (free / 4).min(1 << 30));
    let piece = (wanted as usize / 8 / PIECES).max(1 << 14).next_multiple_of(WIDTH);
    let buffer = Arc::new(vec![1u64; piece * PIECES]);
    let mut pool = Pool::new(threads);
    let mut once = || {
        let buffer = buffer.clone();
        let begin = Instant::now();
        pool.run(PIECES, move |n| {
            let mut sums = [0u64; WIDTH];
            for words in buffer[n * piece..][..piece].as_chunks::<WIDTH>().0 {
                sums.iter_mut().zip(words).for_each(|(sum, word)| *sum ^= word);
            }
            black_box(sums);
        });
        begin.elapsed().as_secs_f64()
    };
    once();
    let mut seconds: Vec<f64> = (0..runs).map(|_| once()).collect();
    seconds.sort_by(f64::total_cmp);
    [seconds[runs - 1], seconds[runs / 2], seconds[0]].map(|seconds| (buffer.len() * 8) as f64 / seconds)
}
