//! Generation, streaming and perplexity on the toy bundle.

#![allow(clippy::unwrap_used)]

mod toy;

use q35_bundle::Bundle;
use q35_runtime::bench::{self, Phase};
use q35_runtime::generate::{Event, Stop, generate};
use q35_runtime::perplexity::{perplexity, windows};
use q35_runtime::sampling::Settings;
use q35_runtime::text::{Text, stop_tokens};
use q35_runtime::{Options, Session};
use std::collections::BTreeSet;
use std::ops::ControlFlow::{Break, Continue};
use std::path::Path;
use std::sync::Arc;

fn with(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Arc<Bundle>) {
    let dir = tempfile::tempdir().unwrap();
    let path = toy::write(&dir.path().join("toy.q35"), toy::manifest(), files);
    (dir, Arc::new(Bundle::open(&path).unwrap()))
}

fn session(capacity: usize) -> (tempfile::TempDir, Session) {
    let (dir, bundle) = toy::bundle();
    (dir, Session::new(bundle, &Options { capacity, threads: Some(1), ..Options::default() }).unwrap())
}

#[test]
fn greedy_generation_and_its_ends() {
    let prompt = [3, 1, 4];
    let expected = toy::greedy(&prompt, 12);
    let run = |capacity, count, stops: &[u32]| {
        let (_dir, mut session) = session(capacity);
        let mut seen = vec![];
        let stops: BTreeSet<u32> = stops.iter().copied().collect();
        let result = generate(&mut session, &prompt, count, Settings::default(), &stops, |event| {
            if let Event::Token(token) = event {
                seen.push(token);
            }
            Ok(Continue(()))
        });
        let result = result.unwrap();
        assert_eq!(seen, result.tokens);
        (result.tokens, result.stop)
    };
    assert_eq!(run(64, 12, &[]), (expected.clone(), Stop::Count));
    assert_eq!(run(64, 0, &[]), (vec![], Stop::Count));
    // A cache of 8 holds the prompt and five new tokens, which give a sixth.
    assert_eq!(run(8, 12, &[]), (expected[..6].to_vec(), Stop::Full));
    let stop = expected[4];
    let before: Vec<u32> = expected.iter().copied().take_while(|t| *t != stop).collect();
    assert_eq!(run(64, 12, &[stop]), (before, Stop::Token));
    let (_dir, mut session) = session(8);
    let mut seen = 0;
    let result = generate(&mut session, &prompt, 12, Settings::default(), &BTreeSet::new(), |event| {
        seen += usize::from(matches!(event, Event::Token(_)));
        Ok(if seen == 3 { Break(()) } else { Continue(()) })
    });
    let result = result.unwrap();
    assert_eq!((result.tokens, result.stop), (expected[..3].to_vec(), Stop::Sink));
    let empty =
        generate(&mut session, &[], 1, Settings::default(), &BTreeSet::new(), |_| Ok(Continue(()))).unwrap_err().to_string();
    assert_eq!(empty, "error[Q35-0605]: the prompt has no tokens\n  help: give at least one token to continue");
}

