//! Graphs nobody in this project wrote, with inputs and expected results.
//!
//! `tests/data` holds a selection that travels with the repository; where a larger collection lies at `../shared/models` beside the
//! repository, it is used too.

use crate::tensors::{self, Numbers};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The repository's root folder.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The graphs that travel with the repository.
pub fn data() -> PathBuf {
    root().join("tests/data")
}

/// The larger collection, if it is there: beside the repository, or beside the checkout that this worktree belongs to.
pub fn shared() -> Option<PathBuf> {
    let folder = root().join("../shared/models");
    folder.is_dir().then_some(folder)
}

/// An exported graph with its stored cases.
#[derive(Clone, Debug)]
pub struct Example {
    /// `<config>--<export route>`.
    pub name: String,
    /// The `.onnx` file.
    pub model: PathBuf,
    /// Where its cases are.
    pub folder: PathBuf,
    meta: serde_json::Value,
}

/// Prefixes of the names of mixtures of experts; all other models are dense.
const EXPERTS: [&str; 12] = [
    "afmoe--",
    "deepseek",
    "ernie-moe--",
    "fused--",
    "gptoss--",
    "lfm2moe--",
    "mixtral--",
    "phimoe--",
    "qwen2moe--",
    "qwen3moe--",
    "rustdoc-moe--",
    "sinks--",
];

fn is_mixture(name: &str) -> bool {
    EXPERTS.iter().any(|prefix| name.starts_with(prefix))
}

/// Every dense graph: those that travel with the repository, the small trained model, and the larger collection's other ones.
pub fn dense() -> Vec<Example> {
    let mut found = graphs(|name| !is_mixture(name));
    let small = tiny_llama();
    found.entry(small.name.clone()).or_insert(small);
    found.into_values().collect()
}

/// Every mixture of experts, from the same places.
pub fn experts() -> Vec<Example> {
    graphs(is_mixture).into_values().collect()
}

/// The graphs of both collections whose names are wanted; one that is in both is taken from the first.
fn graphs(wanted: impl Fn(&str) -> bool) -> BTreeMap<String, Example> {
    let mut found = BTreeMap::new();
    for folder in [Some(data()), shared()].into_iter().flatten() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (name, folder) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let routes = [name.clone(), format!("{name}--dynamo"), format!("{name}--hf-cache")];
            for (name, route) in routes.into_iter().zip(["", "dynamo", "hf-cache"]) {
                let model = folder.join(route).join("model.onnx");
                if wanted(&name) && model.is_file() {
                    found.entry(name.clone()).or_insert_with(|| Example::new(&name, model, folder.clone()));
                }
            }
        }
    }
    found
}

/// The small trained model of `examples/`.
pub fn tiny_llama() -> Example {
    let folder = root().join("examples/tiny-llama");
    Example::new("rustdoc-llama--dynamo", folder.join("model.onnx"), folder)
}

/// What an example's `meta.json` says of its graph.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Version of the standard operator set, if it is known.
    pub opset: Option<u64>,
    /// Type of the stored weights: the narrowest.
    pub weights: String,
}

/// Types of weights, the narrowest first, where the example does not say how many bits its integers have.
const WEIGHTS: [(&str, &str); 4] = [("UINT8", "4 bits"), ("BFLOAT16", "bf16"), ("FLOAT16", "f16"), ("FLOAT", "f32")];

/// One stored case: graph inputs, and the logits a right answer has.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file, which a runtime can take as it is.
    pub path: PathBuf,
    /// Everything in it.
    pub tensors: BTreeMap<String, Numbers>,
    /// Name of the logits to compare with.
    pub reference: &'static str,
}

impl Example {
    fn new(name: &str, model: PathBuf, folder: PathBuf) -> Self {
        let meta = std::fs::read_to_string(folder.join("meta.json")).unwrap_or_default();
        Self { name: name.to_owned(), model, folder, meta: serde_json::from_str(&meta).unwrap_or_default() }
    }

    /// How far logits may be from the reference's.
    ///
    /// # Panics
    /// If the example's `meta.json` does not say.
    pub fn tolerance(&self) -> f32 {
        self.meta["suggested_atol"].as_f64().unwrap_or_else(|| panic!("{}: no suggested_atol", self.name)) as f32
    }

