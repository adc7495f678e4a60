//! What lies where in a context: the memory that a caller supplies.
//!
//! ```text
//! head     64-bit words: see `Word`; then the run-time quantities, the bases, and the arguments of the kernel that runs
//! slots    per slot its length, then per slot its length after the step that runs, 64 bits each
//! inputs   the five arrays of a step, each in so many bytes
//! tokens   the arena's section with a row per token
//! rows     the arena's section with a row per wanted row of logits
//! cache    per layer keys, then values: [slot][head][entry][column]
//! ```
//!
//! Every part begins at a multiple of 64 bytes. So do the halves of every layer of the cache, because the entries of a slot are rounded up
//! to as many as have halves of whole 64 bytes whatever their columns are.

use q35_bundle::{ALIGN, CacheLayer, CachePart, MemoryPlan};
use q35_mlir::builder::{Builder, Operand, Val};
use q35_mlir::types::{I64, PTR};

/// Most slots.
pub(super) const MOST_SLOTS: i64 = 1 << 16;
/// Most tokens of a step.
pub(super) const MOST_TOKENS: i64 = 1 << 20;
/// Most bytes of a cache.
const MOST_BYTES: u64 = 1 << 60;

/// A run-time size that steps refer to: those that kernels get, in their order, and what the tables need beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Tokens of the step.
    Tokens,
    /// Wanted rows of logits.
    Rows,
    /// Slots of the cache.
    Slots,
    /// Entries per slot, rounded up.
    Capacity,
    /// One.
    One,
    /// Entries of all slots.
    Cells,
    /// Bytes from one array of inputs to the next.
    InputBytes,
}

/// What arguments are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// The arena's section with a row per token.
    Tokens,
    /// The arena's section with a row per wanted row of logits.
    Logits,
    /// The weights file.
    Weights,
    /// The cache.
    Cache,
    /// The arrays of a step.
    Inputs,
}

const QUANTITIES: isize = 9;
const BASES: isize = QUANTITIES + 7;

/// A word of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Which program the context belongs to.
    Mark,
    /// 1 while a thread uses the context.
    Busy,
    /// The feature level that kernels run at.
    Level,
    /// Entries of a slot that may be used.
    Limit,
    /// Most tokens of a step.
    MaxTokens,
    /// Most wanted rows of a step.
    MaxRows,
    /// The caller's function that shares tiles among threads; null for none.
    Share,
    /// What that function is given.
    User,
    /// The kernel that runs.
    Kernel,
    /// The first of the [`Quantity`]s.
    Quantities = QUANTITIES,
    /// The first of the [`Base`]s.
    Bases = BASES,
    /// The first argument of the kernel that runs.
    Arguments = BASES + 5,
}

/// Bytes of the cache's part before one half of a layer, per cell.
pub(super) fn cache_offset(plan: &MemoryPlan, layer: usize, part: CachePart) -> u64 {
    let before: u64 = plan.cache[..layer].iter().map(CacheLayer::entry_bytes).sum();
    before + if part == CachePart::Value { plan.cache[layer].half_bytes(CachePart::Key) } else { 0 }
}

/// Entries to which the capacity of a slot is rounded up: so many of the shortest elements are 64 bytes.
fn entries(plan: &MemoryPlan) -> i64 {
    let shortest = plan.cache.iter().map(|layer| layer.dtype.bytes()).min().unwrap_or(ALIGN);
    (ALIGN / shortest) as i64
}

/// Both halves of every layer, in the order in which they lie.
pub(super) fn halves(plan: &MemoryPlan) -> impl Iterator<Item = (usize, CachePart)> + '_ {
    (0..plan.cache.len()).flat_map(|layer| [(layer, CachePart::Key), (layer, CachePart::Value)])
}

/// Most cells of a cache that can be counted in bytes.
pub(super) fn most_cells(plan: &MemoryPlan) -> i64 {
    (MOST_BYTES / plan.cache_entry_bytes().max(1)).min(1 << 50) as i64
}

/// A context of which the address is known.
#[derive(Clone, Copy)]
pub(super) struct Head<'k>(pub(super) Val<'k>);

