//! A batch of sequences in progress: slots of different lengths that share one device.

use crate::Options;
use crate::device::{self, Batch, CacheSpan, Device};
use crate::profile::{Recorder, What};
use crate::sampling::greedy;
use q35_bundle::{Bundle, CachePart};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use std::sync::Arc;

/// Which rows of a chunk get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None: the chunk only fills the cache.
    Nothing,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// Tokens that continue a slot.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The slot.
    pub slot: usize,
    /// Token ids.
    pub tokens: &'a [u32],
    /// Positions as RoPE counts them, one per token; `None` to go on counting from the slot's length.
    pub positions: Option<&'a [u32]>,
    /// Which logits to compute.
    pub want: Want,
}

/// Logits of a step: one row per wanted token, in the order of chunks and of tokens in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// The rows, each as long as the vocabulary.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.vocab)
    }

    /// One row.
    pub fn row(&self, n: usize) -> &[f32] {
        &self.values[n * self.vocab..][..self.vocab]
    }
}

/// A device with a program and a cache.
pub struct Session {
    bundle: Arc<Bundle>,
    device: Box<dyn Device>,
    lengths: Vec<usize>,
    capacity: usize,
    recorder: Option<Recorder>,
}

/// The arrays of a step, for all of its tokens.
#[derive(Default)]
struct Arrays {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    slots: Vec<i32>,
    index: Vec<i32>,
    wanted: Vec<bool>,
}

impl Session {
    /// Sets up the device of the bundle, with an empty cache.
    pub fn new(bundle: Arc<Bundle>, options: &Options) -> Result<Self> {
        let device = device::open(&bundle, options)?;
        Ok(Self::on(device, bundle, options))
    }

    /// A session on a device that was set up with the same options.
    pub fn on(device: Box<dyn Device>, bundle: Arc<Bundle>, options: &Options) -> Self {
        let recorder = options.recorder.clone();
        Self { bundle, device, lengths: vec![0; options.slots], capacity: options.capacity, recorder }
    }

