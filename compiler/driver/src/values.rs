//! The values of a model's parameters as the bundle has them: packed and decoded again.
//!
//! The bytes are made anew from the model, by the quantizer and not from the bundle: what a target did to them is so part of what a comparison
//! measures.

use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::data::ParamValue;
use q35_dialects::interp::ParamValues;
use q35_dialects::{Model, Param, ParamName};
use q35_format::Packed;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Packs parameters on first use, and keeps them decoded.
pub struct PackedValues<'a> {
    params: &'a BTreeMap<ParamName, Param>,
    known: Mutex<BTreeMap<ParamName, Arc<ParamValue>>>,
}

impl<'a> PackedValues<'a> {
    /// The parameters of a model.
    pub fn new(model: &'a Model) -> Self {
        Self { params: &model.params, known: Mutex::default() }
    }
}

impl PackedValues<'_> {
    /// Sets a parameter's value to what other bytes than the quantizer's own mean.
    pub fn insert(&self, name: &ParamName, value: ParamValue) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), Arc::new(value));
    }

    /// Drops a parameter's value, which is packed again if somebody asks.
    pub fn forget(&self, name: &ParamName) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

impl ParamValues for PackedValues<'_> {
    fn value(&self, name: &ParamName) -> Result<Arc<ParamValue>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get(name) {
            return Ok(value.clone());
        }
        let missing = || Diagnostic::error(Code::MissingTensor, "a parameter has no value").at("parameter", name);
        let value = Arc::new(decoded(self.params.get(name).ok_or_else(missing)?)?);
        known.insert(name.clone(), value.clone());
        Ok(value)
    }
}

/// A parameter packed and decoded.
fn decoded(param: &Param) -> Result<ParamValue> {
    let mut codes = Vec::new();
    let mut sink = |rows: &[u8]| {
        codes.extend_from_slice(rows);
        Ok(())
    };
    let quantized = q35_quantize::quantize(param, &mut sink, &mut |_| ())?;
    let packed = Packed { spec: quantized.spec, codes, scales: quantized.scales, offsets: quantized.offsets };
    let view = packed.view().unwrap_or_else(|error| panic!("what the quantizer packs is well formed: {error}"));
    Ok(ParamValue::decode(&view))
}
