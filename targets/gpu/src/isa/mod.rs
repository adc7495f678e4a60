//! What differs between GPUs, as far as kernels see it.
//!
//! A *wave* is the lanes that run together, a *group* the threads that share memory and meet at barriers. The matrix instruction of every
//! GPU here multiplies 16 rows of weights by some tokens over 16 columns; a lane gives four neighbouring columns of each of its rows
//! of weights, and four of one token. Four lanes, the *parts*, make up the 16 columns.

mod nvidia;

pub use nvidia::Nvidia;

use q35_mlir::builder::{Builder, FnAttrs, Val};

/// Rows of weights that a matrix instruction multiplies.
pub const ROWS: u32 = 16;
/// Lanes among which the columns of a matrix instruction are divided.
pub const PARTS: u32 = 4;
/// Columns that a lane gives to a matrix instruction, of each of its rows and of its token.
pub const COLUMNS: u32 = 4;

/// The matrix instruction's rows, tokens and lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Tokens it multiplies.
    pub tokens: u32,
    /// Rows of weights that a lane holds; they are `ROWS / lane_rows` apart.
    pub lane_rows: u32,
    /// Whether lanes that follow each other are the parts of one row, rather than rows of one part.
    pub parts_first: bool,
}

impl Matrix {
    /// The first row of a lane (and the token of a lane, where tokens are as many as rows of lanes), and its part.
    pub fn place<'k>(&self, lane: Val<'k>) -> (Val<'k>, Val<'k>) {
        let rows = i64::from(ROWS / self.lane_rows);
        if self.parts_first {
            (lane.div_u(i64::from(PARTS)), lane.rem_u(i64::from(PARTS)))
        } else {
            (lane.rem_u(rows), lane.div_u(rows))
        }
    }

    /// The lane of a row below `ROWS / lane_rows` and a part: the inverse of [`Self::place`].
    pub fn lane(&self, row: usize, part: usize) -> usize {
        let rows = (ROWS / self.lane_rows) as usize;
        if self.parts_first { row * PARTS as usize + part } else { part * rows + row }
    }
}

/// A GPU's instructions.
pub trait Isa {
    /// Lanes of a wave.
    fn wave(&self) -> u32;

    /// Bytes that the threads of a group share without asking for more.
    fn shared_bytes(&self) -> u32;

    /// Address space of constants that every lane reads at its own place.
    fn table_space(&self) -> u8;

    /// The matrix instruction.
    fn matrix(&self) -> Matrix;

    /// What LLVM must know about a kernel whose groups have so many threads.
    fn attributes(&self, threads: u32) -> FnAttrs;

    /// The thread's number in its group, i32.
    fn thread<'k>(&self, b: &'k Builder<'k>) -> Val<'k>;

    /// The group's number, i32.
    fn group<'k>(&self, b: &'k Builder<'k>) -> Val<'k>;

    /// Waits for all threads of the group, and makes what they wrote visible to each other.
    fn barrier<'k>(&self, b: &'k Builder<'k>);

    /// Keeps the compiler from moving loads to before this point, where it would run out of registers. All lanes of the wave take part.
    fn hold_loads<'k>(&self, b: &'k Builder<'k>);

    /// The f32 or i32 value of the lane whose number differs in the bits of `mask`. All lanes of the wave take part.
    fn exchange<'k>(&self, value: Val<'k>, mask: u32) -> Val<'k>;

    /// Adds to `sums` (f32, one per place of the lane) the product of 16 rows of weights by tokens. `weights` are [`COLUMNS`] halves of each
    /// of the lane's rows, `tokens` those of its token.
    fn multiply<'k>(&self, weights: &[Val<'k>], tokens: Val<'k>, sums: &[Val<'k>]) -> Vec<Val<'k>>;

    /// Row and token of each of a lane's sums.
    fn sums<'k>(&self, lane: Val<'k>) -> Vec<(Val<'k>, Val<'k>)>;
}
