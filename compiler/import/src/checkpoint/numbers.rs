//! Numbers of a configuration, each taken within the bounds that a decoder has, and refused by its field's name otherwise.
//!
//! What a field means is not known here.

use q35_diag::{Code, Diagnostic};

/// No size of a model is larger.
const MAX_SIZE: u64 = 1 << 24;

/// A size that must be given, and be one.
pub(super) fn size(name: &str, value: Option<u64>) -> Result<u64, Diagnostic> {
    match value {
        Some(n) if (1..=MAX_SIZE).contains(&n) => Ok(n),
        Some(n) => Err(wrong(format!("{name} is {n}"))),
        None => Err(wrong(format!("{name} is not given"))),
    }
}

/// A number that is one in single precision too.
pub(super) fn finite(name: &str, value: f64) -> Result<f32, Diagnostic> {
    if (value as f32).is_finite() { Ok(value as f32) } else { Err(wrong(format!("{name} is {value}"))) }
}

/// A number that is divided by.
pub(super) fn divisor(name: &str, value: f64) -> Result<f64, Diagnostic> {
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err(wrong(format!("{name} is {value}"))) }
}

/// What is wrong with a configuration.
pub(super) fn wrong(what: String) -> Diagnostic {
    Diagnostic::error(Code::BadConfig, what)
}
