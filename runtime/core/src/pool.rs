//! Threads that share the tiles of one kernel launch.
//!
//! A launch is cut into chunks; whoever is free claims the next one from a counter, the calling thread included. A thread that the
//! system has taken off its core therefore delays the chunk it holds and nothing else, and a launch never waits for a thread that has
//! not begun. Idle workers spin for a few microseconds, which covers the gap between two launches, and then sleep.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

type Chunk = dyn Fn(usize) + Send + Sync;

/// What is being run.
struct Job {
    chunks: usize,
    work: Box<Chunk>,
    caller: Thread,
}

struct Shared {
    /// Chunks of the job that nobody has claimed.
    unclaimed: AtomicUsize,
    /// Chunks of the job that are not done.
    unfinished: AtomicUsize,
    /// Written only while `unclaimed` and `unfinished` are zero, read only by holders of a claimed chunk: nobody ever waits for it.
    job: RwLock<Option<Job>>,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
    stop: AtomicBool,
}

/// A fixed number of threads; the caller of [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` threads; by default as many as the system lets this process use.
    pub fn new(threads: Option<usize>) -> Self {
        let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from)).max(1);
        let shared = Arc::new(Shared {
            unclaimed: AtomicUsize::new(0),
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
        Self { shared, workers }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work(0)`, ..., `work(chunks - 1)`, in any order, and returns when all are done. A panic in one of them is passed on.
    pub fn run(&mut self, chunks: usize, work: impl Fn(usize) + Send + Sync + 'static) {
        if chunks <= 1 || self.workers.is_empty() {
            return (0..chunks).for_each(work);
        }
        let shared = &*self.shared;
        *shared.job.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Job { chunks, work: Box::new(work), caller: thread::current() });
        shared.unfinished.store(chunks, Relaxed);
        shared.unclaimed.store(chunks, Release);
        self.workers.iter().take(chunks - 1).for_each(|w| w.thread().unpark());

        while shared.claim_and_run() {}
        let started = Instant::now();
        while shared.unfinished.load(Acquire) > 0 {
            if started.elapsed() < SPIN { std::hint::spin_loop() } else { thread::park() }
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

impl Shared {
    /// A worker's life.
    fn serve(&self) {
        let mut idle_since = Instant::now();
        while !self.stop.load(Acquire) {
            if self.claim_and_run() {
                idle_since = Instant::now();
            } else if idle_since.elapsed() < SPIN {
                std::hint::spin_loop();
            } else {
                thread::park();
                idle_since = Instant::now();
            }
        }
    }

    /// Runs the next unclaimed chunk; `false` when there is none.
    fn claim_and_run(&self) -> bool {
        let Ok(left) = self.unclaimed.fetch_update(AcqRel, Acquire, |left| left.checked_sub(1)) else { return false };
        let caller = {
            let job = self.job.read().unwrap_or_else(PoisonError::into_inner);
            let job = job.as_ref().unwrap_or_else(|| unreachable!("a claimed chunk has a job"));
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(job.chunks - left))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            job.caller.clone()
        };
        if self.unfinished.fetch_sub(1, AcqRel) == 1 {
            caller.unpark();
        }
        true
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
