//! A logical matrix over stored bytes.
//!
//! Exporters store one and the same linear weight as `[out, in]`, `[in, out]`, as a slice of a packed q/k/v tensor, as every second
//! row of a stack of experts, expert by expert in tensors of their own, or already quantized in blocks. A [`WeightView`] gives all of them
//! one face: `rows` output channels by `cols` input columns of f32, read in blocks of rows, nothing copied before it is asked for.

use crate::joined::Joined;
use crate::{DType, Elements, Tensor};
use std::ops::Range;

/// One axis of a view: how many steps there are and how many elements apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Number of steps.
    pub len: u64,
    /// Elements between neighbours.
    pub stride: i64,
}

/// Integers with a scale per block of columns, as `MatMulNBits` stores them: `w = (q - zero) * scale`.
#[derive(Clone, Debug)]
pub struct BlockQuantized {
    /// Bits of one integer: 2, 4 or 8.
    pub bits: u32,
    /// Columns that share a scale; the last block of a row may be shorter.
    pub block: u64,
    /// Columns of a row.
    pub cols: u64,
    /// Integers, u8: per row `ceil(cols / block)` blocks of `block * bits / 8` bytes, low bits first.
    pub data: Tensor,
    /// One scale per row and block.
    pub scales: Tensor,
    /// One zero point per row and block: packed like `data` with each row starting on a byte if u8, else numbers of the scale's type;
    /// absent means `2^(bits-1)`.
    pub zero_points: Option<Tensor>,
    /// Block of each column, where the source reorders columns (`g_idx`).
    pub group_index: Option<Tensor>,
}

/// Where a view's elements come from, addressed flat in row-major order.
#[derive(Clone, Debug)]
enum Base {
    Dense(Elements),
    Blocks(Box<BlockQuantized>),
    Joined(Joined),
}

/// What tells two views apart: where the bytes lie, the offset there, and the axes of stack, rows and columns; for joined views, of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Vec<(usize, usize, i64, [Axis; 3])>);

/// A matrix of `rows` by `cols` numbers somewhere in a model file, or a stack of equally large ones, one below the other.
#[derive(Clone, Debug)]
pub struct WeightView {
    base: Base,
    offset: i64,
    stack: Axis,
    rows: Axis,
    cols: Axis,
}

/// The stack of a view that is no stack.
const SINGLE: Axis = Axis { len: 1, stride: 0 };

impl WeightView {
    /// A view of a constant's elements. `None` if any element would lie outside it.
    pub fn dense(elements: impl Into<Elements>, offset: i64, rows: Axis, cols: Axis) -> Option<Self> {
        let elements = elements.into();
        let count = elements.count();
        Self::checked(Base::Dense(elements), count, offset, rows, cols)
    }

    /// A view of block-quantized integers, addressed as `row * cols + col`. `None` if any element would lie outside.
    pub fn blocks(blocks: BlockQuantized, offset: i64, rows: Axis, cols: Axis) -> Option<Self> {
        let per_row = blocks.cols.div_ceil(blocks.block);
        let stored = blocks.data.count() / (per_row * blocks.block * u64::from(blocks.bits)).div_ceil(8).max(1);
        let fits = blocks.scales.count() >= stored * per_row && [2, 4, 8].contains(&blocks.bits);
        let count = stored.checked_mul(blocks.cols)?;
        if fits { Self::checked(Base::Blocks(Box::new(blocks)), count, offset, rows, cols) } else { None }
    }

    /// The whole of a tensor as one row.
    pub fn vector(tensor: Tensor) -> Self {
        let len = tensor.count();
        Self { base: Base::Dense(tensor.into()), offset: 0, stack: SINGLE, rows: SINGLE, cols: Axis { len, stride: 1 } }
    }

    /// Views with equally many columns, one below the other. `None` if there are none, or their columns differ, or one is a stack.
    pub fn joined(parts: Vec<Self>) -> Option<Self> {
        if parts.iter().any(|part| part.stack != SINGLE) {
            return None;
        }
        let joined = Joined::new(parts)?;
        let (rows, cols) = (joined.rows(), joined.cols());
        let rows = Axis { len: rows, stride: i64::try_from(cols).ok()? };
        let count = rows.len.checked_mul(cols)?;
        Self::checked(Base::Joined(joined), count, 0, rows, Axis { len: cols, stride: 1 })
    }

