//! The command as a user meets it: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used)]

#[path = "../../core/tests/toy/mod.rs"]
mod toy;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A bundle with tokenizer and stop token 2.
fn bundle() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let files: [(&str, &[u8]); 2] =
        [("tokenizer.json", toy::TOKENIZER.as_bytes()), ("generation_config.json", br#"{"eos_token_id": 2}"#)];
    let path = toy::write(&dir.path().join("toy.q35"), toy::manifest(), &files);
    (dir, path)
}

/// Exit code, stdout, stderr.
fn q35(args: &[&str], bundle: &Path) -> (i32, String, String) {
    let args = args.iter().map(|a| if *a == "BUNDLE" { bundle.as_os_str() } else { a.as_ref() });
    let out = Command::new(env!("CARGO_BIN_EXE_q35")).args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

/// The greedy continuation up to the stop token.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    toy::greedy(prompt, count).into_iter().take_while(|t| *t != 2).collect()
}

#[test]
fn a_prompt_is_continued_as_text_and_token_ids_as_ids() {
    let (_dir, path) = bundle();
    let tokens = expected(&[3, 7], 6);
    assert!(!tokens.is_empty());
    let ids = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let (code, out, err) = q35(&["run", "BUNDLE", "--tokens", "3,7", "-n", "6", "--threads", "2"], &path);
    assert_eq!((code, out), (0, format!("{ids}\n")));
    assert!(err.starts_with("prompt of 2 tokens at ") && err.ends_with(" (cpu, base, 2 threads)\n"), "{err}");

    let bundle = q35_bundle::Bundle::open(&path).unwrap();
    let text = q35_runtime::text::Text::open(&bundle).unwrap().decode(&tokens).unwrap();
    let (code, out, _) = q35(&["run", "BUNDLE", "--prompt", "w3 w7", "-n", "6"], &path);
    assert_eq!((code, out), (0, format!("{text}\n")));

    let (code, out, err) = q35(&["run", "BUNDLE", "--prompt", "w3 w7", "-n", "6", "--json"], &path);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(json["tokens"], serde_json::json!(tokens));
    assert_eq!((json["text"].as_str(), json["prompt_tokens"].as_u64()), (Some(&*text), Some(2)));
}

#[test]
fn a_full_context_ends_a_text_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = toy::write(&dir.path().join("toy.q35"), toy::manifest(), &[]);
    let (code, out, err) = q35(&["run", "BUNDLE", "--tokens", "3,7", "-n", "100"], &path);
    // 62 new tokens fill the cache of 64, and the last of them gives one more.
    let ids = toy::greedy(&[3, 7], 63).iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    assert_eq!((code, out), (0, format!("{ids}\n")));
    assert!(err.starts_with("the context of 64 tokens is full\nprompt of 2 tokens at "), "{err}");
}

#[test]
fn graph_inputs_become_graph_outputs() {
    let (dir, path) = bundle();
    let ids: Vec<u8> = [4i64, 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let inputs = serialize([("input_ids", TensorView::new(Dtype::I64, vec![1, 2], &ids).unwrap())], None).unwrap();
    let (from, to) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    std::fs::write(&from, inputs).unwrap();
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    assert_eq!(q35(&["run", "BUNDLE", "--inputs", from, "--outputs", to], &path), (0, String::new(), String::new()));
    let bytes = std::fs::read(to).unwrap();
    let outputs = SafeTensors::deserialize(&bytes).unwrap();
    let expected: Vec<u8> = toy::logits(&[4, 1]).concat().iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(outputs.tensor("logits").unwrap().data(), expected);
    assert_eq!(outputs.tensor("present.0.key").unwrap().shape(), [1, 2, 2, 2]);

    let nowhere = dir.path().join("nowhere/out.safetensors");
    let nowhere = nowhere.to_str().unwrap();
    let text = format!("error[Q35-0701]: cannot write: No such file or directory (os error 2)\n  at file '{nowhere}'\n");
    assert_eq!(q35(&["run", "BUNDLE", "--inputs", from, "--outputs", nowhere], &path), (1, String::new(), text));
}

#[test]
fn perplexity_is_printed() {
    let (dir, path) = bundle();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "w3 w1 w4 w1 w5 w6 w2 w6 w5 w3 w5").unwrap();
    let (code, out, err) = q35(&["eval", "BUNDLE", "--text", text.to_str().unwrap(), "--window", "5"], &path);
    let mut nats = 0.0;
    for window in [[3, 1, 4, 1, 5], [6, 2, 6, 5, 3]] {
        for (row, next) in toy::logits(&window[..4]).iter().zip(&window[1..]) {
            let total: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            nats -= (f64::from(row[*next as usize]).exp() / total).ln();
        }
    }
    assert_eq!((code, out), (0, format!("perplexity {:.4} (8 tokens scored, windows of 5)\n", (nats / 8.0).exp())));
    assert_eq!(err, "       50 %   perplexity\n      100 %   perplexity\n");

    std::fs::write(&text, b"w3 \xff").unwrap();
    let shown = text.display();
    let expected = format!("error[Q35-0605]: the file is no UTF-8 text: byte 3 begins no character\n  at file '{shown}'\n");
    assert_eq!(q35(&["eval", "BUNDLE", "--text", text.to_str().unwrap()], &path), (1, String::new(), expected));
}

