//! `q35c check`: everything that stands in the way of a compile, at once, from the graph and the headers alone; and what the compiled model
//! would weigh.

use super::Output;
use crate::account::Account;
use crate::cli::Check;
use crate::pipeline::{self, Prepared};
use crate::settings::Settings;
use crate::size;
use crate::table::{Align, Table};
use crate::targets;
use q35_diag::{Diagnostics, Result};
use q35_dialects::Program;
use q35_graph::Silent;
use q35_passes::raise;
use q35_target::Request;

/// Checks a model.
pub fn run(options: &Check) -> Result<Output> {
    match (prepared(options), options.json) {
        (Ok((prepared, forecast)), json) => {
            let finding = Finding::of(&prepared, forecast);
            Ok(if json { super::json(&finding)? } else { finding.listing() }.into())
        }
        (Err(diagnostics), true) => {
            let unsupported = unsupported(options);
            Ok(Output { text: super::json(&Refusal { diagnostics, unsupported })?, success: false })
        }
        (Err(diagnostics), false) => Err(diagnostics),
    }
}

/// The model as it would be compiled, every node of which the target can lower, and what the target expects of it.
fn prepared(options: &Check) -> Result<(Prepared, Option<Forecast>)> {
    let target = targets::find(&options.target)?;
    let settings = Settings::new(&options.shape, target.name(), &target.capabilities())?;
    let prepared = pipeline::prepare(&options.model, &settings, &mut Silent)?;
    let Program { graph, params } = prepared.model.program();
    let request = Request { graph: &graph, params: &params, prefix: "", context: prepared.model.facts.context };
    target.check(&request)?;
    let forecast = target.forecast(&request).map(Forecast::of);
    Ok((prepared, forecast))
}

/// What a target expects of a model.
#[derive(serde::Serialize)]
struct Forecast {
    machines: u64,
    machine: &'static str,
    /// One sequence, one token after the other.
    tokens_per_second: f64,
    label: &'static str,
}

impl Forecast {
    fn of(forecast: q35_target::Forecast) -> Self {
        let q35_target::Forecast { machines, machine, tokens_per_second, label } = forecast;
        Self { machines, machine, tokens_per_second, label: label.words() }
    }

    fn line(&self) -> String {
        let s = if self.machines == 1 { "" } else { "s" };
        format!("predicted: {} {}{s}, {:.0} tokens/s; {}\n", self.machines, self.machine, self.tokens_per_second, self.label)
    }
}

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
    cache_bytes: u64,
    account: Account,
    /// Absent where the target makes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    forecast: Option<Forecast>,
}

impl Finding {
    fn of(Prepared { imported, model }: &Prepared, forecast: Option<Forecast>) -> Self {
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
            cache_bytes: account.cache_bytes_per_token.saturating_mul(model.facts.context),
            account,
            forecast,
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
        format!(
            "'{}' can be compiled: {} nodes are {} ops in {} layers, vocabulary {}, context {}\n\n{table}\n\
             memory to run: {} of weights, {} of cache for {} tokens ({} per token)\n{}",
            self.name,
            self.nodes,
            self.ops,
            self.layers,
            self.vocab,
            self.context,
            size::show(self.weight_bytes),
            size::show(self.cache_bytes),
            self.context,
            size::show(self.account.cache_bytes_per_token),
            self.forecast.as_ref().map(Forecast::line).unwrap_or_default(),
        )
    }
}
