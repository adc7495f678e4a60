//! `q35c compile`: a bundle, or the text of one stage.

use crate::cache::{self, Cache};
use crate::calibrate::Calibration;
use crate::cli::{Compile, Effort, Emit};
use crate::pipeline::{self, Output};
use crate::settings::Settings;
use crate::summary::Summary;
use crate::watch::{Capture, DumpAfter, Dumps, Verbosity, Watch};
use crate::{layer, q35, targets};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_graph::{Observer, Stage};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Compiles a model.
pub fn run(options: &Compile) -> Result<String> {
    let verbosity = if options.quiet || options.emit.is_some_and(|emit| emit.stage().is_some()) {
        Verbosity::Quiet
    } else {
        Verbosity::Normal
    };
    if let Some(jobs) = options.jobs {
        // A second pool in one process is a mistake of the caller's, and the first one serves as well.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(jobs.into()).build_global();
    }
    let mut watch = Watch::new(verbosity, dumps(options));
    let result = match (&options.model, options.emit.map(Emit::stage)) {
        (Some(model), Some(Some(stage))) => emit(options, model, stage, &mut watch),
        (Some(model), None) => bundle(options, model, &mut watch),
        (None, _) | (_, Some(None)) => layer(options, &mut watch),
    };
    if options.time_passes {
        eprint!("{}", watch.timing_table());
    }
    let text = result?;
    watch.into_problems().into_result(text)
}

fn bundle(options: &Compile, model_path: &Path, observer: &mut dyn Observer) -> Result<String> {
    let started = Instant::now();
    let mut problems = Diagnostics::new();
    let target = targets::find(&options.target);
    let settings = problems.absorb(match &target {
        Ok(target) => Settings::new(&options.shape, target.name(), &target.capabilities()).map(Some),
        Err(_) => Settings::contradictions(&options.shape).into_result(None),
    });
    let (target, settings) = (problems.absorb(target), settings.flatten());
    let calibration = problems.absorb(calibration(options, settings.as_ref()));
    let (Some(settings), Some(target), Some(calibration)) = (settings, target, calibration) else { return Err(problems) };
    let path = options.output.clone().unwrap_or_else(|| named(options, "q35"));
    let cache = cache(options)?;
    let out = Output {
        calibration: calibration.as_ref(),
        compensated: options.effort == Effort::Best,
        budget: options.bits_budget,
        cache: cache.as_ref(),
        ..Output::new(target.as_ref(), &options.prefix, &path)
    };
    let mut compiled = pipeline::compile(model_path, &settings, out, observer)?;
    for warning in std::mem::take(&mut compiled.warnings) {
        eprintln!("{warning}");
    }
    let summary = Summary::new(&path, target.as_ref(), compiled, started.elapsed());
    if options.json { super::json(&summary) } else { Ok(summary.listing()) }
}

/// A layer without a model.
fn layer(options: &Compile, observer: &mut dyn Observer) -> Result<String> {
    let Some(shape) = options.linear else {
        let what = "--emit=kernels writes single layers, and no layer is given";
        return Err(Diagnostic::error(Code::BadOption, what).at("option", "--emit").help("add --linear OUTPUTSxINPUTS").into());
    };
    if options.emit.is_none_or(|emit| emit.stage().is_some()) {
        let what = "a layer without a model has no stages to print";
        return Err(Diagnostic::error(Code::BadOption, what).at("option", "--emit").help("use --emit=kernels").into());
    }
    let target = targets::find(&options.target)?;
    let settings = Settings::new(&options.shape, target.name(), &target.capabilities())?;
    let out = options.output.clone().unwrap_or_else(|| layer::folder(shape, &settings.weights.codec.to_string()));
    let (weights, prefix, cache) = (options.weights.as_deref(), options.prefix.as_str(), cache(options)?);
    let order = layer::Order { shape, weights, target: target.as_ref(), prefix, out: &out, cache: cache.as_ref() };
    let names = layer::compile(&order, &settings, observer)?;
    if options.json {
        return super::json(&serde_json::json!({ "folder": out.display().to_string(), "files": names }));
    }
    Ok(names.iter().map(|name| format!("{}\n", out.join(name).display())).collect())
}

/// The cache that the user names.
fn cache(options: &Compile) -> Result<Option<Cache>> {
    cache::folder(options.cache.as_deref()).map(|folder| Cache::open(&folder)).transpose()
}

/// What to calibrate with, if effort is best or there is a budget to spend.
fn calibration(options: &Compile, settings: Option<&Settings>) -> Result<Option<Calibration>> {
    let refuse =
        |what: String, help: &str| Err(Diagnostic::error(Code::BadOption, what).at("option", "--effort").help(help).into());
    let with = |text: &PathBuf| Some(Calibration { text: text.clone(), sequences: options.sequences as usize });
    match (options.effort, &options.calibrate, settings.map(|settings| settings.weights.codec)) {
        (_, _, Some(codec)) if codec.window().is_none() && options.bits_budget.is_some() => {
            let what = format!("--bits-budget has no meaning for codec {codec}");
            Err(Diagnostic::error(Code::BadOption, what)
                .at("option", "--bits-budget")
                .help("a budget lets some layers have more than the 3.5 bits of the others: choose split, w7 to w12 or a11")
                .into())
        }
        (Effort::Best, _, Some(codec)) if codec.window().is_none() => refuse(
            format!("--effort best has no meaning for codec {codec}"),
            "error-compensated rounding serves the 3.5-bit codecs: split, w7 to w12, a11",
        ),
        (Effort::Best, Some(text), _) => Ok(with(text)),
        (Effort::Fast, Some(text), _) if options.bits_budget.is_some() => Ok(with(text)),
        (Effort::Fast, Some(_), _) => refuse("--calibrate does nothing with --effort fast".to_owned(), "add --effort best"),
        _ => Ok(None),
    }
}

/// Runs the passes up to the end of a stage, and gives the text of what is there then.
fn emit(options: &Compile, model: &Path, stage: Stage, observer: &mut dyn Observer) -> Result<String> {
    let target = targets::find(&options.target)?;
    let settings = Settings::new(&options.shape, target.name(), &target.capabilities())?;
    let mut capture = Capture::new(stage, observer);
    if stage == Stage::Source {
        pipeline::import(model, settings.context, &mut capture)?;
        return Ok(capture.into_text());
    }
    let model = pipeline::prepare(model, &settings, &mut capture)?.model;
    if stage > Stage::Graph {
        if stage == Stage::Q35 && cfg!(not(feature = "mlir")) {
            let what = "the q35 stage is an MLIR module, and this q35c was built without MLIR";
            return Err(Diagnostic::error(Code::ToolMissing, what).help("build q35c with its default features").into());
        }
        let program = q35::through_mlir(&model, &mut capture)?;
        if stage > Stage::Q35 {
            let request = settings.request(&program, &options.prefix, model.facts.context);
            pipeline::lower(target.as_ref(), &request, &mut capture)?;
        }
    }
    Ok(capture.into_text())
}

/// The model's name with another extension, in the working directory.
fn named(options: &Compile, extension: &str) -> PathBuf {
    PathBuf::from(options.model.as_deref().and_then(Path::file_stem).unwrap_or_default()).with_added_extension(extension)
}

fn dumps(options: &Compile) -> Option<Dumps> {
    let after = match options.dump_after.as_deref()? {
        "all" => DumpAfter::All,
        name => DumpAfter::Pass(name.to_owned()),
    };
    Some(Dumps { folder: options.dump_dir.clone().unwrap_or_else(|| named(options, "dumps")), after })
}