#[test]
fn a_bundle_is_described() {
    let (_dir, path) = bundle();
    let (code, out, err) = q35(&["inspect", "BUNDLE"], &path);
    let hashes = |line: &str| line.split_whitespace().filter(|w| w.len() != 64).collect::<Vec<_>>().join(" ");
    let sizes = |line: String| {
        if line.starts_with("cpu/model.so") || line.starts_with("all") {
            line.split(' ').next().unwrap().to_owned()
        } else {
            line
        }
    };
    let lines: Vec<String> = out.lines().map(|line| sizes(hashes(line))).collect();
    let expected = format!(
        "model toy: 40 parameters, 1 layers of width 4
vocabulary 10
context 64 tokens
compiled by by hand
device cpu, {}: mind, base
weights 32.000 bits each, scales included
program 4 steps, 5 kernels
memory 128 B per token of a step, 128 B per row of logits, 32 B of cache per token

parameter codec shape group bits
table f32 10 x 4 row 32.000

file size sha256
cpu/model.so
generation_config.json 19 B
tokenizer.json {} B
weights.safetensors 384 B
all",
        std::env::consts::ARCH,
        toy::TOKENIZER.len()
    );
    assert_eq!((code, lines.join("\n"), err.as_str()), (0, expected, ""));

    let json: serde_json::Value = serde_json::from_str(&q35(&["inspect", "BUNDLE", "--json"], &path).1).unwrap();
    assert_eq!(json["summary"]["kernels"], 5);
    assert_eq!(json["manifest"]["steps"][3]["variants"][0]["kernel"], "head_few");
}

#[test]
fn inspect_shows_what_the_compile_measured() {
    let dir = tempfile::tempdir().unwrap();
    let report = br#"{"schema": 1, "tensors": {"table": {"effective_bits": 32.0, "relative_error": 0.125, "snr_db": 18.06,
        "worst_row": {"row": 3, "relative_error": 0.25}, "accumulator_bound": 536870912,
        "calibrated": {"weighted_error": 0.0625, "tokens": 512, "damping": 0.01}}}}"#;
    let path = toy::write(&dir.path().join("toy.q35"), toy::manifest(), &[("report.json", report)]);
    let (code, out, _) = q35(&["inspect", "BUNDLE"], &path);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> =
        out.lines().map(words).filter(|line| line.starts_with("table") || line.starts_with("parameter")).collect();
    let expected = [
        "parameter codec shape group bits error SNR dB of output worst row accumulator",
        "table f32 10 x 4 row 32.000 12.50 % 18.06 6.25 % 3: 25.00 % 25.00 %",
    ];
    assert_eq!((code, lines), (0, expected.map(str::to_owned).to_vec()));
    let json: serde_json::Value = serde_json::from_str(&q35(&["inspect", "BUNDLE", "--json"], &path).1).unwrap();
    assert_eq!(json["records"]["table"]["worst_row"]["row"], 3);

    let path = toy::write(&dir.path().join("other.q35"), toy::manifest(), &[("report.json", b"[]")]);
    let (code, _, err) = q35(&["inspect", "BUNDLE"], &path);
    assert_eq!(code, 1);
    assert!(err.starts_with("error[Q35-0503]: the report is not what a compile writes: "), "{err}");
}

#[test]
fn measurements_are_printed_and_parsed() {
    let (_dir, path) = bundle();
    let few = ["bench", "BUNDLE", "--runs", "2", "--threads", "1", "--prefill", "8,128", "--cached", "4,40", "--decode", "16"];
    let (code, out, _) = q35(&[&few[..], &["--batch", "1,3"]].concat(), &path);
    assert_eq!(code, 0);
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    let cases: Vec<[&str; 5]> = lines.iter().filter_map(|words| words.first_chunk().copied()).collect();
    assert_eq!(
        cases[1..6],
        [
            ["prefill", "1", "0", "8", "2"],
            ["decode", "1", "4", "16", "2"],
            ["decode", "1", "40", "16", "2"],
            ["decode", "3", "4", "16", "2"],
            ["decode", "3", "40", "16", "2"],
        ],
        "{out}"
    );
    assert!(out.contains("not measured                       prefill of 128 tokens: the context has 64\n"), "{out}");

    let (_, out, _) = q35(&[&few[..], &["--batch", "1", "--json", "--only", "decode"]].concat(), &path);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let case = &json["cases"][0];
    assert_eq!((case["phase"].as_str(), case["weight_bytes_per_step"].as_u64()), (Some("decode"), Some(160)));
    let figure = |name: &str| case[name].as_f64().unwrap();
    assert!(figure("min") <= figure("median") && figure("median") <= figure("max"), "{case}");
    assert!((figure("median") * figure("latency_seconds") - 1.0).abs() < 1e-9, "{case}");
}

