//! Text to tokens and back, with the tokenizer that the bundle carries.

use q35_bundle::Bundle;
use q35_diag::{Code, Diagnostic, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use tokenizers::Tokenizer;
use tokenizers::tokenizer::DecodeStream;
use tokenizers::{DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

/// Name of the tokenizer in a bundle.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the settings for generation in a bundle.
pub const GENERATION: &str = "generation_config.json";

/// The tokenizer of a bundle.
pub struct Text {
    tokenizer: Tokenizer,
    vocab: u64,
}

/// Tokens that arrive one by one, as text that leaves in whole characters.
pub struct Stream<'a>(
    DecodeStream<'a, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>,
);

fn bad_text(what: String) -> Diagnostic {
    Diagnostic::error(Code::BadText, what)
}

impl Text {
    /// The tokenizer of `bundle`.
    pub fn open(bundle: &Bundle) -> Result<Self> {
        let json = bundle.read(TOKENIZER)?.ok_or_else(|| {
            Diagnostic::error(Code::NoTokenizer, "the bundle carries no tokenizer, because the model it was made from had none")
                .help("give token ids with --tokens, or put tokenizer.json beside the model and compile it again")
        })?;
        Self::new(&json, bundle.manifest().model.vocab)
    }

    /// A tokenizer from its file's content, for a model that knows the tokens `0..vocab`.
    pub fn new(json: &[u8], vocab: u64) -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(json).map_err(|e| {
            Diagnostic::error(Code::NoTokenizer, format!("the tokenizer cannot be used: {e}")).at("file", TOKENIZER)
        })?;
        Ok(Self { tokenizer, vocab })
    }

    /// Token ids of `text`, with the special tokens that the tokenizer puts around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding =
            self.tokenizer.encode_fast(text, true).map_err(|e| bad_text(format!("the text cannot be tokenized: {e}")))?;
        let ids = encoding.get_ids().to_vec();
        match ids.iter().find(|id| u64::from(**id) >= self.vocab) {
            Some(id) => Err(Diagnostic::error(
                Code::TokenOutOfRange,
                format!("the tokenizer gives token {id}, which is outside the model's vocabulary of {}", self.vocab),
            )
            .at("file", TOKENIZER)
            .into()),
            None => Ok(ids),
        }
    }

    /// Text of `tokens`, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(tokens, true).map_err(|e| bad_text(format!("the tokens are no text: {e}")))?)
    }

    /// A stream that starts with nothing.
    pub fn stream(&self) -> Stream<'_> {
        Stream(self.tokenizer.decode_stream(true))
    }
}

impl Stream<'_> {
    /// The text that `token` completes; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> Result<String> {
        Ok(self.0.step(token).map_err(|e| bad_text(format!("token {token} is no text: {e}")))?.unwrap_or_default())
    }
}

/// The tokens that end a text: `eos_token_id` of the generation settings, a number or a list. None without settings.
pub fn stop_tokens(bundle: &Bundle) -> Result<BTreeSet<u32>> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(u32),
        Many(Vec<u32>),
    }
    #[derive(Deserialize)]
    struct Settings {
        eos_token_id: Option<OneOrMany>,
    }
    let Some(json) = bundle.read(GENERATION)? else { return Ok(BTreeSet::new()) };
    let settings: Settings = serde_json::from_slice(&json).map_err(|e| {
        Diagnostic::error(Code::BadConfig, format!("the generation settings are malformed: {e}")).at("file", GENERATION)
    })?;
    Ok(match settings.eos_token_id {
        None => BTreeSet::new(),
        Some(OneOrMany::One(id)) => BTreeSet::from([id]),
        Some(OneOrMany::Many(ids)) => ids.into_iter().collect(),
    })
}
