//! `q35c compare`: the error of a bundle in two parts, layer by layer.
//!
//! Three programs run the same tokens: the float model (the interpreter, nothing rounded), the dequantized model (the interpreter, weights
//! and activations rounded as the bundle has them) and the artifact (the runtime). First against second is what quantization costs, second
//! against third what code generation costs. What each layer writes to its cache is visible in all three, and so are the logits;
//! the outputs of single linear layers are visible in the first two.

use crate::cli::Compare;
use crate::divergence::{relative, trace, without_rounding};
use crate::pipeline;
use crate::prompt::Prompt;
use crate::stored::StoredValues;
use crate::table::{Align, Table};
use crate::values::PackedValues;
use q35_bundle::{Bundle, CachePart};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::Model;
use q35_dialects::interp::{CacheLayer, ParamValues, Session as Interpreter};
use q35_dialects::values::SourceValues;
use q35_graph::Silent;
use q35_runtime::device::CacheSpan;
use q35_runtime::{Chunk, Session, Want};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Compares a model with its bundle.
pub fn run(options: &Compare) -> Result<String> {
    let bundle = Arc::new(Bundle::open(&options.bundle)?);
    let manifest = bundle.manifest();
    let mismatch = |what: &str| {
        Diagnostic::error(Code::ModelMismatch, what)
            .at("bundle", options.bundle.display())
            .help("give the model that the bundle was compiled from, unchanged")
    };
    let model = pipeline::prepare_like(&options.model, manifest, &mut Silent)
        .ok_or_else(|| mismatch("the bundle does not say with which options it was compiled"))??
        .model;
    if model.facts != manifest.model {
        return Err(mismatch("the bundle was compiled from another model").into());
    }
    let prompt = match &options.inputs {
        Some(path) => Prompt::read(path, &manifest.interface)?,
        None => Prompt::made_up(model.facts.vocab, model.facts.context),
    };
    // What a text decided cannot be made again from the model alone.
    let calibrated = manifest.options.get("effort").is_some_and(|effort| effort == "best");
    let packed: Box<dyn ParamValues + '_> =
        if calibrated { Box::new(StoredValues::new(&model, &bundle)?) } else { Box::new(PackedValues::new(&model)) };
    let budget = Budget { quantization: options.quantization_budget, code_generation: options.code_budget };
    let comparison = compare(&model, packed.as_ref(), bundle.clone(), &prompt, budget)?;
    if options.json { super::json(&comparison) } else { Ok(comparison.listing()) }
}

/// Errors, relative to the size of what they are errors of.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    /// What each layer writes to its cache, and the logits.
    pub layers: Vec<Row>,
    /// The share of quantization in every op that the interpreter shows, by node name.
    pub nodes: BTreeMap<String, f64>,
    /// The node with the largest.
    pub worst: Option<String>,
    /// What each share may be.
    pub budget: Budget,
    /// The first layer with a share beyond its budget, in order of execution.
    pub first_over: Option<Over>,
}

/// Relative errors that are put up with.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Budget {
    /// Of the float model against the dequantized model.
    pub quantization: f64,
    /// Of the dequantized model against the artifact.
    pub code_generation: f64,
}

/// A share beyond its budget.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Over {
    /// What is compared.
    pub what: String,
    /// `quantization` or `code generation`.
    pub share: &'static str,
    /// How much it is.
    pub error: f64,
    /// How much it may be.
    pub budget: f64,
}

impl Budget {
    /// The first row with a share beyond its budget. An error that is no number is beyond any.
    fn first_over(self, rows: &[Row]) -> Option<Over> {
        let shares = |row: &Row| {
            [
                ("quantization", row.quantization, self.quantization),
                ("code generation", row.code_generation, self.code_generation),
            ]
        };
        let over = |(row, (share, error, budget)): (&Row, (&'static str, f64, f64))| {
            let within = error <= budget;
            (!within).then(|| Over { what: row.what.clone(), share, error, budget })
        };
        rows.iter().flat_map(|row| shares(row).map(|share| (row, share))).find_map(over)
    }
}

/// One line.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    /// What is compared.
    pub what: String,
    /// The float model against the dequantized model.
    pub quantization: f64,
    /// The part of it that the rounding of activations, and of keys and values, has: dequantized weights, the rest as it is against rounded.
    pub activations: f64,
    /// The dequantized model against the artifact.
    pub code_generation: f64,
}

/// What one run leaves: logits, and keys and values by layer, `[token][column]` in the order of slots and tokens.
struct Run {
    logits: Vec<f32>,
    caches: Vec<[Vec<f32>; 2]>,
}

