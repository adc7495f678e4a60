//! The weights file: every parameter quantized, arranged and written, one block of rows at a time.
//!
//! A parameter is the source of one or more tensors of the file: its codes, its scales, its offsets, and its codes again where two
//! kernels want them in two arrangements (an embedding table that is also the head). Codes stream; scales and offsets, a
//! few bytes per row, are written when all codes of the parameter are through.

use crate::arrange::Arranger;
use crate::cache::Cache;
use crate::calibrate::Ready;
use crate::limit::Limit;
use q35_bundle::{BundleWriter, TensorSpec, WeightEntry, WeightsWriter};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::{Model, Param, ParamName, Transform};
use q35_graph::Observer;
use q35_quantize::{Quantized, Record, quantize};
use q35_target::{Section, WeightTensor};
use std::collections::BTreeMap;

/// What is known of the weights when they are written.
#[derive(Debug, Default)]
pub struct Written {
    /// For the manifest.
    pub entries: BTreeMap<String, WeightEntry>,
    /// For the report.
    pub records: BTreeMap<String, Record>,
}

/// Bytes of memory that [`write`] takes at most: a block of rows as f32, the same again encoded and arranged, and the scales of one
/// parameter.
pub fn working_memory(model: &Model) -> u64 {
    let block = |param: &Param| {
        let mixed = param.transforms.iter().map(|transform| match transform {
            Transform::RotateOutput { block, .. } => *block,
            _ => 1,
        });
        let rows = mixed.fold(16, u64::max).min(param.source.rows());
        let numbers = (rows * param.source.cols()).max(q35_quantize::BLOCK_NUMBERS as u64).min(numbers(param));
        2 * 4 * numbers + 8 * param.source.rows() * param.group.count(param.source.cols() as usize) as u64
    };
    model.params.values().map(block).max().unwrap_or(0)
}

/// What parameters are packed with.
#[derive(Clone, Copy)]
pub struct Packing<'a> {
    /// Parameters that are packed already.
    pub ready: Option<&'a Ready>,
    /// Where others may be found.
    pub cache: Option<&'a Cache>,
    /// Memory.
    pub limit: Limit,
}

/// One tensor of the file.
struct Planned<'a> {
    name: &'a str,
    tensor: &'a WeightTensor,
    param: &'a Param,
}

/// Writes the tensors that a target asked for: parameters that are ready as they are, the others packed on the way. All bad weights of the model are reported together.
///
/// # Panics
/// If the target asks for a parameter that the model does not have.
pub fn write(
    model: &Model,
    packing: Packing<'_>,
    tensors: &BTreeMap<String, WeightTensor>,
    bundle: &mut BundleWriter,
    observer: &mut dyn Observer,
) -> Result<Written> {
    let planned = plan(model, tensors);
    let specs = planned.iter().map(spec).collect::<Result<Vec<_>>>()?;
    let total: u64 = planned.iter().filter(|p| p.tensor.section == Section::Codes).map(|p| numbers(p.param)).sum();
    let mut file = bundle.weights(&specs)?;
    let mut written = Written::default();
    let mut bad = Diagnostics::new();
    let mut done = 0;
    let mut kept: Option<(&ParamName, Quantized)> = None;
    for planned @ Planned { name, tensor, param } in &planned {
        let section = match (tensor.section, &kept) {
            (Section::Codes, _) => {
                let mut progress = |count| {
                    done += count;
                    observer.progress(done, total, "weights");
                };
                // After the first bad weight the others are only looked at: nothing more is written.
                let file = if bad.has_errors() { None } else { Some(&mut file) };
                let quantized = stream(planned, packing, file, &mut progress);
                if let Some(quantized) = bad.absorb(quantized) {
                    written.add(&tensor.param, param, &quantized);
                    kept = Some((&tensor.param, quantized));
                } else if fatal(&bad) {
                    return Err(bad);
                }
                continue;
            }
            _ if bad.has_errors() => continue,
            (Section::Scales, Some((of, quantized))) if *of == &tensor.param => &quantized.scales,
            (Section::Offsets, Some((of, quantized))) if *of == &tensor.param => &quantized.offsets,
            _ => panic!("tensor '{name}' comes without the codes of @{}", tensor.param),
        };
        let mut arranger = Arranger::new(&tensor.arrangement);
        let mut sink = |tile: &[u8]| file.write(name, tile);
        arranger.push(section, &mut sink)?;
        arranger.finish(&mut sink)?;
    }
    if bad.has_errors() {
        return Err(bad);
    }
    file.finish()?;
    Ok(written)
}

/// Whether there is no use in looking at more weights: the failure was not theirs.
fn fatal(bad: &Diagnostics) -> bool {
    bad.iter().any(|d| matches!(d.code, Code::CannotWrite | Code::DiskFull | Code::MemoryLimit))
}

/// The tensors in file order.
fn plan<'a>(model: &'a Model, tensors: &'a BTreeMap<String, WeightTensor>) -> Vec<Planned<'a>> {
    let planned = |(name, tensor): (&'a str, &'a WeightTensor)| {
        let param = model.params.get(&tensor.param).unwrap_or_else(|| panic!("the target asks for @{}", tensor.param));
        Planned { name, tensor, param }
    };
    q35_target::file_order(tensors).into_iter().map(planned).collect()
}

fn spec(planned: &Planned<'_>) -> Result<TensorSpec> {
    let bytes = planned.tensor.arrangement.bytes(planned.param.source.rows() as usize).ok_or_else(|| {
        Diagnostic::error(Code::AbsurdSize, "a weight is too large to be laid out").at("tensor", &planned.param.origin)
    })?;
    Ok(TensorSpec::bytes(planned.name, bytes as u64))
}

fn numbers(param: &Param) -> u64 {
    param.source.rows() * param.source.cols()
}

/// Quantizes a parameter that is not ready, its codes straight into the file, if there is one.
fn stream(
    Planned { name, tensor, param }: &Planned<'_>,
    Packing { ready, cache, limit }: Packing<'_>,
    mut file: Option<&mut WeightsWriter<'_>>,
    progress: &mut dyn FnMut(u64),
) -> Result<Quantized> {
    let mut write = |tile: &[u8]| file.as_mut().map_or(Ok(()), |file| file.write(name, tile));
    let mut arranger = Arranger::new(&tensor.arrangement);
    let mut sink = |rows: &[u8]| {
        limit.check()?;
        arranger.push(rows, &mut write)
    };
    let ready = ready.and_then(|ready| Some((ready.get(&tensor.param)?, ready)));
    let quantized = match (ready, cache) {
        (Some((quantized, ready)), _) => {
            sink(&ready.codes(&tensor.param)?)?;
            progress(numbers(param));
            quantized.clone()
        }
        (None, Some(cache)) => cache.quantize(param, &mut sink, progress)?,
        (None, None) => quantize(param, &mut sink, progress)?,
    };
    arranger.finish(&mut write)?;
    Ok(quantized)
}

impl Written {
    fn add(&mut self, name: &ParamName, param: &Param, quantized: &Quantized) {
        let spec = quantized.spec;
        let group = match spec.group() {
            q35_format::Group::Row => 0,
            q35_format::Group::Columns(columns) => columns.into(),
        };
        let entry = WeightEntry {
            codec: spec.codec().to_string(),
            shape: [param.source.rows(), param.source.cols()],
            group,
            effective_bits: spec.effective_bits(),
        };
        self.entries.insert(name.to_string(), entry);
        self.records.insert(name.to_string(), quantized.record.clone());
    }
}
