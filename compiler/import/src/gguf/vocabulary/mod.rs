//! The vocabulary inside a GGUF file, as the files that a checkpoint would have beside it.
//!
//! Keys under `tokenizer.` enter (ggml's `docs/gguf.md`); `tokenizer.json` in the format of the `tokenizers` library leaves, the chat template, and the
//! tokens that end a text. Two kinds of vocabulary are known: `llama`, SentencePiece's merging by score, and `gpt2`, merging of bytes in the order of a
//! list, of which [`pieces`] knows how text is cut before anything is merged. What another program would read from the file's name or guess is not
//! guessed here: a kind or a cut that is not known makes a diagnostic, and the bundle has no text.

mod pieces;
#[cfg(test)]
mod tests;

use super::metadata::{Metadata, Value};
use pieces::Cut;
use q35_diag::{Code, Diagnostic};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, HashMap};

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// Types of tokens: what they are in a text.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Keys of tokens that end a text or a turn in it.
const ENDS: &[&str] = &["eos", "eot", "eom"];

/// Files by name, as they would lie beside a checkpoint; none if the file has no vocabulary.
pub(super) fn files(metadata: &Metadata) -> Result<BTreeMap<&'static str, Vec<u8>>, Diagnostic> {
    let mut files = BTreeMap::new();
    let kind = match metadata.text("tokenizer.ggml.model") {
        None | Some("none" | "no_vocab") => return Ok(files),
        Some(kind) => kind,
    };
    let vocabulary = Vocabulary::read(metadata)?;
    let tokenizer = match kind {
        "llama" => vocabulary.by_score(metadata)?,
        "gpt2" => vocabulary.by_rank(metadata)?,
        other => return Err(unknown(format!("vocabularies of kind '{other}' are not known; 'llama' and 'gpt2' are"))),
    };
    files.insert("tokenizer.json", text(&tokenizer));
    let ends: Vec<u64> = ENDS.iter().filter_map(|name| vocabulary.special(metadata, name)).collect();
    if !ends.is_empty() {
        files.insert("generation_config.json", text(&json!({ "eos_token_id": ends })));
    }
    if let Some(template) = metadata.text("tokenizer.chat_template") {
        files.insert("chat_template.jinja", template.as_bytes().to_vec());
    }
    Ok(files)
}

fn text(json: &Json) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

/// A vocabulary that cannot become a tokenizer.
fn unknown(what: String) -> Diagnostic {
    Diagnostic::warning(Code::NoTokenizer, what)
        .help("put the model's tokenizer.json beside the file; without one a bundle takes token ids only")
}

/// Tokens in the order of their ids.
struct Vocabulary<'m> {
    tokens: Vec<&'m str>,
    types: Vec<i64>,
}

impl<'m> Vocabulary<'m> {
    fn read(metadata: &'m Metadata) -> Result<Self, Diagnostic> {
        let tokens = texts(metadata, "tokenizer.ggml.tokens")?
            .ok_or_else(|| unknown("'tokenizer.ggml.tokens' is not given".to_owned()))?;
        let types = match metadata.get("tokenizer.ggml.token_type") {
            None => vec![1; tokens.len()],
            Some(Value::List(list)) if list.len() == tokens.len() => {
                list.iter().map(|value| if let Value::Integer(ty) = value { *ty } else { 1 }).collect()
            }
            Some(_) => return Err(unknown("'tokenizer.ggml.token_type' does not have one number for each token".to_owned())),
        };
        Ok(Self { tokens, types })
    }

