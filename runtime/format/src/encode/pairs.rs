//! The pair codecs: which scale, which containers.
//!
//! The best containers for given scales are the trellis search's; the best scales for given containers are the least
//! squares'. Neither knows the other, so the encoder goes back and forth:
//!
//! 1. start every group at `scale = factor * rms / sigma` (about the group's mean, which becomes the offset, where the
//!    spec has offsets), for each factor of the [`Search`];
//! 2. search, fit, and take the fit for the next search, `rounds` times; remember each group's line of least error;
//! 3. search with the remembered lines, and fit once more.
//!
//! All lines are rounded to the spec's scale type before they are used, so a search always sees the scale that will be
//! stored. A fit is taken only where it lowers the error.

use super::moments::{Line, Moments};
use crate::packed::{Packed, PackedSpec};
use crate::stream;
use crate::table::Pair;
use crate::trellis::{LANES, Lane, Scratch, Trellis};

/// How much an encoder tries.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    /// Scales to start from, relative to the best one for a Gaussian.
    pub factors: Vec<f32>,
    /// Searches per factor, each but the first with the fit of the one before.
    pub rounds: u32,
}

impl Search {
    /// The search for a spec.
    pub fn of(_spec: PackedSpec) -> Self {
        Search { factors: vec![1.0], rounds: 1 }
    }
}

#[derive(Debug, Clone)]
pub(super) struct PairEncoder {
    trellis: Trellis,
    values: Vec<[f32; 2]>,
    spec: PackedSpec,
    search: Search,
}

/// Sixteen rows at work.
struct Block<'a> {
    encoder: &'a PairEncoder,
    weights: Vec<Lane<f32>>,
    scaled: Vec<Lane<f32>>,
    containers: Vec<Lane<u8>>,
    scratch: Scratch,
}

impl PairEncoder {
    pub(super) fn new(pairs: &[Pair], spec: PackedSpec, search: Search) -> Self {
        let values: Vec<[f32; 2]> = pairs.iter().map(|pair| pair.map(f32::from)).collect();
        PairEncoder { trellis: Trellis::new(&values), values, spec, search }
    }

    /// Appends rows.
    pub(super) fn encode(&self, weights: &[f32], packed: &mut Packed) {
        let cols = self.spec.cols();
        let mut block = Block {
            encoder: self,
            weights: vec![[0.0; LANES]; cols],
            scaled: vec![[0.0; LANES]; cols],
            containers: Vec::new(),
            scratch: Scratch::default(),
        };
        let scale_type = self.spec.scale();
        for weights in weights.chunks(LANES * cols) {
            let rows = weights.len() / cols;
            for (k, column) in block.weights.iter_mut().enumerate() {
                *column = std::array::from_fn(|lane| if lane < rows { weights[lane * cols + k] } else { 0.0 });
            }
            let lines = block.encode();
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

impl Block<'_> {
    /// Finds lines and containers of the rows in `weights`; returns the lines by group.
    fn encode(&mut self) -> Vec<Lane<Line>> {
        let search = &self.encoder.search;
        let groups = self.moments();
        let mut best: Vec<Lane<(f64, Line)>> = vec![[(f64::INFINITY, Line::default()); LANES]; groups.len()];
        for &factor in &search.factors {
            let mut lines: Vec<Lane<Line>> = groups.iter().map(|group| self.start(group, factor)).collect();
            for _ in 0..search.rounds {
                let moments = self.moments_under(&lines);
                for ((lines, best), moments) in lines.iter_mut().zip(&mut best).zip(&moments) {
                    self.refit(lines, moments);
                    for lane in 0..LANES {
                        let error = moments.error(lane, lines[lane]);
                        if error < best[lane].0 {
                            best[lane] = (error, lines[lane]);
                        }
                    }
                }
            }
        }
        let mut lines: Vec<Lane<Line>> = best.iter().map(|best| best.map(|(_, line)| line)).collect();
        let moments = self.moments_under(&lines);
        for (lines, moments) in lines.iter_mut().zip(&moments) {
            self.refit(lines, moments);
        }
        lines
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

    /// Moments of the weights alone, by group.
    fn moments(&self) -> Vec<Moments> {
        self.by_group(|k, moments| moments.add(&self.weights[k], &[0.0; LANES]))
    }

    /// Searches containers for the lines, and returns the moments of weights and integers by group.
    fn moments_under(&mut self, lines: &[Lane<Line>]) -> Vec<Moments> {
        let spec = self.encoder.spec;
        for (group, lines) in lines.iter().enumerate() {
            let columns = spec.group().columns(spec.cols(), group);
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
        let spec = self.encoder.spec;
        let group = |group| {
            let mut moments = Moments::default();
            spec.group().columns(spec.cols(), group).for_each(|k| add(k, &mut moments));
            moments
        };
        (0..spec.groups()).map(group).collect()
    }
}
