//! Numbers that a file does not hold one after the other: in blocks with scales, or in several places.
//!
//! A [`Decode`] gives such numbers the face of one dense row-major array, read piece by piece, so that views and everything after them need not
//! know how a checkpoint stores its weights. What the formats are is the importers' business; the one kind that is independent of any file is here,
//! the [`Stack`].

use crate::{DType, Tensor};
use std::fmt;
use std::ops::Range;

/// Numbers behind some encoding, addressed flat in row-major order.
pub trait Decode: fmt::Debug + Send + Sync {
    /// Number of elements.
    fn count(&self) -> u64;

    /// Reads the elements from `start` on; `start + out.len()` is at most [`Decode::count`].
    fn read(&self, start: u64, out: &mut [f32]);

    /// What the numbers are stored as, and whether that is a coarse rounding of what was trained.
    fn stored(&self) -> (DType, bool);

    /// Gives the pages of the elements `range` back, see [`crate::Storage::release`].
    fn release(&self, range: Range<u64>);
}

/// Tensors of equal size, one behind the other.
#[derive(Debug)]
pub struct Stack {
    parts: Vec<Tensor>,
    each: u64,
}

impl Stack {
    /// `None` if there are no parts, or they differ in their dimensions or have no elements.
    pub fn new(parts: Vec<Tensor>) -> Option<Self> {
        let first = parts.first()?;
        let each = first.count();
        (each > 0 && parts.iter().all(|p| p.dims() == first.dims())).then_some(Self { parts, each })
    }

    /// Splits a range of the stack into ranges of its parts.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (&Tensor, Range<u64>)> {
        let (each, Range { start, end }) = (self.each, range);
        (start / each..end.div_ceil(each)).map(move |part| {
            let first = part * each;
            (&self.parts[part as usize], start.max(first) - first..end.min(first + each) - first)
        })
    }
}

impl Decode for Stack {
    fn count(&self) -> u64 {
        self.parts.len() as u64 * self.each
    }

    fn read(&self, start: u64, out: &mut [f32]) {
        let mut rest = out;
        for (part, range) in self.pieces(start..start + rest.len() as u64) {
            let (here, after) = rest.split_at_mut((range.end - range.start) as usize);
            part.read(range.start, here);
            rest = after;
        }
    }

    fn stored(&self) -> (DType, bool) {
        let mut all = self.parts.iter().map(Tensor::stored);
        let first = all.next().unwrap_or((DType::F32, false));
        all.fold(first, |widest, stored| if stored.0.bits() > widest.0.bits() { stored } else { widest })
    }

    fn release(&self, range: Range<u64>) {
        self.pieces(range).for_each(|(part, _)| part.release());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_reads_across_its_parts() {
        let part = |first: f32| Tensor::from_f32(vec![3], &[first, first + 1.0, first + 2.0]);
        let tensor = Tensor::decoded(vec![3, 3], Stack::new(vec![part(0.0), part(10.0), part(20.0)]).unwrap()).unwrap();
        let mut out = [0.0; 6];
        tensor.read(2, &mut out);
        assert_eq!(out, [2.0, 10.0, 11.0, 12.0, 20.0, 21.0]);
        assert_eq!((tensor.number(8), tensor.count()), (22.0, 9));
        assert!(Tensor::decoded(vec![3, 4], Stack::new(vec![part(0.0)]).unwrap()).is_none());
        assert!(Stack::new(vec![part(0.0), Tensor::from_f32(vec![1], &[0.0])]).is_none() && Stack::new(vec![]).is_none());
    }
}
