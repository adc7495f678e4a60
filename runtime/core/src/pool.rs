//! Threads that share the tiles of one kernel launch.
//!
//! A launch is cut into chunks; whoever is free claims the next one from a counter, the calling thread included. A thread that the
//! system has taken off its core therefore delays the chunk it holds and nothing else, and a launch never waits for a thread that has
//! not begun. Idle threads spin for a few microseconds, which covers the gap between two launches, and then sleep.
//!
//! What a launch costs is the traffic of the counters' cache lines between cores: a thread touches them once per chunk to claim it, and once per
//! launch to say how many it has done.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps.
const SPIN: Duration = Duration::from_micros(20);
/// How often it looks for work before it looks at the clock.
const LOOKS: usize = 16;

type Chunk = dyn Fn(usize) + Send + Sync;

/// What is being run.
struct Job {
    /// Its number, which tells it from the jobs before and after.
    number: u32,
    chunks: u32,
    work: Box<Chunk>,
    caller: Thread,
}

struct Shared {
    /// The number of the latest job, and in the lower half the chunks of it that nobody has claimed.
    claims: AtomicU64,
    /// Chunks of the job that are not done.
    unfinished: AtomicUsize,
    /// Written only while `claims` has no chunks and `unfinished` is zero, read only by holders of a claimed chunk: nobody ever waits for it.
    job: RwLock<Option<Arc<Job>>>,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    stop: AtomicBool,
}

/// A fixed number of threads; the caller of [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    jobs: u32,
}

impl Pool {
    /// `threads` threads; by default as many as the system lets this process use.
    pub fn new(threads: Option<usize>) -> Self {
        let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
        let shared = Arc::new(Shared {
            claims: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            job: RwLock::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let worker = |n| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("q35-{n}")).spawn(move || shared.serve())
        };
        // A system that refuses more threads gets by with those it allowed.
        let workers = (1..threads).map_while(|n| worker(n).ok()).collect();
        Self { shared, workers, jobs: 0 }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(0)`, ..., `work(chunks - 1)`, in any order, and returns when all are done. A panic in one of them is passed on.
    pub fn run(&mut self, chunks: usize, work: impl Fn(usize) + Send + Sync + 'static) {
        let count = match u32::try_from(chunks) {
            Ok(count) if count > 1 && !self.workers.is_empty() => count,
            _ => return (0..chunks).for_each(work),
        };
        self.jobs = self.jobs.wrapping_add(1);
        let job = Arc::new(Job { number: self.jobs, chunks: count, work: Box::new(work), caller: thread::current() });
        let shared = &*self.shared;
        *shared.job.write().unwrap_or_else(PoisonError::into_inner) = Some(job.clone());
        shared.unfinished.store(chunks, Relaxed);
        shared.claims.store(u64::from(job.number) << 32 | u64::from(count), Release);
        self.workers.iter().take(chunks - 1).for_each(|w| w.thread().unpark());

        shared.work(&job, 0);
        if !spin(|| shared.unfinished.load(Acquire) == 0) {
            while shared.unfinished.load(Acquire) > 0 {
                thread::park();
            }
        }
        *shared.job.write().unwrap_or_else(PoisonError::into_inner) = None;
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

/// Waits for at most [`SPIN`] until `ready`; tells whether it is.
fn spin(ready: impl Fn() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begin.elapsed() >= SPIN {
            return false;
        }
    }
}

impl Shared {
    /// A worker's life.
    fn serve(&self) {
        let ready = || self.claims.load(Relaxed) as u32 > 0 || self.stop.load(Relaxed);
        while !self.stop.load(Acquire) {
            if let Some((number, chunk)) = self.claim(None) {
                let job = self.job.read().unwrap_or_else(PoisonError::into_inner).clone();
                let job = job.unwrap_or_else(|| unreachable!("a claimed chunk has a job"));
                debug_assert_eq!(job.number, number);
                self.run_chunk(&job, chunk);
                self.work(&job, 1);
            } else if !spin(ready) {
                thread::park();
            }
        }
    }

    /// The number of the latest job and its next unclaimed chunk, counted from the last; `None` when there is none, or it is of another job than
    /// the one that is asked for.
    fn claim(&self, of: Option<u32>) -> Option<(u32, u32)> {
        let next = |claims: u64| {
            let same = of.is_none_or(|number| (claims >> 32) as u32 == number);
            (same && claims as u32 > 0).then(|| claims - 1)
        };
        let claims = self.claims.fetch_update(AcqRel, Acquire, next).ok()?;
        Some(((claims >> 32) as u32, claims as u32))
    }

    /// Runs chunks of a job until all are claimed, and reports them together with `done` others.
    fn work(&self, job: &Job, mut done: usize) {
        while let Some((_, chunk)) = self.claim(Some(job.number)) {
            self.run_chunk(job, chunk);
            done += 1;
        }
        if done > 0 && self.unfinished.fetch_sub(done, AcqRel) == done {
            job.caller.unpark();
        }
    }

    fn run_chunk(&self, job: &Job, left: u32) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)((job.chunks - left) as usize))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pool: &mut Pool, chunks: usize) -> usize {
        let total = Arc::new(AtomicUsize::new(0));
        let into = total.clone();
        pool.run(chunks, move |n| {
            into.fetch_add(n + 1, Relaxed);
        });
        total.load(Relaxed)
    }

    #[test]
    fn every_chunk_runs_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(Some(threads));
            for chunks in [0, 1, 2, 7, 100] {
                assert_eq!(sum(&mut pool, chunks), chunks * (chunks + 1) / 2);
            }
        }
    }

    #[test]
    fn right_when_there_are_far_more_threads_than_cores() {
        let pools: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(|| {
                    let mut pool = Pool::new(Some(16));
                    (0..2000).all(|round| sum(&mut pool, round % 40) == (round % 40) * (round % 40 + 1) / 2)
                })
            })
            .collect();
        assert!(pools.into_iter().all(|t| t.join().unwrap()));
    }

    #[test]
    fn a_chunk_that_lingers_delays_only_itself() {
        let mut pool = Pool::new(Some(2));
        let others = Arc::new(AtomicUsize::new(0));
        let seen = others.clone();
        pool.run(9, move |n| match n {
            // The first chunk ends only after all the others have: they must all go to the other thread.
            0 => {
                while seen.load(Acquire) < 8 {
                    thread::yield_now();
                }
            }
            _ => {
                seen.fetch_add(1, AcqRel);
            }
        });
        assert_eq!(others.load(Acquire), 8);
    }

    #[test]
    fn panics_are_passed_on_and_the_pool_survives() {
        let mut pool = Pool::new(Some(4));
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(50, |n| assert_ne!(n, 33, "chunk 33"))));
        assert!(result.is_err());
        assert_eq!(sum(&mut pool, 10), 55);
    }
}
