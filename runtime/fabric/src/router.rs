//! Routers: a buffer per color, links of one wavelet per direction and cycle.

use q35_csl::Config;
use q35_csl::layout::RAMP;
use std::collections::VecDeque;

/// A wavelet in a buffer: its data and the cycle from which it may move on.
pub(crate) type Held = (u32, u64);

/// One color at one PE.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) color: u8,
    pub(crate) tx: u8,
    /// Wavelets that the router holds.
    pub(crate) held: VecDeque<Held>,
    /// Wavelets on the ramp and in the output queue that feeds this color.
    pub(crate) leaving: VecDeque<Held>,
    /// The output queue's depth, if one feeds this color.
    pub(crate) source: Option<usize>,
    /// The input queue that this color is delivered to.
    pub(crate) sink: Option<u8>,
}

impl Channel {
    pub(crate) fn new(color: u8, config: Config, source: Option<usize>, sink: Option<u8>) -> Self {
        let sink = sink.filter(|_| config.tx >> RAMP & 1 == 1);
        let source = source.filter(|_| config.rx >> RAMP & 1 == 1);
        Self { color, tx: config.tx, held: VecDeque::new(), leaving: VecDeque::new(), source, sink }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.leaving.is_empty()
    }
}

/// Documented depth of a WSE-3 output queue, in words.
pub(crate) const OUTPUT_DEPTH: usize = 8;

/// Documented depth of a WSE-3 input queue, in words.
pub(crate) fn input_depth(queue: u8) -> usize {
    if queue < 2 { 8 } else { 4 }
}
