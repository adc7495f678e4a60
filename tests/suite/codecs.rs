//! Every codec: the CPU's kernels against the interpreter on the same dequantized weights and the same rounding of activations.
//!
//! Kernel by kernel the integers are equal to the last bit (`targets/cpu` tests that). Over a whole model, a float that differs in its last
//! bit turns, now and then, one rounded activation by one step, and from there on the two evaluations round independently of each
//! other: both are as far from the evaluation without rounding as rounding makes them, and at most about 1.4 times that from each other.
//! In the first layer such turns are single ones among all of its inputs. The same holds of keys and values in half precision.

use crate::end_to_end::{compile, path};
use crate::program;
use libtest_mimic::{Failed, Trial};
use q35_tests::corpus::{self, Example};

/// How weights and cache are stored: codec, group, element type of the cache.
type Storage = (&'static str, &'static str, &'static str);

/// First those that every example is compiled with, a trellis of sums, one of a table, and arithmetic.
const CODECS: [Storage; 11] = [
    ("a11", "row", "f16"),
    ("w8", "128", "f32"),
    ("split", "64", "f32"),
    ("f32", "row", "f16"),
    ("f16", "row", "f32"),
    ("bf16", "row", "f32"),
    ("q8", "row", "f16"),
    ("split", "row", "f32"),
    ("w7", "row", "f32"),
    ("w9", "row", "f32"),
    ("w10", "64", "f32"),
];
/// How many they are.
const EVERYWHERE: usize = 4;
/// The example that is compiled with all of them; with `Q35_FULL=1` every one is.
const ALL_CODECS: &str = "rustdoc-llama--dynamo";

/// Examples with what is special: nothing, norms of queries and keys, a sliding window and biases, a trained model, experts with a shared one
/// beside them.
const EXAMPLES: [&str; 5] = [
    "llama-mha--dynamo",
    "qwen3--dynamo-op24-cache",
    "mistral-sw--hf-cache",
    "rustdoc-llama--dynamo",
    "qwen2moe--dynamo-batched-cache",
];
/// With `Q35_FULL=1` in every way: experts with biases, trained ones, and attention over latent vectors.
const MORE: [&str; 3] = ["gptoss--genai-fp32", "rustdoc-moe--dynamo", "deepseek-v3--dynamo-batched"];

/// How every other example is stored with `Q35_FULL=1`.
const OTHERS: Storage = CODECS[1];

/// Of the error that rounding activations, keys and values makes: in the first layer's keys and values, and everywhere else.
const FIRST: f64 = 0.1;
const LATER: f64 = 1.5;
/// What floats alone may differ by.
const FLOAT: f64 = 1e-5;

pub(crate) fn trials() -> Vec<Trial> {
    let full = std::env::var_os("Q35_FULL").is_some();
    let more = if full { &MORE[..] } else { &[] };
    let chosen = |example: &Example| EXAMPLES.iter().chain(more).any(|name| *name == example.name);
    let examples = corpus::dense().into_iter().chain(corpus::experts()).filter(|example| full || chosen(example));
    let trial = |example: Example| {
        let codecs = match chosen(&example) {
            true if full || example.name == ALL_CODECS => &CODECS[..],
            true => &CODECS[..EVERYWHERE],
            false => std::slice::from_ref(&OTHERS),
        };
        codecs.iter().map(move |&(codec, group, dtype)| {
            let (name, example) = (format!("codecs/{}/{codec}-{group}-cache-{dtype}", example.name), example.clone());
            Trial::test(name, move || run(&example, (codec, group, dtype)).map_err(Failed::from))
        })
    };
    examples.flat_map(trial).collect()
}

fn run(example: &Example, (codec, group, dtype): Storage) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let bundle = compile(example, folder.path(), "x.q35", &["--codec", codec, "--group", group, "--kv-cache-dtype", dtype])?;
    let text = program::run("q35c", &["compare", path(&example.model), path(&bundle), "--json"]).success()?;
    let found: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let rows = found["layers"].as_array().ok_or("no layers")?;
    let number = |row: &serde_json::Value, name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let mut wrong = Vec::new();
    for row in rows {
        let what = row["what"].as_str().unwrap_or_default();
        let (rounding, generation) = (number(row, "activations"), number(row, "code_generation"));
        let allowed = FLOAT + rounding * if what.starts_with("layer 0 ") { FIRST } else { LATER };
        if generation.is_nan() || generation > allowed {
            wrong.push(format!("{what}: code generation's share is {generation:.2e}, {allowed:.2e} is allowed"));
        }
    }
    if wrong.is_empty() && rows.len() > 2 { Ok(()) } else { Err(wrong.join("\n")) }
}
