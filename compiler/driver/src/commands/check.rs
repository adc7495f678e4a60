//! `q35c check`: everything that stands in the way of a compile, at once, from the graph and the headers alone; and what the compiled model
//! would weigh.

use super::Output;
use crate::account::Account;
use crate::cli::Check;
use crate::pipeline::{self, Prepared};
use crate::predict::{self, Prediction};
use crate::settings::Settings;
use crate::sharing::{self, Shared};
use crate::size;
use crate::table::{Align, Table};
use crate::targets;
use q35_diag::{Diagnostics, Result};
use q35_graph::Silent;
use q35_graph::source::{Dim, SourceGraph, SourceOp};
use q35_passes::raise;
use std::collections::BTreeMap;

/// Checks a model.
pub fn run(options: &Check) -> Result<Output> {
    match (prepared(options), options.json) {
        (Ok((prepared, outlook)), json) => {
            for warning in &prepared.imported.warnings {
                eprintln!("{warning}");
            }
            let finding = Finding::of(&prepared, outlook, options);
            Ok(if json { super::json(&finding)? } else { finding.listing() }.into())
        }
        (Err(diagnostics), true) => {
            let unsupported = unsupported(options);
            Ok(Output { text: super::json(&Refusal { diagnostics, unsupported })?, success: false })
        }
        (Err(diagnostics), false) => Err(diagnostics),
    }
}

/// The model as it would be compiled, every node of which the target can lower, and what it would take of the device.
fn prepared(options: &Check) -> Result<(Prepared, Outlook)> {
    let target = targets::find(&options.target)?;
    let settings = Settings::new(&options.shape, target.name(), &target.capabilities())?;
    let prepared = pipeline::prepare(&options.model, &settings, &mut Silent)?;
    let program = prepared.model.program();
    let outlook = target.outlook(&settings.request(&program, "", prepared.model.facts.context))?;
    Ok((prepared, outlook))
}

/// What a program takes of a device: names and values.
type Outlook = Vec<(&'static str, String)>;

#[derive(serde::Serialize)]
struct Refusal {
    diagnostics: Diagnostics,
    /// Every node whose op is not supported.
    unsupported: Vec<Node>,
}

/// A node in the model's own words.
#[derive(serde::Serialize)]
struct Node {
    name: String,
    op: String,
    domain: String,
    shapes: String,
}

/// The nodes of a refused model whose ops are not supported, if its graph can be read at all.
fn unsupported(options: &Check) -> Vec<Node> {
    let Ok(imported) = pipeline::import(&options.model, options.shape.context, &mut Silent) else { return Vec::new() };
    let nodes = raise::unsupported(&imported.graph).into_iter();
    nodes.map(|raise::Unsupported { name, op, domain, shapes }| Node { name, op, domain, shapes }).collect()
}

/// What a graph takes: names, types and dimensions as the model file has them.
fn inputs(graph: &SourceGraph) -> Vec<String> {
    let of = |id| {
        let node = graph.node(id);
        let ty = node.results.first().filter(|_| matches!(node.op, SourceOp::Input))?;
        Some(format!("{}: {ty}", node.name))
    };
    graph.ids().filter_map(of).collect()
}

/// Names of the dimensions of inputs that are open until a program runs, in the order in which they are met.
fn dynamic_axes(graph: &SourceGraph) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let inputs = graph.ids().map(|id| graph.node(id)).filter(|node| matches!(node.op, SourceOp::Input));
    for dim in inputs.flat_map(|node| &node.results).flat_map(|ty| ty.dims.iter().flatten()) {
        if let Dim::Named(name) = dim
            && !names.contains(name)
        {
            names.push(name.clone());
        }
    }
    names
}

/// What is known of a model before it is compiled.
#[derive(serde::Serialize)]
struct Finding {
    name: String,
    nodes: usize,
    ops: usize,
    layers: u64,
    vocab: u64,
    context: u64,
    effective_bits: f64,
    weight_bytes: u64,
    /// Sequences in progress.
    batch: u64,
    /// Bytes of their caches together.
    cache_bytes: u64,
    /// Matrices that several nodes read, the embedding's table where it is the head among them.
    shared: Vec<Shared>,
    /// What the graph takes, in its own words.
    inputs: Vec<String>,
    /// Its dimensions that are open until a program runs.
    dynamic_axes: Vec<String>,
    account: Account,
    target: String,
    /// What devices of the target would reach: a prediction, not measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    predicted: Vec<Prediction>,
    /// What the program would take of the device, where the target can tell.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    outlook: BTreeMap<&'static str, String>,
    #[serde(skip)]
    device: Outlook,
}

