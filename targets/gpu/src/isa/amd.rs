//! AMD GPUs: those of the CDNA line with waves of 64 lanes and MFMA, those of the RDNA line with waves of 32 lanes and WMMA.
//!
//! Both read weights as [`MATRIX`] deals them out: a lane of CDNA takes one seat, a lane of RDNA the two seats of its row whose parts are two
//! apart. Loads need no instruction of their own to be asynchronous here: a wave goes on until it uses what it loaded, and the compiler
//! puts the wait there.

use super::{COLUMNS, Isa, Matrix, PARTS, ROWS};
use q35_mlir::builder::{Builder, Fence, FnAttrs, Val};
use q35_mlir::types::{F16, F32, I1, I32, Ty};

/// How weights are dealt out.
const MATRIX: Matrix = Matrix { tokens: 16, seat_rows: 1, parts_first: false };
/// Memory that a group shares.
const SHARED: u32 = 64 << 10;
/// Constants, an address space of their own.
const CONSTANT: u8 = 4;
/// Lanes of a row, within which data-parallel primitives move values.
const ROW: u32 = 16;

/// GPUs from MI200 on: gfx90a, gfx942.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cdna;

/// GPUs from RX 7000 on: gfx1100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rdna;

/// What the kernels of both lines are told: no hidden arguments, which nobody would pass.
fn attributes(threads: u32) -> FnAttrs {
    let mut others = vec![
        ("amdgpu-flat-work-group-size", format!("{threads},{threads}")),
        ("uniform-work-group-size", "true".to_owned()),
        ("amdgpu-implicitarg-num-bytes", "0".to_owned()),
    ];
    let unused = [
        "amdgpu-no-completion-action",
        "amdgpu-no-default-queue",
        "amdgpu-no-dispatch-id",
        "amdgpu-no-dispatch-ptr",
        "amdgpu-no-flat-scratch-init",
        "amdgpu-no-heap-ptr",
        "amdgpu-no-hostcall-ptr",
        "amdgpu-no-implicitarg-ptr",
        "amdgpu-no-lds-kernel-id",
        "amdgpu-no-multigrid-sync-arg",
        "amdgpu-no-queue-ptr",
        "amdgpu-no-workgroup-id-y",
        "amdgpu-no-workgroup-id-z",
        "amdgpu-no-workitem-id-y",
        "amdgpu-no-workitem-id-z",
    ];
    others.extend(unused.map(|name| (name, String::new())));
    FnAttrs { convention: "amdgpu_kernelcc", others, ..FnAttrs::default() }
}

/// A barrier alone orders no memory: what was written before it is released, what is read after it acquired.
fn barrier<'k>(b: &'k Builder<'k>) {
    b.fence(Fence::Release, "workgroup");
    b.intrinsic_void("llvm.amdgcn.s.barrier", &[]);
    b.fence(Fence::Acquire, "workgroup");
}

/// The value of another lane, by a function of the value's bits.
fn exchanged<'k>(value: Val<'k>, exchange: impl FnOnce(Val<'k>) -> Val<'k>) -> Val<'k> {
    let ty = value.ty();
    exchange(value.bitcast(I32)).bitcast(ty)
}

fn number<'k>(b: &'k Builder<'k>, number: u32) -> Val<'k> {
    b.constant(I32, i64::from(number))
}

/// Within fours of lanes, or with `row_xmask` within rows: no memory is involved.
fn data_parallel<'k>(value: Val<'k>, control: u32) -> Val<'k> {
    let b = value.builder();
    let all = number(b, 0xf);
    b.intrinsic("llvm.amdgcn.update.dpp.i32", &[b.poison(I32), value, number(b, control), all, all, b.constant(I1, true)], I32)
}

/// The control of the permutation within fours that flips the bits of `mask`.
fn quad(mask: u32) -> u32 {
    (0..4).fold(0, |control, lane| control | (lane ^ mask) << (2 * lane))
}

