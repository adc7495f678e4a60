//! A bundle that is open.

use crate::status::{Failure, Outcome, Status, Stop, array, free, give, given, lock, run, string};
use crate::{Sampling, pool};
use q35_bundle::Verify;
use q35_runtime::{Chunk, Want};
use std::ffi::{CString, c_char, c_void};
use std::ops::ControlFlow;
use std::sync::Mutex;

/// A bundle with its device, and a cache of some sequences in progress.
pub struct Model(Mutex<q35_runtime::Model>);

/// How a bundle is opened; all zeros is a good beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Feature level by name, such as "base"; NULL for the best one that this machine can run.
    pub level: *const c_char,
    /// Threads, at most 4096; 0 for as many as the system lets this process use.
    pub threads: i32,
    /// Sequences in progress at the same time; 0 for 1.
    pub slots: i32,
    /// Tokens of a sequence; 0 for 1024, and no more than the model's context.
    pub capacity: i32,
    /// Tokens that are computed at once; 0 for 256.
    pub max_tokens: i32,
    /// Not 0: the weights are not compared with their hash. Opens faster, and misses damage.
    pub trust_weights: i32,
}

/// Hears the text that a generation makes, in whole characters. A result other than 0 ends the generation.
pub type Sink = Option<extern "C" fn(user: *mut c_void, piece: *const c_char) -> i32>;

impl Options {
    fn of_runtime(self) -> Result<q35_runtime::Options, Stop> {
        let default = q35_runtime::Options::default();
        let number = |number: i32| usize::try_from(number).map_err(|_| Status::BadNumber);
        let or = |given: i32, otherwise: usize| number(given).map(|n| if n == 0 { otherwise } else { n });
        let level = match self.level.is_null() {
            true => None,
            // SAFETY: it is not NULL, and then a text that ends with a zero.
            false => Some(unsafe { string(self.level) }?.to_owned()),
        };
        Ok(q35_runtime::Options {
            level,
            threads: pool::threads(self.threads)?,
            slots: or(self.slots, default.slots)?,
            capacity: or(self.capacity, default.capacity)?,
            max_tokens: or(self.max_tokens, default.max_tokens)?,
            ..default
        })
    }
}

/// Opens the bundle at `path`, a folder NAME.q35. `options` may be NULL.
///
/// # Safety
/// Pointers are NULL or valid; `path` and `options->level` end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_open(
    path: *const c_char,
    options: *const Options,
    model: *mut *mut Model,
    error: *mut *mut Failure,
) -> i32 {
    // SAFETY: as the caller says; `model` is written before it is read.
    unsafe {
        run(error, || {
            give(model, std::ptr::null_mut())?;
            let (level, threads, slots, capacity, max_tokens, trust_weights) = (std::ptr::null(), 0, 0, 0, 0, 0);
            let none = Options { level, threads, slots, capacity, max_tokens, trust_weights };
            let options = options.as_ref().copied().unwrap_or(none);
            let verify = if options.trust_weights == 0 { Verify::All } else { Verify::SkipWeights };
            let opened = q35_runtime::Model::open_with(string(path)?, verify, &options.of_runtime()?)?;
            give(model, Box::into_raw(Box::new(Model(Mutex::new(opened)))))
        })
    }
}

/// Closes a model; NULL is none.
///
/// # Safety
/// `model` is NULL or was opened and not closed, and no other thread uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_close(model: *mut Model) {
    // SAFETY: as the caller says.
    unsafe { free(model) };
}

/// Runs `body` on a model that no other thread uses.
///
/// # Safety
/// `model` and `error` are NULL or valid.
unsafe fn with(model: *const Model, error: *mut *mut Failure, body: impl FnOnce(&mut q35_runtime::Model) -> Outcome) -> i32 {
    // SAFETY: as the caller says.
    unsafe { run(error, || body(&mut *lock(&given(model)?.0)?)) }
}

