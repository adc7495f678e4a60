//! The fabric model as a device: memories filled from the weights file, one launch for consecutive tokens, logits of the last one read from the last
//! region. A model of the chip, not run on silicon.

use super::{Batch, CacheSpan, Device};
use crate::Options;
use half::f16;
use q35_bundle::{Bundle, CachePart, HostInput, Piece, WaferCache, WaferProgram, WaferRegion, WseDevice};
use q35_csl::{Layout, layout};
use q35_diag::{Code, Diagnostic, Result};
use q35_fabric::{Fabric, Report, Settings};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A wafer with a program and its weights.
pub(super) struct Wafer {
    bundle: Arc<Bundle>,
    device: WseDevice,
    /// One for each wafer.
    fabrics: Vec<Fabric>,
    /// Logits, before those that the vocabulary does not have are left out.
    logits: Vec<f32>,
    /// Tokens of the last step, and what it took on each wafer.
    last: usize,
    spent: Vec<Report>,
}

/// A program that the reader, the rules or the fabric refuse.
fn refused(what: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error(Code::NotABundle, format!("the program of the wafer is not sound: {what}"))
}

/// That the logits and the caches in the regions are those of the model.
fn sound(bundle: &Bundle, device: &WseDevice) -> std::result::Result<(), Diagnostic> {
    let manifest = bundle.manifest();
    let logits = device.head().map_or(0, |region| region.height * device.logits);
    if logits < manifest.model.vocab {
        return Err(refused(format!("{logits} logits for a vocabulary of {}", manifest.model.vocab)));
    }
    if device.input.hidden > device.width * device.input.piece {
        return Err(refused("the first region does not hold a whole row of the table"));
    }
    let own = |region: &WaferRegion, cache: &WaferCache| {
        let plan = manifest.plan.cache.get(cache.layer as usize);
        let heads = region.height / cache.share * cache.heads;
        plan.is_some_and(|plan| (plan.kv_heads, plan.key_dim, plan.value_dim) == (heads, cache.dim, cache.dim))
    };
    match device.regions().all(|region| region.caches.iter().all(|cache| own(region, cache))) {
        true => Ok(()),
        false => Err(refused("its caches are not those of the model")),
    }
}

/// An element of a cache: its PE, its offset in the array there, and its place in the caller's data.
type Element = ((usize, usize), usize, usize);

impl Wafer {
    /// Reads the program from its text, checks it, and fills the memories.
    pub(super) fn new(bundle: &Arc<Bundle>, device: &WseDevice, options: &Options) -> Result<Self> {
        if options.slots != 1 {
            let what = format!("a wafer holds one sequence, and {} are asked for", options.slots);
            return Err(Diagnostic::error(Code::BadOption, what).into());
        }
        if options.capacity as u64 > device.context {
            let what =
                format!("a context of {} tokens is more than the {} of the wafer's memories", options.capacity, device.context);
            return Err(Diagnostic::error(Code::ContextFull, what).help("compile it with a longer --context").into());
        }
        sound(bundle, device)?;
        let fabrics = device.wafers.iter().map(|wafer| load(bundle, wafer, options.fabric)).collect::<Result<Vec<Fabric>>>()?;
        let mut wafer =
            Self { fabrics, bundle: bundle.clone(), device: device.clone(), logits: Vec::new(), last: 0, spent: Vec::new() };
        for (number, program) in device.wafers.iter().enumerate() {
            for region in &program.regions {
                wafer.fill(number, region)?;
            }
        }
        let rows = device.head().map_or(0, |region| region.height);
        wafer.logits = vec![0.0; (rows * device.logits) as usize];
        Ok(wafer)
    }