impl Finding {
    fn of(Prepared { imported, model }: &Prepared, device: Outlook, options: &Check) -> Self {
        let (batch, context) = (options.batch, model.facts.context);
        let account = Account::of(model);
        let total = account.total();
        Self {
            name: model.facts.name.clone(),
            nodes: imported.graph.len(),
            ops: model.graph.len(),
            layers: model.facts.layers,
            vocab: model.facts.vocab,
            context: model.facts.context,
            effective_bits: total.effective_bits(),
            weight_bytes: total.bytes,
            batch,
            cache_bytes: predict::cache_bytes(&account, batch, context),
            shared: sharing::shared(model),
            inputs: inputs(&imported.graph),
            dynamic_axes: dynamic_axes(&imported.graph),
            predicted: predict::predict(model, &account, &options.target, batch, context),
            target: options.target.clone(),
            account,
            outlook: device.iter().cloned().collect(),
            device,
        }
    }

    fn listing(&self) -> String {
        let mut table = Table::new(&[
            ("weights", Align::Left),
            ("numbers", Align::Right),
            ("f32", Align::Right),
            ("packed", Align::Right),
            ("bits", Align::Right),
        ]);
        let total = self.account.total();
        for (name, weights) in self.account.roles.iter().map(|(name, w)| (*name, *w)).chain([("all", total)]) {
            table.row([
                name.to_owned(),
                weights.count.to_string(),
                size::show(weights.f32_bytes()),
                size::show(weights.bytes),
                format!("{:.3}", weights.effective_bits()),
            ]);
        }
        let sequences = if self.batch == 1 { String::new() } else { format!("{} sequences of ", self.batch) };
        let axes = match self.dynamic_axes[..] {
            [] => String::new(),
            ref names => format!("\ndynamic axes: {}", names.join(", ")),
        };
        let lines = self.device.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let device: String = lines.collect();
        format!(
            "'{}' can be compiled for {}: {} nodes are {} ops in {} layers, vocabulary {}, context {}{axes}{}\n\n{table}\n\
             memory to run: {} of weights, {} of cache for {sequences}{} tokens ({} per token)\n{device}{}",
            self.name,
            self.target,
            self.nodes,
            self.ops,
            self.layers,
            self.vocab,
            self.context,
            self.sharing(),
            size::show(self.weight_bytes),
            size::show(self.cache_bytes),
            self.context,
            size::show(self.account.cache_bytes_per_token),
            self.prediction(),
        )
    }

    /// What several nodes read: a few by name, the rest counted.
    fn sharing(&self) -> String {
        const SHOWN: usize = 8;
        let tied = self.shared.iter().filter(|matrix| matrix.tied);
        let mut lines: Vec<String> =
            tied.map(|matrix| format!("\nthe head is the embedding's table ('{}')", matrix.name)).collect();
        let others: Vec<&Shared> = self.shared.iter().filter(|matrix| !matrix.tied).collect();
        lines.extend(others.iter().take(SHOWN).map(|matrix| {
            let Shared { name, rows, cols, stored, readers, .. } = matrix;
            let times = if *stored == 1 { "once".to_owned() } else { format!("{stored} times") };
            format!("\nshared: '{name}' ({rows}x{cols}, stored {times}) is read by {}", readers.join(", "))
        }));
        if let Some(more) = others.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            lines.push(format!("\nshared: {more} more matrices (all of them with --json)"));
        }
        lines.concat()
    }

    fn prediction(&self) -> String {
        if self.predicted.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&[
            ("predicted, not measured", Align::Left),
            ("needed", Align::Right),
            ("tokens/s at most", Align::Right),
            ("all sequences", Align::Right),
        ]);
        for Prediction { device, count, tokens_per_second, all_tokens_per_second } in &self.predicted {
            table.row([
                (*device).to_owned(),
                count.to_string(),
                tokens_per_second.to_string(),
                all_tokens_per_second.to_string(),
            ]);
        }
        format!("\n{table}")
    }
}
