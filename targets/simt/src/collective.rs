//! What the lanes of a warp do together.
//!
//! Fragments of `mma.m16n8k16`: with `g` the lane over 4 and `t` the lane modulo 4, A holds rows `g` and `g + 8` at columns `2t, 2t + 1` and
//! eight further on, B holds column `g` at the same rows, C rows `g` and `g + 8` at columns `2t, 2t + 1` (PTX ISA, matrix fragments).

use half::{bf16, f16};

/// An instruction that needs all lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Collective {
    /// All threads of the block meet.
    Barrier,
    /// All lanes of the warp meet.
    Meet,
    /// Lanes read others' values.
    Shuffle(Mode),
    /// `mma.m16n8k16` with f32 sums.
    Matrix(Float16),
}

/// Where a shuffle reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// The lane of a number.
    Index,
    /// The lane whose number differs in some bits.
    Butterfly,
    /// So many lanes further on.
    Down,
    /// So many lanes before.
    Up,
}

/// A format of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Float16 {
    /// IEEE binary16.
    Half,
    /// The upper half of f32.
    Bfloat,
}

/// LLVM's names, without the type at the end where there is one.
const NAMES: &[(&str, Collective)] = &[
    ("llvm.nvvm.barrier.cta.sync.aligned.all", Collective::Barrier),
    ("llvm.nvvm.barrier0", Collective::Barrier),
    ("llvm.nvvm.bar.warp.sync", Collective::Meet),
    ("llvm.nvvm.shfl.sync.idx", Collective::Shuffle(Mode::Index)),
    ("llvm.nvvm.shfl.sync.bfly", Collective::Shuffle(Mode::Butterfly)),
    ("llvm.nvvm.shfl.sync.down", Collective::Shuffle(Mode::Down)),
    ("llvm.nvvm.shfl.sync.up", Collective::Shuffle(Mode::Up)),
    ("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", Collective::Matrix(Float16::Half)),
    ("llvm.nvvm.mma.m16n8k16.row.col.bf16", Collective::Matrix(Float16::Bfloat)),
];

/// The collective of a name.
pub(crate) fn find(name: &str) -> Option<Collective> {
    let bare =
        name.strip_suffix(".i32").or_else(|| name.strip_suffix(".f32").filter(|bare| bare.contains("shfl"))).unwrap_or(name);
    NAMES.iter().find(|(known, _)| *known == bare).map(|(_, collective)| *collective)
}

/// The lane that `lane` reads from; itself where that lane does not exist.
pub(crate) fn source(mode: Mode, lane: u32, by: u32, lanes: u32) -> u32 {
    let from = match mode {
        Mode::Index => Some(by % lanes),
        Mode::Butterfly => Some(lane ^ by),
        Mode::Down => lane.checked_add(by),
        Mode::Up => lane.checked_sub(by),
    };
    from.filter(|&from| from < lanes).unwrap_or(lane)
}

/// `C + A B`. `a[i]`, `b[i]` and `c[i]` give a lane's components: `a` has 8 halves, `b` 4, `c` 4 floats.
pub(crate) fn matrix(kind: Float16, a: impl Fn(u32, usize) -> u64, b: impl Fn(u32, usize) -> u64, c: &mut [[f32; 4]; 32]) {
    let number = |bits: u64| match kind {
        Float16::Half => f16::from_bits(bits as u16).to_f32(),
        Float16::Bfloat => bf16::from_bits(bits as u16).to_f32(),
    };
    let (mut rows, mut columns) = ([[0.0; 16]; 16], [[0.0; 16]; 8]);
    for lane in 0..32 {
        let (g, t) = (lane as usize / 4, lane as usize % 4);
        for half in 0..8 {
            // Registers: (g, low), (g + 8, low), (g, high), (g + 8, high), two halves each.
            let (register, within) = (half / 2, half % 2);
            rows[g + register % 2 * 8][register / 2 * 8 + 2 * t + within] = number(a(lane, half));
        }
        for half in 0..4 {
            columns[g][half / 2 * 8 + 2 * t + half % 2] = number(b(lane, half));
        }
    }
    for (lane, sums) in c.iter_mut().enumerate() {
        for (at, sum) in sums.iter_mut().enumerate() {
            let (row, column) = (lane / 4 + at / 2 * 8, lane % 4 * 2 + at % 2);
            *sum = rows[row].iter().zip(&columns[column]).fold(*sum, |sum, (x, y)| sum + x * y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_product_is_one() {
        // A[r][k] = r + 16 k, B[k][n] = (k == n + 3): the product is A[r][n + 3].
        let half = |v: usize| u64::from(f16::from_f32(v as f32).to_bits());
        let place = |lane: u32, at: usize| (lane as usize / 4, at / 2 * 8 + 2 * (lane as usize % 4) + at % 2);
        let a = |lane: u32, at: usize| {
            let (g, k) = place(lane, at / 4 * 2 + at % 2);
            half(g + at / 2 % 2 * 8 + 16 * k)
        };
        let b = |lane: u32, at: usize| {
            let (n, k) = place(lane, at);
            half(usize::from(k == n + 3))
        };
        let mut c = [[0.5; 4]; 32];
        matrix(Float16::Half, a, b, &mut c);
        for (lane, sums) in c.iter().enumerate() {
            for (at, sum) in sums.iter().enumerate() {
                let (r, n) = (lane / 4 + at / 2 * 8, lane % 4 * 2 + at % 2);
                assert_eq!(*sum, 0.5 + (r + 16 * (n + 3)) as f32);
            }
        }
    }

    #[test]
    fn names_and_sources() {
        assert_eq!(find("llvm.nvvm.shfl.sync.bfly.f32"), Some(Collective::Shuffle(Mode::Butterfly)));
        assert_eq!(find("llvm.nvvm.mma.m16n8k16.row.col.f32.f32"), Some(Collective::Matrix(Float16::Half)));
        assert_eq!(find("llvm.fabs.f32"), None);
        let from = |mode, by| source(mode, 5, by, 32);
        assert_eq!([from(Mode::Index, 33), from(Mode::Butterfly, 4), from(Mode::Down, 30), from(Mode::Up, 2)], [1, 1, 5, 3]);
    }
}