    /// What is run.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// One line about the device.
    pub fn describe(&self) -> String {
        self.device.describe()
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens a slot can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens that the device takes at once; [`Session::step`] cuts longer inputs.
    pub fn max_tokens(&self) -> usize {
        self.device.max_tokens()
    }

    /// Tokens a slot holds.
    pub fn length(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Forgets all but the first `length` tokens of a slot.
    pub fn truncate(&mut self, slot: usize, length: usize) {
        self.lengths[slot] = self.lengths[slot].min(length);
    }

    /// Entries `first..first + count` of one half of a layer in a slot, as `[head][entry][column]`.
    pub fn read_cache(&self, span: CacheSpan) -> Result<Vec<f32>> {
        self.device.read_cache(span)
    }

    /// Starts a slot anew with `count` entries; `entries(layer, part)` gives them as `[head][entry][column]`.
    pub fn fill(&mut self, slot: usize, count: usize, mut entries: impl FnMut(usize, CachePart) -> Vec<f32>) -> Result<()> {
        self.lengths[slot] = 0;
        self.check_room(slot, count)?;
        for layer in 0..self.bundle.manifest().plan.cache.len() {
            for part in [CachePart::Key, CachePart::Value] {
                self.device.write_cache(CacheSpan { layer, part, slot, first: 0, count }, &entries(layer, part))?;
            }
        }
        self.lengths[slot] = count;
        Ok(())
    }

    /// Continues every chunk's slot by its tokens. Nothing happens when a token is unknown or a slot too full.
    pub fn step(&mut self, chunks: &[Chunk<'_>]) -> Result<Logits> {
        let vocab = self.vocab();
        let mut values = Vec::new();
        self.run(chunks, |device, batch| {
            let done = values.len();
            values.resize(done + batch.logit_rows.len() * vocab, 0.0);
            device.step(batch, &mut values[done..])
        })?;
        Ok(Logits { values, vocab })
    }

    /// As [`Session::step`], but of every row of logits only the token that [`greedy`] takes: a device that chooses tokens itself keeps its
    /// logits.
    pub fn choose(&mut self, chunks: &[Chunk<'_>]) -> Result<Vec<u32>> {
        if !self.device.chooses() {
            return Ok(self.step(chunks)?.rows().map(greedy).collect());
        }
        let mut tokens = Vec::new();
        self.run(chunks, |device, batch| {
            let done = tokens.len();
            tokens.resize(done + batch.logit_rows.len(), 0);
            device.choose(batch, &mut tokens[done..])
        })?;
        Ok(tokens.into_iter().map(|token: i32| token as u32).collect())
    }

    fn vocab(&self) -> usize {
        self.bundle.manifest().model.vocab as usize
    }

    /// Runs every part of the chunks' tokens that the device takes at once.
    fn run(&mut self, chunks: &[Chunk<'_>], mut part: impl FnMut(&mut dyn Device, &Batch<'_>) -> Result<()>) -> Result<()> {
        let arrays = self.arrays(chunks, self.vocab())?;
        let max = self.device.max_tokens();
        for start in (0..arrays.tokens.len()).step_by(max) {
            let range = start..(start + max).min(arrays.tokens.len());
            let logit_rows: Vec<i32> =
                (0..).zip(&arrays.wanted[range.clone()]).filter_map(|(row, wanted)| wanted.then_some(row)).collect();
            let batch = Batch {
                tokens: &arrays.tokens[range.clone()],
                positions: &arrays.positions[range.clone()],
                slots: &arrays.slots[range.clone()],
                index: &arrays.index[range],
                logit_rows: &logit_rows,
            };
            let what = What::Step { tokens: batch.tokens.len() as u64, rows: logit_rows.len() as u64 };
            Recorder::around(self.recorder.as_ref(), what, || part(&mut *self.device, &batch))?;
        }
        for chunk in chunks {
            self.lengths[chunk.slot] += chunk.tokens.len();
        }
        Ok(())
    }

    /// Checks the chunks and lays them out.
    fn arrays(&self, chunks: &[Chunk<'_>], vocab: usize) -> Result<Arrays> {
        let (mut wrong, mut arrays, mut lengths) = (Diagnostics::new(), Arrays::default(), self.lengths.clone());
        for chunk in chunks {
            let (length, more) = (lengths[chunk.slot], chunk.tokens.len());
            wrong.absorb(self.room_after(chunk.slot, length, more));
            lengths[chunk.slot] += more;
            for (i, token) in chunk.tokens.iter().enumerate() {
                if *token as usize >= vocab {
                    let what = format!("token {token} is outside the vocabulary of {vocab}");
                    wrong.push(Diagnostic::error(Code::TokenOutOfRange, what));
                }
                let position = chunk.positions.map_or((length + i) as u32, |p| p[i]);
                let Ok(position) = i32::try_from(position) else {
                    wrong.push(Diagnostic::error(Code::BadInputs, format!("position {position} is too large")));
                    continue;
                };
                arrays.tokens.push(*token as i32);
                arrays.positions.push(position);
                arrays.slots.push(chunk.slot as i32);
                arrays.index.push((length + i) as i32);
                arrays.wanted.push(chunk.want == Want::All || (chunk.want == Want::Last && i + 1 == more));
            }
        }
        wrong.into_result(arrays)
    }

    /// An error when `more` tokens do not fit into a slot.
    pub fn check_room(&self, slot: usize, more: usize) -> Result<()> {
        self.room_after(slot, self.lengths[slot], more)
    }

    fn room_after(&self, slot: usize, length: usize, more: usize) -> Result<()> {
        if length + more <= self.capacity {
            return Ok(());
        }
        let what = format!("slot {slot} holds {length} tokens, and {more} more exceed its capacity of {}", self.capacity);
        Err(Diagnostic::error(Code::ContextFull, what).help("shorten the prompt or ask for fewer tokens").into())
    }
}
