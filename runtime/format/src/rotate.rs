//! The random-sign block Hadamard transform `R`.
//!
//! `R` acts on vectors of length K, block by block. The block B is a power of two that divides K; on each block
//!
//! ```text
//! R x = H diag(s) x / sqrt(B)         H[i][j] = (-1)^popcount(i & j),  s[k] = sign(seed, k) for the k-th element of the block
//! ```
//!
//! so `R` is orthonormal, `inverse` is its transpose, and it does not depend on how many blocks there are: the columns of one
//! attention head are rotated alike wherever the head stands. Rotating a linear layer's input and the rows of its weight
//! (`W' = W R^T`, which is `forward` on each row of W) leaves the layer's output as it was: `W' (R x) = W x`.
//!
//! The order of the floating-point operations is part of the definition, so that every evaluator agrees to the bit:
//! signs first; then the butterflies `(a, b) -> (a + b, a - b)` at distances 1, 2, 4, ... B/2; then one
//! multiplication by `1 / sqrt(B)`, both rounded to f32. `inverse` does butterflies, multiplication, signs.

/// The block of a vector of length `len`: the largest power of two that divides it. 1 for a length of 0.
pub fn block(len: usize) -> usize {
    if len == 0 { 1 } else { 1 << len.trailing_zeros() }
}

/// The sign of element `index` of a block: -1 where bit 63 of the hash is set. The hash is SplitMix64's output function
/// (Steele, Lea, Flood 2014) at position `index` of the stream that starts at `seed`.
pub fn sign(seed: u64, index: usize) -> f32 {
    if crate::gauss::split_mix(seed, index as u64) >> 63 == 1 { -1.0 } else { 1.0 }
}

/// The signs of a block of `len` elements, for tables in generated code.
pub fn signs(seed: u64, len: usize) -> impl Iterator<Item = f32> {
    (0..len).map(move |index| sign(seed, index))
}

/// `x <- R x`. The length of `x` is a multiple of `block`, which is a power of two.
pub fn forward(x: &mut [f32], block: usize, seed: u64) {
    flip(x, block, seed);
    hadamard(x, block);
}

/// `x <- R^T x`, which undoes [`forward`] up to rounding.
pub fn inverse(x: &mut [f32], block: usize, seed: u64) {
    hadamard(x, block);
    flip(x, block, seed);
}

fn flip(x: &mut [f32], block: usize, seed: u64) {
    let signs: Vec<f32> = signs(seed, block).collect();
    for x in x.chunks_mut(block) {
        for (value, sign) in x.iter_mut().zip(&signs) {
            *value *= sign;
        }
    }
}

/// The orthonormal Hadamard transform of each block of `x`, without signs.
pub fn hadamard(x: &mut [f32], block: usize) {
    assert!(block.is_power_of_two() && x.len().is_multiple_of(block), "block {block} of {} elements", x.len());
    let norm = 1.0 / (block as f32).sqrt();
    for x in x.chunks_exact_mut(block) {
        let mut half = 1;
        while half < block {
            for pair in x.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        for value in x {
            *value *= norm;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row `i` of `R`, by definition, in f64.
    fn definition(len: usize, block: usize, seed: u64, i: usize) -> Vec<f64> {
        (0..len)
            .map(|j| {
                if i / block != j / block {
                    return 0.0;
                }
                let parity = ((i % block) & (j % block)).count_ones() % 2;
                let entry = if parity == 1 { -1.0 } else { 1.0 };
                entry * f64::from(sign(seed, j % block)) / (block as f64).sqrt()
            })
            .collect()
    }

    #[test]
    fn block_is_the_largest_power_of_two_divisor() {
        for (len, expected) in [(0, 1), (1, 1), (3, 1), (6, 2), (768, 256), (4096, 4096), (11008, 256), (28672, 4096)] {
            assert_eq!(block(len), expected, "{len}");
        }
    }

    #[test]
    fn forward_is_the_definition_and_inverse_undoes_it() {
        for len in [1, 6, 24, 64, 96] {
            let block = block(len);
            let x: Vec<f32> = (0..len).map(|i| (i * i % 17) as f32 - 5.5).collect();
            let mut y = x.clone();
            forward(&mut y, block, 77);
            for (i, y) in y.iter().enumerate() {
                let row = definition(len, block, 77, i);
                let exact: f64 = row.iter().zip(&x).map(|(r, x)| r * f64::from(*x)).sum();
                assert!((f64::from(*y) - exact).abs() < 1e-5, "{len} {i}");
                let norm: f64 = row.iter().map(|r| r * r).sum();
                assert!((norm - 1.0).abs() < 1e-12);
            }
            inverse(&mut y, block, 77);
            for (x, y) in x.iter().zip(&y) {
                assert!((x - y).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn signs_are_fixed_balanced_and_depend_on_the_seed() {
        let first: Vec<f32> = signs(0, 16).collect();
        // SplitMix64 from seed 0: 0xe220a839..., 0x6e789e6a..., 0x06c45d18..., 0xf88bb8a8..., as published with the generator.
        assert_eq!(first[..4], [-1.0, 1.0, 1.0, -1.0]);
        let sum: f32 = signs(0, 1 << 16).sum();
        assert!(sum.abs() < 1024.0, "{sum}"); // 4 standard deviations
        let agree = signs(1, 1 << 16).zip(signs(2, 1 << 16)).filter(|(a, b)| a == b).count();
        assert!(agree.abs_diff(1 << 15) < 512, "{agree}");
    }

    #[test]
    fn an_outlier_is_spread_evenly() {
        let mut x = vec![0.0; 256];
        x[37] = 16.0;
        forward(&mut x, 256, 5);
        assert!(x.iter().all(|v| v.abs() == 1.0));
    }
}
