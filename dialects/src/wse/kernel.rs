//! What one PE does: buffers in its memory, and calls in order. Lengths are per PE, and per token: a step goes through the calls with one block
//! of its tokens after the other, a call works on each token of a block, and buffers hold one token's numbers after the other's.

/// Along which axis of its region a vector is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Each column holds a piece; all rows hold the same.
    Columns,
    /// Each row holds a piece; all columns hold the same.
    Rows,
    /// Every PE holds the whole of it.
    Everywhere,
}

/// An array of f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Its name in the text.
    pub name: String,
    /// Elements of a token.
    pub len: u64,
    /// Whether all tokens use the same elements, one after the other: scratch.
    pub scratch: bool,
}

impl Buffer {
    /// A buffer with elements of each token.
    pub fn new(name: &str, len: u64) -> Self {
        Self { name: name.to_owned(), len, scratch: false }
    }
}

/// Elements `at .. at + len` of a buffer, of each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the buffer.
    pub buffer: usize,
    /// First element.
    pub at: u64,
    /// Elements.
    pub len: u64,
}

/// An array that the host fills before the first step. Lengths and offsets are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arena {
    /// Packed weights, u16.
    Weights,
    /// Scales, f16.
    Scales,
    /// Weights of norms and biases, f32.
    Vectors,
    /// Keys, f16: filled by steps.
    Keys,
    /// Values, f16: filled by steps.
    Values,
}

impl Arena {
    /// Every arena.
    pub const ALL: [Arena; 5] = [Self::Weights, Self::Scales, Self::Vectors, Self::Keys, Self::Values];

    /// Its name, for the program and for the host.
    pub fn name(self) -> &'static str {
        ["weights", "scales", "vectors", "keys", "values"][self as usize]
    }

    /// Words of 16 bits per element.
    pub fn words(self) -> u64 {
        if self == Self::Vectors { 2 } else { 1 }
    }
}

/// Rows of a tile of a packed matrix, on every PE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Whether weights have 3.5 bits; else 8.
    pub split: bool,
    /// Outputs.
    pub rows: u64,
    /// Outputs of the whole tile: words from one plane to the next.
    pub stride: u64,
    /// Inputs per PE.
    pub inputs: u64,
    /// First word in [`Arena::Weights`].
    pub weights: u64,
    /// First scale in [`Arena::Scales`].
    pub scales: u64,
}

/// The heads of one row of a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Heads of queries.
    pub heads: u64,
    /// Heads of keys and values.
    pub kv_heads: u64,
    /// Columns of a head.
    pub dim: u64,
    /// Entries of the cache on each column.
    pub entries: u64,
    /// Factor of the scores.
    pub scale: f32,
    /// Entries a token sees, itself included; 0 for all.
    pub window: u64,
}

/// A choice of experts: the dialect's `route`, on one PE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts.
    pub experts: u64,
    /// Experts of a token.
    pub choices: u64,
    /// Groups of experts, and how many of them are chosen from.
    pub groups: [u64; 2],
    /// Whether a group is worth the sum of its two best experts, rather than its best.
    pub two: bool,
    /// Whether scores are sigmoids, rather than a softmax.
    pub sigmoid: bool,
    /// Whether numbers are added to the scores for choosing.
    pub corrected: bool,
    /// Whether weights are divided by their sum plus `eps`, or by `floor` where that is larger.
    pub normalize: bool,
    /// Added to that sum.
    pub eps: f32,
    /// The least divisor.
    pub floor: f32,
    /// Factor of the weights.
    pub scale: f32,
}

/// What a region is in a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Role {
    /// It works on every token, block by block; without calls it lets the tokens of a step through together.
    #[default]
    Layers,
    /// The last of all: of a step's tokens it works on the last one.
    Head,
    /// The same, and its last row sends tokens with their choices to the experts below.
    Router(Routing),
    /// One of the experts below a router: it works on the tokens that chose it.
    Expert {
        /// Experts of a token.
        choices: u64,
        /// What it adds to the stream that passes, times its weight.
        adds: Part,
    },
}

impl Role {
    /// Whether the stream leaves the region as it came, changed by its work: it may be the first of a wafer, or the last.
    pub fn is_passed(self) -> bool {
        matches!(self, Self::Layers | Self::Router(_))
    }

    /// Whether it sends tokens to experts, or takes them.
    pub fn has_tokens(self) -> bool {
        matches!(self, Self::Router(_) | Self::Expert { .. })
    }
}