    /// The rows of this view, which is joined or dense in row order, as so many equal matrices. `None` if they do not divide.
    pub fn split(self, matrices: u64) -> Option<Self> {
        let len = self.rows.len.checked_div(matrices).filter(|len| len * matrices == self.rows.len && *len > 0)?;
        let stack = Axis { len: matrices, stride: self.rows.stride.checked_mul(i64::try_from(len).ok()?)? };
        (self.stack == SINGLE).then_some(Self { stack, rows: Axis { len, ..self.rows }, ..self })
    }

    /// The rows `first`, `first + step`, ... of every matrix, `count` of them. `None` if a matrix has fewer.
    pub fn step_rows(self, first: u64, step: u64, count: u64) -> Option<Self> {
        let last = count.checked_sub(1)?.checked_mul(step)?.checked_add(first)?;
        let stride = self.rows.stride.checked_mul(i64::try_from(step).ok()?)?;
        let offset = self.offset.checked_add(self.rows.stride.checked_mul(i64::try_from(first).ok()?)?)?;
        (last < self.rows.len).then_some(Self { offset, rows: Axis { len: count, stride }, ..self })
    }

    /// The rows of a view of joined rows, one behind the other as one row. `None` for any other view.
    pub fn flattened(self) -> Option<Self> {
        let len = self.rows().checked_mul(self.cols.len)?;
        let plain = matches!(self.base, Base::Joined(_)) && self.offset == 0 && self.stack == SINGLE;
        plain.then_some(Self { rows: SINGLE, cols: Axis { len, stride: 1 }, ..self })
    }

    /// The matrices that lie at each step of an axis from this one, which is no stack itself; their rows follow one another. `None` if any
    /// element would lie outside, or there are too many rows to count.
    pub fn stacked(self, stack: Axis) -> Option<Self> {
        let count = match &self.base {
            Base::Dense(tensor) => tensor.count(),
            Base::Blocks(blocks) => {
                let per_row = (blocks.cols.div_ceil(blocks.block) * blocks.block * u64::from(blocks.bits)).div_ceil(8);
                (blocks.data.count() / per_row.max(1)).checked_mul(blocks.cols)?
            }
            Base::Joined(joined) => joined.rows().checked_mul(joined.cols())?,
        };
        stack.len.checked_mul(self.rows.len)?;
        let reach = i64::try_from(stack.len.checked_sub(1)?).ok()?.checked_mul(stack.stride)?;
        let last = self.offset.checked_add(reach)?;
        let fits = Self::checked(self.base.clone(), count, last, self.rows, self.cols).is_some();
        (fits && self.stack == SINGLE).then_some(Self { stack, ..self })
    }

    fn checked(base: Base, count: u64, offset: i64, rows: Axis, cols: Axis) -> Option<Self> {
        let reach = |axis: Axis| i64::try_from(axis.len.checked_sub(1)?).ok()?.checked_mul(axis.stride);
        let (r, c) = (reach(rows)?, reach(cols)?);
        let low = offset.checked_add(r.min(0))?.checked_add(c.min(0))?;
        let high = offset.checked_add(r.max(0))?.checked_add(c.max(0))?;
        (low >= 0 && (high as u64) < count).then_some(Self { base, offset, stack: SINGLE, rows, cols })
    }

    /// Output channels, of all matrices of a stack.
    pub fn rows(&self) -> u64 {
        self.stack.len * self.rows.len
    }

    /// Matrices of the stack, 1 if it is none.
    pub fn matrices(&self) -> u64 {
        self.stack.len
    }

    /// Input columns.
    pub fn cols(&self) -> u64 {
        self.cols.len
    }

    /// The rows `range` of this view, or of every matrix of the stack, as a view.
    ///
    /// # Panics
    /// If the range is empty or leaves the view.
    pub fn slice_rows(&self, range: Range<u64>) -> Self {
        assert!(range.start < range.end && range.end <= self.rows.len);
        let mut view = self.clone();
        view.offset += range.start as i64 * self.rows.stride;
        view.rows.len = range.end - range.start;
        view
    }

