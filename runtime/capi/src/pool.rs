//! Threads for programs that link a model's object.

use crate::status::{Status, free};
use q35_runtime::pool;
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

/// Threads that share the work of a step.
pub struct Pool(Mutex<pool::Pool>);

/// Computes the pieces begin..end of some work.
pub type Task = Option<unsafe extern "C" fn(data: *mut c_void, begin: i64, end: i64)>;

/// More threads than any machine has use for.
const MOST_THREADS: usize = 4096;

/// How many threads are wanted: none where the caller leaves it open.
pub(crate) fn threads(wanted: i32) -> Result<Option<usize>, Status> {
    match usize::try_from(wanted) {
        Ok(0) => Ok(None),
        Ok(threads) if threads <= MOST_THREADS => Ok(Some(threads)),
        _ => Err(Status::BadNumber),
    }
}

/// Ranges per thread: enough that a thread which lost its core delays little.
const RANGES_PER_THREAD: i64 = 4;

/// Threads, this one included, at most 4096; 0 for as many as the system lets this process use. NULL if `threads` is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn q35rt_pool_open(threads: i32) -> *mut Pool {
    let Ok(threads) = self::threads(threads) else { return ptr::null_mut() };
    let made = std::panic::catch_unwind(|| pool::Pool::new(threads));
    made.map_or(ptr::null_mut(), |pool| Box::into_raw(Box::new(Pool(Mutex::new(pool)))))
}

/// Ends the threads; NULL is nothing.
///
/// # Safety
/// `pool` is NULL or was opened and not closed, and no context uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_pool_close(pool: *mut Pool) {
    // SAFETY: as the caller says.
    unsafe { free(pool) };
}

/// What a task is given, on its way to other threads.
#[derive(Clone, Copy)]
struct Data(*mut c_void);

// SAFETY: a task is made to be called in any thread: that is what the header of an object says of it.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}

impl Data {
    fn get(self) -> *mut c_void {
        self.0
    }
}

/// Distributes the pieces 0..tiles of a task among the threads of a pool, and returns when all are done: a function for PREFIXshare of a
/// model's object, with the pool as its `user`. While another thread uses the pool, and with NULL for one, this thread computes all.
///
/// # Safety
/// `pool` is NULL or a pool; `task` may be called with `data`, in any thread, for disjoint ranges.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_pool_share(pool: *mut c_void, task: Task, data: *mut c_void, tiles: i64) {
    let (Some(task), true) = (task, tiles > 0) else { return };
    // SAFETY: as the caller says.
    let pool = unsafe { pool.cast::<Pool>().as_ref() };
    let Some(mut pool) = pool.and_then(|pool| pool.0.try_lock().ok()) else {
        // SAFETY: as the caller says.
        return unsafe { task(data, 0, tiles) };
    };
    let data = Data(data);
    let ranges = tiles.min(pool.threads() as i64 * RANGES_PER_THREAD);
    let bound = move |n: i64| (i128::from(tiles) * i128::from(n) / i128::from(ranges)) as i64;
    // SAFETY: as the caller says; ranges are disjoint, and `run` returns when all are done.
    pool.run(ranges as usize, move |n| unsafe { task(data.get(), bound(n as i64), bound(n as i64 + 1)) });
}
