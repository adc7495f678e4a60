//! From logits to a token.

use crate::status::{Outcome, Status, Stop, array, free, given, lock, run};
use q35_runtime::sampling;
use std::ptr;
use std::sync::Mutex;

/// How a token is chosen; all zeros take the most probable one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Keeps the so many most probable tokens; 0 keeps all.
    pub top_k: i32,
    /// Keeps the most probable tokens until their probabilities sum to this; 0 and 1 keep all.
    pub top_p: f64,
    /// Keeps tokens with at least this fraction of the largest probability; 0 keeps all.
    pub min_p: f64,
    /// Start of the random numbers: the same seed gives the same tokens.
    pub seed: u64,
}

/// Settings, and the state of the random numbers.
pub struct Sampler(Mutex<sampling::Sampler>);

impl Sampling {
    /// As the runtime wants it; NULL is greedy.
    ///
    /// # Safety
    /// `sampling` is NULL or valid.
    pub(crate) unsafe fn settings(sampling: *const Self) -> Result<sampling::Settings, Stop> {
        // SAFETY: as the caller says.
        let Some(Self { temperature, top_k, top_p, min_p, seed }) = (unsafe { sampling.as_ref() }).copied() else {
            return Ok(sampling::Settings::default());
        };
        let fractions = [top_p, min_p].iter().all(|fraction| (0.0..=1.0).contains(fraction));
        if !(fractions && temperature.is_finite() && temperature >= 0.0) {
            return Err(Status::BadNumber.into());
        }
        let top_k = usize::try_from(top_k).map_err(|_| Status::BadNumber)?;
        let top_p = if top_p == 0.0 { 1.0 } else { top_p };
        Ok(sampling::Settings { temperature, top_k, top_p, min_p, seed })
    }
}

/// A sampler at the start of its sequence; `sampling` may be NULL. Result NULL if a number is out of range.
///
/// # Safety
/// `sampling` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_sampler_open(sampling: *const Sampling) -> *mut Sampler {
    // SAFETY: as the caller says.
    match unsafe { Sampling::settings(sampling) } {
        Ok(settings) => Box::into_raw(Box::new(Sampler(Mutex::new(sampling::Sampler::new(settings))))),
        Err(_) => ptr::null_mut(),
    }
}

/// Closes a sampler; NULL is none.
///
/// # Safety
/// `sampler` is NULL or was opened and not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_sampler_close(sampler: *mut Sampler) {
    // SAFETY: as the caller says.
    unsafe { free(sampler) };
}

/// The token that is chosen for a row of `vocab` logits.
///
/// # Safety
/// Pointers are NULL or valid for so many values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_sample(sampler: *const Sampler, logits: *const f32, vocab: i32) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        run(ptr::null_mut(), || -> Outcome {
            let (mut sampler, logits) = (lock(&given(sampler)?.0)?, array(logits, vocab)?);
            if logits.is_empty() {
                return Err(Status::BadNumber.into());
            }
            i32::try_from(sampler.choose(logits)).map_err(|_| Status::BadNumber.into())
        })
    }
}
