//! Runs the manifest's list of steps on a launch-style machine: the same code for every such device.
//!
//! The arena has two sections, tokens first; a buffer lies at `section + rows * offset_per_row`. The arena is as large as the largest
//! step needs; longer prompts come in several steps. Steps over zero rows are skipped.

use super::{Batch, Block, CacheSpan, Device, Machine, Operand, Weight};
use crate::Options;
use crate::profile::{Recorder, What};
use half::f16;
use q35_bundle::{Binding, Bundle, CacheDtype, CachePart, Dim, Input, MemoryPlan, Rows, Step, row_stride};
use q35_diag::{Code, Diagnostic, Result};
use std::sync::Arc;

/// A launch-style device with a program loaded.
pub struct Executor<M> {
    machine: M,
    bundle: Arc<Bundle>,
    arena: Block,
    inputs: Block,
    cache: Vec<[Block; 2]>,
    /// Per step, the placed weight of each argument that is one.
    weights: Vec<Vec<Option<Weight>>>,
    slots: u64,
    capacity: u64,
    max_tokens: u64,
    recorder: Option<Recorder>,
}

/// Bytes between the starts of two arrays of the inputs block, for `max` elements each.
fn input_stride(max: u64) -> u64 {
    (max * 4).next_multiple_of(q35_bundle::ALIGN)
}

impl<M: Machine> Executor<M> {
    /// Allocates working memory and cache, and places the weights.
    pub fn new(mut machine: M, bundle: &Arc<Bundle>, options: &Options) -> Result<Self> {
        let manifest = bundle.manifest();
        let (slots, capacity) = (options.slots as u64, options.capacity as u64);
        // No step has more tokens than the cache.
        let max_tokens = (options.max_tokens as u64).min(slots.saturating_mul(capacity)).max(1);
        let too_large = || {
            let what =
                format!("a cache of {slots} slots of {capacity} tokens, and steps of {max_tokens} tokens, exceed any memory");
            Diagnostic::error(Code::AbsurdSize, what).help("ask for a shorter context or fewer slots")
        };
        let fits_i32 = |n: u64| n <= i32::MAX as u64;
        if ![slots, capacity, max_tokens].into_iter().all(fits_i32) {
            return Err(too_large().into());
        }
        let arena = manifest.plan.arena_bytes(max_tokens, max_tokens).ok_or_else(too_large)?;
        let arena = machine.allocate(arena)?;
        let inputs = machine.allocate(5 * input_stride(max_tokens))?;
        let mut cache = Vec::new();
        for layer in &manifest.plan.cache {
            let mut half = |part| {
                let sizes = [slots, capacity, layer.half_bytes(part)];
                let bytes = sizes.into_iter().try_fold(1u64, u64::checked_mul).ok_or_else(too_large)?;
                machine.allocate(bytes)
            };
            cache.push([half(CachePart::Key)?, half(CachePart::Value)?]);
        }
        let mut place = |step: &Step| -> Result<Vec<Option<Weight>>> {
            let each = step.args.iter().map(|arg| match arg {
                Binding::Weight(name) => machine.place(name).map(Some),
                _ => Ok(None),
            });
            each.collect()
        };
        let weights = manifest.steps.iter().map(&mut place).collect::<Result<_>>()?;
        machine.ready()?;
        let recorder = options.recorder.clone();
        Ok(Self { machine, bundle: bundle.clone(), arena, inputs, cache, weights, slots, capacity, max_tokens, recorder })
    }

    fn plan(&self) -> &MemoryPlan {
        &self.bundle.manifest().plan
    }

    /// Where a section of the arena starts in a step of `tokens` tokens.
    fn section(&self, rows: Rows, tokens: u64) -> u64 {
        match rows {
            Rows::Tokens => 0,
            Rows::Logits => tokens * self.plan().bytes_per_token,
        }
    }

    fn operand(&self, arg: &Binding, weight: Option<Weight>, dims: &[u64; 4]) -> Operand {
        match (arg, weight) {
            (_, Some(weight)) => Operand::Weight(weight),
            (Binding::Arena { rows, offset_per_row }, _) => {
                let at = self.section(*rows, dims[Dim::Tokens as usize]) + dims[rows.dim() as usize] * offset_per_row;
                Operand::Memory(self.arena, at)
            }
            (Binding::Cache { layer, part }, _) => Operand::Memory(self.cache[*layer as usize][*part as usize], 0),
            (Binding::Input(input), _) => Operand::Memory(self.inputs, *input as u64 * input_stride(self.max_tokens)),
            (Binding::Weight(name), None) => unreachable!("'{name}' was not placed"),
        }
    }