#[test]
fn sampling_repeats_with_its_seed() {
    let settings = |seed| Settings { temperature: 50.0, seed, ..Settings::default() };
    let run = |seed| {
        let (_dir, mut session) = session(64);
        generate(&mut session, &[3, 1], 40, settings(seed), &BTreeSet::new(), |_| Ok(Continue(()))).unwrap().tokens
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn text_leaves_in_whole_characters() {
    let (_dir, bundle) = with(&[("tokenizer.json", toy::TOKENIZER.as_bytes())]);
    let text = Text::open(&bundle).unwrap();
    assert_eq!(text.encode("w3 w7 nonsense").unwrap(), [3, 7, 1]);
    assert_eq!(text.decode(&[3, 8, 9, 0]).unwrap(), "w3é");
    let mut stream = text.stream();
    let pieces: Vec<String> = [3, 8, 9, 0, 5].into_iter().map(|t| stream.push(t).unwrap()).collect();
    assert_eq!(pieces, ["w3", "", "é", "", "w5"]);
}

#[test]
fn tokenizers_and_settings_that_cannot_be_used() {
    let (_dir, none) = with(&[]);
    assert_eq!(
        Text::open(&none).err().unwrap().to_string(),
        "error[Q35-0603]: the bundle carries no tokenizer, because the model it was made from had none\n  \
         help: give token ids with --tokens, or put tokenizer.json beside the model and compile it again"
    );
    assert_eq!(stop_tokens(&none).unwrap(), BTreeSet::new());
    let larger = toy::TOKENIZER.replace("\"w7\":7", "\"w7\":7,\"w99\":99");
    let (_dir, bundle) =
        with(&[("tokenizer.json", larger.as_bytes()), ("generation_config.json", br#"{"eos_token_id": [2, 7]}"#)]);
    assert_eq!(
        Text::open(&bundle).unwrap().encode("w99").unwrap_err().to_string(),
        "error[Q35-0601]: the tokenizer gives token 99, which is outside the model's vocabulary of 10\n  at file 'tokenizer.json'"
    );
    assert_eq!(stop_tokens(&bundle).unwrap(), BTreeSet::from([2, 7]));
    let (_dir, bundle) = with(&[("generation_config.json", br#"{"eos_token_id": 4}"#)]);
    assert_eq!(stop_tokens(&bundle).unwrap(), BTreeSet::from([4]));
    let (_dir, bundle) = with(&[("generation_config.json", br#"{"eos_token_id": "x"}"#)]);
    assert!(
        stop_tokens(&bundle).unwrap_err().to_string().starts_with("error[Q35-0111]: the generation settings are malformed: ")
    );
}

/// The tokenizer of the trained model in the corpus; the toy behind it is never run.
#[test]
fn the_corpus_is_tokenized_and_streamed_as_its_makers_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/rustdoc-llama");
    let Ok(tokenizer) = std::fs::read(folder.join("hf/tokenizer.json")) else {
        println!("skipped: no {}", folder.display());
        return;
    };
    let mut manifest = toy::manifest();
    manifest.model.vocab = 4096;
    manifest.plan.bytes_per_logit_row = 4096 * 4 + 64;
    let dir = tempfile::tempdir().unwrap();
    let path = toy::write(&dir.path().join("toy.q35"), manifest, &[("tokenizer.json", &tokenizer)]);
    let text = Text::open(&Bundle::open(&path).unwrap()).unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();

    let tokens = text.encode(&std::fs::read_to_string(folder.join("test.txt")).unwrap()).unwrap();
    let (count, window) = windows(tokens.len(), 256);
    assert_eq!(meta["tokens_scored"].as_u64(), Some((count * (window - 1)) as u64));

    let file = std::fs::read(folder.join("gen.safetensors")).unwrap();
    let generated = safetensors::SafeTensors::deserialize(&file).unwrap();
    let ids = |name: &str| -> Vec<u32> {
        let data = generated.tensor(name).unwrap().data();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
    };
    let all = ids("ref.tokens");
    assert!(all.starts_with(&ids("prompt")));
    let mut stream = text.stream();
    let streamed: String = all.iter().map(|t| stream.push(*t).unwrap()).collect();
    assert_eq!(streamed, text.decode(&all).unwrap());
    assert_eq!(Some(&*streamed), meta["greedy"].as_str());
}

#[test]
fn perplexity_of_a_text_by_windows() {
    let tokens: Vec<u32> = (0..23).map(|i| i * i % 10).collect();
    let (_dir, mut session) = session(16);
    let mut heard = vec![];
    let found = perplexity(&mut session, &tokens, 7, |n| heard.push(n)).unwrap();
    // Three windows of 7 tokens; softmax by hand.
    let mut nats = 0.0;
    for window in tokens[..21].chunks(7) {
        for (row, next) in toy::logits(&window[..6]).iter().zip(&window[1..]) {
            let total: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            nats -= (f64::from(row[*next as usize]).exp() / total).ln();
        }
    }
    assert_eq!((found.scored, found.window, heard), (18, 7, vec![1, 2, 3]));
    assert!(
        (found.nats - nats / 18.0).abs() < 1e-6 && (found.perplexity - (nats / 18.0).exp()).abs() < 1e-5 * found.perplexity,
        "{found:?}"
    );
    let short = perplexity(&mut session, &[1], 7, |_| {}).unwrap_err().to_string();
    assert_eq!(short, "error[Q35-0605]: nothing can be scored: it takes at least two tokens to predict one");
}

#[test]
fn measurements_have_every_case() {
    let (_dir, bundle) = toy::bundle();
    let plan = bench::Plan { prefill: vec![64], batches: vec![1, 2], cached: vec![0, 32], runs: 2, ..bench::Plan::default() };
    let report = bench::bench(&bundle, &Options { threads: Some(2), ..Options::default() }, &plan, |_| {}).unwrap();
    let cases: Vec<_> = report.cases.iter().map(|c| (c.phase, c.batch, c.cached, c.tokens, c.runs)).collect();
    let decode = |batch, cached| (Phase::Decode, batch, cached, 32, 2);
    assert_eq!(cases, [(Phase::Prefill, 1, 0, 64, 2), decode(1, 0), decode(1, 32), decode(2, 0), decode(2, 32)]);
    // The table is embedding and head at once: all of it is read for logits.
    assert!(report.cases.iter().all(|c| c.weight_bytes_per_step == 160 && c.min <= c.median && c.median <= c.max));
    assert!(report.read_bytes_per_second.is_sorted() && report.read_bytes_per_second[0] > 0.0);
}
