//! Coded diagnostics in the model's own words.
//!
//! A user error is a [`Diagnostic`]: a stable [`Code`], what is wrong, where in the *model's* terms (node, tensor, file), and what
//! to do about it. A stage collects all of its diagnostics in [`Diagnostics`] before it stops. Compiler bugs are not diagnostics:
//! they are assertions.
//!
//! This crate must not know any stage, format or target: it is the vocabulary they share.

mod codes;

pub use codes::Code;
use std::fmt;

/// How bad it is: an [`Severity::Error`] stops the command with exit code 1, a [`Severity::Warning`] is printed and recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The result would be wrong or cannot be made.
    Error,
    /// The result is right, but not what the user may expect.
    Warning,
}

/// One thing to tell the user.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    /// Stable identity, printed as `Q35-0107`.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, one sentence, no trailing full stop.
    pub what: String,
    /// Where, in the model's words: `node 'model.layers.0.q_proj'`, `file 'model.onnx'`.
    pub place: Option<String>,
    /// What the user can do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error with the given code and text.
    pub fn error(code: Code, what: impl Into<String>) -> Self {
        Self { code, severity: Severity::Error, what: what.into(), place: None, help: None }
    }

    /// A warning with the given code and text.
    pub fn warning(code: Code, what: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, what) }
    }

    /// Adds where it is: a kind of thing and its name in the model.
    pub fn at(mut self, kind: &str, name: impl fmt::Display) -> Self {
        self.place = Some(format!("{kind} '{name}'"));
        self
    }

    /// Adds what to do.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{word}[{}]: {}", self.code, self.what)?;
        if let Some(place) = &self.place {
            write!(f, "\n  at {place}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Everything a stage has to say, in the order it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Nothing to say yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; an exact repetition is dropped.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.0.contains(&diagnostic) {
            self.0.push(diagnostic);
        }
    }

    /// Keeps the value of `result`, or collects its diagnostics.
    pub fn absorb<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(errors) => {
                self.extend(errors);
                None
            }
        }
    }

    /// `Ok(value)` when no error was collected; the warnings then stay in `self`.
    pub fn into_result<T>(self, value: T) -> Result<T> {
        if self.has_errors() { Err(self) } else { Ok(value) }
    }

    /// Whether any of them is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|d| d.severity == Severity::Error)
    }

    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order found.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, iter: I) {
        iter.into_iter().for_each(|d| self.push(d));
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(i, d)| if i == 0 { write!(f, "{d}") } else { write!(f, "\n{d}") })
    }
}

impl std::error::Error for Diagnostics {}

/// The result of a stage: a value, or everything that was wrong.
pub type Result<T> = std::result::Result<T, Diagnostics>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_code_what_place_help() {
        let d =
            Diagnostic::error(Code::UnknownOp, "op 'Foo' of domain 'bar' is not supported").at("node", "n1").help("remove it");
        assert_eq!(
            d.to_string(),
            "error[Q35-0201]: op 'Foo' of domain 'bar' is not supported\n  at node 'n1'\n  help: remove it"
        );
    }

    #[test]
    fn repetitions_are_dropped_and_warnings_do_not_fail() {
        let mut all = Diagnostics::new();
        let w = Diagnostic::warning(Code::EmptyFile, "w");
        all.push(w.clone());
        all.push(w);
        assert_eq!(all.iter().count(), 1);
        assert_eq!(all.into_result(7), Ok(7));
    }
}