    /// Rows become columns.
    ///
    /// # Panics
    /// If the view is a stack.
    pub fn transposed(&self) -> Self {
        assert!(self.stack == SINGLE, "a stack is not transposed");
        Self { rows: self.cols, cols: self.rows, ..self.clone() }
    }

    /// Element type the numbers are stored in, and whether they were quantized already.
    pub fn stored(&self) -> (DType, bool) {
        match &self.base {
            Base::Dense(elements) => elements.tensor().stored(),
            Base::Blocks(blocks) => (if blocks.bits == 8 { DType::U8 } else { DType::U4 }, true),
            Base::Joined(joined) => joined.parts()[0].stored(),
        }
    }

    /// Two views with equal identity hold the same numbers.
    pub fn identity(&self) -> Identity {
        let own = [self.stack, self.rows, self.cols];
        let at = |tensor: &Tensor| {
            let (address, range) = tensor.identity();
            Identity(vec![(address, range.start, self.offset, own)])
        };
        match &self.base {
            Base::Dense(elements) => at(elements.tensor()),
            Base::Blocks(blocks) => at(&blocks.data),
            Base::Joined(joined) => {
                let parts = joined.parts().iter().flat_map(|part| part.identity().0);
                Identity([(0, 0, self.offset, own)].into_iter().chain(parts).collect())
            }
        }
    }

    /// Elements before a row.
    fn row_start(&self, row: u64) -> i64 {
        self.offset + (row / self.rows.len) as i64 * self.stack.stride + (row % self.rows.len) as i64 * self.rows.stride
    }

    /// One element.
    ///
    /// # Panics
    /// If it is outside the view.
    pub fn get(&self, row: u64, col: u64) -> f32 {
        assert!(row < self.rows() && col < self.cols.len);
        let at = (self.row_start(row) + col as i64 * self.cols.stride) as u64;
        match &self.base {
            Base::Dense(tensor) => tensor.number(at) as f32,
            Base::Blocks(blocks) => blocks.get(at / blocks.cols, at % blocks.cols),
            Base::Joined(joined) => joined.get(at / joined.cols(), at % joined.cols()),
        }
    }

    /// Reads the rows `range` into `out`, row-major, `cols` numbers per row.
    ///
    /// # Panics
    /// If the range leaves the view or `out` has another length.
    pub fn read_rows(&self, range: Range<u64>, out: &mut [f32]) {
        let cols = self.cols.len as usize;
        assert!(range.end <= self.rows() && out.len() as u64 == (range.end - range.start) * self.cols.len);
        let Base::Dense(Elements::Plain(tensor)) = &self.base else {
            if let Base::Joined(joined) = &self.base
                && self.cols == (Axis { len: joined.cols(), stride: 1 })
            {
                let starts = range.map(|row| self.row_start(row) as u64 / joined.cols());
                starts.zip(out.chunks_exact_mut(cols)).for_each(|(row, line)| joined.read_row(row, line));
                return;
            }
            for (row, line) in range.zip(out.chunks_exact_mut(cols)) {
                line.iter_mut().enumerate().for_each(|(col, x)| *x = self.get(row, col as u64));
            }
            return;
        };
        if self.cols.stride == 1 {
            for (row, line) in range.zip(out.chunks_exact_mut(cols)) {
                tensor.read(self.row_start(row) as u64, line);
            }
            return;
        }
        let bytes = tensor.bytes();
        let Some(decode) = tensor.dtype().as_f32().filter(|_| !bytes.is_empty()) else {
            for (row, line) in range.zip(out.chunks_exact_mut(cols)) {
                line.iter_mut().enumerate().for_each(|(col, x)| *x = self.get(row, col as u64));
            }
            return;
        };
        let size = (tensor.dtype().bits() / 8) as usize;
        let at =
            |row: usize, col: usize| (self.row_start(range.start + row as u64) + col as i64 * self.cols.stride) as usize * size;
        // In tiles, since the stored order is not the row order.
        const TILE: usize = 64;
        let rows = (range.end - range.start) as usize;
        for row0 in (0..rows).step_by(TILE) {
            for col in 0..cols {
                for row in row0..rows.min(row0 + TILE) {
                    let start = at(row, col);
                    out[row * cols + col] = decode(&bytes[start..start + size]);
                }
            }
        }
    }