/// A step of a PE's program.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// A line about what follows.
    Comment(String),
    /// `y = x / sqrt(sum over the whole vector of x^2 / count + eps) * weight`; weight is an offset into [`Arena::Vectors`].
    Norm { y: Part, x: Part, weight: Option<u64>, axis: Axis, count: u64, eps: f32 },
    /// The same for each head of a row by itself.
    HeadNorm { y: Part, x: Part, weight: Option<u64>, dim: u64, eps: f32 },
    /// Takes the input of products.
    Load { x: Part, split: bool },
    /// A product of the loaded input: the PE's share of it.
    Product { y: Part, matrix: Matrix },
    /// A product of `x`, not rounded, with f32 weights, an offset into [`Arena::Vectors`]: the PE's share of it.
    Scores { y: Part, x: Part, weight: u64 },
    /// Sums a vector over the PEs of a row, or of a column.
    Sum { y: Part, over: Axis },
    /// `y` = the parts `x` of all rows, one after the other.
    Gather { y: Part, x: Part },
    /// Chooses experts by their logits, and sends `x` with the choices to all of them, from a buffer for the token. `correction` is an offset
    /// into [`Arena::Vectors`].
    Spread { x: Part, logits: Part, correction: Option<u64>, token: Part },
    /// `y += vector`, an offset into [`Arena::Vectors`].
    Bias { y: Part, vector: u64 },
    /// Turns heads of `dim` columns in place.
    Rotate { x: Part, dim: u64, half: u64, interleaved: bool },
    /// Writes an entry of the cache; the module is an index into [`Kernel::attentions`], offsets into the arenas.
    Append { module: usize, key: Part, value: Part, keys: u64, values: u64 },
    /// Attention over the cache.
    Attend { module: usize, y: Part, q: Part, keys: u64, values: u64 },
    /// `y = silu(gate) * up`
    Swiglu { y: Part, gate: Part, up: Part },
    /// `y = a + b`
    Add { y: Part, a: Part, b: Part },
    /// `x = sigmoid(x)`, in place.
    Sigmoid { x: Part },
    /// `y = x * by`, where `by` is one number.
    Times { y: Part, x: Part, by: Part },
    /// `y = x`
    Move { y: Part, x: Part },
}

/// A PE program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// File name without extension.
    pub name: String,
    /// Rows of its regions.
    pub height: u64,
    /// Tokens that its buffers hold: those of a block.
    pub tokens: u64,
    /// Columns that sum in a chain before the last of each group do: the width for one chain; else even.
    pub group: u64,
    /// What its regions are.
    pub role: Role,
    /// Buffer 0 is the stream. An expert has none: its buffer 1 is the token, and its result is what it adds to the stream.
    pub buffers: Vec<Buffer>,
    /// Elements of each arena, in the order of [`Arena::ALL`].
    pub arenas: [u64; 5],
    /// Distinct attentions.
    pub attentions: Vec<Attention>,
    /// Most outputs of one product, and most inputs.
    pub largest: [u64; 2],
    /// The work.
    pub calls: Vec<Call>,
}

impl Kernel {
    /// Words of 16 bits of all variables of the program.
    pub fn data_words(&self) -> u64 {
        let tokens = self.tokens.max(1);
        let buffers: u64 = self.buffers.iter().map(|buffer| 2 * buffer.len * if buffer.scratch { 1 } else { tokens }).sum();
        let arenas: u64 = Arena::ALL.iter().map(|arena| arena.words() * self.arenas[*arena as usize].max(1)).sum();
        // Scores, largest score, numerators and denominators of each token; a query.
        let attention = |a: &Attention| {
            tokens * (2 * a.heads * a.entries + 2 * a.heads + 2 * (a.heads * a.dim + a.heads)) + a.heads * a.dim
        };
        let routing = match self.role {
            Role::Router(routing) => 6 * routing.experts + 2 * routing.groups[0] + 3 * tokens,
            Role::Expert { .. } => 3 * tokens,
            Role::Layers | Role::Head => 0,
        };
        let [outputs, inputs] = self.largest;
        // Per output of a product: code, upper, value, factor. Of each token: its inputs in f16, and what starts its sum.
        let products = 5 * outputs + tokens * (inputs + 2);
        routing + buffers + arenas + self.attentions.iter().map(attention).sum::<u64>() + products + 16
    }
}
