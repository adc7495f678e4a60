//! What the lanes of a warp do together.

use crate::fragments::{self, Product};

/// An instruction that needs all lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Collective {
    /// All threads of the block meet.
    Barrier,
    /// All lanes of the warp meet.
    Meet,
    /// Lanes read others' values, those of a mask together.
    Shuffle(Mode),
    /// Lanes read others' values, all of them together.
    Exchange(Exchange),
    /// A matrix product.
    Matrix(&'static Product),
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

/// Where AMD's instructions read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Exchange {
    /// `ds_bpermute`: the lane of a byte address.
    Permute,
    /// `ds_swizzle`: in groups of 32, a lane number masked, set and flipped in places.
    Swizzle,
    /// `v_permlanex16`: the other row of 16, at the lane that a selector of 4 bits names.
    OtherRow,
    /// Data-parallel primitives: within fours any lane, within rows of 16 the one that differs in some bits.
    Dpp,
    /// `v_readlane`.
    Lane,
    /// `v_readfirstlane`.
    First,
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
    (AMD_BARRIER, Collective::Barrier),
    ("llvm.amdgcn.wave.barrier", Collective::Meet),
    ("llvm.amdgcn.ds.bpermute", Collective::Exchange(Exchange::Permute)),
    ("llvm.amdgcn.ds.swizzle", Collective::Exchange(Exchange::Swizzle)),
    ("llvm.amdgcn.permlanex16", Collective::Exchange(Exchange::OtherRow)),
    ("llvm.amdgcn.update.dpp", Collective::Exchange(Exchange::Dpp)),
    ("llvm.amdgcn.readlane", Collective::Exchange(Exchange::Lane)),
    ("llvm.amdgcn.readfirstlane", Collective::Exchange(Exchange::First)),
];

/// A barrier that orders memory only between fences.
pub(crate) const AMD_BARRIER: &str = "llvm.amdgcn.s.barrier";

/// The collective of a name.
pub(crate) fn find(name: &str) -> Option<Collective> {
    if let Some(product) = fragments::find(name) {
        return Some(Collective::Matrix(product));
    }
    let bare = name.strip_suffix(".i32").or_else(|| name.strip_suffix(".f32")).unwrap_or(name);
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

impl Exchange {
    /// Which operand is exchanged.
    pub(crate) fn value(self) -> usize {
        match self {
            Exchange::Permute | Exchange::OtherRow | Exchange::Dpp => 1,
            Exchange::Swizzle | Exchange::Lane | Exchange::First => 0,
        }
    }

    /// The lane that `lane` reads from; `operand` are its operands.
    ///
    /// # Errors
    /// A control word that has no meaning here.
    pub(crate) fn source(self, lane: u32, lanes: u32, operand: impl Fn(usize) -> u64) -> Result<u32, String> {
        let number = |at: usize| operand(at) as u32;
        let from = match self {
            Exchange::Permute => number(0) / 4 % lanes,
            Exchange::Swizzle => {
                let pattern = number(1);
                if pattern >> 15 != 0 {
                    return Err(format!("the swizzle {pattern:#x}"));
                }
                let [and, or, xor] = [0, 5, 10].map(|shift| pattern >> shift & 31);
                (lane & !31) | (((lane & and) | or) ^ xor) & 31
            }
            Exchange::OtherRow => {
                let selectors = number(2 + lane as usize % 16 / 8);
                ((lane & !15) ^ 16) | (selectors >> (lane % 8 * 4) & 15)
            }
            Exchange::Dpp => match number(2) {
                control @ 0..=0xff => (lane & !3) | (control >> (lane % 4 * 2) & 3),
                control @ 0x160..=0x16f => lane ^ (control & 15),
                control => return Err(format!("the data-parallel control {control:#x}")),
            },
            Exchange::Lane => number(1) % lanes,
            Exchange::First => 0,
        };
        Ok(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sources() {
        assert!(matches!(find("llvm.nvvm.shfl.sync.bfly.f32"), Some(Collective::Shuffle(Mode::Butterfly))));
        assert!(matches!(find("llvm.nvvm.mma.m16n8k16.row.col.f32.f32"), Some(Collective::Matrix(_))));
        assert!(matches!(find("llvm.amdgcn.permlanex16.i32"), Some(Collective::Exchange(Exchange::OtherRow))));
        assert!(find("llvm.fabs.f32").is_none());
        let from = |mode, by| source(mode, 5, by, 32);
        assert_eq!([from(Mode::Index, 33), from(Mode::Butterfly, 4), from(Mode::Down, 30), from(Mode::Up, 2)], [1, 1, 5, 3]);
    }

    #[test]
    fn amd_lanes_read_where_the_manuals_say() {
        let from = |exchange: Exchange, lane: u32, operands: [u64; 6]| exchange.source(lane, 64, |at| operands[at]);
        assert_eq!(from(Exchange::Permute, 3, [4 * 40, 0, 0, 0, 0, 0]), Ok(40));
        assert_eq!(from(Exchange::Swizzle, 37, [0, 0x1f | 8 << 10, 0, 0, 0, 0]), Ok(45));
        assert!(from(Exchange::Swizzle, 37, [0, 0x8000, 0, 0, 0, 0]).is_err());
        let identity = [0, 0, 0x7654_3210, 0xfedc_ba98, 0, 0];
        assert_eq!([5, 20, 43].map(|lane| from(Exchange::OtherRow, lane, identity)), [Ok(21), Ok(4), Ok(59)]);
        // The quad permutation 1, 0, 3, 2, and the lane that differs in bit 3.
        assert_eq!(from(Exchange::Dpp, 6, [0, 0, 0b10_11_00_01, 0, 0, 0]), Ok(7));
        assert_eq!(from(Exchange::Dpp, 6, [0, 0, 0x168, 0, 0, 0]), Ok(14));
        assert!(from(Exchange::Dpp, 6, [0, 0, 0x140, 0, 0, 0]).is_err());
    }
}
