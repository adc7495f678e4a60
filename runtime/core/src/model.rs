//! A bundle as a program wants it: opened by one call, asked for text or for logits.
//!
//! ```no_run
//! use q35_runtime::{Model, Options};
//! use q35_runtime::sampling::Settings;
//! use std::ops::ControlFlow;
//!
//! let mut model = Model::open("tiny.q35", &Options::default())?;
//! let said = model.generate("Ownership is", 60, Settings::default(), |piece| {
//!     print!("{piece}");
//!     ControlFlow::Continue(())
//! })?;
//! println!("\n{} tokens", said.tokens.len());
//! # q35_diag::Result::Ok(())
//! ```

use crate::generate::{Event, Generation, generate};
use crate::sampling::Settings;
use crate::text::{Text, stop_tokens};
use crate::{Chunk, Options, Session, Want};
use q35_bundle::{Bundle, Verify};
use q35_diag::{Code, Diagnostic, Result};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// A bundle with a device, a cache, and the tokenizer if the bundle has one.
pub struct Model {
    session: Session,
    text: Option<Text>,
    stops: BTreeSet<u32>,
}

impl Model {
    /// Opens a bundle, compares every file with its hash, and sets up its device with an empty cache. A capacity above the model's context
    /// becomes the context.
    ///
    /// # Errors
    /// Whatever is wrong with the bundle, or keeps this machine from running it.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::open_with(path, Verify::All, options)
    }

    /// The same, comparing as many hashes as `verify` says.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(path: impl AsRef<Path>, verify: Verify, options: &Options) -> Result<Self> {
        let bundle = Arc::new(Bundle::open_with(path.as_ref(), verify)?);
        let text = match bundle.read(crate::text::TOKENIZER)? {
            Some(_) => Some(Text::open(&bundle)?),
            None => None,
        };
        let stops = stop_tokens(&bundle)?;
        let context = bundle.manifest().model.context as usize;
        let options = Options { capacity: options.capacity.min(context), ..options.clone() };
        Ok(Self { session: Session::new(bundle, &options)?, text, stops })
    }

    /// Size of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.session.bundle().manifest().model.vocab as usize
    }

    /// The session below, for batches and for the cache.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// One line about the device.
    pub fn describe(&self) -> String {
        self.session.describe()
    }

    /// The tokens after which a text ends.
    pub fn stops(&self) -> &BTreeSet<u32> {
        &self.stops
    }

    /// Text to tokens and back.
    ///
    /// # Errors
    /// [`Code::NoTokenizer`] if the bundle has none.
    pub fn text(&self) -> Result<&Text> {
        self.text.as_ref().ok_or_else(|| Diagnostic::error(Code::NoTokenizer, "the bundle carries no tokenizer").into())
    }

    /// Forgets everything in the cache.
    pub fn reset(&mut self) {
        (0..self.session.slots()).for_each(|slot| self.session.truncate(slot, 0));
    }

    /// Continues slot 0 by tokens; gives the logits after the last one.
    ///
    /// # Errors
    /// A token outside the vocabulary, a full context; then nothing has changed.
    pub fn step(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(Diagnostic::error(Code::BadText, "a step has no tokens").into());
        }
        let logits = self.session.step(&[Chunk { slot: 0, tokens, positions: None, want: Want::Last }])?;
        Ok(logits.row(0).to_vec())
    }

    /// Continues what slot 0 holds by a prompt, and then by up to `count` tokens, which come to `sink` as text in whole characters until it
    /// wants no more.
    ///
    /// # Errors
    /// As [`Model::step`], and if the bundle has no tokenizer.
    pub fn generate(
        &mut self,
        prompt: &str,
        count: usize,
        settings: Settings,
        mut sink: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let Self { session, text, stops } = self;
        let text = text.as_ref().ok_or_else(|| Diagnostic::error(Code::NoTokenizer, "the bundle carries no tokenizer"))?;
        let tokens = text.encode(prompt)?;
        let mut stream = text.stream();
        generate(session, &tokens, count, settings, stops, |event| match event {
            Event::Token(token) => Ok(sink(&stream.push(token)?)),
            Event::Prompt(_) => Ok(ControlFlow::Continue(())),
        })
    }
}