    /// Ids by token; where two are the same text, the first.
    fn ids(&self) -> HashMap<&'m str, usize> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (id, token) in self.tokens.iter().enumerate() {
            ids.entry(*token).or_insert(id);
        }
        ids
    }

    /// A token that some key names, if it is one.
    fn special(&self, metadata: &Metadata, name: &str) -> Option<u64> {
        let id = metadata.size(&format!("tokenizer.ggml.{name}_token_id")).ok()??;
        ((id as usize) < self.tokens.len()).then_some(id)
    }

    /// SentencePiece's: of all neighbours whose joint is a token, those merge first whose joint scores highest; what is left unknown is taken byte by
    /// byte.
    fn by_score(&self, metadata: &Metadata) -> Result<Json, Diagnostic> {
        let scores = match metadata.get("tokenizer.ggml.scores") {
            Some(Value::List(list)) if list.len() == self.tokens.len() => {
                list.iter().map(|v| if let Value::Number(score) = v { *score } else { 0.0 }).collect::<Vec<f64>>()
            }
            _ => return Err(unknown("'tokenizer.ggml.scores' does not have one number for each token".to_owned())),
        };
        let ids = self.ids();
        let mut merges: Vec<(f64, usize, [&str; 2])> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| self.types[*id] == 1) {
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            merges.extend(
                cuts.filter(|(a, b)| ids.contains_key(a) && ids.contains_key(b)).map(|(a, b)| (scores[id], id, [a, b])),
            );
        }
        // The order of ids decides between equal scores.
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let merges: Vec<[&str; 2]> = merges.into_iter().map(|(_, _, pair)| pair).collect();
        let unknown =
            self.special(metadata, "unknown").or_else(|| self.types.iter().position(|ty| *ty == UNKNOWN).map(|id| id as u64));
        let prefix = flag(metadata, "add_space_prefix").unwrap_or(true);
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        let normalizers: Vec<Json> =
            prefix.then(|| json!({ "type": "Prepend", "prepend": SPACE })).into_iter().chain([replace]).collect();
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        decoders.extend(prefix.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 })));
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added(),
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": null,
            "post_processor": self.template(metadata, true),
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": {
                "type": "BPE",
                "unk_token": unknown.map(|id| self.tokens[id as usize]),
                "fuse_unk": true,
                "byte_fallback": true,
                "vocab": self.vocab(),
                "merges": merges,
            },
        }))
    }

    /// GPT-2's: text is cut into pieces, and in each piece neighbours merge in the order of a list.
    fn by_rank(&self, metadata: &'m Metadata) -> Result<Json, Diagnostic> {
        let name = metadata.text("tokenizer.ggml.pre").unwrap_or("default");
        let cut = Cut::named(name)
            .ok_or_else(|| unknown(format!("the way '{name}' to cut text into pieces is not known; {} are", Cut::names())))?;
        let merges = texts(metadata, "tokenizer.ggml.merges")?
            .ok_or_else(|| unknown("'tokenizer.ggml.merges' is not given".to_owned()))?;
        let pair = |merge: &&'m str| merge.split_once(' ').map(|(a, b)| [a, b]);
        let Some(merges) = merges.iter().map(pair).collect::<Option<Vec<_>>>() else {
            return Err(unknown("'tokenizer.ggml.merges' has one that is no pair".to_owned()));
        };
        let mut steps: Vec<Json> = cut
            .patterns
            .iter()
            .map(|pattern| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false }))
            .collect();
        steps.push(json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false }));
        Ok(json!({
            "version": "1.0",
            "added_tokens": self.added(),
            "normalizer": null,
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
            "post_processor": self.template(metadata, cut.starts),
            "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
            "model": {
                "type": "BPE",
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": cut.whole_first,
                "vocab": self.vocab(),
                "merges": merges,
            },
        }))
    }

    fn vocab(&self) -> Json {
        Json::Object(self.ids().into_iter().map(|(token, id)| (token.to_owned(), id.into())).collect::<Map<_, _>>())
    }

    /// Tokens that are found in a text before it is cut.
    fn added(&self) -> Vec<Json> {
        let is_added = |id: &usize| [UNKNOWN, CONTROL, USER_DEFINED].contains(&self.types[*id]) && !self.tokens[*id].is_empty();
        (0..self.tokens.len())
            .filter(is_added)
            .map(|id| {
                json!({
                    "id": id,
                    "content": self.tokens[id],
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": self.types[id] != USER_DEFINED,
                })
            })
            .collect()
    }

    /// What is put around a text: `starts` says whether a first token is, where the file does not.
    fn template(&self, metadata: &Metadata, starts: bool) -> Json {
        let token = |name: &str, wanted: bool| {
            let id = if wanted { self.special(metadata, name) } else { None };
            id.map(|id| (self.tokens[id as usize], id))
        };
        let first = token("bos", flag(metadata, "add_bos_token").unwrap_or(starts));
        let last = token("eos", flag(metadata, "add_eos_token").unwrap_or(false));
        if first.is_none() && last.is_none() {
            return Json::Null;
        }
        let special =
            |token: Option<(&str, u64)>| token.map(|(name, _)| json!({ "SpecialToken": { "id": name, "type_id": 0 } }));
        let around = |text: &str| -> Vec<Json> {
            let text = json!({ "Sequence": { "id": text, "type_id": 0 } });
            special(first).into_iter().chain([text]).chain(special(last)).collect()
        };
        let pair = [around("A"), around("B")].concat();
        let named: Map<String, Json> = first
            .into_iter()
            .chain(last)
            .map(|(name, id)| (name.to_owned(), json!({ "id": name, "ids": [id], "tokens": [name] })))
            .collect();
        json!({
            "type": "TemplateProcessing",
            "single": around("A"),
            "pair": pair,
            "special_tokens": named,
        })
    }
}

/// A list of texts, if it is there.
fn texts<'m>(metadata: &'m Metadata, key: &str) -> Result<Option<Vec<&'m str>>, Diagnostic> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let text = |value: &'m Value| if let Value::Text(text) = value { Some(text.as_str()) } else { None };
    let list = if let Value::List(list) = value { list.iter().map(text).collect() } else { None };
    list.map(Some).ok_or_else(|| unknown(format!("'{key}' is no list of texts")))
}

fn flag(metadata: &Metadata, name: &str) -> Option<bool> {
    match metadata.get(&format!("tokenizer.ggml.{name}")) {
        Some(Value::Integer(flag)) => Some(*flag != 0),
        _ => None,
    }
}
