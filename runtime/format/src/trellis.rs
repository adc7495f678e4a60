//! The least-error containers of sixteen rows at a time.
//!
//! Let container `j` be `u << m | s` with `s` its low `m` bits, and let `t` be the low `m` bits of container `j + 1`.
//! Window `j` is then `t << 7 | u << m | s`: the pairs that container `j` can mean depend on the next container's
//! low bits alone. So the containers of a row are a path through `2^m` states, the state of step `j` being `s`, and
//! the least-error path is found by the Viterbi algorithm: for every next state `t`, the best `(s, u)` over all `2^7`
//! containers, `2^W` distances per container in all. The last container sees zeros beyond the row: `t = 0`.
//!
//! Rows are independent, so they are the lanes of the vectors: every step looks at sixteen rows, one table entry
//! broadcast to all. What enters: weights divided by their scales, lanes innermost. What leaves: containers, lanes
//! innermost. The distance to a pair `(a, b)` is taken without its constant part, `|x|^2`:
//!
//! ```text
//! cost = (a^2 + b^2) + (-2a) x0 + (-2b) x1
//! ```
//!
//! Path costs are kept relative to the best state's, so their size does not grow with the row. Equal costs are
//! decided for the lower `s`, then the lower `u`. Floating-point operations are never fused or reordered, so that the
//! result is the same with every vector width. Tables in which the next state moves all points alike have a faster search of their own (`moved`).

mod forward;
mod moved;

use forward::Forward;
use moved::Moved;

/// Rows per step.
pub const LANES: usize = 16;

/// One number per row.
pub type Lane<T> = [T; LANES];

/// A pair as the search sees it: `[-2a, -2b, a^2 + b^2]`, and the container that means it.
type Entry = [f32; 4];

/// The widest overlap of windows.
const WIDEST: u32 = 5;

/// A search over one table.
#[derive(Debug, Clone)]
pub struct Trellis {
    overlap: u32,
    /// In the order of the search: next state `t`, then state `s`, then `u`.
    table: Vec<Entry>,
    /// The same where the second weight of the pair is padding and does not count.
    half: Vec<Entry>,
    /// In parts, where it has them: the table, and the same where the second weight does not count.
    moved: Option<[Moved; 2]>,
}

/// Memory of a search, kept between calls.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    /// The best container into each next state, `2^m` per step; of a table in parts, its state.
    back: Vec<Lane<u8>>,
}

impl Trellis {
    /// A search over `2^(7 + overlap)` pairs in the order of the window. `overlap` is at most 5.
    pub fn new(pairs: &[[f32; 2]]) -> Self {
        let overlap = pairs.len().trailing_zeros().wrapping_sub(7);
        assert!(overlap <= WIDEST && pairs.len() == 128 << overlap, "no trellis over {} pairs", pairs.len());
        let states = 1 << overlap;
        let by_state = |t: usize| {
            let containers = (0..states).flat_map(move |s| (s..128).step_by(states));
            containers.map(move |container: usize| (pairs[t << 7 | container], container as f32))
        };
        let entries = || (0..states).flat_map(by_state);
        Trellis {
            overlap,
            moved: Moved::of(pairs, overlap).map(|table| [table.clone(), table.half()]),
            table: entries().map(|([a, b], container)| [-2.0 * a, -2.0 * b, a * a + b * b, container]).collect(),
            half: entries().map(|([a, _], container)| [-2.0 * a, 0.0, a * a, container]).collect(),
        }
    }

    /// Bits of a window that belong to the next container, `m`.
    pub fn overlap(&self) -> u32 {
        self.overlap
    }

    /// Finds the containers of sixteen rows. `x` has one entry per column; `containers` gets one per two columns.
    pub fn search(&self, x: &[Lane<f32>], containers: &mut Vec<Lane<u8>>, scratch: &mut Scratch) {
        let count = x.len().div_ceil(2);
        containers.clear();
        containers.resize(count, [0; LANES]);
        if let Some(tables) = &self.moved {
            return moved::search(tables, x, containers, scratch);
        }
        scratch.back.resize(count << self.overlap, [0; LANES]);
        Forward { trellis: self, x, back: &mut scratch.back }.run();
        let mask = (1u8 << self.overlap) - 1;
        let mut state = [0u8; LANES];
        for (step, containers) in containers.iter_mut().enumerate().rev() {
            let back = &scratch.back[step << self.overlap..][..1 << self.overlap];
            for lane in 0..LANES {
                containers[lane] = back[usize::from(state[lane])][lane];
                state[lane] = containers[lane] & mask;
            }
        }
    }
}
