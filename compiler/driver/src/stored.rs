//! The parameters of a bundle, read back from its weights file.
//!
//! The file holds them as the target arranged them. The target is asked again how it arranges this program, and every row is put back in its
//! canonical order. So bundles whose rounding cannot be repeated from the model alone, since a text decided it, can be compared and exported too.

use crate::pipeline;
use crate::targets;
use q35_bundle::Bundle;
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::data::ParamValue;
use q35_dialects::interp::ParamValues;
use q35_dialects::model::Program;
use q35_dialects::{Model, Param, ParamName};
use q35_format::{Packed, PackedSpec};
use q35_graph::Silent;
use q35_target::{Request, Section, WeightTensor};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The parameters of a bundle.
pub struct StoredValues<'a> {
    bundle: &'a Bundle,
    params: &'a BTreeMap<ParamName, Param>,
    tensors: BTreeMap<(ParamName, Section), (String, WeightTensor)>,
    known: Mutex<BTreeMap<ParamName, Arc<ParamValue>>>,
}

impl<'a> StoredValues<'a> {
    /// Of a bundle that `model` was compiled into, with the codecs that it has there.
    ///
    /// # Errors
    /// What the target says of the program; [`Code::ModelMismatch`] for a weights file that holds other tensors.
    pub fn new(model: &'a Model, bundle: &'a Bundle) -> Result<Self> {
        let target = targets::find(bundle.manifest().device.name())?;
        // No name of a tensor has the symbols' prefix.
        let Program { graph, params } = &model.program();
        let request = Request::new(graph, params, "q35_", model.facts.context);
        let lowered = pipeline::lower(target.as_ref(), &request, &mut Silent)?;
        let tensors =
            lowered.weights.into_iter().map(|(name, tensor)| ((tensor.param.clone(), tensor.section), (name, tensor)));
        let stored = Self { bundle, params: &model.params, tensors: tensors.collect(), known: Mutex::default() };
        stored.tensors.keys().map(|(param, section)| stored.section(param, *section)).collect::<Result<Vec<_>>>()?;
        Ok(stored)
    }

    /// A parameter as the format crate stores it.
    ///
    /// # Errors
    /// [`Code::ModelMismatch`] for sections that are not there or not of its size.
    pub fn packed(&self, name: &ParamName) -> Result<Packed> {
        let param = self.params.get(name).ok_or_else(|| mismatch(format!("there is no parameter @{name}")))?;
        let (rows, cols) = (param.source.rows() as usize, param.source.cols() as usize);
        let spec = PackedSpec::new(rows, cols, param.codec, param.group);
        let spec = spec.map_err(|error| mismatch(format!("@{name} cannot be stored: {error}")))?;
        let section = |section| self.section(name, section);
        let packed = Packed {
            spec,
            codes: section(Section::Codes)?,
            scales: section(Section::Scales)?,
            offsets: section(Section::Offsets)?,
        };
        packed.view().map_err(|error| mismatch(format!("@{name} is not what it should be: {error}")))?;
        Ok(packed)
    }

    /// One section in canonical order; empty where the target keeps none.
    fn section(&self, param: &ParamName, section: Section) -> Result<Vec<u8>> {
        let Some((name, WeightTensor { arrangement, .. })) = self.tensors.get(&(param.clone(), section)) else {
            return Ok(Vec::new());
        };
        let rows = self.params[param].source.rows() as usize;
        let data =
            self.bundle.tensor(name).map(|tensor| tensor.data).filter(|data| arrangement.bytes(rows) == Some(data.len()));
        let data =
            data.ok_or_else(|| mismatch(format!("its weights file has no tensor '{name}' of the size that the model's has")))?;
        let mut out = vec![0; rows * arrangement.row_bytes];
        for (row, out) in out.chunks_exact_mut(arrangement.row_bytes).enumerate() {
            let tile = &data[row / arrangement.tile_rows * arrangement.tile_bytes..][..arrangement.tile_bytes];
            arrangement.restore(tile, row % arrangement.tile_rows, out);
        }
        Ok(out)
    }
}

impl ParamValues for StoredValues<'_> {
    fn value(&self, name: &ParamName) -> Result<Arc<ParamValue>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(name) {
            return Ok(value.clone());
        }
        let packed = self.packed(name)?;
        let view = packed.view().unwrap_or_else(|error| unreachable!("it has just been checked: {error}"));
        let value = Arc::new(ParamValue::decode(&view));
        known.insert(name.clone(), value.clone());
        Ok(value)
    }
}

fn mismatch(what: String) -> Diagnostic {
    Diagnostic::error(Code::ModelMismatch, format!("the bundle was not made from this model: {what}"))
        .help("give the model that the bundle was compiled from, unchanged")
}
