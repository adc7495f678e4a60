//! NVIDIA GPUs from sm_80 on: waves of 32 lanes, `mma.m16n8k16`.

use super::{COLUMNS, Isa, Matrix, PARTS};
use q35_mlir::builder::{Builder, FnAttrs, Val};
use q35_mlir::types::{Elem, F16, F32, I32};

/// The instructions that every architecture from sm_80 on has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nvidia;

/// All lanes of a wave.
const ALL: i64 = -1;

impl Isa for Nvidia {
    fn wave(&self) -> u32 {
        32
    }

    fn shared_bytes(&self) -> u32 {
        48 << 10
    }

    fn table_space(&self) -> u8 {
        1
    }

    fn matrix(&self) -> Matrix {
        Matrix { tokens: 8, seat_rows: 2, parts_first: true }
    }

    fn attributes(&self, threads: u32) -> FnAttrs {
        // One group per processor is enough for the assembler: it must not spill registers to fit more.
        let others = vec![("nvvm.reqntid", threads.to_string()), ("nvvm.minctasm", "1".to_owned())];
        FnAttrs { convention: "ptx_kernelcc", others, ..FnAttrs::default() }
    }

    fn thread<'k>(&self, b: &'k Builder<'k>) -> Val<'k> {
        b.intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", &[], I32)
    }

    fn group<'k>(&self, b: &'k Builder<'k>) -> Val<'k> {
        b.intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", &[], I32)
    }

    fn barrier<'k>(&self, b: &'k Builder<'k>) {
        b.intrinsic_void("llvm.nvvm.barrier.cta.sync.aligned.all", &[b.i32(0)]);
    }

    fn hold_loads<'k>(&self, place: Val<'k>, _sums: &[Val<'k>]) -> Val<'k> {
        let b = place.builder();
        b.intrinsic_void("llvm.nvvm.bar.warp.sync", &[b.constant(I32, ALL)]);
        place
    }

    fn exchange<'k>(&self, value: Val<'k>, mask: u32) -> Val<'k> {
        let b = value.builder();
        let name = match value.ty().elem {
            Elem::F32 => "llvm.nvvm.shfl.sync.bfly.f32",
            _ => "llvm.nvvm.shfl.sync.bfly.i32",
        };
        let (all, mask, lanes) = (b.constant(I32, ALL), b.constant(I32, i64::from(mask)), b.i32(31));
        b.intrinsic(name, &[all, value, mask, lanes], value.ty())
    }

    /// The instruction's own columns are two and two, eight apart; since weights and tokens are cut alike, any four columns of a part
    /// may stand there.
    fn multiply<'k>(&self, weights: &[Val<'k>], tokens: &[Val<'k>], sums: &[Val<'k>]) -> Vec<Val<'k>> {
        let [tokens] = *tokens else { unreachable!("a lane gives one part of its token") };
        let half = |four: Val<'k>, at: u32| four.slice(2 * at, 2);
        debug_assert_eq!((weights.len(), tokens.ty()), (2, F16.x(COLUMNS)));
        let mut args = vec![half(weights[0], 0), half(weights[1], 0), half(weights[0], 1), half(weights[1], 1)];
        args.extend([half(tokens, 0), half(tokens, 1)]);
        args.extend(sums);
        tokens.builder().intrinsic_many("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", &args, F32, sums.len())
    }

    fn sums<'k>(&self, lane: Val<'k>) -> Vec<(Val<'k>, Val<'k>)> {
        let (row, token) = (lane.div_u(i64::from(PARTS)), lane.rem_u(i64::from(PARTS)) * 2);
        vec![(row, token), (row, token + 1), (row + 8, token), (row + 8, token + 1)]
    }
}
