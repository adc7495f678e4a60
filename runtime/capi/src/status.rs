//! What every function has in common: what it returns, and what it does with bad arguments.

use q35_diag::{Diagnostics, Severity};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Mutex, MutexGuard, TryLockError};

/// What a function returns when it is not the number of a diagnostic.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// An argument that must point somewhere is NULL.
    NullArgument = -1,
    /// Another thread is using the object.
    Busy = -2,
    /// There is no such slot.
    BadSlot = -3,
    /// A number is out of range.
    BadNumber = -4,
    /// A text is not in UTF-8.
    BadText = -5,
    /// The library has failed in a way that it should not: please report it.
    Bug = -6,
}

/// Status and text, in the order of the numbers.
const TEXTS: [(Status, &CStr); 7] = [
    (Status::Ok, c"done"),
    (Status::NullArgument, c"an argument that must point somewhere is NULL"),
    (Status::Busy, c"another thread is using the object"),
    (Status::BadSlot, c"there is no such slot"),
    (Status::BadNumber, c"a number is out of range"),
    (Status::BadText, c"a text is not in UTF-8"),
    (Status::Bug, c"the library has failed in a way that it should not"),
];

/// Why a call failed: the text of its diagnostics.
pub struct Failure(CString);

/// Why a function stops: a status, or diagnostics.
pub(crate) enum Stop {
    Status(Status),
    Diagnostics(Diagnostics),
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Diagnostics> for Stop {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::Diagnostics(diagnostics)
    }
}

pub(crate) type Outcome = Result<i32, Stop>;

/// Runs a function of the library: its number, or why there is none.
///
/// # Safety
/// `error` is NULL or points to a pointer that may be written.
pub(crate) unsafe fn run(error: *mut *mut Failure, body: impl FnOnce() -> Outcome) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(Stop::Status(Status::Bug)));
    let (number, failure) = match outcome {
        Ok(number) => (number, None),
        Err(Stop::Status(status)) => (status as i32, None),
        Err(Stop::Diagnostics(diagnostics)) => {
            let first = diagnostics.iter().find(|d| d.severity == Severity::Error);
            let text = diagnostics.to_string().replace('\0', "\u{fffd}");
            (first.map_or(Status::Bug as i32, |d| d.code as i32), Some(Failure(CString::new(text).unwrap_or_default())))
        }
    };
    if !error.is_null() {
        let pointer = failure.map_or(ptr::null_mut(), |failure| Box::into_raw(Box::new(failure)));
        // SAFETY: the caller of `run` says that it may be written.
        unsafe { error.write(pointer) };
    }
    number
}

/// What a pointer points to.
///
/// # Safety
/// `pointer` is NULL or points to a `T` that nobody changes during the call.
pub(crate) unsafe fn given<'a, T>(pointer: *const T) -> Result<&'a T, Stop> {
    // SAFETY: as the caller says.
    unsafe { pointer.as_ref() }.ok_or(Stop::Status(Status::NullArgument))
}

/// So many `T` behind a pointer; none need no pointer.
///
/// # Safety
/// `pointer` is NULL or points to `count` values that nobody changes during the call.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: i32) -> Result<&'a [T], Stop> {
    let count = usize::try_from(count).map_err(|_| Status::BadNumber)?;
    match (pointer.is_null(), count) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Status::NullArgument.into()),
        // SAFETY: as the caller says.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, count) }),
    }
}

/// A text that ends with a zero.
///
/// # Safety
/// `text` is NULL or points to such a text.
pub(crate) unsafe fn string<'a>(text: *const c_char) -> Result<&'a str, Stop> {
    if text.is_null() {
        return Err(Status::NullArgument.into());
    }
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| Status::BadText.into())
}

/// Writes a result.
///
/// # Safety
/// `to` is NULL or may be written.
pub(crate) unsafe fn give<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(Status::NullArgument.into());
    }
    // SAFETY: as the caller says.
    unsafe { to.write(value) };
    Ok(0)
}

/// The use of an object by this thread.
pub(crate) fn lock<T>(object: &Mutex<T>) -> Result<MutexGuard<'_, T>, Stop> {
    match object.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::WouldBlock) => Err(Status::Busy.into()),
        // A thread that panicked left a model that checks its own arguments; it can go on.
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
    }
}

/// Version of the library.
#[unsafe(no_mangle)]
pub extern "C" fn q35rt_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// One line of English for a negative status; empty for any other number. The text stays valid.
#[unsafe(no_mangle)]
pub extern "C" fn q35rt_status_text(status: i32) -> *const c_char {
    TEXTS.iter().find(|(of, _)| *of as i32 == status).map_or(c"", |(_, text)| *text).as_ptr()
}

/// The text of an error, valid until it is freed; NULL for NULL.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_error_text(error: *const Failure) -> *const c_char {
    // SAFETY: as the caller says.
    unsafe { error.as_ref() }.map_or(ptr::null(), |failure| failure.0.as_ptr())
}

/// Frees an error; NULL is none.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_error_free(error: *mut Failure) {
    // SAFETY: as the caller says.
    unsafe { free(error) };
}

/// Frees what was made by `Box::into_raw`; NULL is nothing.
///
/// # Safety
/// `object` is NULL, or was made so and not freed.
pub(crate) unsafe fn free<T>(object: *mut T) {
    if !object.is_null() {
        // SAFETY: as the caller says. A destructor that panics must not unwind into C.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unsafe { Box::from_raw(object) })));
    }
}
