//! The way from a model's path to a bundle, as one list.

use crate::budget::{self, Allocation, Codecs};
use crate::cache::Cache;
use crate::calibrate::{self, Calibration, Work};
use crate::limit::Limit;
use crate::report::Report;
use crate::settings::Settings;
use crate::weights::{self, Packing, Written};
use crate::{passes, q35};
use q35_bundle::{BundleWriter, Manifest, SCHEMA, WeightEntry};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::{Model, ParamName, print};
use q35_format::Codec;
use q35_graph::{Observer, Pass, Silent};
use q35_import::{Imported, Travelling};
use q35_passes::{model, raise};
use q35_target::{Lowered, Request, Target};
use std::collections::BTreeMap;
use std::path::Path;

/// A model, ready for a target: imported, raised, its weights' storage decided.
pub struct Prepared {
    /// Where it came from; its files stay mapped as long as this lives.
    pub imported: Imported,
    /// The model graph after the graph passes.
    pub model: Model,
}

/// Everything before the q35 module: graph and headers are read, no weights.
pub fn prepare(path: &Path, settings: &Settings, observer: &mut dyn Observer) -> Result<Prepared> {
    prepare_with(path, settings, &Codecs::new(), observer)
}

/// The same, with layers that have codecs of their own.
pub fn prepare_with(path: &Path, settings: &Settings, own: &Codecs, observer: &mut dyn Observer) -> Result<Prepared> {
    let mut imported = import(path, settings.context, observer)?;
    let (mut model, warnings) = raise(path, &imported, settings, observer)?;
    imported.warnings.extend(warnings);
    for (name, codec) in own {
        if let Some(param) = model.params.get_mut(name) {
            param.asked = Some(*codec);
        }
    }
    model::run(&mut model, &settings.weights, observer);
    Ok(Prepared { imported, model })
}

/// The model as a bundle has it: with its options, and with the codecs of its layers. `None` where the manifest does not say what those are.
pub fn prepare_like(path: &Path, manifest: &Manifest, observer: &mut dyn Observer) -> Option<Result<Prepared>> {
    let settings = Settings::from_recorded(&manifest.options)?;
    let own = |(name, entry): (&String, &WeightEntry)| Some((ParamName::new(name), entry.codec.parse::<Codec>().ok()?));
    let own: Codecs = manifest.weights.iter().map(own).collect::<Option<_>>()?;
    Some(prepare_with(path, &settings, &own, observer))
}

/// The tokenizer among the files that travel.
const TOKENIZER: &str = "tokenizer.json";

/// What of a compile is not in the model or its settings.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Whom it is for.
    pub target: &'a dyn Target,
    /// Prefix of every symbol.
    pub prefix: &'a str,
    /// The bundle's path.
    pub path: &'a Path,
    /// The text that shows which layers need more bits, and how weights are best rounded.
    pub calibration: Option<&'a Calibration>,
    /// Where packed parameters may be found.
    pub cache: Option<&'a Cache>,
    /// Whether the text decides how weights are rounded; otherwise they are rounded to nearest.
    pub compensated: bool,
    /// Bits per weight of the linear layers, on average, that some of them may be stored more finely with.
    pub budget: Option<f64>,
}

impl<'a> Output<'a> {
    /// A bundle whose weights are rounded to nearest.
    pub fn new(target: &'a dyn Target, prefix: &'a str, path: &'a Path) -> Self {
        Self { target, prefix, path, calibration: None, cache: None, compensated: false, budget: None }
    }
}

/// What came out of a compile, beside the bundle.
pub struct Compiled {
    /// The model as it was compiled.
    pub model: Model,
    /// The bundle's manifest.
    pub manifest: Manifest,
    /// What of the model is not in the bundle.
    pub warnings: Vec<Diagnostic>,
    /// Which layers got more bits, where there was a budget.
    pub allocation: Option<Allocation>,
}

/// The whole way.
pub fn compile(path: &Path, settings: &Settings, out: Output<'_>, observer: &mut dyn Observer) -> Result<Compiled> {
    let limit = Limit(settings.max_memory);
    let Prepared { imported, mut model } = prepare(path, settings, observer)?;
    let travelling = imported.travelling()?;
    let tokenizer = travelling.get(TOKENIZER).map(|bytes| &**bytes);
    let sequences = out.calibration.map(|c| c.tokens(tokenizer, model.facts.vocab, model.facts.context)).transpose()?;
    let mut allocation = None;
    if let Some((budget, sequences)) = out.budget.zip(sequences.as_ref()) {
        let found = budget::allocate(&model, sequences, budget, &out.target.capabilities(), observer)?;
        model = prepare_with(path, settings, &found.codecs(), &mut Silent)?.model;
        allocation = Some(found);
    }
    let program = q35::through_mlir(&model, observer)?;
    let mut bundle = BundleWriter::create(out.path)?;
    let request = settings.request(&program, out.prefix, model.facts.context);
    let lowered = lower(out.target, &request, observer)?;
    limit.check_plan(weights::working_memory(&model))?;
    let mut options = settings.recorded(model.facts.context);
    options.extend(out.calibration.into_iter().flat_map(|calibration| calibration.recorded(out.compensated)));
    options.extend(out.budget.map(|bits| ("bits-budget".to_owned(), bits.to_string())));
    let calibrated = sequences.filter(|_| out.compensated).map(|sequences| {
        let work = Work::open(out.path, &options, &sequences)?;
        calibrate::run(&model, &sequences, work, limit, observer)
    });
    let ready = calibrated.transpose()?;
    let packing = Packing { ready: ready.as_ref(), cache: out.cache, limit };
    let written = write_weights(&model, &lowered, packing, &mut bundle, observer)?;
    let manifest = finish(&model, &travelling, options, lowered, written, bundle, observer)?;
    limit.check()?;
    if let Some(ready) = ready {
        ready.remove();
    }
    drop(travelling);
    Ok(Compiled { model, manifest, warnings: imported.warnings, allocation })
}