    /// What is known of the graph.
    ///
    /// # Panics
    /// If the example's `meta.json` does not say what the type of its weights is.
    pub fn facts(&self) -> Facts {
        let graph = &self.meta["graph"];
        let narrowest = |types: &serde_json::Map<_, _>| WEIGHTS.iter().find(|row| types.contains_key(row.0)).map(|row| row.1);
        let stored = graph["initializer_dtypes"].as_object().and_then(narrowest).or(self.meta["weights"].as_str());
        let weights = match graph["weight_bits"].as_u64() {
            Some(bits) => format!("{bits} bits"),
            None => stored.unwrap_or_else(|| panic!("{}: weights of unknown type", self.name)).to_owned(),
        };
        Facts { opset: graph["opset_import"]["ai.onnx"].as_u64(), weights }
    }

    /// The stored cases.
    pub fn cases(&self) -> Vec<Case> {
        let read = |path: PathBuf| {
            let tensors = tensors::read(&path);
            // Graphs whose weights are stored in 4 bits are compared with the run on exactly those weights.
            let reference = if tensors.contains_key("dequant.logits") { "dequant.logits" } else { "ref.logits" };
            Case { path, tensors, reference }
        };
        (0..3).map(|i| self.folder.join(format!("io_{i}.safetensors"))).filter(|p| p.is_file()).map(read).collect()
    }

    /// Prompt, and the tokens that greedy decoding must append to it; none where the stored ones are another model's (the one before its
    /// weights were rounded to 4 bits). A graph exported with fixed shapes cannot go on past its columns.
    pub fn greedy(&self) -> Option<(Vec<i64>, Vec<i64>)> {
        if self.meta["compare"].as_str().is_some_and(|text| text.contains("dequant")) {
            return None;
        }
        let tensors = tensors::read(&self.folder.join("gen.safetensors"));
        let prompt = tensors["prompt"].integers();
        let mut tokens = tensors["ref.tokens"].integers();
        if tokens.starts_with(&prompt) {
            tokens.drain(..prompt.len());
        }
        if let Some(columns) = self.meta["graph"]["inputs"][0]["shape"][1].as_u64() {
            tokens.truncate((columns as usize + 1).saturating_sub(prompt.len()));
        }
        Some((prompt, tokens))
    }
}

impl Case {
    /// The largest distance between `logits` (laid out as the reference is) and the reference over the valid positions, and where:
    /// (distance, batch row, position). A value that is not a number counts as infinitely far.
    ///
    /// # Panics
    /// If `logits` has another length than the reference.
    pub fn distance(&self, logits: &[f32]) -> (f32, usize, usize) {
        let reference = &self.tensors[self.reference];
        assert_eq!(logits.len(), reference.values.len(), "{}", self.path.display());
        let (width, columns) = (reference.shape[2], reference.shape[1]);
        let mut worst = (0.0, 0, 0);
        for (at, valid) in self.tensors["valid"].values.iter().enumerate() {
            if *valid != 1.0 {
                continue;
            }
            let range = at * width..(at + 1) * width;
            for (x, y) in logits[range.clone()].iter().zip(&reference.values[range]) {
                let distance = if (x - y).is_nan() { f32::INFINITY } else { (x - y).abs() };
                if distance > worst.0 {
                    worst = (distance, at / columns, at % columns);
                }
            }
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_cases_can_be_read() {
        let (dense, experts) = (dense(), experts());
        assert!(dense.len() >= 14 && experts.len() >= 2, "{} {}", dense.len(), experts.len());
        for example in dense.into_iter().chain(experts) {
            assert!(example.model.is_file(), "{}", example.name);
            assert!(example.tolerance() > 0.0 && !example.facts().weights.is_empty());
            let greedy = example.greedy().map(|(_, tokens)| tokens);
            assert!(!example.cases().is_empty() || greedy.is_some(), "{}", example.name);
            assert!(greedy.is_none_or(|tokens| !tokens.is_empty()), "{}", example.name);
        }
    }

    #[test]
    fn only_valid_positions_count() {
        let numbers = |shape: &[usize], values: &[f32]| Numbers { shape: shape.to_vec(), values: values.to_vec() };
        let tensors = BTreeMap::from([
            ("ref.logits".to_owned(), numbers(&[1, 3, 2], &[9.0, 9.0, 1.0, 2.0, 3.0, 4.0])),
            ("valid".to_owned(), numbers(&[1, 3], &[0.0, 1.0, 1.0])),
        ]);
        let case = Case { path: PathBuf::new(), tensors, reference: "ref.logits" };
        assert_eq!(case.distance(&[0.0, 0.0, 1.0, 2.0, 3.0, 4.5]), (0.5, 0, 2));
        assert_eq!(case.distance(&[0.0, 0.0, 1.0, f32::NAN, 3.0, 4.5]), (f32::INFINITY, 0, 1));
    }
}