fn slot(model: &mut q35_runtime::Model, slot: i32) -> Result<usize, Status> {
    let there = model.session().slots();
    usize::try_from(slot).ok().filter(|slot| *slot < there).ok_or(Status::BadSlot)
}

fn count(number: usize) -> Outcome {
    i32::try_from(number).map_err(|_| Status::BadNumber.into())
}

/// Size of the vocabulary: tokens are 0 to this minus 1, and a row of logits has so many floats.
///
/// # Safety
/// `model` is NULL or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_vocab(model: *const Model) -> i32 {
    // SAFETY: as the caller says.
    unsafe { with(model, std::ptr::null_mut(), |model| count(model.vocab())) }
}

/// Tokens that a sequence may have.
///
/// # Safety
/// `model` is NULL or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_capacity(model: *const Model) -> i32 {
    // SAFETY: as the caller says.
    unsafe { with(model, std::ptr::null_mut(), |model| count(model.session().capacity())) }
}

/// Tokens that a slot holds.
///
/// # Safety
/// `model` is NULL or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_length(model: *const Model, slot: i32) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        with(model, std::ptr::null_mut(), |model| {
            let slot = self::slot(model, slot)?;
            count(model.session().length(slot))
        })
    }
}

/// Forgets all but the first `length` tokens of a slot.
///
/// # Safety
/// `model` is NULL or a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_truncate(model: *const Model, slot: i32, length: i32) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        with(model, std::ptr::null_mut(), |model| {
            let slot = self::slot(model, slot)?;
            model.session().truncate(slot, usize::try_from(length).map_err(|_| Status::BadNumber)?);
            Ok(0)
        })
    }
}

/// Continues the sequence of `slot` by `count` tokens, and writes the logits after the last one to `logits`, q35rt_vocab floats, unless it
/// is NULL.
///
/// # Safety
/// Pointers are NULL or valid for so many values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_step(
    model: *const Model,
    slot: i32,
    tokens: *const i32,
    count: i32,
    logits: *mut f32,
    error: *mut *mut Failure,
) -> i32 {
    // SAFETY: as the caller says; `logits` holds a row of the vocabulary.
    unsafe {
        with(model, error, |model| {
            let slot = self::slot(model, slot)?;
            let tokens = array(tokens, count)?;
            if tokens.is_empty() {
                return Err(Status::BadNumber.into());
            }
            // A negative token becomes one above every vocabulary, and is told as such.
            let tokens: Vec<u32> = tokens.iter().map(|token| token.cast_unsigned()).collect();
            let want = if logits.is_null() { Want::Nothing } else { Want::Last };
            let row = model.session().step(&[Chunk { slot, tokens: &tokens, positions: None, want }])?;
            if !logits.is_null() {
                std::slice::from_raw_parts_mut(logits, model.vocab()).copy_from_slice(row.row(0));
            }
            Ok(0)
        })
    }
}

/// Continues what slot 0 holds by a prompt and then by up to `count` tokens, whose text comes to `sink`. `sampling` may be NULL, which
/// takes the most probable token. Returns 0 when the model ended the text, when there are so many tokens, when the context is full, or when
/// `sink` ended it.
///
/// # Safety
/// Pointers are NULL or valid; `prompt` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn q35rt_generate(
    model: *const Model,
    prompt: *const c_char,
    count: i32,
    sampling: *const Sampling,
    sink: Sink,
    user: *mut c_void,
    error: *mut *mut Failure,
) -> i32 {
    // SAFETY: as the caller says.
    unsafe {
        with(model, error, |model| {
            let (prompt, sink) = (string(prompt)?, sink.ok_or(Status::NullArgument)?);
            let count = usize::try_from(count).map_err(|_| Status::BadNumber)?;
            let settings = Sampling::settings(sampling)?;
            model.generate(prompt, count, settings, |piece| {
                // A zero would end the text early.
                let piece = CString::new(piece.replace('\0', "\u{fffd}")).unwrap_or_default();
                if sink(user, piece.as_ptr()) == 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(0)
        })
    }
}
