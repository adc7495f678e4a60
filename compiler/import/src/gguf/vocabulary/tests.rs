//! What becomes of values under `tokenizer.`, and what cannot become a tokenizer. That the tokens are right is shown where the library is that reads them
//! (`compiler/driver/tests/gguf_text.rs`).

use super::super::metadata::{Metadata, Value};
use super::files;

fn texts(list: &[&str]) -> Value {
    Value::List(list.iter().map(|text| Value::Text((*text).to_owned())).collect())
}

fn metadata(values: &[(&str, Value)]) -> Metadata {
    Metadata::of(values.iter().map(|(key, value)| (format!("tokenizer.{key}"), value.clone())))
}

fn word(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn refused(values: &[(&str, Value)]) -> String {
    files(&metadata(values)).unwrap_err().to_string()
}

fn tokenizer(values: &[(&str, Value)]) -> serde_json::Value {
    serde_json::from_slice(&files(&metadata(values)).unwrap()["tokenizer.json"]).unwrap()
}

#[test]
fn a_file_without_a_vocabulary_has_no_files() {
    assert!(files(&metadata(&[])).unwrap().is_empty());
    assert!(files(&metadata(&[("ggml.model", word("no_vocab"))])).unwrap().is_empty());
}

#[test]
fn joints_merge_by_score_and_then_by_id() {
    let values = [
        ("ggml.model", word("llama")),
        ("ggml.tokens", texts(&["<unk>", "a", "b", "ab", "ba", "aba"])),
        ("ggml.scores", Value::List([0.0, -9.0, -9.0, -2.0, -1.0, -2.0].map(Value::Number).to_vec())),
        ("ggml.token_type", Value::List([2, 1, 1, 1, 1, 1].map(Value::Integer).to_vec())),
        ("ggml.add_space_prefix", Value::Integer(0)),
        ("ggml.eos_token_id", Value::Integer(0)),
        ("chat_template", word("{{ x }}")),
    ];
    let json = tokenizer(&values);
    let merges = serde_json::json!([["b", "a"], ["a", "b"], ["a", "ba"], ["ab", "a"]]);
    assert_eq!(json["model"]["merges"], merges);
    assert_eq!(json["model"]["unk_token"], "<unk>");
    assert_eq!(json["normalizer"]["normalizers"].as_array().unwrap().len(), 1, "no space before a text");
    let all = files(&metadata(&values)).unwrap();
    assert_eq!(all["chat_template.jinja"], b"{{ x }}");
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), ["chat_template.jinja", "generation_config.json", "tokenizer.json"]);
}

#[test]
fn what_is_no_tokenizer_is_told() {
    let help = "\n  help: put the model's tokenizer.json beside the file; without one a bundle takes token ids only";
    let warning = |what: &str| format!("warning[Q35-0603]: {what}{help}");
    let kind = |kind: &str| ("ggml.model", word(kind));
    let tokens = ("ggml.tokens", texts(&["a", "b"]));
    assert_eq!(
        refused(&[kind("bert"), tokens.clone()]),
        warning("vocabularies of kind 'bert' are not known; 'llama' and 'gpt2' are")
    );
    assert_eq!(refused(&[kind("llama")]), warning("'tokenizer.ggml.tokens' is not given"));
    assert_eq!(
        refused(&[kind("llama"), ("ggml.tokens", Value::Skipped)]),
        warning("'tokenizer.ggml.tokens' is no list of texts")
    );
    assert_eq!(
        refused(&[kind("llama"), tokens.clone(), ("ggml.token_type", Value::List(vec![Value::Integer(1)]))]),
        warning("'tokenizer.ggml.token_type' does not have one number for each token")
    );
    assert_eq!(
        refused(&[kind("llama"), tokens.clone()]),
        warning("'tokenizer.ggml.scores' does not have one number for each token")
    );
    let cut = refused(&[kind("gpt2"), tokens.clone(), ("ggml.pre", word("bloom"))]);
    assert!(cut.starts_with("warning[Q35-0603]: the way 'bloom' to cut text into pieces is not known; llama-bpe, "), "{cut}");
    let cut = ("ggml.pre", word("gpt-2"));
    assert_eq!(refused(&[kind("gpt2"), tokens.clone(), cut.clone()]), warning("'tokenizer.ggml.merges' is not given"));
    assert_eq!(
        refused(&[kind("gpt2"), tokens, cut, ("ggml.merges", texts(&["ab"]))]),
        warning("'tokenizer.ggml.merges' has one that is no pair")
    );
}
