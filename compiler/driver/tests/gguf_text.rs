//! The vocabulary of a GGUF file, as a tokenizer, against the tokens that the libraries gave which the vocabularies are of
//! (`compiler/import/tests/data/make_gguf.py`).
#![allow(clippy::unwrap_used)] // a test may panic

use q35_runtime::text::Text;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../import/tests/data/vocabulary").join(name)
}

/// Merging by score, and merging bytes by rank.
#[test]
fn tokens_are_those_of_the_vocabulary_s_own_library() {
    for (kind, vocab) in [("llama", 640), ("gpt2", 512)] {
        let imported = q35_import::open(&data(&format!("{kind}.gguf"))).unwrap();
        assert!(imported.warnings.is_empty());
        let text = Text::new(&imported.own_files["tokenizer.json"], vocab).unwrap();
        let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(data(&format!("{kind}.json"))).unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let said = case["text"].as_str().unwrap();
            let ids: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
            assert_eq!(text.encode(said).unwrap(), ids, "{kind} {said:?}");
            assert_eq!(text.decode(&ids).unwrap(), said, "{kind} {ids:?}");
        }
    }
}

/// A special token is found in a text, and left out of one.
#[test]
fn special_tokens_are_whole() {
    for (kind, vocab, [start, end]) in [("llama", 640, [1, 2]), ("gpt2", 512, [0, 1])] {
        let imported = q35_import::open(&data(&format!("{kind}.gguf"))).unwrap();
        let text = Text::new(&imported.own_files["tokenizer.json"], vocab).unwrap();
        let ids = text.encode("a</s>").unwrap();
        assert_eq!((ids[0], *ids.last().unwrap()), (start, end), "{kind}");
        assert_eq!(text.decode(&ids).unwrap(), "a", "{kind}");
        let ends: serde_json::Value = serde_json::from_slice(&imported.own_files["generation_config.json"]).unwrap();
        assert_eq!(ends["eos_token_id"], serde_json::json!([end]));
    }
}
