//! A Groq-TSP-style chip or several in lock step, simulated cycle by cycle: a model of the chip, not run on silicon. A step of the session is
//! a run of the programs for each token: every chip gets what the host has for it, the last one has the logits, and the token that is chosen
//! by them goes to the first one with the next step.

use super::{Batch, CacheSpan, Device};
use crate::Options;
use q35_bundle::{Bundle, CachePart, TspDevice};
use q35_diag::{Code, Diagnostic, Result};
use q35_format::{Codec, Group, PackedSpec, PackedView, ScaleType};
use q35_tsp::binary;
use q35_tsp::program::{CacheVectors, Data, Program};
use q35_tsp::timing::Timing;
use q35_tsp_sim::host::{self, Parameters, Step};
use q35_tsp_sim::{Chip, Fault, System};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The simulated chips with their programs and memories.
pub(super) struct Tsp {
    bundle: Arc<Bundle>,
    system: System,
    /// All of each chip's program but the queues.
    data: Vec<Data>,
    /// Of each layer of the cache, the chip, and which of its layers it is.
    layers: Vec<(usize, usize)>,
    clock_mhz: i64,
}

fn unusable(file: &str, what: String) -> Diagnostic {
    Diagnostic::error(Code::NotABundle, format!("the program cannot be used: {what}")).at("file", file)
}

/// The program of a file.
fn program(bundle: &Bundle, file: &str) -> Result<Program> {
    let bytes = bundle.read(file)?.unwrap_or_default();
    let program = binary::read(&bytes).map_err(|what| unusable(file, what))?;
    program.data.check().map_err(|what| unusable(file, what))?;
    Ok(program)
}

impl Tsp {
    /// Loads the program, and memory from the weights.
    pub(super) fn new(bundle: Arc<Bundle>, device: &TspDevice, options: &Options) -> Result<Self> {
        let first = device.programs.first().map_or("", String::as_str);
        let broken = |what: String| unusable(first, what);
        let programs = device.programs.iter().map(|file| program(&bundle, file)).collect::<Result<Vec<_>>>()?;
        let timing = Timing::tsp1();
        let mut system = System::new(&programs, timing).map_err(broken)?;
        let data: Vec<Data> = programs.into_iter().map(|program| program.data).collect();
        let layers = |(chip, data): (usize, &Data)| (0..data.cache.len()).map(move |layer| (chip, layer)).collect::<Vec<_>>();
        let layers: Vec<(usize, usize)> = data.iter().enumerate().flat_map(layers).collect();
        let plan = &bundle.manifest().plan;
        let capacity = data.iter().map(|data| data.capacity).min().unwrap_or(0);
        if data.iter().any(|data| data.timing != "tsp1" || data.capacity != capacity) || layers.len() != plan.cache.len() {
            let what = format!("{} chips, {} layers of cache for {capacity} tokens", data.len(), layers.len());
            return Err(broken(what).into());
        }
        if options.slots != 1 {
            let what = format!("the program has one slot, and {} were asked for", options.slots);
            return Err(Diagnostic::error(Code::WrongDevice, what).help("this device runs one sequence at a time").into());
        }
        if options.capacity > capacity as usize {
            let what = format!("the program's cache holds {capacity} tokens, and {} were asked for", options.capacity);
            return Err(Diagnostic::error(Code::ContextFull, what).help("compile the model with a larger --context").into());
        }
        let tensors = Tensors::new(&bundle)?;
        for (chip, data) in system.chips.iter_mut().zip(&data) {
            host::load(chip, data, &tensors).map_err(broken)?;
        }
        drop(tensors);
        let tsp = Self { bundle: bundle.clone(), system, data, layers, clock_mhz: timing.clock_mhz };
        for layer in 0..tsp.layers.len() {
            for part in [CachePart::Key, CachePart::Value] {
                for first in [0, (capacity as usize).saturating_sub(1)] {
                    tsp.entries(CacheSpan { layer, part, slot: 0, first, count: 1 }).map_err(broken)?;
                }
            }
        }
        Ok(tsp)
    }

    /// Where keys or values lie: on which chip, and in which vectors.
    fn half(&self, span: &CacheSpan) -> (usize, CacheVectors) {
        let (chip, layer) = self.layers[span.layer];
        (chip, self.data[chip].cache[layer][usize::from(span.part == CachePart::Value)].clone())
    }

    /// From the first dispatch of the first chip to the last write of the last one.
    fn cycles(&self) -> u64 {
        self.data.iter().map(|data| data.start.saturating_add(data.cycles.into())).max().unwrap_or(0)
    }

    /// Entries of the cache, as `[head][entry][column]`.
    fn entries(&self, span: CacheSpan) -> std::result::Result<Vec<f32>, String> {
        let (heads, columns) = self.columns(&span);
        let (chip, half) = self.half(&span);
        let mut out = vec![0.0; heads * span.count * columns];
        let mut entry = vec![0.0; heads * columns];
        for at in 0..span.count {
            host::read_entry(&self.system.chips[chip], &half, (span.first + at) as u32, &mut entry)?;
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
        let (cycles, chips) = (self.cycles(), self.data.len());
        let per_second = self.clock_mhz as f64 * 1e6 / cycles.max(1) as f64;
        let on = if chips > 1 { format!(" on {chips} chips") } else { String::new() };
        format!(
            "groq: {cycles} cycles per token{on}, {per_second:.0} tokens/s at {} MHz; a model of the chip, not run on silicon",
            self.clock_mhz
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
            for (chip, data) in self.system.chips.iter_mut().zip(&self.data) {
                host::feed(chip, data, &tensors, step).map_err(bad)?;
            }
            self.system.run().map_err(fault)?;
            let vocab = bundle.manifest().model.vocab as usize;
            for (at, out) in logits.chunks_exact_mut(vocab).enumerate() {
                if batch.logit_rows.get(at) == Some(&(row as i32)) {
                    let read = |(chip, data): (&Chip, &Data)| host::logits(chip, data, out);
                    self.system.chips.iter().zip(&self.data).try_for_each(read).map_err(bad)?;
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
        let (chip, half) = self.half(&span);
        for at in 0..span.count {
            let of = |head: usize| &data[(head * span.count + at) * columns..][..columns];
            let entry: Vec<f32> = (0..heads).flat_map(of).copied().collect();
            let written = host::write_entry(&mut self.system.chips[chip], &half, (span.first + at) as u32, &entry);
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