#[test]
fn a_profile_has_every_launch() {
    let (dir, path) = bundle();
    let trace = dir.path().join("trace.json");
    let args =
        ["run", "BUNDLE", "--tokens", "3,7", "-n", "3", "--threads", "1", "--json", "--profile", trace.to_str().unwrap()];
    let (code, _, err) = q35(&args, &path);
    assert_eq!(code, 0);
    // Three steps of four launches each: the prompt's, and two that decode.
    let rows: Vec<Vec<&str>> = err.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    for kind in [["linear", "1", "3"], ["mix", "2", "1"], ["mix", "1", "2"], ["embed", "1", "2"], ["all", "3", "steps"]] {
        assert!(rows.iter().any(|row| row[..] == kind), "{kind:?} is not in\n{err}");
    }
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let on = |track: u64| events.iter().filter(move |e| e["ph"] == "X" && e["tid"] == track);
    assert_eq!((on(1).count(), on(2).count()), (3, 12));
    for launch in on(2) {
        let span = |event: &serde_json::Value| {
            let [begin, lasted] = ["ts", "dur"].map(|name| event[name].as_f64().unwrap());
            (begin, begin + lasted)
        };
        let (begin, end) = span(launch);
        assert!(on(1).map(span).any(|step| step.0 <= begin && end <= step.1 + 1e-3), "{launch} is in no step");
    }
    let head = on(2).find(|e| e["name"] == "linear").unwrap();
    assert_eq!((head["args"]["node"].as_str(), head["args"]["weight_bytes"].as_u64()), (Some("toy.linear"), Some(160)));
}

#[test]
fn wrong_usage_ends_with_two_and_user_errors_with_one() {
    let (_dir, path) = bundle();
    for wrong in [
        &["run", "BUNDLE"][..],
        &["run", "BUNDLE", "--prompt", "a", "--tokens", "1"],
        &["run", "BUNDLE", "--inputs", "x"],
        &["run", "BUNDLE", "--prompt", "a", "--top-p", "1.5"],
        &["run", "BUNDLE", "--prompt", "a", "--temperature", "-1"],
        &["run", "BUNDLE", "--tokens", "1,x"],
        &["eval", "BUNDLE"],
        &["fly"],
    ] {
        let (code, out, err) = q35(wrong, &path);
        assert_eq!((code, out.as_str()), (2, ""), "{wrong:?}: {err}");
    }
    let errors = [
        (&["run", "BUNDLE", "--tokens", "1,10"][..], "error[Q35-0601]: token 10 is outside the vocabulary of 10\n"),
        (
            &["run", "BUNDLE", "--prompt", ""],
            "error[Q35-0605]: the prompt has no tokens\n  help: give at least one token to continue\n",
        ),
        (
            &["run", "BUNDLE", "--tokens", "1", "--level", "sse"],
            "error[Q35-0504]: the bundle has no feature level 'sse'\n  help: it has: mind, base\n",
        ),
        (
            &["eval", "BUNDLE", "--text", "/nowhere"],
            "error[Q35-0101]: the file cannot be read: No such file or directory (os error 2)\n  at file '/nowhere'\n",
        ),
    ];
    for (args, text) in errors {
        assert_eq!(q35(args, &path), (1, String::new(), text.to_owned()), "{args:?}");
    }
}

#[test]
fn a_prompt_that_is_too_long_says_so() {
    let (_dir, path) = bundle();
    let long = vec!["1"; 70].join(",");
    let text = "error[Q35-0602]: slot 0 holds 0 tokens, and 70 more exceed its capacity of 64\n  help: shorten the prompt or ask for fewer tokens\n";
    assert_eq!(q35(&["run", "BUNDLE", "--tokens", &long], &path), (1, String::new(), text.to_owned()));
}

#[test]
fn one_flipped_byte_is_refused() {
    let (_dir, path) = bundle();
    let object = path.join("cpu/model.so");
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let text = "error[Q35-0503]: the content is not what was compiled\n  at file 'cpu/model.so'\n  help: copy or compile the bundle again\n";
    assert_eq!(q35(&["run", "BUNDLE", "--tokens", "1"], &path), (1, String::new(), text.to_owned()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_an_error_and_a_closed_pipe_is_none() {
    let (_dir, path) = bundle();
    let run = |stdout: Stdio| {
        let out = Command::new(env!("CARGO_BIN_EXE_q35"))
            .arg("inspect")
            .arg(&path)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let text = "error[Q35-0702]: the disk is full\n  at file 'stdout'\n  help: free some space, or choose an output folder on another disk\n";
    assert_eq!(run(full.into()), (Some(1), text.to_owned()));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()), (Some(0), String::new()));
}
