//! `q35 inspect`: what is in a bundle. Opening it has already proved it sound.

use crate::args::Inspect;
use crate::figures::Figures;
use crate::output;
use q35_bundle::{Bundle, Device, Manifest};
use q35_console::size;
use q35_console::table::{Align, Table};
use q35_diag::{Code, Diagnostic, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Figures that follow from the manifest.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Summary {
    /// Bytes of all files.
    bytes: u64,
    /// Weights in all parameters.
    weights: u64,
    /// Mean bits per weight, scales included.
    effective_bits: f64,
    /// Steps of the program.
    steps: usize,
    /// Different kernels among them.
    kernels: usize,
    /// Bytes of cache that one token takes.
    cache_bytes_per_token: u64,
    /// Bytes of arena that one token of a step takes.
    arena_bytes_per_token: u64,
    /// Bytes of arena that one row of logits takes.
    arena_bytes_per_logit_row: u64,
}

/// Runs the command.
pub(crate) fn run(args: &Inspect) -> Result<()> {
    let bundle = args.opened.open()?;
    let summary = summary(&bundle);
    let report = report(&bundle)?;
    if args.json {
        let Report { tensors, nodes, figures } = report.unwrap_or_default();
        return output::print_json(&serde_json::json!({
            "summary": summary, "manifest": bundle.manifest(), "records": tensors, "nodes": nodes, "figures": figures
        }));
    }
    output::print(&text(bundle.manifest(), &summary, &report.unwrap_or_default(), args.nodes))
}

/// What the compile measured; a bundle need not carry it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Report {
    tensors: BTreeMap<String, Record>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(flatten)]
    figures: Figures,
}

/// What an op of the program costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    node: String,
    op: String,
    decode: Cost,
    prefill: Cost,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Cost {
    bytes: u64,
    operations: u64,
    intensity: f64,
    bound: String,
}

impl Cost {
    fn cells(&self) -> [String; 4] {
        [size::show(self.bytes), self.operations.to_string(), format!("{:.2}", self.intensity), self.bound.clone()]
    }

    /// Of both together; what bounds most of the bytes bounds the sum.
    fn plus(self, other: &Self) -> Self {
        let (bytes, operations) = (self.bytes.saturating_add(other.bytes), self.operations.saturating_add(other.operations));
        let bound = if self.bytes >= other.bytes { self.bound } else { other.bound.clone() };
        Self { bytes, operations, intensity: operations as f64 / bytes.max(1) as f64, bound }
    }
}

/// What ops cost when one token is decoded and when a prompt is read: each of them, or their sums by kind, costliest first.
fn costs(nodes: &[Node], each: bool) -> Table {
    use Align::{Left, Right};
    let costs = [("bytes", Right), ("operations", Right), ("per byte", Right), ("bound", Left)];
    let first = if each { vec![("op", Left), ("node", Left)] } else { vec![("op", Left), ("nodes", Right)] };
    let mut table = Table::new(&[&first[..], &costs, &costs].concat());
    if each {
        for Node { node, op, decode, prefill } in nodes {
            table.row([op.clone(), node.clone()].into_iter().chain(decode.cells()).chain(prefill.cells()));
        }
        return table;
    }
    let mut kinds: BTreeMap<&str, (usize, Cost, Cost)> = BTreeMap::new();
    for Node { op, decode, prefill, .. } in nodes {
        let (count, of_decode, of_prefill) = kinds.entry(op).or_default();
        *count += 1;
        *of_decode = std::mem::take(of_decode).plus(decode);
        *of_prefill = std::mem::take(of_prefill).plus(prefill);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(op, (_, decode, _))| (std::cmp::Reverse(decode.bytes), *op));
    for (op, (count, decode, prefill)) in kinds {
        table.row([op.to_owned(), count.to_string()].into_iter().chain(decode.cells()).chain(prefill.cells()));
    }
    table
}

