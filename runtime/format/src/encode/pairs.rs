//! The pair codecs: which scale, which containers.
//!
//! The best containers for given scales are the trellis search's; the best scales for given containers are the least
//! squares'. Neither knows the other, so the encoder goes back and forth:
//!
//! 1. Start every group at `scale = rms / sigma` (about the group's mean, which becomes the offset, where the spec has
//!    offsets); search, fit, and remember each group's line and its error.
//! 2. Do the same from scales larger by the factor `STEP`, and again, as long as that lowers the error of the row by the
//!    share `GAIN`; then from smaller ones. The start of 1 is the best for a Gaussian; heavy tails want more.
//! 3. Search with the remembered lines, and fit once more.
//!
//! Where a search is dear, a sample of the columns of a long row has to do for 1 and 2, one stripe in [`SPARSE`]: that costs `w11` 0.2 % of the
//! error on a Gaussian source, `a11` nothing that could be seen, and a Gaussian row takes 1.75 searches rather than 4.
//!
//! All lines are rounded to the spec's scale type before they are used, so a search always sees the scale that will be
//! stored. A fit is taken only where it lowers the error. Sixteen rows go together, but each stops at its own time:
//! what it becomes does not depend on its neighbours.

use super::moments::{Line, Moments};
use crate::packed::{Packed, PackedSpec};
use crate::stream;
use crate::table::Pair;
use crate::trellis::{LANES, Lane, Scratch, Trellis};
use std::ops::Range;

/// Ratio of neighbouring starting scales.
const STEP: f32 = 1.15;
/// Starting scales on each side of the first one.
const STEPS: i32 = 6;
/// Share of a row's squared error that another starting scale has to take away for the next one to be tried.
const GAIN: f64 = 0.01;
/// Columns of a stripe, and one in how many stripes of a long row starting scales are tried on.
const STRIPE: usize = 64;
const SPARSE: usize = 4;
/// Columns from which on a row without groups is long.
const LONG: usize = 1024;
/// Bits of a state from which on a search is so dear that a sample has to do.
const DEAR: u32 = 4;

#[derive(Debug, Clone)]
pub(super) struct PairEncoder {
    trellis: Trellis,
    values: Vec<[f32; 2]>,
    spec: PackedSpec,
}

/// Sixteen rows at work, or what a sample has of them.
struct Block<'a> {
    encoder: &'a PairEncoder,
    weights: Vec<Lane<f32>>,
    scaled: Vec<Lane<f32>>,
    containers: Vec<Lane<u8>>,
    scratch: Scratch,
}

impl PairEncoder {
    pub(super) fn new(pairs: &[Pair], spec: PackedSpec) -> Self {
        let values: Vec<[f32; 2]> = pairs.iter().map(|pair| pair.map(f32::from)).collect();
        PairEncoder { trellis: Trellis::new(&values), values, spec }
    }

    /// Appends rows.
    pub(super) fn encode(&self, weights: &[f32], packed: &mut Packed) {
        let cols = self.spec.cols();
        let mut block = Block::new(self, cols);
        let long = self.spec.groups() == 1 && cols >= LONG && self.trellis.overlap() >= DEAR;
        let mut sample = long.then(|| {
            let columns: Vec<usize> = (0..cols).filter(|k| (k / STRIPE).is_multiple_of(SPARSE)).collect();
            (Block::new(self, columns.len()), columns)
        });
        let scale_type = self.spec.scale();
        for weights in weights.chunks(LANES * cols) {
            let rows = weights.len() / cols;
            for (k, column) in block.weights.iter_mut().enumerate() {
                *column = std::array::from_fn(|lane| if lane < rows { weights[lane * cols + k] } else { 0.0 });
            }
            let lines = match &mut sample {
                Some((sample, columns)) => {
                    sample.weights.iter_mut().zip(&*columns).for_each(|(column, k)| *column = block.weights[*k]);
                    sample.lines()
                }
                None => block.lines(),
            };
            let lines = block.encode(lines);
            for lane in 0..rows {
                let start = packed.codes.len();
                packed.codes.resize(start + self.spec.row_bytes(), 0);
                stream::write(block.containers.iter().map(|containers| containers[lane]), &mut packed.codes[start..]);
                for lines in &lines {
                    scale_type.push(&mut packed.scales, lines[lane].scale);
                    if self.spec.asymmetric() {
                        scale_type.push(&mut packed.offsets, lines[lane].offset);
                    }
                }
            }
        }
    }

    fn round(&self, line: Line) -> Line {
        let round = |value| self.spec.scale().round(value);
        Line { scale: round(line.scale), offset: round(line.offset) }
    }
}

impl<'a> Block<'a> {
    fn new(encoder: &'a PairEncoder, columns: usize) -> Self {
        let zeros = vec![[0.0; LANES]; columns];
        Block { encoder, weights: zeros.clone(), scaled: zeros, containers: Vec::new(), scratch: Scratch::default() }
    }

