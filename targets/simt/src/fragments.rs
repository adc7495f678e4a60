//! Matrix products of a warp: which lane holds which element.
//!
//! All of them compute `C + A B` with f32 sums, in the order of k. Sources: PTX ISA, matrix fragments; AMD's matrix instruction calculator and
//! the instruction set manuals of CDNA2, CDNA3 and RDNA3.

use crate::fault::{Fault, Kind};
use half::{bf16, f16};

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Float16 {
    /// IEEE binary16.
    Half,
    /// The upper half of f32.
    Bfloat,
}

impl Float16 {
    fn number(self, bits: u64) -> f32 {
        match self {
            Float16::Half => f16::from_bits(bits as u16).to_f32(),
            Float16::Bfloat => bf16::from_bits(bits as u16).to_f32(),
        }
    }
}

/// The element that component `.1` of lane `.0` is.
type Element = fn(usize, usize) -> (usize, usize);

/// A matrix instruction.
#[derive(Debug)]
pub(crate) struct Product {
    pub(crate) lanes: u32,
    /// Tokens of B, and columns of C.
    columns: usize,
    format: Float16,
    /// Components of a lane in A (row, k), B (column, k) and C (row, column).
    a: (usize, Element),
    b: (usize, Element),
    c: (usize, Element),
}

/// Rows of A, and columns of A and rows of B, of every instruction here.
const SIDE: usize = 16;

const fn mma(format: Float16) -> Product {
    Product {
        lanes: 32,
        columns: 8,
        format,
        // Registers of two halves: (g, low), (g + 8, low), (g, high), (g + 8, high), with g the lane over 4.
        a: (8, |lane, at| (lane / 4 + at / 2 % 2 * 8, at / 4 * 8 + 2 * (lane % 4) + at % 2)),
        b: (4, |lane, at| (lane / 4, at / 2 * 8 + 2 * (lane % 4) + at % 2)),
        c: (4, |lane, at| (lane / 4 + at / 2 * 8, lane % 4 * 2 + at % 2)),
    }
}

/// LLVM's names.
const NAMES: &[(&str, Product)] = &[
    ("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", mma(Float16::Half)),
    ("llvm.nvvm.mma.m16n8k16.row.col.bf16", mma(Float16::Bfloat)),
    (
        "llvm.amdgcn.mfma.f32.16x16x16f16",
        Product {
            lanes: 64,
            columns: 16,
            format: Float16::Half,
            a: (4, |lane, at| (lane % 16, lane / 16 * 4 + at)),
            b: (4, |lane, at| (lane % 16, lane / 16 * 4 + at)),
            c: (4, |lane, at| (lane / 16 * 4 + at, lane % 16)),
        },
    ),
    (
        // Both halves of the warp hold all of A and B.
        "llvm.amdgcn.wmma.f32.16x16x16.f16.v8f32.v16f16",
        Product {
            lanes: 32,
            columns: 16,
            format: Float16::Half,
            a: (16, |lane, at| (lane % 16, at)),
            b: (16, |lane, at| (lane % 16, at)),
            c: (8, |lane, at| (2 * at + lane / 16, lane % 16)),
        },
    ),
];

/// The instruction of a name.
pub(crate) fn find(name: &str) -> Option<&'static Product> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, product)| product)
}

impl Product {
    /// Components of A, B and C that a lane gives, in the order of operands.
    pub(crate) fn components(&self) -> usize {
        self.a.0 + self.b.0 + self.c.0
    }

    /// Components of the result.
    pub(crate) fn results(&self) -> usize {
        self.c.0
    }

    /// Gives the sums of every lane, one lane after the other; `component` are the lanes' operands.
    ///
    /// # Errors
    /// If lanes that hold the same element differ.
    pub(crate) fn compute(&self, component: impl Fn(usize, usize) -> u64) -> Result<Vec<f32>, Fault> {
        let lanes = self.lanes as usize;
        let gather = |first: usize, (count, element): (usize, Element), what: &str| {
            let mut bits = [[None; SIDE]; SIDE];
            for (lane, at) in (0..lanes).flat_map(|lane| (0..count).map(move |at| (lane, at))) {
                let (line, k) = element(lane, at);
                let given = component(lane, first + at);
                if *bits[line][k].get_or_insert(given) != given {
                    let what = format!("lanes hold different values of element ({line}, {k}) of {what}");
                    return Err(Fault::new(Kind::Undefined, what));
                }
            }
            Ok(bits.map(|line| line.map(|bits| self.format.number(bits.unwrap_or(0)))))
        };
        let (a, b) = (gather(0, self.a, "A")?, gather(self.a.0, self.b, "B")?);
        let first = self.a.0 + self.b.0;
        let sum = |lane: usize, at: usize| {
            let (row, column) = (self.c.1)(lane, at);
            debug_assert!(column < self.columns);
            let start = f32::from_bits(component(lane, first + at) as u32);
            a[row].iter().zip(&b[column]).fold(start, |sum, (x, y)| sum + x * y)
        };
        Ok((0..lanes).flat_map(|lane| (0..self.c.0).map(move |at| (lane, at))).map(|(lane, at)| sum(lane, at)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A[r][k] = r + 16 k, B[k][n] = (k == n + 3): the product is A[r][n + 3] where there is such a column.
    #[test]
    fn a_matrix_product_is_one() {
        let half = |v: usize| u64::from(f16::from_f32(v as f32).to_bits());
        for (name, product) in NAMES.iter().filter(|(_, product)| product.format == Float16::Half) {
            let Product { a, b, c, .. } = product;
            let component = |lane: usize, at: usize| match at {
                at if at < a.0 => {
                    let (r, k) = (a.1)(lane, at);
                    half(r + 16 * k)
                }
                at if at < a.0 + b.0 => {
                    let (n, k) = (b.1)(lane, at - a.0);
                    half(usize::from(k == n + 3))
                }
                _ => 0.5f32.to_bits().into(),
            };
            let sums = product.compute(component).unwrap();
            assert_eq!(sums.len(), product.lanes as usize * c.0, "{name}");
            for (place, sum) in sums.iter().enumerate() {
                let (r, n) = (c.1)(place / c.0, place % c.0);
                let expected = if n + 3 < SIDE { r + 16 * (n + 3) } else { 0 };
                assert_eq!(*sum, 0.5 + expected as f32, "{name} {r} {n}");
            }
        }
    }

    #[test]
    fn every_element_has_a_lane_and_copies_must_agree() {
        for (name, product) in NAMES {
            for (side, (count, element), lines) in
                [("A", product.a, SIDE), ("B", product.b, product.columns), ("C", product.c, SIDE)]
            {
                let columns = if side == "C" { product.columns } else { SIDE };
                let places = (0..product.lanes as usize).flat_map(|lane| (0..count).map(move |at| element(lane, at)));
                let places: std::collections::BTreeSet<_> = places.collect();
                assert_eq!(places.len(), lines * columns, "{name} {side}");
            }
        }
        let wmma = find("llvm.amdgcn.wmma.f32.16x16x16.f16.v8f32.v16f16").unwrap();
        let fault = wmma.compute(|lane, at| u64::from(lane == 17 && at == 2)).unwrap_err();
        assert!(fault.what.contains("element (1, 2) of A"), "{fault}");
    }
}
