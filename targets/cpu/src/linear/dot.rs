//! The one arithmetic step of every integer kernel: sixteen sums of four products.

use crate::level::Level;
use q35_mlir::builder::Val;
use q35_mlir::types::{Elem, I8, I16, I32, Ty};

/// Sixteen 32-bit sums.
pub(super) const SUMS: Ty = I32.x(16);
/// Sixty-four bytes.
pub(super) const BYTES: Ty = I8.x(64);

/// `sums[i] + u[4i] x[4i] + ... + u[4i+3] x[4i+3]`, with `u` unsigned, `x` signed, exact modulo 2^32.
pub(super) fn dot<'k>(level: Level, sums: Val<'k>, u: Val<'k>, x: Val<'k>) -> Val<'k> {
    match level {
        Level::Avx512 => sums.builder().intrinsic("llvm.x86.avx512.vpdpbusd.512", &[sums, u, x], SUMS),
        Level::Base => {
            // Products of an unsigned and a signed byte fit in 16 bits; their sums need 32.
            let products = (u.to_u(I16.x(64)) * x.to(I16.x(64))).to(I32.x(64));
            let pairs = even(products) + odd(products);
            sums + (even(pairs) + odd(pairs))
        }
    }
}

/// Four bytes at an address, in every lane of four.
pub(super) fn quad<'k>(address: Val<'k>) -> Val<'k> {
    address.load(I32, 4).splat(16).bitcast(BYTES)
}

/// Lanes 0, 2, 4, ....
fn even(v: Val<'_>) -> Val<'_> {
    v.shuffle(v, &(0..v.lanes()).step_by(2).collect::<Vec<_>>())
}

/// Lanes 1, 3, 5, ....
fn odd(v: Val<'_>) -> Val<'_> {
    v.shuffle(v, &(1..v.lanes()).step_by(2).collect::<Vec<_>>())
}

/// Per quarter of four lanes `[sum of quarter of v[0], ..., sum of quarter of v[3]]`, for vectors of sixteen.
pub(super) fn transpose_add<'k>(v: [Val<'k>; 4]) -> Val<'k> {
    let pick = |a: Val<'k>, b: Val<'k>, within: [u32; 4]| {
        let lanes: Vec<u32> =
            (0..16).step_by(4).flat_map(|quarter| within.map(|lane| lane / 4 * 16 + quarter + lane % 4)).collect();
        a.shuffle(b, &lanes)
    };
    // Lanes of `b` count from 4 in `within`.
    let halves = |a, b| pick(a, b, [0, 4, 1, 5]) + pick(a, b, [2, 6, 3, 7]);
    let (low, high) = (halves(v[0], v[1]), halves(v[2], v[3]));
    pick(low, high, [0, 1, 4, 5]) + pick(low, high, [2, 3, 6, 7])
}

/// The sum of the quarters `first..first + count` (of four) of a vector of sixteen lanes, as a vector of four.
pub(super) fn sum_quarters(v: Val<'_>, first: u32, count: u32) -> Val<'_> {
    (first + 1..first + count).fold(v.slice(4 * first, 4), |sum, quarter| sum + v.slice(4 * quarter, 4))
}

/// A constant of sixty-four bytes.
pub(super) fn bytes<'k>(like: Val<'k>, f: impl Fn(u32) -> u8) -> Val<'k> {
    like.builder().lanes(Elem::I8, &(0..64).map(f).collect::<Vec<u8>>())
}
