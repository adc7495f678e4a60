//! 16-bit floats to f32 at any level.

use crate::level::Level;
use q35_mlir::builder::Val;
use q35_mlir::types::{Elem, F32, I16, I32};

/// The same numbers in f32; exact. Finite numbers only: at a level without a conversion instruction, infinities and NaN become
/// large finite numbers.
pub fn widen(level: Level, v: Val<'_>) -> Val<'_> {
    let lanes = v.lanes();
    let (f32s, i32s) = (F32.x(lanes), I32.x(lanes));
    match (v.ty().elem, level) {
        (Elem::F32, _) => v,
        (Elem::Bf16, _) => (v.bitcast(I16.x(lanes)).to_u(i32s) << 16).bitcast(f32s),
        (_, Level::Avx512) => v.to(f32s),
        (_, Level::Base) => {
            // Exponent and significand of a binary16, moved to binary32's places, read as 2^-112 times the number; subnormals too.
            let bits = v.bitcast(I16.x(lanes)).to_u(i32s);
            let magnitude = ((bits & 0x7fff) << 13).bitcast(f32s) * 2f64.powi(112);
            (magnitude.bitcast(i32s) | ((bits & 0x8000) << 16)).bitcast(f32s)
        }
    }
}
