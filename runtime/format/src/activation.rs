//! The int8 rounding of activations that every integer kernel and every reference evaluation shares.
//!
//! One token's input of a linear layer becomes 8-bit integers and one scale: `x[k]` is about `scale * q[k]`, with
//!
//! ```text
//! amax  = max |x[k]|                      NaN elements are passed over
//! scale = amax / 127
//! inv   = 127 / amax, and 0 where amax is 0
//! q[k]  = clamp(round_ties_even(x[k] * inv), -127, 127)
//! ```
//!
//! all in f32, each operation rounded on its own (no fused multiply-add). -128 never occurs. A NaN element becomes 0.
//! An infinite `amax` gives an infinite scale and `q` of 0 (finite and infinite elements alike), so that the layer's
//! output becomes NaN (infinity times 0) instead of something plausible. An `amax` below 127 / f32::MAX (3.7e-37, all
//! but subnormal) overflows `inv`; nonzero elements then saturate to +-127, and zeros, being NaN products, become 0.

/// Largest magnitude of a quantized activation.
pub const LIMIT: f32 = 127.0;

/// Quantizes one token's activations into `q` (same length as `x`) and returns the scale.
pub fn quantize(x: &[f32], q: &mut [i8]) -> f32 {
    assert_eq!(x.len(), q.len(), "one integer per activation");
    let amax = x.iter().fold(0.0f32, |amax, v| amax.max(v.abs()));
    let inv = if amax == 0.0 { 0.0 } else { LIMIT / amax };
    for (q, x) in q.iter_mut().zip(x) {
        // The cast turns NaN into 0.
        *q = (x * inv).round_ties_even().clamp(-LIMIT, LIMIT) as i8;
    }
    amax / LIMIT
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_even_and_the_largest_is_127() {
        let mut q = [0; 6];
        let scale = quantize(&[127.0, -127.0, 0.5, 1.5, -2.5, 126.5], &mut q);
        assert_eq!((scale, q), (1.0, [127, -127, 0, 2, -2, 126]));
    }

    #[test]
    fn what_is_not_finite_is_as_documented() {
        let mut q = [9; 3];
        assert_eq!((quantize(&[0.0, -0.0, 0.0], &mut q), q), (0.0, [0, 0, 0]));
        assert_eq!((quantize(&[f32::NAN, 1.0, -0.5], &mut q), q), (1.0 / 127.0, [0, 127, -64]));
        assert_eq!((quantize(&[f32::NEG_INFINITY, 1.0, 0.0], &mut q), q), (f32::INFINITY, [0, 0, 0]));
        assert_eq!((quantize(&[1e-40, -1e-40, 0.0], &mut q).is_finite(), q), (true, [127, -127, 0]));
    }

    proptest! {
        #[test]
        fn error_is_half_a_step(x in prop::collection::vec(-1e6f32..1e6, 1..50)) {
            let mut q = vec![0; x.len()];
            let scale = f64::from(quantize(&x, &mut q));
            for (x, q) in x.iter().zip(q) {
                prop_assert!((f64::from(*x) - scale * f64::from(q)).abs() <= scale * 0.50002);
            }
        }
    }
}
