//! Text to tokens and back.

use crate::status::{Failure, Status, Stop, array, free, give, given, run, string};
use q35_diag::{Code, Diagnostic};
use q35_runtime::text;
use std::ffi::c_char;

/// A tokenizer.
pub struct Text(text::Text);

/// Opens a tokenizer.json of a bundle, for a model that knows the tokens 0 to `vocab` - 1.
///
/// # Safety
/// Pointers are NULL or valid; `path` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_text_open(
    path: *const c_char,
    vocab: i32,
    text: *mut *mut Text,
    error: *mut *mut Failure,
) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        run(error, || {
            give(text, std::ptr::null_mut())?;
            let path = string(path)?;
            let vocab = u64::try_from(vocab).map_err(|_| Status::BadNumber)?;
            let json = std::fs::read(path).map_err(|e| {
                let what = format!("the file cannot be read: {e}");
                Stop::Diagnostics(Diagnostic::error(Code::CannotRead, what).at("file", path).into())
            })?;
            give(text, Box::into_raw(Box::new(Text(text::Text::new(&json, vocab)?))))
        })
    }
}

/// Closes a tokenizer; NULL is none.
///
/// # Safety
/// `text` is NULL or was opened and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_text_close(text: *mut Text) {
    // SAFETY: as the caller says.
    unsafe { free(text) };
}

/// The tokens of `utf8`, as many as `capacity` allows. Returns how many there are, even if that is more.
///
/// # Safety
/// Pointers are NULL or valid for so many values; `utf8` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_text_encode(
    text: *const Text,
    utf8: *const c_char,
    tokens: *mut i32,
    capacity: i32,
    error: *mut *mut Failure,
) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        run(error, || {
            let ids = given(text)?.0.encode(string(utf8)?)?;
            let capacity = usize::try_from(capacity).map_err(|_| Status::BadNumber)?;
            if tokens.is_null() && capacity > 0 {
                return Err(Status::NullArgument.into());
            }
            for (at, id) in ids.iter().take(capacity).enumerate() {
                tokens.add(at).write(id.cast_signed());
            }
            i32::try_from(ids.len()).map_err(|_| Status::BadNumber.into())
        })
    }
}

/// The text of `count` tokens, in UTF-8 with a zero at its end, if that fits into `capacity` bytes. Returns how many bytes it takes, the
/// zero included, even if that is more.
///
/// # Safety
/// Pointers are NULL or valid for so many values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_text_decode(
    text: *const Text,
    tokens: *const i32,
    count: i32,
    utf8: *mut c_char,
    capacity: i32,
    error: *mut *mut Failure,
) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        run(error, || {
            let tokens: Vec<u32> = array(tokens, count)?.iter().map(|token| token.cast_unsigned()).collect();
            let decoded = given(text)?.0.decode(&tokens)?.replace('\0', "\u{fffd}");
            let capacity = usize::try_from(capacity).map_err(|_| Status::BadNumber)?;
            if utf8.is_null() && capacity > 0 {
                return Err(Status::NullArgument.into());
            }
            if decoded.len() < capacity {
                std::ptr::copy_nonoverlapping(decoded.as_ptr(), utf8.cast(), decoded.len());
                utf8.add(decoded.len()).write(0);
            }
            i32::try_from(decoded.len() + 1).map_err(|_| Status::BadNumber.into())
        })
    }
}