/// The lane at the same place of the other row of 16 of its 32.
fn other_row(value: Val<'_>) -> Val<'_> {
    let b = value.builder();
    let (low, high) = (number(b, 0x7654_3210), number(b, 0xfedc_ba98));
    let (off, bound) = (b.constant(I1, false), b.constant(I1, true));
    b.intrinsic("llvm.amdgcn.permlanex16.i32", &[b.poison(I32), value, low, high, off, bound], I32)
}

/// The lane of a number, among those of the wave.
fn of_lane<'k>(value: Val<'k>, lane: Val<'k>) -> Val<'k> {
    value.builder().intrinsic("llvm.amdgcn.ds.bpermute", &[lane.to(I32) << 2, value], I32)
}

/// The lane whose number differs in the bits of `mask`, below 32.
fn swizzled(value: Val<'_>, mask: u32) -> Val<'_> {
    let b = value.builder();
    b.intrinsic("llvm.amdgcn.ds.swizzle", &[value, number(b, 0x1f | mask << 10)], I32)
}

macro_rules! common {
    () => {
        fn shared_bytes(&self) -> u32 {
            SHARED
        }

        fn table_space(&self) -> u8 {
            CONSTANT
        }

        fn matrix(&self) -> Matrix {
            MATRIX
        }

        fn attributes(&self, threads: u32) -> FnAttrs {
            attributes(threads)
        }

        fn thread<'k>(&self, b: &'k Builder<'k>) -> Val<'k> {
            b.intrinsic("llvm.amdgcn.workitem.id.x", &[], I32)
        }

        fn group<'k>(&self, b: &'k Builder<'k>) -> Val<'k> {
            b.intrinsic("llvm.amdgcn.workgroup.id.x", &[], I32)
        }

        fn barrier<'k>(&self, b: &'k Builder<'k>) {
            barrier(b);
        }
    };
}

impl Isa for Cdna {
    common!();

    fn wave(&self) -> u32 {
        64
    }

    fn exchange<'k>(&self, value: Val<'k>, mask: u32) -> Val<'k> {
        exchanged(value, |bits| match mask {
            1..4 => data_parallel(bits, quad(mask)),
            4..32 => swizzled(bits, mask),
            _ => of_lane(bits, self.thread(bits.builder()) ^ i64::from(mask)),
        })
    }

    fn hold_loads<'k>(&self, place: Val<'k>, _sums: &[Val<'k>]) -> Val<'k> {
        let b = place.builder();
        b.intrinsic_void("llvm.amdgcn.sched.barrier", &[b.i32(0)]);
        place
    }

    /// `v_mfma_f32_16x16x16_f16`: a lane holds four columns of its row and of its token.
    fn multiply<'k>(&self, weights: &[Val<'k>], tokens: &[Val<'k>], sums: &[Val<'k>]) -> Vec<Val<'k>> {
        let (b, none) = (tokens[0].builder(), number(tokens[0].builder(), 0));
        let count = sums.len() as u32;
        let args = [weights[0], tokens[0], gathered(sums), none, none, none];
        let result = b.intrinsic("llvm.amdgcn.mfma.f32.16x16x16f16", &args, F32.x(count));
        (0..count).map(|at| result.lane(at)).collect()
    }

    fn sums<'k>(&self, lane: Val<'k>) -> Vec<(Val<'k>, Val<'k>)> {
        let (first, token) = (lane.div_u(i64::from(ROW)) * 4, lane.rem_u(i64::from(ROW)));
        (0..4).map(|at: i64| (first + at, token)).collect()
    }
}

impl Isa for Rdna {
    common!();

    fn wave(&self) -> u32 {
        32
    }

    fn exchange<'k>(&self, value: Val<'k>, mask: u32) -> Val<'k> {
        /// `row_xmask` by none.
        const ROW_XMASK: u32 = 0x160;
        exchanged(value, |bits| match mask {
            1..4 => data_parallel(bits, quad(mask)),
            4..16 => data_parallel(bits, ROW_XMASK | mask),
            16 => other_row(bits),
            _ => swizzled(bits, mask),
        })
    }

    /// A barrier of the scheduler alone lets the products wait until all loads are done, which this line has no registers for: an assembly
    /// of no instruction makes the place depend on the sums.
    fn hold_loads<'k>(&self, place: Val<'k>, sums: &[Val<'k>]) -> Val<'k> {
        let constraints = "=v,0".to_owned() + &",v".repeat(sums.len());
        place.builder().assembly("", &constraints, &[&[place], sums].concat(), place.ty(), 1)[0]
    }

    /// Every lane gives all of its token's columns.
    fn token_parts<'k>(&self, lane: Val<'k>) -> Vec<Val<'k>> {
        (0..i64::from(PARTS)).map(|part| lane.builder().i64(part)).collect()
    }

    /// `v_wmma_f32_16x16x16_f16` wants all columns of a row in a lane of each half of the wave: the two lanes of a row decode two parts each,
    /// and give them to each other.
    fn multiply<'k>(&self, weights: &[Val<'k>], tokens: &[Val<'k>], sums: &[Val<'k>]) -> Vec<Val<'k>> {
        let (b, count) = (tokens[0].builder(), sums.len() as u32);
        let lower = (self.thread(b) & i64::from(ROW)).eq(0);
        let both = |own: Val<'k>| {
            let words = own.bitcast(I32.x(COLUMNS / 2));
            let other = gathered(&[0, 1].map(|word| other_row(words.lane(word))));
            let halves = |words: Val<'k>| words.bitcast(F16.x(COLUMNS));
            let (first, second) = (lower.select(words, other), lower.select(other, words));
            halves(first).concat(halves(second))
        };
        let weights = both(weights[0]).concat(both(weights[1]));
        let tokens = tokens[0].concat(tokens[1]).concat(tokens[2].concat(tokens[3]));
        let name = "llvm.amdgcn.wmma.f32.16x16x16.f16.v8f32.v16f16";
        let result = b.intrinsic(name, &[weights, tokens, gathered(sums)], F32.x(count));
        (0..count).map(|at| result.lane(at)).collect()
    }

    fn sums<'k>(&self, lane: Val<'k>) -> Vec<(Val<'k>, Val<'k>)> {
        let (first, token) = (lane.div_u(i64::from(ROW)), lane.rem_u(i64::from(ROW)));
        (0..i64::from(ROWS / 2)).map(|at| (first + 2 * at, token)).collect()
    }
}

/// Scalars as one vector.
fn gathered<'k>(scalars: &[Val<'k>]) -> Val<'k> {
    let ty: Ty = scalars[0].ty().x(scalars.len() as u32);
    (0..).zip(scalars).fold(scalars[0].builder().poison(ty), |all, (at, &scalar)| all.with_lane(at, scalar))
}