/// Runs the three programs; `packed` are the parameters as the bundle has them.
pub fn compare(
    model: &Model,
    packed: &dyn ParamValues,
    bundle: Arc<Bundle>,
    prompt: &Prompt,
    budget: Budget,
) -> Result<Comparison> {
    let step = prompt.step();
    let float_graph = without_rounding(&model.graph);
    let source = SourceValues::new(model);
    let (float_trace, _) = trace(&float_graph, &source, &step)?;
    let (packed_trace, _) = trace(&model.graph, packed, &step)?;
    let mut nodes = BTreeMap::new();
    for (id, float) in &float_trace {
        nodes.insert(model.graph.node(*id).name.clone(), relative(&float.data, &packed_trace[id].data));
    }
    let float = interpreted(&float_graph, &source, prompt)?;
    let dequantized = interpreted(&model.graph, packed, prompt)?;
    let unrounded = interpreted(&float_graph, packed, prompt)?;
    let artifact = executed(bundle, prompt)?;
    let row = |what: String, of: &dyn Fn(&Run) -> Vec<f32>| Row {
        what,
        quantization: relative(&of(&float), &of(&dequantized)),
        activations: relative(&of(&unrounded), &of(&dequantized)),
        code_generation: relative(&of(&dequantized), &of(&artifact)),
    };
    let mut layers = Vec::new();
    for layer in 0..float.caches.len() {
        for (part, name) in ["keys", "values"].into_iter().enumerate() {
            layers.push(row(format!("layer {layer} {name}"), &|run| run.caches[layer][part].clone()));
        }
    }
    layers.push(row("logits".to_owned(), &|run| run.logits.clone()));
    let worst = nodes.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.clone());
    let first_over = budget.first_over(&layers);
    Ok(Comparison { layers, nodes, worst, budget, first_over })
}

fn interpreted(graph: &q35_dialects::Graph, params: &dyn ParamValues, prompt: &Prompt) -> Result<Run> {
    let mut session = Interpreter::new(graph, params);
    let logits = session.step(&prompt.step())?.data;
    let flat = |layer: &CacheLayer| {
        [layer.values().flat_map(|e| e.key.clone()).collect(), layer.values().flat_map(|e| e.value.clone()).collect()]
    };
    Ok(Run { logits, caches: session.caches().values().map(flat).collect() })
}

fn executed(bundle: Arc<Bundle>, prompt: &Prompt) -> Result<Run> {
    let layers = bundle.manifest().plan.cache.clone();
    let options = q35_runtime::Options { slots: prompt.0.len(), capacity: prompt.longest(), ..Default::default() };
    let mut session = Session::new(bundle, &options)?;
    let chunk = |(slot, tokens)| Chunk { slot, tokens, positions: None, want: Want::All };
    let chunks: Vec<Chunk> = prompt.0.iter().map(Vec::as_slice).enumerate().map(chunk).collect();
    let logits = session.step(&chunks)?.rows().flatten().copied().collect();
    let mut caches = Vec::new();
    for (layer, shape) in layers.iter().enumerate() {
        let read = |part, dim: u64| -> Result<Vec<f32>> {
            let mut all = Vec::new();
            for (slot, tokens) in prompt.0.iter().enumerate() {
                let entries = session.read_cache(CacheSpan { layer, part, slot, first: 0, count: tokens.len() })?;
                all.extend(token_major(&entries, shape.kv_heads as usize, tokens.len(), dim as usize));
            }
            Ok(all)
        };
        caches.push([read(CachePart::Key, shape.key_dim)?, read(CachePart::Value, shape.value_dim)?]);
    }
    Ok(Run { logits, caches })
}

/// `[head][token][column]` as `[token][head][column]`.
fn token_major(entries: &[f32], heads: usize, tokens: usize, dim: usize) -> Vec<f32> {
    let place = |token: usize| (0..heads).flat_map(move |head| entries[(head * tokens + token) * dim..][..dim].iter().copied());
    (0..tokens).flat_map(place).collect()
}

impl Comparison {
    fn listing(&self) -> String {
        let columns = ["quantization", "of it activations", "code generation"].map(|title| (title, Align::Right));
        let mut table = Table::new(&[&[("", Align::Left)], &columns[..]].concat());
        for row in &self.layers {
            let shares = [row.quantization, row.activations, row.code_generation].map(|share| format!("{share:.2e}"));
            table.row(std::iter::once(row.what.clone()).chain(shares));
        }
        let worst = self.worst.iter().map(|name| format!("\nquantization costs most in '{name}': {:.2e}\n", self.nodes[name]));
        let over = match &self.first_over {
            Some(Over { what, share, error, budget }) => {
                format!("first beyond its budget: {what}, {share} {error:.2e} of {budget:.2e}\n")
            }
            None => "every layer is within its budget\n".to_owned(),
        };
        format!("relative error\n\n{table}{}{over}", worst.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_compared_token_by_token() {
        // Two heads, three tokens, one column.
        assert_eq!(token_major(&[0.0, 1.0, 2.0, 10.0, 11.0, 12.0], 2, 3, 1), [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
    }

    #[test]
    fn the_first_layer_beyond_its_budget_is_named() {
        let row = |what: &str, quantization, code_generation| Row {
            what: what.to_owned(),
            quantization,
            activations: 0.0,
            code_generation,
        };
        let budget = Budget { quantization: 0.5, code_generation: 0.01 };
        let rows = [row("a", 0.5, 0.01), row("b", 0.4, 0.02), row("c", 0.6, 0.0)];
        assert_eq!(budget.first_over(&rows[..1]), None);
        let found = budget.first_over(&rows).unwrap();
        assert_eq!((found.what.as_str(), found.share, found.error, found.budget), ("b", "code generation", 0.02, 0.01));
        assert_eq!(budget.first_over(&rows[2..]).unwrap().share, "quantization");
        assert!(budget.first_over(&[row("d", f64::NAN, 0.0)]).is_some());
    }
}
