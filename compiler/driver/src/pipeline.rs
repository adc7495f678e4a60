//! The way from a model's path to a bundle, as one list.

use crate::passes;
use crate::settings::Settings;
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::{Model, print};
use q35_graph::{Observer, Pass};
use q35_import::Imported;
use q35_passes::{model, raise};
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
    let imported = import(path, observer)?;
    let mut model = raise(path, &imported, settings, observer)?;
    model::run(&mut model, &settings.weights, observer);
    Ok(Prepared { imported, model })
}

/// Reads a model's graph and headers.
pub fn import(path: &Path, observer: &mut dyn Observer) -> Result<Imported> {
    watched(observer, &passes::IMPORT, || q35_import::open(path), |imported| imported.graph.to_string())
}

fn raise(path: &Path, imported: &Imported, settings: &Settings, observer: &mut dyn Observer) -> Result<Model> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let context = context(imported, settings.context)?;
    let options = raise::Options { name, context };
    watched(observer, &passes::RAISE, || raise::raise(&imported.graph, &options), print::model)
}

/// The longest context: what the user asks for, within what the model's configuration says it was made for.
fn context(imported: &Imported, wanted: Option<u64>) -> Result<Option<u64>> {
    let own = imported.sidecars.config.as_deref().map(max_positions).transpose()?.flatten();
    match (wanted, own) {
        (Some(wanted), Some(own)) if wanted > own => {
            let what = format!("a context of {wanted} tokens is more than the {own} positions the model was made for");
            Err(Diagnostic::error(Code::BadOption, what).at("option", "--context").help(format!("use --context {own} or less")).into())
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
fn watched<T>(observer: &mut dyn Observer, pass: &Pass, work: impl FnOnce() -> Result<T>, print: impl Fn(&T) -> String) -> Result<T> {
    observer.before(pass);
    let left = work()?;
    observer.after(pass, &|| print(&left));
    Ok(left)
}
