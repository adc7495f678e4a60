//! A Groq-TSP-style chip, simulated cycle by cycle: a model of the chip, not run on silicon. A step of the session is a run of the
//! program for each token.

use super::{Batch, CacheSpan, Device};
use crate::Options;
use q35_bundle::{Bundle, CachePart, TspDevice};
use q35_diag::{Code, Diagnostic, Result};
use q35_format::{Codec, Group, PackedSpec, PackedView, ScaleType};
use q35_tsp::binary;
use q35_tsp::program::{CacheVectors, Data};
use q35_tsp::timing::Timing;
use q35_tsp_sim::host::{self, Parameters, Step};
use q35_tsp_sim::{Chip, Fault};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The simulated chip with a program and its memory.
pub(super) struct Tsp {
    bundle: Arc<Bundle>,
    chip: Chip,
    data: Data,
    clock_mhz: i64,
}

fn broken(device: &TspDevice, what: String) -> Diagnostic {
    Diagnostic::error(Code::NotABundle, format!("the program cannot be used: {what}")).at("file", &device.program)
}

impl Tsp {
    /// Loads the program, and memory from the weights.
    pub(super) fn new(bundle: Arc<Bundle>, device: &TspDevice, options: &Options) -> Result<Self> {
        let bytes = bundle.read(&device.program)?.unwrap_or_default();
        let program = binary::read(&bytes).map_err(|what| broken(device, what))?;
        program.data.check().map_err(|what| broken(device, what))?;
        let timing = Timing::tsp1();
        let mut chip = Chip::new(&program, timing).map_err(|what| broken(device, what))?;
        let data = program.data;
        let plan = &bundle.manifest().plan;
        if data.timing != "tsp1" || data.cache.len() != plan.cache.len() {
            return Err(broken(device, format!("timing '{}', {} layers of cache", data.timing, data.cache.len())).into());
        }
        if options.slots != 1 {
            let what = format!("the program has one slot, and {} were asked for", options.slots);
            return Err(Diagnostic::error(Code::WrongDevice, what).help("this device runs one sequence at a time").into());
        }
        if options.capacity > data.capacity as usize {
            let what = format!("the program's cache holds {} tokens, and {} were asked for", data.capacity, options.capacity);
            return Err(Diagnostic::error(Code::ContextFull, what).help("compile the model with a larger --context").into());
        }
        host::load(&mut chip, &data, &Tensors::new(&bundle)?).map_err(|what| broken(device, what))?;
        let tsp = Self { bundle, chip, data, clock_mhz: timing.clock_mhz };
        for layer in 0..tsp.data.cache.len() {
            for part in [CachePart::Key, CachePart::Value] {
                for first in [0, (tsp.data.capacity as usize).saturating_sub(1)] {
                    tsp.entries(CacheSpan { layer, part, slot: 0, first, count: 1 }).map_err(|what| broken(device, what))?;
                }
            }
        }
        Ok(tsp)
    }

    fn half(&self, span: &CacheSpan) -> CacheVectors {
        self.data.cache[span.layer][usize::from(span.part == CachePart::Value)].clone()
    }

    /// Entries of the cache, as `[head][entry][column]`.
    fn entries(&self, span: CacheSpan) -> std::result::Result<Vec<f32>, String> {
        let (heads, columns) = self.columns(&span);
        let half = self.half(&span);
        let mut out = vec![0.0; heads * span.count * columns];
        let mut entry = vec![0.0; heads * columns];
        for at in 0..span.count {
            host::read_entry(&self.chip, &half, (span.first + at) as u32, &mut entry)?;
            for (head, values) in entry.chunks_exact(columns).enumerate() {
                out[(head * span.count + at) * columns..][..columns].copy_from_slice(values);
            }
        }
        Ok(out)
    }

    /// Heads, and columns of each.
    fn columns(&self, span: &CacheSpan) -> (usize, usize) {
        let layer = &self.bundle.manifest().plan.cache[span.layer];
        (layer.kv_heads as usize, layer.columns(span.part) as usize)
    }
}

fn fault(fault: Fault) -> Diagnostic {
    Diagnostic::error(Code::NotABundle, format!("the program does what no chip can do: {fault}")).at("node", &fault.node)
}

impl Device for Tsp {
    fn describe(&self) -> String {
        let per_second = self.clock_mhz as f64 * 1e6 / f64::from(self.data.cycles.max(1));
        format!(
            "groq: {} cycles per token, {per_second:.0} tokens/s at {} MHz; a model of the chip, not run on silicon",
            self.data.cycles, self.clock_mhz
        )
    }

    fn max_tokens(&self) -> usize {
        1
    }