    /// The steps that lead to logits: all but the one that chooses tokens.
    fn logit_steps(&self) -> usize {
        self.bundle.manifest().steps.len() - usize::from(self.plan().chosen_offset_per_row.is_some())
    }

    /// Runs the first `count` steps for a batch.
    fn run(&mut self, batch: &Batch<'_>, count: usize) -> Result<()> {
        let (tokens, logit_rows) = (batch.tokens.len() as u64, batch.logit_rows.len() as u64);
        assert!(tokens <= self.max_tokens && logit_rows <= self.max_tokens, "the batch is larger than the arena");
        let dims = [tokens, logit_rows, self.slots, self.capacity];

        let arrays = [
            (Input::Tokens, batch.tokens),
            (Input::Positions, batch.positions),
            (Input::Slots, batch.slots),
            (Input::Index, batch.index),
            (Input::LogitRows, batch.logit_rows),
        ];
        for (input, array) in arrays {
            self.machine.write(
                self.inputs,
                input as u64 * input_stride(self.max_tokens),
                &to_bytes(array, i32::to_ne_bytes),
            )?;
        }

        // Launches whose time is taken are waited for one by one.
        if self.recorder.is_some() {
            return self.launch(dims, count);
        }
        let shape = [tokens, logit_rows, count as u64];
        if self.machine.replay(shape)? {
            return Ok(());
        }
        self.machine.begin(shape)?;
        self.launch(dims, count)?;
        if self.machine.end()? { Ok(()) } else { self.launch(dims, count) }
    }