/// How good one parameter is, in the words of `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    relative_error: f64,
    snr_db: Option<f64>,
    worst_row: WorstRow,
    accumulator_bound: Option<u64>,
    calibrated: Option<Calibrated>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct WorstRow {
    row: u64,
    relative_error: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Calibrated {
    weighted_error: f64,
    tokens: u64,
}

fn report(bundle: &Bundle) -> Result<Option<Report>> {
    let Some(bytes) = bundle.read("report.json")? else { return Ok(None) };
    let damaged =
        |e| Diagnostic::error(Code::Damaged, format!("the report is not what a compile writes: {e}")).at("file", "report.json");
    Ok(Some(serde_json::from_slice(&bytes).map_err(damaged)?))
}

impl Record {
    /// Columns of a table: relative error, decibels, error of the layer's output on the calibration text, the worst row and its error, and the
    /// largest sum that a row can reach as a share of 32 bits.
    const COLUMNS: [(&str, Align); 5] = [
        ("error", Align::Right),
        ("SNR dB", Align::Right),
        ("of output", Align::Right),
        ("worst row", Align::Right),
        ("accumulator", Align::Right),
    ];

    fn cells(&self) -> [String; 5] {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let bound = |bound: u64| percent(bound as f64 / f64::from(1u32 << 31));
        [
            percent(self.relative_error),
            self.snr_db.map_or_else(String::new, |db| format!("{db:.2}")),
            self.calibrated.map_or_else(String::new, |seen| percent(seen.weighted_error)),
            format!("{}: {}", self.worst_row.row, percent(self.worst_row.relative_error)),
            self.accumulator_bound.map_or_else(String::new, bound),
        ]
    }
}

fn summary(bundle: &Bundle) -> Summary {
    let manifest = bundle.manifest();
    let count = |shape: [u64; 2]| shape[0].saturating_mul(shape[1]);
    let weights: u64 = manifest.weights.values().fold(0, |sum, w| sum.saturating_add(count(w.shape)));
    let bits: f64 = manifest.weights.values().map(|w| w.effective_bits * count(w.shape) as f64).sum();
    let variants = manifest.steps.iter().flat_map(|s| &s.variants);
    Summary {
        bytes: manifest.files.values().fold(0, |sum, file| sum.saturating_add(file.bytes)),
        weights,
        effective_bits: if weights == 0 { 0.0 } else { bits / weights as f64 },
        steps: manifest.steps.len(),
        kernels: variants.map(|v| &v.kernel).collect::<BTreeSet<_>>().len(),
        cache_bytes_per_token: manifest.plan.cache_entry_bytes(),
        arena_bytes_per_token: manifest.plan.bytes_per_token,
        arena_bytes_per_logit_row: manifest.plan.bytes_per_logit_row,
    }
}

/// Tables: facts, parameters, costs if they are known, files.
fn text(manifest: &Manifest, summary: &Summary, report: &Report, each: bool) -> String {
    use Align::{Left, Right};
    let model = &manifest.model;
    let device = match &manifest.device {
        Device::Cpu(device) => format!("cpu, {}: {}", device.arch, manifest.device.levels().join(", ")),
        Device::Cuda(_) | Device::Rocm(_) => {
            format!("{}: {}", manifest.device.name(), manifest.device.levels().join(", "))
        }
        Device::Tsp(device) => {
            let chips = device.programs.len();
            let on = if chips == 1 { String::new() } else { format!(" {chips} chips,") };
            format!("groq:{on} a model of the chip, not run on silicon")
        }
        Device::Wse(device) => {
            let rows: u64 = device.regions().map(|region| region.height).sum();
            let (count, wafers) = (device.regions().count(), device.wafers.len());
            let on = if wafers == 1 { String::new() } else { format!(" on {wafers} wafers") };
            format!("wse: {} x {rows} PEs in {count} regions{on}, a model of the chip, not run on silicon", device.width)
        }
    };
    let options: Vec<String> = manifest.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut facts = Table::bare(&[Left, Left]);
    facts.row([
        "model",
        &format!("{}: {} parameters, {} layers of width {}", model.name, model.parameters, model.layers, model.hidden),
    ]);
    facts.row(["vocabulary", &model.vocab.to_string()]);
    facts.row(["context", &format!("{} tokens", model.context)]);
    facts.row(["compiled by", &format!("{} {}", manifest.compiler, options.join(" "))]);
    facts.row(["device", &device]);
    facts.row(["weights", &format!("{:.3} bits each, scales included", summary.effective_bits)]);
    facts.row(["program", &format!("{} steps, {} kernels", summary.steps, summary.kernels)]);
    facts.row([
        "memory",
        &format!(
            "{} per token of a step, {} per row of logits, {} of cache per token",
            size::show(summary.arena_bytes_per_token),
            size::show(summary.arena_bytes_per_logit_row),
            size::show(summary.cache_bytes_per_token)
        ),
    ]);

    let stored = [("parameter", Left), ("codec", Left), ("shape", Right), ("group", Right), ("bits", Right)];
    let measured: &[_] = if report.tensors.is_empty() { &[] } else { &Record::COLUMNS };
    // Only models that were quantized before have something to say here.
    let rounded = report.tensors.values().any(|record| record.source.is_some());
    let sources: &[_] = if rounded { &[("from", Left)] } else { &[] };
    let mut parameters = Table::new(&[&stored, sources, measured].concat());
    for (name, weight) in &manifest.weights {
        let group = if weight.group == 0 { "row".to_owned() } else { weight.group.to_string() };
        let shape = format!("{} x {}", weight.shape[0], weight.shape[1]);
        let stored = [name.clone(), weight.codec.clone(), shape, group, format!("{:.3}", weight.effective_bits)];
        let record = report.tensors.get(name);
        let source = record.and_then(|record| record.source.clone()).unwrap_or_default();
        let cells = record.map(Record::cells).unwrap_or_default();
        let shown = std::iter::once(source).take(sources.len()).chain(cells.into_iter().take(measured.len()));
        parameters.row(stored.into_iter().chain(shown));
    }

    let mut files = Table::new(&[("file", Left), ("size", Right), ("sha256", Left)]);
    for (rel, file) in &manifest.files {
        files.row([rel.clone(), size::show(file.bytes), file.sha256.clone()]);
    }
    files.row(["all".to_owned(), size::show(summary.bytes)]);
    let costs = match report.nodes.is_empty() {
        true => String::new(),
        false => format!(
            "one token with the whole context before it, and a prompt of 512 tokens:\n\n{}\n",
            costs(&report.nodes, each)
        ),
    };
    let figures = report.figures.text(each);
    format!("{facts}\n{parameters}\n{costs}{figures}{files}")
}