/// Checks a program, and lowers it to a target's code.
pub fn lower(target: &dyn Target, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
    target.check(request)?;
    target.lower(request, observer)
}

fn write_weights(
    model: &Model,
    lowered: &Lowered,
    packing: Packing<'_>,
    bundle: &mut BundleWriter,
    observer: &mut dyn Observer,
) -> Result<Written> {
    observer.before(&passes::QUANTIZE);
    let written = weights::write(model, packing, &lowered.weights, bundle, observer)?;
    observer.after(&passes::QUANTIZE, &|| format!("{:#?}\n", written.records));
    Ok(written)
}

fn finish(
    model: &Model,
    travelling: &Travelling<'_>,
    options: BTreeMap<String, String>,
    lowered: Lowered,
    written: Written,
    mut bundle: BundleWriter,
    observer: &mut dyn Observer,
) -> Result<Manifest> {
    observer.before(&passes::WRITE_BUNDLE);
    for (rel, bytes) in &lowered.files {
        bundle.add_file(rel, bytes.as_slice())?;
    }
    for (rel, bytes) in travelling {
        bundle.add_file(rel, &**bytes)?;
    }
    let report = Report::new(model, written.records, lowered.plan.clone(), lowered.figures);
    bundle.add_file("report.json", report.text()?.as_bytes())?;
    let manifest = Manifest {
        schema: SCHEMA,
        compiler: concat!("q35c ", env!("CARGO_PKG_VERSION")).to_owned(),
        options,
        model: model.facts.clone(),
        interface: model.interface.clone(),
        device: lowered.device,
        plan: lowered.plan,
        steps: lowered.steps,
        weights: written.entries,
        files: BTreeMap::new(),
    };
    bundle.finish(manifest.clone())?;
    observer.after(&passes::WRITE_BUNDLE, &|| format!("{manifest:#?}\n"));
    Ok(manifest)
}

/// Reads a model's graph and headers, for a context.
pub fn import(path: &Path, context: Option<u64>, observer: &mut dyn Observer) -> Result<Imported> {
    let options = q35_import::Options { context };
    watched(observer, &passes::IMPORT, || q35_import::open_with(path, &options), |imported| imported.graph.to_string())
}

fn raise(
    path: &Path,
    imported: &Imported,
    settings: &Settings,
    observer: &mut dyn Observer,
) -> Result<(Model, Vec<Diagnostic>)> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let context = context(imported, settings.context)?;
    let options = raise::Options { name, context };
    let work = || raise::raise_with_warnings(&imported.graph, &options);
    watched(observer, &passes::RAISE, work, |(model, _)| print::model(model))
}

/// The longest context: what the user asks for, within what the model's configuration says it was made for.
fn context(imported: &Imported, wanted: Option<u64>) -> Result<Option<u64>> {
    let own = match imported.context {
        Some(own) => Some(own),
        None => imported.sidecars.config.as_deref().map(max_positions).transpose()?.flatten(),
    };
    match (wanted, own) {
        (Some(wanted), Some(own)) if wanted > own => {
            let what = format!("a context of {wanted} tokens is more than the {own} positions the model was made for");
            Err(Diagnostic::error(Code::BadOption, what)
                .at("option", "--context")
                .help(format!("use --context {own} or less"))
                .into())
        }
        _ => Ok(wanted.or(own)),
    }
}

/// `max_position_embeddings` of a configuration file, if it says so.
fn max_positions(path: &Path) -> Result<Option<u64>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", path.display()))?;
    let config: serde_json::Value = serde_json::from_str(&text)
        .map_err(|e| Diagnostic::error(Code::BadConfig, format!("the file is no JSON: {e}")).at("file", path.display()))?;
    Ok(config["max_position_embeddings"].as_u64())
}

/// Runs one pass under observation; `print` renders what it left.
fn watched<T>(
    observer: &mut dyn Observer,
    pass: &Pass,
    work: impl FnOnce() -> Result<T>,
    print: impl Fn(&T) -> String,
) -> Result<T> {
    observer.before(pass);
    let left = work()?;
    observer.after(pass, &|| print(&left));
    Ok(left)
}
