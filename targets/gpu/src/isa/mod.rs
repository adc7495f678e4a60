//! What differs between GPUs, as far as kernels see it.
//!
//! A *wave* is the lanes that run together, a *group* the threads that share memory and meet at barriers. The matrix instruction of every
//! GPU here multiplies 16 rows of weights by some tokens over 16 columns. Weights are dealt out to *seats*: each holds four neighbouring
//! columns of some rows, and four *parts* make up the 16 columns. A lane takes one seat, or several where there are more seats than lanes,
//! so that GPUs of different wave sizes read weights from the same places.

mod amd;
mod nvidia;

pub use amd::{Cdna, Rdna};
pub use nvidia::Nvidia;

use q35_mlir::builder::{Builder, FnAttrs, Val};

/// Rows of weights that a matrix instruction multiplies.
pub const ROWS: u32 = 16;
/// Parts into which the columns of a matrix instruction are divided.
pub const PARTS: u32 = 4;
/// Columns of a part.
pub const COLUMNS: u32 = 4;

/// The matrix instruction's rows, tokens and seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Tokens it multiplies.
    pub tokens: u32,
    /// Rows of weights that a seat holds; they are `ROWS / seat_rows` apart.
    pub seat_rows: u32,
    /// Whether seats that follow each other are the parts of one row, rather than rows of one part.
    pub parts_first: bool,
}

impl Matrix {
    /// How many seats there are.
    pub const fn seats(&self) -> u32 {
        ROWS / self.seat_rows * PARTS
    }

    /// The first row of a seat (and the token of the lane that takes it), and its part.
    pub fn place<'k>(&self, seat: Val<'k>) -> (Val<'k>, Val<'k>) {
        let rows = i64::from(ROWS / self.seat_rows);
        if self.parts_first {
            (seat.div_u(i64::from(PARTS)), seat.rem_u(i64::from(PARTS)))
        } else {
            (seat.rem_u(rows), seat.div_u(rows))
        }
    }

    /// The seat of a row below `ROWS / seat_rows` and a part: the inverse of [`Self::place`].
    pub fn seat(&self, row: usize, part: usize) -> usize {
        let rows = (ROWS / self.seat_rows) as usize;
        if self.parts_first { row * PARTS as usize + part } else { part * rows + row }
    }

    /// The same with numbers known at run time.
    pub fn seat_at<'k>(&self, row: Val<'k>, part: Val<'k>) -> Val<'k> {
        if self.parts_first { row * i64::from(PARTS) + part } else { part * i64::from(ROWS / self.seat_rows) + row }
    }
}

/// A GPU's instructions.
pub trait Isa {
    /// Lanes of a wave.
    fn wave(&self) -> u32;

    /// Bytes that the threads of a group share without asking for more.
    fn shared_bytes(&self) -> u32;

    /// Banks of that memory, 4 bytes wide each: lanes that read different ones do not wait for each other.
    fn banks(&self) -> u32 {
        32
    }

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

    /// Keeps the compiler from moving loads from the place that this gives, which is `place`, to before this point, where it would run out of
    /// registers: `sums` are there by then. All lanes of the wave take part.
    fn hold_loads<'k>(&self, place: Val<'k>, sums: &[Val<'k>]) -> Val<'k>;

    /// The f32 or i32 value of the lane whose number differs in the bits of `mask`. All lanes of the wave take part.
    fn exchange<'k>(&self, value: Val<'k>, mask: u32) -> Val<'k>;

    /// The parts of its token's columns that a lane gives to a matrix instruction.
    fn token_parts<'k>(&self, lane: Val<'k>) -> Vec<Val<'k>> {
        vec![self.matrix().place(lane).1]
    }

    /// Adds to `sums` (f32, one per place of the lane) the product of 16 rows of weights by tokens. `weights` are [`COLUMNS`] halves of each
    /// row of each of the lane's seats, `tokens` those of its token's [parts](Self::token_parts).
    fn multiply<'k>(&self, weights: &[Val<'k>], tokens: &[Val<'k>], sums: &[Val<'k>]) -> Vec<Val<'k>>;

    /// Row and token of each of a lane's sums.
    fn sums<'k>(&self, lane: Val<'k>) -> Vec<(Val<'k>, Val<'k>)>;
}