    /// Gives the pages behind this view back, see [`Tensor::release`].
    pub fn release(&self) {
        match &self.base {
            Base::Dense(elements) => elements.tensor().release(),
            Base::Blocks(blocks) => {
                blocks.data.release();
                blocks.scales.release();
            }
            Base::Joined(joined) => joined.parts().iter().for_each(Self::release),
        }
    }
}

impl BlockQuantized {
    fn get(&self, row: u64, col: u64) -> f32 {
        let per_row = self.cols.div_ceil(self.block);
        let bits = u64::from(self.bits);
        let block_bytes = self.block * bits / 8;
        let field = |bytes: &[u8], first_byte: u64, index: u64| {
            let bit = index * bits;
            u32::from(bytes[(first_byte + bit / 8) as usize] >> (bit % 8)) & ((1u32 << bits) - 1)
        };
        let (block, within) = (col / self.block, col % self.block);
        let group = match &self.group_index {
            Some(index) => (index.integer(col) as u64).min(per_row - 1),
            None => block,
        };
        let q = field(self.data.bytes(), (row * per_row + block) * block_bytes, within);
        let zero = match &self.zero_points {
            Some(z) if z.dtype() == DType::U8 => f64::from(field(z.bytes(), row * (per_row * bits).div_ceil(8), group)),
            Some(z) => z.number(row * per_row + group),
            None => f64::from(1u32 << (self.bits - 1)),
        };
        ((f64::from(q) - zero) * self.scales.number(row * per_row + group)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(dims: &[u64]) -> Tensor {
        let n: u64 = dims.iter().product();
        Tensor::from_f32(dims.to_vec(), &(0..n).map(|i| i as f32).collect::<Vec<_>>())
    }

    #[test]
    fn a_transposed_slice_reads_in_row_order() {
        // [in = 3, out = 4]; the view is the outputs 1..3.
        let view = WeightView::dense(counting(&[3, 4]), 1, Axis { len: 2, stride: 1 }, Axis { len: 3, stride: 4 }).unwrap();
        let mut out = [0.0; 6];
        view.read_rows(0..2, &mut out);
        assert_eq!(out, [1.0, 5.0, 9.0, 2.0, 6.0, 10.0]);
        assert_eq!(view.get(1, 2), 10.0);
        assert_eq!(view.transposed().get(2, 1), 10.0);
    }

    #[test]
    fn a_stack_reads_one_matrix_below_the_other() {
        // Two matrices [in = 2, out = 3]; the view is the outputs 1..3 of each.
        let axis = |len, stride| Axis { len, stride };
        let one = WeightView::dense(counting(&[2, 2, 3]), 0, axis(3, 1), axis(2, 3)).unwrap();
        assert!(one.clone().stacked(axis(3, 6)).is_none());
        assert!(one.clone().stacked(axis(0, 6)).is_none());
        assert!(one.clone().stacked(axis(2, i64::MAX)).is_none());
        let both = one.stacked(axis(2, 6)).unwrap();
        assert!(both.clone().stacked(axis(1, 1)).is_none());
        let view = both.slice_rows(1..3);
        assert_eq!((view.rows(), view.matrices()), (4, 2));
        let mut out = [0.0; 8];
        view.read_rows(0..4, &mut out);
        assert_eq!(out, [1.0, 4.0, 2.0, 5.0, 7.0, 10.0, 8.0, 11.0]);
        view.read_rows(1..3, &mut out[..4]);
        assert_eq!(out[..4], [2.0, 5.0, 7.0, 10.0]);
        assert_eq!(view.get(3, 1), 11.0);
    }

    #[test]
    fn joined_rows_read_in_order() {
        let axis = |len, stride| Axis { len, stride };
        // Rows 2 and 0 of [3, 2], then the columns of [2, 1] twice.
        let row = |offset| WeightView::dense(counting(&[3, 2]), offset, axis(1, 2), axis(2, 1)).unwrap();
        let pair = WeightView::dense(counting(&[2, 1]), 0, axis(2, 0), axis(2, 1)).unwrap();
        let view = WeightView::joined(vec![row(4), row(0), pair.clone()]).unwrap();
        let read = |view: &WeightView| {
            let mut out = vec![0.0; (view.rows() * view.cols()) as usize];
            view.read_rows(0..view.rows(), &mut out);
            out
        };
        assert_eq!(read(&view), [4.0, 5.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(view.get(0, 1), 5.0);
        let stack = view.clone().split(2).unwrap();
        assert_eq!((stack.matrices(), stack.rows()), (2, 4));
        assert_eq!(read(&stack.slice_rows(0..1)), [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(read(&view.clone().flattened().unwrap()), read(&view));
        let stepped = view.clone().split(2).unwrap().step_rows(1, 1, 1).unwrap();
        assert_eq!(read(&stepped), [0.0, 1.0, 0.0, 1.0]);
        assert!(view.clone().step_rows(1, 2, 2).is_some() && view.clone().step_rows(2, 2, 2).is_none());
        assert!(view.clone().split(3).is_none() && stack.flattened().is_none());
        assert_ne!(view.identity(), WeightView::joined(vec![row(0), row(4), pair]).unwrap().identity());
        let wide = WeightView::dense(counting(&[1, 3]), 0, axis(1, 3), axis(3, 1)).unwrap();
        assert!(WeightView::joined(vec![row(0), wide]).is_none() && WeightView::joined(Vec::new()).is_none());
    }

    #[test]
    fn a_view_never_leaves_its_tensor() {
        let axis = |len, stride| Axis { len, stride };
        assert!(WeightView::dense(counting(&[3, 4]), 0, axis(3, 4), axis(5, 1)).is_none());
        assert!(WeightView::dense(counting(&[3, 4]), 0, axis(0, 4), axis(4, 1)).is_none());
        assert!(WeightView::dense(counting(&[3, 4]), 11, axis(3, -4), axis(4, -1)).is_some());
        assert!(WeightView::dense(counting(&[3, 4]), 10, axis(3, -4), axis(4, -1)).is_none());
        assert!(WeightView::dense(counting(&[3, 4]), i64::MAX, axis(2, i64::MAX), axis(4, 1)).is_none());
    }

    #[test]
    fn blocks_decode_with_and_without_zero_points() {
        let bytes = |v: Vec<u8>, dims: Vec<u64>| Tensor::new(DType::U8, dims, v.into(), 0).unwrap();
        let mut blocks = BlockQuantized {
            bits: 4,
            block: 2,
            cols: 3,
            data: bytes(vec![0x91, 0x0F, 0x88, 0x07], vec![2, 2, 1]),
            scales: Tensor::from_f32(vec![2, 2], &[1.0, 10.0, 0.5, 2.0]),
            zero_points: None,
            group_index: None,
        };
        let axes = (Axis { len: 2, stride: 3 }, Axis { len: 3, stride: 1 });
        let read = |b: &BlockQuantized| {
            let mut out = [0.0; 6];
            WeightView::blocks(b.clone(), 0, axes.0, axes.1).unwrap().read_rows(0..2, &mut out);
            out
        };
        assert_eq!(read(&blocks), [-7.0, 1.0, 70.0, 0.0, 0.0, -2.0]);
        blocks.zero_points = Some(bytes(vec![0xF1, 0x70], vec![2, 1]));
        assert_eq!(read(&blocks), [0.0, 8.0, 0.0, 4.0, 4.0, 0.0]);
        // Columns of other blocks than they lie in take those blocks' scales and zero points: 1, 9, 15 of the first row, 8, 8, 7 of the second.
        blocks.group_index = Some(Tensor::from_i64(vec![3], &[1, 0, 0]));
        assert_eq!(read(&blocks), [-140.0, 8.0, 14.0, 2.0, 4.0, 3.5]);
    }
}