    /// Finds lines for the rows in `weights`, by group.
    fn lines(&mut self) -> Vec<Lane<Line>> {
        let groups = self.by_group(|k, moments| moments.add(&self.weights[k], &[0.0; LANES]));
        let mut best = vec![[(f64::INFINITY, Line::default()); LANES]; groups.len()];
        self.try_start(&groups, 1.0, &mut best, [true; LANES]);
        for step in [STEP, 1.0 / STEP] {
            let mut going = [true; LANES];
            let mut factor = 1.0;
            for _ in 0..STEPS {
                factor *= step;
                going = self.try_start(&groups, factor, &mut best, going);
                if going == [false; LANES] {
                    break;
                }
            }
        }
        best.iter().map(|best| best.map(|(_, line)| line)).collect()
    }

    /// Finds the containers of the rows in `weights` for these lines; returns the lines that are best for them.
    fn encode(&mut self, mut lines: Vec<Lane<Line>>) -> Vec<Lane<Line>> {
        let moments = self.moments_under(&lines);
        for (lines, moments) in lines.iter_mut().zip(&moments) {
            self.refit(lines, moments);
        }
        lines
    }

    /// Starts the lanes that are `going` at a multiple of the Gaussian's scales, and remembers what is better than
    /// `best`. Returns the lanes where that was worth while.
    fn try_start(&mut self, groups: &[Moments], factor: f32, best: &mut [Lane<(f64, Line)>], going: Lane<bool>) -> Lane<bool> {
        let mut lines: Vec<Lane<Line>> = groups.iter().map(|group| self.start(group, factor)).collect();
        let moments = self.moments_under(&lines);
        let (mut before, mut after) = ([0.0; LANES], [0.0; LANES]);
        for ((lines, best), moments) in lines.iter_mut().zip(best).zip(&moments) {
            self.refit(lines, moments);
            for lane in 0..LANES {
                before[lane] += best[lane].0;
                let error = moments.error(lane, lines[lane]);
                if going[lane] && error < best[lane].0 {
                    best[lane] = (error, lines[lane]);
                }
                after[lane] += best[lane].0;
            }
        }
        std::array::from_fn(|lane| going[lane] && after[lane] < (1.0 - GAIN) * before[lane])
    }

    fn start(&self, group: &Moments, factor: f32) -> Lane<Line> {
        let spec = self.encoder.spec;
        std::array::from_fn(|lane| {
            let center = if spec.asymmetric() { group.mean(lane) } else { 0.0 };
            let scale = group.spread(lane, center) as f32 / spec.codec().facts().sigma * factor;
            self.encoder.round(Line { scale, offset: center as f32 })
        })
    }

    /// Replaces lines by better ones for the same containers.
    fn refit(&self, lines: &mut Lane<Line>, moments: &Moments) {
        for (lane, line) in lines.iter_mut().enumerate() {
            if let Some(fit) = moments.fit(lane, self.encoder.spec.asymmetric()) {
                let fit = self.encoder.round(fit);
                if moments.error(lane, fit) < moments.error(lane, *line) {
                    *line = fit;
                }
            }
        }
    }

    /// Searches containers for the lines, and returns the moments of weights and integers by group.
    fn moments_under(&mut self, lines: &[Lane<Line>]) -> Vec<Moments> {
        for (group, lines) in lines.iter().enumerate() {
            let columns = self.columns(group);
            for (scaled, weights) in self.scaled[columns.clone()].iter_mut().zip(&self.weights[columns]) {
                for lane in 0..LANES {
                    let Line { scale, offset } = lines[lane];
                    scaled[lane] = if scale == 0.0 { 0.0 } else { (weights[lane] - offset) / scale };
                }
            }
        }
        let trellis = &self.encoder.trellis;
        trellis.search(&self.scaled, &mut self.containers, &mut self.scratch);
        let windows = |j: usize, lane: usize| {
            let next = self.containers.get(j + 1).map_or(0, |next| next[lane]);
            (usize::from(next) << 7 | usize::from(self.containers[j][lane])) & (self.encoder.values.len() - 1)
        };
        self.by_group(|k, moments| {
            let integers = std::array::from_fn(|lane| self.encoder.values[windows(k / 2, lane)][k % 2]);
            moments.add(&self.weights[k], &integers);
        })
    }

    fn by_group(&self, mut add: impl FnMut(usize, &mut Moments)) -> Vec<Moments> {
        let group = |group| {
            let mut moments = Moments::default();
            self.columns(group).for_each(|k| add(k, &mut moments));
            moments
        };
        (0..self.encoder.spec.groups()).map(group).collect()
    }

    fn columns(&self, group: usize) -> Range<usize> {
        match self.encoder.spec {
            spec if spec.groups() == 1 => 0..self.weights.len(),
            spec => spec.group().columns(spec.cols(), group),
        }
    }
}