    /// Fills the arrays of a region's PEs.
    fn fill(&mut self, wafer: usize, region: &WaferRegion) -> Result<()> {
        let bundle = self.bundle.clone();
        for array in &region.arrays {
            let mut words = vec![0u16; array.words as usize];
            for row in 0..region.height {
                for column in 0..self.device.width {
                    words.fill(0);
                    for piece in &array.pieces {
                        let tensor = bundle.tensor(&piece.tensor).map_or(&[][..], |tensor| tensor.data);
                        copy(piece, tensor, (column, row), &mut words);
                    }
                    let at = (column as usize, (region.top + row) as usize);
                    self.fabrics[wafer].write_array(at, &array.symbol, &words).map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    /// What the first region's columns get for a token.
    fn stream(&self, token: usize, position: i32, index: i32) -> Vec<f32> {
        let input = &self.device.input;
        let tensor = |name: &str| self.bundle.tensor(name).map_or(&[][..], |tensor| tensor.data);
        let hidden = input.hidden as usize;
        let codes = &tensor(&input.table)[token * hidden..][..hidden];
        let scale = &tensor(&input.scales)[2 * token..];
        let scale = f16::from_le_bytes([scale[0], scale[1]]).to_f32();
        let mut stream: Vec<f32> = codes.iter().map(|code| f32::from(*code as i8) * scale).collect();
        stream.resize(self.device.width as usize * input.piece as usize, 0.0);
        let mut angles = angles(input, input.inv_freq.as_deref().map_or(&[], tensor), position);
        let share = self.device.angles() as usize;
        angles.resize(self.device.width as usize * share, 0.0);
        let own = |(column, piece): (usize, &[f32])| {
            let share = &angles[column * share..][..share];
            piece.iter().chain(share).copied().chain([index as f32]).collect::<Vec<f32>>()
        };
        stream.chunks_exact(input.piece as usize).enumerate().flat_map(own).collect()
    }

    /// Runs consecutive tokens of a batch through all wafers: what leaves one enters the next.
    fn launch(&mut self, batch: &Batch<'_>, tokens: Range<usize>) -> Result<()> {
        let (columns, len, count) = (self.device.width as usize, self.device.stream() as usize, tokens.len());
        // A column's numbers of each token.
        let mut streams = vec![Vec::with_capacity(count * len); columns];
        for at in tokens {
            let stream = self.stream(batch.tokens[at] as usize, batch.positions[at], batch.index[at]);
            streams.iter_mut().zip(stream.chunks_exact(len)).for_each(|(column, part)| column.extend(part));
        }
        self.last = count;
        self.spent.clear();
        for (number, (fabric, wafer)) in self.fabrics.iter_mut().zip(&self.device.wafers).enumerate() {
            let height = wafer.regions.first().map_or(0, |region| region.height as usize);
            for (column, stream) in streams.iter().enumerate() {
                for row in 0..height {
                    fabric.write((column, row), "stream", stream).map_err(refused)?;
                }
            }
            self.spent.push(fabric.launch("step", &[count as u16]).map_err(refused)?);
            if number + 1 < self.device.wafers.len() {
                let top = wafer.regions.last().map_or(0, |region| region.top as usize);
                for (column, stream) in streams.iter_mut().enumerate() {
                    fabric.read((column, top), "stream", stream).map_err(refused)?;
                }
            }
        }
        Ok(())
    }

    /// Where a layer's cache is: wafer, region.
    fn cache(&self, layer: usize) -> Option<(usize, &WaferRegion, WaferCache)> {
        let wafers = self.device.wafers.iter().enumerate();
        let regions = wafers.flat_map(|(number, wafer)| wafer.regions.iter().map(move |region| (number, region)));
        let mut all = regions.flat_map(|(number, region)| region.caches.iter().map(move |cache| (number, region, *cache)));
        all.find(|(.., cache)| cache.layer as usize == layer)
    }

    /// The wafer of a span, and every element of it.
    fn elements(&self, span: CacheSpan) -> (usize, Vec<Element>) {
        let Some((wafer, region, cache)) = self.cache(span.layer) else { return (0, Vec::new()) };
        let (dim, entries, width) = (cache.dim as usize, cache.entries as usize, self.device.width as usize);
        let mut out = Vec::new();
        for row in 0..region.height as usize {
            for local in 0..cache.heads as usize {
                let head = row / cache.share as usize * cache.heads as usize + local;
                for at in 0..span.count {
                    let (column, entry) = ((span.first + at) % width, (span.first + at) / width);
                    for d in 0..dim {
                        let offset = match span.part {
                            CachePart::Key => cache.keys as usize + (local * dim + d) * entries + entry,
                            CachePart::Value => cache.values as usize + (local * entries + entry) * dim + d,
                        };
                        out.push(((column, region.top as usize + row), offset, (head * span.count + at) * dim + d));
                    }
                }
            }
        }
        (wafer, out)
    }
}

/// Reads a wafer's program from its text and checks it.
fn load(bundle: &Bundle, wafer: &WaferProgram, settings: Settings) -> Result<Fabric> {
    let mut texts = BTreeMap::new();
    for file in &wafer.files {
        let bytes = bundle.read(&format!("{}/{file}", wafer.folder))?.unwrap_or_default();
        let text = String::from_utf8(bytes).map_err(|_| refused(format!("{file} is no text")))?;
        texts.insert(file.clone(), text);
    }
    let layout = layout::parse(&texts).and_then(|sources| Layout::build(&sources)).map_err(refused)?;
    Ok(Fabric::new(layout, settings).map_err(refused)?)
}

/// A piece of a tensor into an array; what the tensor lacks stays zero.
fn copy(piece: &Piece, tensor: &[u8], (column, row): (u64, u64), words: &mut [u16]) {
    let along = |at: u64, bytes: u64| at.saturating_mul(bytes);
    let at = piece.from.saturating_add(along(column, piece.column)).saturating_add(along(row / piece.share, piece.row));
    let from = usize::try_from(at).ok().and_then(|at| tensor.get(at..)).unwrap_or(&[]);
    let to = &mut words[piece.to as usize..][..piece.words as usize];
    for (word, bytes) in to.iter_mut().zip(from.chunks(2)) {
        *word = u16::from_le_bytes([bytes[0], bytes.get(1).copied().unwrap_or(0)]);
    }
}

/// Cosines, then sines, as the dialect's `rotary` says.
fn angles(input: &HostInput, inv_freq: &[u8], position: i32) -> Vec<f32> {
    let frequencies = inv_freq.chunks_exact(4).take(input.half as usize);
    let angles: Vec<f32> =
        frequencies.map(|bytes| position as f32 * f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect();
    let of = |f: fn(f64) -> f64| {
        angles.iter().map(move |angle| f(f64::from(*angle)) as f32 * input.rotary_scale).collect::<Vec<f32>>()
    };
    [of(libm::cos), of(libm::sin)].concat()
}

impl Device for Wafer {
    fn describe(&self) -> String {
        let pes: u64 = self.device.regions().map(|region| region.height * self.device.width).sum();
        let wafers = match self.fabrics.len() {
            1 => String::new(),
            count => format!(" on {count} wafers"),
        };
        let mut text = format!("wse, {pes} PEs{wafers}: a model of the chip, not run on silicon");
        if !self.spent.is_empty() {
            let sum = |of: fn(&Report) -> u64| self.spent.iter().map(of).sum::<u64>();
            let (cycles, compute, fabric) = (sum(|r| r.cycles), sum(|r| r.compute), sum(|r| r.fabric));
            let idle = cycles.saturating_sub(compute + fabric);
            text += &format!(
                "; last step, of {}, {cycles} cycles, of which the busiest PE computes {compute}, awaits or moves wavelets {fabric}, idles {idle}",
                if self.last == 1 { "1 token".to_owned() } else { format!("{} tokens", self.last) }
            );
        }
        text
    }

    fn max_tokens(&self) -> usize {
        self.device.tokens.max(1) as usize
    }

    fn step(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        let vocab = self.bundle.manifest().model.vocab as usize;
        let mut out = logits.chunks_exact_mut(vocab);
        let mut next = 0;
        while next < batch.tokens.len() {
            // Logits are those of a launch's last token.
            let wanted = batch.logit_rows.iter().map(|row| *row as usize + 1).filter(|end| *end > next).min();
            let end = (next + self.device.tokens as usize).min(wanted.unwrap_or(batch.tokens.len()));
            self.launch(batch, next..end)?;
            next = end;
            for _ in batch.logit_rows.iter().filter(|row| **row as usize + 1 == end) {
                let (Some(region), Some(fabric)) = (self.device.head(), self.fabrics.last()) else { break };
                let chunk = self.device.logits as usize;
                for (row, part) in self.logits.chunks_exact_mut(chunk).enumerate() {
                    fabric.read((0, region.top as usize + row), "result", part).map_err(refused)?;
                }
                if let Some(out) = out.next() {
                    out.copy_from_slice(&self.logits[..vocab]);
                }
            }
        }
        Ok(())
    }

    fn read_cache(&self, span: CacheSpan) -> Result<Vec<f32>> {
        let name = part_name(span.part);
        let (wafer, elements) = self.elements(span);
        let mut data = vec![0.0; elements.iter().map(|(.., to)| to + 1).max().unwrap_or(0)];
        for (pe, offset, to) in elements {
            data[to] = f16::from_bits(self.fabrics[wafer].word(pe, name, offset)).to_f32();
        }
        Ok(data)
    }

    fn write_cache(&mut self, span: CacheSpan, data: &[f32]) -> Result<()> {
        let name = part_name(span.part);
        let (wafer, elements) = self.elements(span);
        for (pe, offset, from) in elements {
            self.fabrics[wafer].set_word(pe, name, offset, f16::from_f32(data[from]).to_bits());
        }
        Ok(())
    }
}

fn part_name(part: CachePart) -> &'static str {
    match part {
        CachePart::Key => "keys",
        CachePart::Value => "values",
    }
}