    fn step(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        let bundle = self.bundle.clone();
        let tensors = Tensors::new(&bundle)?;
        let bad = |what: String| Diagnostic::error(Code::NotABundle, format!("the program cannot be run: {what}"));
        for row in 0..batch.tokens.len() {
            let number = |numbers: &[i32]| u32::try_from(numbers[row]).map_err(|_| bad("a negative input".to_owned()));
            let step = Step { token: number(batch.tokens)?, position: number(batch.positions)?, entry: number(batch.index)? };
            host::feed(&mut self.chip, &self.data, &tensors, step).map_err(bad)?;
            self.chip.run().map_err(fault)?;
            let vocab = bundle.manifest().model.vocab as usize;
            for (at, out) in logits.chunks_exact_mut(vocab).enumerate() {
                if batch.logit_rows.get(at) == Some(&(row as i32)) {
                    host::logits(&self.chip, &self.data, out).map_err(bad)?;
                }
            }
        }
        Ok(())
    }

    fn read_cache(&self, span: CacheSpan) -> Result<Vec<f32>> {
        Ok(self.entries(span).unwrap_or_else(|what| panic!("the cache was read when the program was loaded: {what}")))
    }

    fn write_cache(&mut self, span: CacheSpan, data: &[f32]) -> Result<()> {
        let (heads, columns) = self.columns(&span);
        let half = self.half(&span);
        for at in 0..span.count {
            let of = |head: usize| &data[(head * span.count + at) * columns..][..columns];
            let entry: Vec<f32> = (0..heads).flat_map(of).copied().collect();
            let written = host::write_entry(&mut self.chip, &half, (span.first + at) as u32, &entry);
            written.unwrap_or_else(|what| panic!("the cache was read when the program was loaded: {what}"));
        }
        Ok(())
    }
}

/// The bundle's weights, decoded as they are asked for.
struct Tensors<'a> {
    views: BTreeMap<&'a str, PackedView<'a>>,
}

impl<'a> Tensors<'a> {
    fn new(bundle: &'a Bundle) -> Result<Self> {
        let mut views = BTreeMap::new();
        for (name, entry) in &bundle.manifest().weights {
            let broken = |what: String| Diagnostic::error(Code::NotABundle, what).at("tensor", name);
            let section = |suffix: &str| bundle.tensor(&format!("{name}{suffix}")).map_or(&[][..], |tensor| tensor.data);
            let codec: Codec = entry.codec.parse().map_err(|_| broken(format!("codec '{}'", entry.codec)))?;
            let group = if entry.group == 0 { Group::Row } else { Group::Columns(entry.group as u32) };
            let [rows, cols] = entry.shape.map(|n| n as usize);
            let (codes, scales, offsets) = (section(""), section(".scales"), section(".offsets"));
            let spec = PackedSpec::new(rows, cols, codec, group);
            let spec =
                spec.and_then(
                    |spec| if scales.len() == 4 * spec.scale_count() { spec.with_scale(ScaleType::F32) } else { Ok(spec) },
                );
            let view = spec.and_then(|spec| PackedView::new(spec, codes, scales, offsets));
            views.insert(name.as_str(), view.map_err(|e| broken(e.to_string()))?);
        }
        Ok(Self { views })
    }

    fn view(&self, param: &str) -> std::result::Result<&PackedView<'a>, String> {
        self.views.get(param).ok_or_else(|| format!("there is no parameter '{param}'"))
    }

    fn row(&self, param: &str, row: usize) -> std::result::Result<&PackedView<'a>, String> {
        let view = self.view(param)?;
        if row < view.spec().rows() { Ok(view) } else { Err(format!("'{param}' has no row {row}")) }
    }
}

impl Parameters for Tensors<'_> {
    fn shape(&self, param: &str) -> std::result::Result<[usize; 2], String> {
        self.view(param).map(|view| [view.spec().rows(), view.spec().cols()])
    }

    fn integers(&self, param: &str, row: usize) -> std::result::Result<Vec<i8>, String> {
        let view = self.row(param, row)?;
        let mut out = vec![0; view.spec().cols()];
        view.integers(row, &mut out).ok_or_else(|| format!("'{param}' has no integers"))?;
        Ok(out)
    }

    fn numbers(&self, param: &str, row: usize) -> std::result::Result<Vec<f32>, String> {
        let view = self.row(param, row)?;
        let mut out = vec![0.0; view.spec().cols()];
        view.weights(row, &mut out);
        Ok(out)
    }

    fn scales(&self, param: &str) -> std::result::Result<Vec<f32>, String> {
        let view = self.view(param)?;
        if view.spec().groups() != 1 {
            return Err(format!("'{param}' has not one scale per row"));
        }
        Ok((0..view.spec().rows()).map(|row| view.scale(row, 0)).collect())
    }
}
