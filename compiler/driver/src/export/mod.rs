//! A model as a Hugging Face checkpoint: `config.json`, safetensors, tokenizer, with numbers that any library can run.
//!
//! What enters: a model, and a bundle of it or none. What leaves: a folder whose weights are the model's own or those that the bundle's bytes mean, in f32, in the basis and
//! under the names of the original library. What the compiler did to a weight before rounding it (rotations, norms folded in) is undone in reverse
//! order, so that the checkpoint is the same function as the bundle but for the rounding of activations.
//!
//! Tensors are decoded one by one as the file is written.

mod names;
mod undo;

use crate::pipeline::{self, Prepared};
use crate::settings::Settings;
use crate::stored::StoredValues;
use names::Names;
use q35_bundle::Bundle;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::interp::ParamValues;
use q35_dialects::model::Transform;
use q35_dialects::{Param, ParamName};
use q35_graph::Silent;
use q35_import::Travelling;
use safetensors::{Dtype, View};
use std::borrow::Cow;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Writes the checkpoint of `model` into the new folder `out`, with the weights of `bundle` where there is one.
///
/// # Errors
/// [`Code::CannotExport`] for a model that has no checkpoint form this compiler knows; [`Code::ModelMismatch`] for a bundle of another model; files that cannot be written.
pub fn run(path: &Path, bundle: Option<&Path>, out: &Path) -> Result<Exported> {
    let plain = pipeline::prepare(path, &Settings::float(), &mut Silent)?;
    let bundle = bundle.map(Bundle::open).transpose()?;
    let rounded = bundle.as_ref().map(|bundle| as_compiled(path, bundle)).transpose()?;
    let stored = match (&rounded, &bundle) {
        (Some(rounded), Some(bundle)) => Some(StoredValues::new(&rounded.model, bundle)?),
        _ => None,
    };
    let names = Names::new(&plain.model, &plain.imported.sidecars)?;
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for (name, param) in &plain.model.params {
        let compiled = rounded.as_ref().and_then(|rounded| rounded.model.params.get(name)).zip(stored.as_ref());
        for names::Part { tensor, rows, shape } in names.parts(name, param)? {
            tensors.push((tensor, Tensor { name, param, compiled, rows, shape }));
        }
    }
    let numbers = tensors.iter().map(|(_, tensor)| tensor.data_len() / 4).sum();
    let count = tensors.len();
    let cannot = |e: &dyn std::fmt::Display| {
        Diagnostics::from(
            Diagnostic::error(Code::CannotWrite, format!("the checkpoint cannot be written: {e}")).at("folder", out.display()),
        )
    };
    // Complete, or not there.
    let partial = out.with_added_extension("partial");
    let travelling = plain.imported.travelling()?;
    let written = write(&partial, tensors, &names, &travelling).and_then(|()| fs::rename(&partial, out));
    written.map_err(|e| {
        // What is left of it is of no use; that it is there is not what went wrong.
        let _ = fs::remove_dir_all(&partial);
        cannot(&e)
    })?;
    Ok(Exported { folder: out.display().to_string(), tensors: count, numbers })
}

fn write(folder: &Path, tensors: Vec<(String, Tensor<'_>)>, names: &Names, travelling: &Travelling<'_>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let library = Some([("format".to_owned(), "pt".to_owned())].into());
    safetensors::serialize_to_file(tensors, library, &folder.join("model.safetensors")).map_err(io::Error::other)?;
    fs::write(folder.join("config.json"), names.config())?;
    travelling.iter().try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes))
}

/// What was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Exported {
    /// The checkpoint.
    pub folder: String,
    /// Tensors in it.
    pub tensors: usize,
    /// Numbers in them.
    pub numbers: usize,
}

/// The model as the bundle has it.
fn as_compiled(path: &Path, bundle: &Bundle) -> Result<Prepared> {
    let mismatch = |what: &str| Diagnostic::error(Code::ModelMismatch, what).at("bundle", bundle.root().display());
    let prepared = pipeline::prepare_like(path, bundle.manifest(), &mut Silent)
        .ok_or_else(|| mismatch("the bundle does not say with which options it was compiled"))??;
    if prepared.model.facts != bundle.manifest().model {
        return Err(mismatch("the bundle was compiled from another model").into());
    }
    Ok(prepared)
}

/// A tensor of the file: some rows of a parameter.
struct Tensor<'a> {
    name: &'a ParamName,
    /// The model's own numbers.
    param: &'a Param,
    /// The parameter as it was compiled, and the bundle that holds it; absent where a compile left no such parameter, as of a norm that was folded.
    compiled: Option<(&'a Param, &'a StoredValues<'a>)>,
    rows: Range<u64>,
    shape: Vec<usize>,
}

impl Tensor<'_> {
    fn numbers(&self) -> Vec<f32> {
        let cols = self.param.source.cols() as usize;
        let Some((compiled, stored)) = self.compiled else {
            let mut out = vec![0.0; (self.rows.end - self.rows.start) as usize * cols];
            self.param.source.read_rows(self.rows.clone(), &mut out);
            self.param.source.release();
            return out;
        };
        let value = stored.value(self.name).unwrap_or_else(|error| unreachable!("its sections were checked before: {error}"));
        // Rows that were mixed can only be told apart together.
        let wanted = self.rows.start as usize..self.rows.end as usize;
        let mixed = compiled.transforms.iter().any(|transform| matches!(transform, Transform::RotateOutput { .. }));
        let taken = if mixed { 0..value.shape().0 } else { wanted.clone() };
        let mut out: Vec<f32> = taken.clone().flat_map(|row| value.row(row)).collect();
        undo::all(&compiled.transforms, taken.start, cols, &mut out);
        out.drain((wanted.end - taken.start) * cols..);
        out.drain(..(wanted.start - taken.start) * cols);
        out
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.numbers().into_iter().flat_map(f32::to_le_bytes).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.shape.iter().product::<usize>()
    }
}
