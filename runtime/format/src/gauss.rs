//! The fixed Gaussian source of the error figures and of the tables' training: the same numbers on every machine.
//!
//! Only operations that IEEE 754 defines to the last bit are used (no library logarithm), so a platform's
//! mathematical library cannot change a table. Bits come from SplitMix64 (Steele, Lea, Flood 2014), pairs of normals
//! from the polar method (Marsaglia and Bray 1964).

/// Output `index` of the SplitMix64 stream that starts at `seed`.
pub fn split_mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An endless stream of independent standard normals.
#[derive(Debug, Clone)]
pub struct Gauss {
    seed: u64,
    drawn: u64,
    spare: Option<f32>,
}

impl Gauss {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Gauss { seed, drawn: 0, spare: None }
    }

    /// Uniform on (-1, 1), a multiple of 2^-52 off an odd offset, so never 0.
    fn uniform(&mut self) -> f64 {
        let bits = split_mix(self.seed, self.drawn) >> 12;
        self.drawn += 1;
        (bits as f64 + 0.5) / (1u64 << 51) as f64 - 1.0
    }
}

impl Iterator for Gauss {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        if let Some(spare) = self.spare.take() {
            return Some(spare);
        }
        loop {
            let (u, v) = (self.uniform(), self.uniform());
            let s = u * u + v * v;
            if s < 1.0 {
                let factor = (-2.0 * ln(s) / s).sqrt();
                self.spare = Some((v * factor) as f32);
                return Some((u * factor) as f32);
            }
        }
    }
}

/// Natural logarithm of a positive normal number: exponent and mantissa apart, the mantissa (in [1/sqrt 2, sqrt 2)) by
/// `ln m = 2 atanh((m - 1) / (m + 1))`, twelve terms of the series, relative error below 1e-14.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let mut sum = 0.0;
    for k in (0..12).rev() {
        sum = sum * (t * t) + 1.0 / f64::from(2 * k + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * t * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithm_agrees_with_the_library() {
        for x in [1e-300, 1e-9, 0.5, 0.707, 0.99999, 1.0, 1.415, 3.0, 1e200] {
            let (ours, theirs) = (ln(x), x.ln());
            assert!((ours - theirs).abs() <= 1e-14 * theirs.abs().max(1e-2), "{x}: {ours} {theirs}");
        }
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        const N: usize = 1 << 20;
        let mut moment = [0.0; 5];
        for x in Gauss::new(9).take(N) {
            for (power, sum) in moment.iter_mut().enumerate() {
                *sum += f64::from(x).powi(power as i32) / N as f64;
            }
        }
        for (power, (expected, four_sigma)) in
            [(1.0, 1e-9), (0.0, 0.004), (1.0, 0.0056), (0.0, 0.0152), (3.0, 0.039)].into_iter().enumerate()
        {
            assert!((moment[power] - expected).abs() < four_sigma, "moment {power}: {}", moment[power]);
        }
    }
}