impl<'k> Head<'k> {
    /// The address of a word.
    pub(super) fn at(self, word: Word) -> Val<'k> {
        self.0.at(8 * word as i64)
    }

    /// A word as a number.
    pub(super) fn get(self, word: Word) -> Val<'k> {
        self.at(word).load(I64, 8)
    }

    /// Writes a word.
    pub(super) fn set(self, word: Word, value: Val<'k>) {
        self.at(word).store(value, 8);
    }

    fn quantity_at(self, quantity: Quantity) -> Val<'k> {
        self.at(Word::Quantities).at(8 * quantity as i64)
    }

    /// A quantity.
    pub(super) fn quantity(self, quantity: Quantity) -> Val<'k> {
        self.quantity_at(quantity).load(I64, 8)
    }

    /// Writes a quantity.
    pub(super) fn set_quantity(self, quantity: Quantity, value: Val<'k>) {
        self.quantity_at(quantity).store(value, 8);
    }

    fn base_at(self, base: Base) -> Val<'k> {
        self.at(Word::Bases).at(8 * base as i64)
    }

    /// A base.
    pub(super) fn base(self, base: Base) -> Val<'k> {
        self.base_at(base).load(PTR, 8)
    }

    /// Writes a base.
    pub(super) fn set_base(self, base: Base, address: Val<'k>) {
        self.base_at(base).store(address, 8);
    }

    /// Where the length of a slot is, 64 bits; `arguments` are the most that a kernel has.
    pub(super) fn length(self, arguments: usize, slot: impl Operand<'k>) -> Val<'k> {
        let b = self.0.builder();
        self.0.at(head_bytes(arguments)).at(slot.as_type(b, I64) * 8)
    }

    /// Where its length after the step that runs is.
    pub(super) fn next_length(self, arguments: usize, slot: impl Operand<'k>) -> Val<'k> {
        self.length(arguments, slot).at(self.quantity(Quantity::Slots) * 8)
    }
}

/// Bytes of the head of a context whose kernels have so many arguments at most.
pub(super) fn head_bytes(arguments: usize) -> i64 {
    (8 * (Word::Arguments as usize + arguments)).next_multiple_of(ALIGN as usize) as i64
}

/// What a caller asks for, 64 bits each.
#[derive(Clone, Copy)]
pub(super) struct Sizes<'k> {
    pub(super) slots: Val<'k>,
    pub(super) limit: Val<'k>,
    pub(super) max_tokens: Val<'k>,
    pub(super) max_rows: Val<'k>,
}

/// Where the parts begin, in bytes from the start of the context.
pub(super) struct Parts<'k> {
    pub(super) capacity: Val<'k>,
    pub(super) cells: Val<'k>,
    pub(super) input_bytes: Val<'k>,
    pub(super) inputs: Val<'k>,
    pub(super) tokens: Val<'k>,
    pub(super) rows: Val<'k>,
    pub(super) cache: Val<'k>,
    /// Bytes of everything.
    pub(super) end: Val<'k>,
}

/// The parts of a context of given sizes, which are within their ranges.
pub(super) fn parts<'k>(b: &'k Builder<'k>, plan: &MemoryPlan, arguments: usize, sizes: Sizes<'k>) -> Parts<'k> {
    let up = |value: Val<'k>, to: i64| (value + (to - 1)) & -to;
    let align = ALIGN as i64;
    let capacity = up(sizes.limit, entries(plan));
    let cells = sizes.slots * capacity;
    let input_bytes = up(sizes.max_tokens * 4, align);
    let inputs = up(sizes.slots * 16, align) + head_bytes(arguments);
    let tokens = inputs + input_bytes * 5;
    let rows = tokens + sizes.max_tokens * plan.bytes_per_token as i64;
    let cache = rows + sizes.max_rows * plan.bytes_per_logit_row as i64;
    let end = up(cache + cells * b.i64(plan.cache_entry_bytes() as i64), align);
    Parts { capacity, cells, input_bytes, inputs, tokens, rows, cache, end }
}