    /// Launches the first `count` steps.
    fn launch(&mut self, dims: [u64; 4], count: usize) -> Result<()> {
        let bundle = self.bundle.clone();
        let manifest = bundle.manifest();
        let [tokens, logit_rows, ..] = dims;
        for (number, step) in manifest.steps.iter().take(count).enumerate() {
            let rows = dims[step.rows.dim() as usize];
            let variant = step.variants.iter().position(|v| v.max_rows.is_none_or(|max| rows <= max));
            let Some(variant) = variant.filter(|_| rows > 0) else { continue };
            let tiles =
                step.variants[variant].tiles.eval(&dims).filter(|tiles| *tiles <= i64::MAX as u64).ok_or_else(|| {
                    Diagnostic::error(Code::NotABundle, "the number of tiles overflows").at("node", &step.node)
                })?;
            let args = step.args.iter().zip(&self.weights[number]);
            let operands: Vec<Operand> = args.map(|(arg, weight)| self.operand(arg, *weight, &dims)).collect();
            let what = What::Launch { step: number, tokens, rows: logit_rows };
            let (machine, recorded) = (&mut self.machine, self.recorder.is_some());
            Recorder::around(self.recorder.as_ref(), what, || {
                machine.launch(number, variant, &operands, dims.map(|n| n as i64), tiles)?;
                if recorded { machine.wait() } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Where every head's part of `span` is.
    fn pieces(&self, span: CacheSpan) -> Pieces {
        let layer = &self.plan().cache[span.layer];
        assert!((span.slot as u64) < self.slots && (span.first + span.count) as u64 <= self.capacity, "span outside the cache");
        let (columns, dtype) = (layer.columns(span.part), layer.dtype);
        let entry = |h: u64| (span.slot as u64 * layer.kv_heads + h) * self.capacity + span.first as u64;
        Pieces {
            block: self.cache[span.layer][span.part as usize],
            offsets: (0..layer.kv_heads).map(|head| entry(head) * columns * dtype.bytes()).collect(),
            numbers: span.count * columns as usize,
            dtype,
        }
    }
}

/// Consecutive entries of one half of a layer in one slot, head by head.
struct Pieces {
    block: Block,
    /// Per head the bytes before its piece.
    offsets: Vec<u64>,
    /// Numbers of a piece.
    numbers: usize,
    dtype: CacheDtype,
}

impl Pieces {
    fn bytes(&self) -> usize {
        self.numbers * self.dtype.bytes() as usize
    }
}

/// Numbers as the cache stores them.
fn to_stored(dtype: CacheDtype, numbers: &[f32]) -> Vec<u8> {
    let half = |x: f32| f16::from_f32(x.clamp(-CacheDtype::F16_MAX, CacheDtype::F16_MAX)).to_ne_bytes();
    match dtype {
        CacheDtype::F32 => to_bytes(numbers, f32::to_ne_bytes),
        CacheDtype::F16 => to_bytes(numbers, half),
    }
}

/// Numbers from how the cache stores them.
fn from_stored(dtype: CacheDtype, numbers: &mut [f32], bytes: &[u8]) {
    match dtype {
        CacheDtype::F32 => fill(numbers, bytes),
        CacheDtype::F16 => {
            let (halves, _) = bytes.as_chunks::<2>();
            numbers.iter_mut().zip(halves).for_each(|(number, half)| *number = f16::from_ne_bytes(*half).to_f32());
        }
    }
}

/// Numbers as the machine stores them.
fn to_bytes<T: Copy, const N: usize>(numbers: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    numbers.iter().flat_map(|n| bytes(*n)).collect()
}

/// Floats from how the machine stores them.
fn fill(floats: &mut [f32], bytes: &[u8]) {
    let (words, _) = bytes.as_chunks::<4>();
    floats.iter_mut().zip(words).for_each(|(float, word)| *float = f32::from_ne_bytes(*word));
}

impl<M: Machine> Device for Executor<M> {
    fn describe(&self) -> String {
        self.machine.describe()
    }

    fn max_tokens(&self) -> usize {
        self.max_tokens as usize
    }

    fn step(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()> {
        self.run(batch, self.logit_steps())?;
        let [tokens, rows] = [batch.tokens, batch.logit_rows].map(|rows| rows.len() as u64);
        let vocab = self.bundle.manifest().model.vocab;
        let stride = row_stride(vocab).unwrap_or_else(|| unreachable!("checked when the bundle was opened"));
        let start = self.section(Rows::Logits, tokens) + rows * self.plan().logits_offset_per_row;
        let mut bytes = vec![0; vocab as usize * 4];
        for (row, out) in logits.chunks_exact_mut(vocab as usize).enumerate() {
            self.machine.read(self.arena, start + row as u64 * stride, &mut bytes)?;
            fill(out, &bytes);
        }
        Ok(())
    }

    fn chooses(&self) -> bool {
        self.plan().chosen_offset_per_row.is_some()
    }

    fn choose(&mut self, batch: &Batch<'_>, chosen: &mut [i32]) -> Result<()> {
        let place = self.plan().chosen_offset_per_row.unwrap_or_else(|| unreachable!("this program chooses no tokens"));
        self.run(batch, self.bundle.manifest().steps.len())?;
        let [tokens, rows] = [batch.tokens, batch.logit_rows].map(|rows| rows.len() as u64);
        if rows == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; chosen.len() * q35_bundle::ALIGN as usize];
        self.machine.read(self.arena, self.section(Rows::Logits, tokens) + rows * place, &mut bytes)?;
        for (token, line) in chosen.iter_mut().zip(bytes.chunks_exact(q35_bundle::ALIGN as usize)) {
            *token = i32::from_ne_bytes([line[0], line[1], line[2], line[3]]);
        }
        Ok(())
    }

    fn read_cache(&self, span: CacheSpan) -> Result<Vec<f32>> {
        let pieces = self.pieces(span);
        let mut data = vec![0.0; pieces.offsets.len() * pieces.numbers];
        let mut bytes = vec![0; pieces.bytes()];
        for (head, offset) in pieces.offsets.iter().enumerate() {
            self.machine.read(pieces.block, *offset, &mut bytes)?;
            from_stored(pieces.dtype, &mut data[head * pieces.numbers..][..pieces.numbers], &bytes);
        }
        Ok(data)
    }

    fn write_cache(&mut self, span: CacheSpan, data: &[f32]) -> Result<()> {
        let pieces = self.pieces(span);
        assert_eq!(data.len(), pieces.offsets.len() * pieces.numbers, "the data does not fill the span");
        for (head, offset) in pieces.offsets.iter().enumerate() {
            let piece = &data[head * pieces.numbers..][..pieces.numbers];
            self.machine.write(pieces.block, *offset, &to_stored(pieces.dtype, piece))?;
        }
        Ok(())
    }
}
