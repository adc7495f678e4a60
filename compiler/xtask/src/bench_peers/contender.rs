//! One program with one file, and how to ask it for its speed.

use crate::cache::{Cache, Key};
use crate::shell;
use crate::tools::Tools;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Workload {
    /// Tokens of a prompt; 0 for none.
    pub(super) prompt: u32,
    /// Tokens that are decoded from an empty cache.
    pub(super) decode: u32,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Speed {
    /// Tokens per second of decoding.
    pub(super) decode: f64,
    /// Tokens per second of a prompt.
    pub(super) prefill: Option<f64>,
    /// Bytes per second of a plain read with as many threads, where the program measures it.
    pub(super) read: Option<f64>,
}

/// A program with a file.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    pub(super) engine: Engine,
    /// The format of its weights.
    pub(super) format: String,
    /// Bytes of weights that decoding a token reads.
    pub(super) bytes: u64,
    program: PathBuf,
    file: PathBuf,
    key: String,
}

/// What kind of program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Engine {
    #[serde(rename = "q35")]
    Ours,
    #[serde(rename = "llama.cpp")]
    Llama,
    #[serde(rename = "ik_llama.cpp")]
    Ik,
    #[serde(rename = "ik_llama.cpp, repacked")]
    IkRepacked,
    #[serde(rename = "ONNX Runtime")]
    Onnx,
}

impl Engine {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ours => "q35",
            Self::Llama => "llama.cpp",
            Self::Ik => "ik_llama.cpp",
            Self::IkRepacked => "ik_llama.cpp, repacked",
            Self::Onnx => "ONNX Runtime",
        }
    }
}

impl Contender {
    /// Our bundle in one codec; compiled if it is not there.
    pub(super) fn ours(tools: &Tools, checkpoint: &Path, codec: &str, cache: &Cache) -> Result<Self, String> {
        let key = Key::default().text(&tools.key().name()).text(&checkpoint.to_string_lossy()).text(codec);
        let file = cache.file(&key, "q35", &format!("compiling {codec}"), |out| {
            tools.compile(checkpoint, &["--codec", codec], None, out).map(|_| ())
        })?;
        let program = tools.q35().to_owned();
        let contender = Self { engine: Engine::Ours, format: codec.into(), bytes: 0, program, file, key: key.name() };
        // A short run says how many bytes a token reads.
        let report = contender.bench(1, Workload { prompt: 0, decode: 1 })?;
        let bytes = report["cases"][0]["weight_bytes_per_step"].as_u64().ok_or("q35 bench does not say what it read")?;
        Ok(Self { bytes, ..contender })
    }

    /// A peer's program with its file.
    pub(super) fn peer(engine: Engine, format: &str, bytes: u64, program: PathBuf, file: PathBuf) -> Result<Self, String> {
        let key = Key::default().text(engine.name()).path(&program)?.text(&file.to_string_lossy()).text(&bytes.to_string());
        Ok(Self { engine, format: format.to_owned(), bytes, program, file, key: key.name() })
    }

    pub(super) fn name(&self) -> String {
        format!("{} {}", self.engine.name(), self.format)
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Runs it once.
    pub(super) fn measure(&self, threads: u16, work: Workload) -> Result<Speed, String> {
        match self.engine {
            Engine::Ours => {
                let report = self.bench(threads, work)?;
                let case = |phase: &str| {
                    let cases = report["cases"].as_array().map_or(&[][..], Vec::as_slice);
                    cases.iter().find(|case| case["phase"] == phase).and_then(|case| case["median"].as_f64())
                };
                let decode = case("decode").ok_or("q35 bench decoded nothing")?;
                Ok(Speed { decode, prefill: case("prefill"), read: report["read_bytes_per_second"][2].as_f64() })
            }
            Engine::Llama | Engine::Ik | Engine::IkRepacked => self.llama_bench(threads, work),
            Engine::Onnx => shell::json(Command::new(&self.program).arg(&self.file).args([
                threads.to_string(),
                work.prompt.to_string(),
                work.decode.to_string(),
            ])),
        }
    }

    fn bench(&self, threads: u16, work: Workload) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.arg("bench").arg(&self.file).args([
            "--json",
            "--trust-weights",
            "--runs",
            "1",
            "--batch",
            "1",
            "--cached",
            "0",
        ]);
        command.args(["--seconds", "600", "--threads", &threads.to_string(), "--decode", &work.decode.to_string()]);
        match work.prompt {
            0 => command.args(["--only", "decode"]),
            prompt => command.args(["--prefill", &prompt.to_string()]),
        };
        shell::json(&mut command)
    }

    fn llama_bench(&self, threads: u16, work: Workload) -> Result<Speed, String> {
        let mut command = Command::new(&self.program);
        command.arg("-m").arg(&self.file).args(["-o", "json", "-r", "1", "-t", &threads.to_string()]);
        command.args(["-p", &work.prompt.to_string(), "-n", &work.decode.to_string()]);
        if self.engine == Engine::IkRepacked {
            command.args(["-rtr", "1"]);
        }
        let text = shell::run(&mut command)?;
        speed_of(&text)
    }
}

/// What llama-bench printed: a list of tests, perhaps with other lines before it.
fn speed_of(text: &str) -> Result<Speed, String> {
    let list = text.find("[\n").map(|at| &text[at..]).unwrap_or(text);
    let tests: Vec<Value> = serde_json::from_str(list).map_err(|e| format!("llama-bench did not print JSON: {e}"))?;
    let rate = |field: &str| {
        let test = tests.iter().find(|test| test[field].as_u64().is_some_and(|tokens| tokens > 0))?;
        test["avg_ts"].as_f64()
    };
    let decode = rate("n_gen").ok_or("llama-bench decoded nothing")?;
    Ok(Speed { decode, prefill: rate("n_prompt"), read: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tests_of_llama_bench_are_found() {
        let text = "a line before\n[\n  {\"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 101.5},\n  {\"n_prompt\": 0, \"n_gen\": 64, \"avg_ts\": 20.25}\n]\n";
        assert_eq!(speed_of(text), Ok(Speed { decode: 20.25, prefill: Some(101.5), read: None }));
        let only = "[\n{\"n_prompt\": 0, \"n_gen\": 8, \"avg_ts\": 3.0}]";
        assert_eq!(speed_of(only), Ok(Speed { decode: 3.0, prefill: None, read: None }));
        assert!(speed_of("[\n]").is_err() && speed_of("oops").is_err());
    }
}
