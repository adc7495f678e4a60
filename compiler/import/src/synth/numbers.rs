//! Numbers for tensors that nobody trained: Gaussian, fast, and the same bytes on any number of threads.
//!
//! A number is one of the 65536 quantiles that cut the normal distribution into equally probable parts, chosen by 16 random bits. The quantiles are
//! scaled and converted to a tensor's element type once; after that a number costs one look-up. A tensor is cut into chunks. Each has a
//! generator of its own, which starts from the seed, the tensor's name and the chunk's number: the order in which chunks are made does not
//! matter, nor which other tensors the model has.

use half::{bf16, f16};
use q35_graph::DType;
use rayon::prelude::*;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// Numbers per chunk.
const CHUNK: u64 = 1 << 18;

/// How many quantiles there are: one for every value of 16 bits.
const QUANTILES: usize = 1 << 16;

/// How the numbers of a tensor are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Normal {
    pub(super) mean: f32,
    pub(super) deviation: f32,
}

/// The numbers of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<'a> {
    pub(super) seed: u64,
    pub(super) name: &'a str,
    pub(super) dtype: DType,
    pub(super) normal: Normal,
}

impl Numbers<'_> {
    /// Writes the first `count` of them to `file` from byte `offset` on.
    pub(super) fn write(&self, file: &File, offset: u64, count: u64) -> io::Result<()> {
        // FNV-1a.
        let start = 0xcbf2_9ce4_8422_2325;
        let hash = self.name.bytes().fold(start, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let seed = mix(mix(self.seed) ^ hash);
        let Normal { mean, deviation } = self.normal;
        let quantiles = QUANTILE.iter().map(|x| mean + deviation * x);
        match self.dtype {
            DType::F32 => chunks(file, offset, count, seed, quantiles.map(f32::to_le_bytes)),
            DType::F16 => chunks(file, offset, count, seed, quantiles.map(|x| f16::from_f32(x).to_le_bytes())),
            DType::Bf16 => chunks(file, offset, count, seed, quantiles.map(|x| bf16::from_f32(x).to_le_bytes())),
            DType::F8E4M3 => chunks(file, offset, count, seed, quantiles.map(|x| [e4m3(x)])),
            other => Err(io::Error::other(format!("{} numbers are not made", other.name()))),
        }
    }
}

/// Writes all chunks of a tensor, whose elements have `W` bytes each.
fn chunks<const W: usize>(
    file: &File,
    offset: u64,
    count: u64,
    seed: u64,
    quantiles: impl Iterator<Item = [u8; W]>,
) -> io::Result<()> {
    let table: Vec<[u8; W]> = quantiles.collect();
    let Ok(table) = <&[[u8; W]; QUANTILES]>::try_from(&table[..]) else { unreachable!("there are {QUANTILES} quantiles") };
    let numbers = (0..count.div_ceil(CHUNK)).into_par_iter();
    numbers.try_for_each_init(Vec::new, |bytes, number| {
        let first = number * CHUNK;
        bytes.resize((count - first).min(CHUNK) as usize * W, 0);
        chunk(table, mix(seed ^ mix(number)), bytes);
        file.write_all_at(bytes, offset + first * W as u64)
    })
}

/// Fills `bytes` with elements of `table`; each output of the generator chooses four.
fn chunk<const W: usize>(table: &[[u8; W]; QUANTILES], mut state: u64, bytes: &mut [u8]) {
    for four in bytes.as_chunks_mut::<W>().0.chunks_mut(4) {
        state = state.wrapping_add(GAMMA);
        let random = mix(state);
        for (at, number) in four.iter_mut().enumerate() {
            *number = table[usize::from((random >> (16 * at)) as u16)];
        }
    }
}

/// The step of SplitMix64 (Steele, Lea, Flood 2014).
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// Its output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The numbers that a standard normal one exceeds with probability `(i + 1/2) / 65536`, largest first.
///
/// From the middle outward, each by Newton's method from the one before: the upper tail `Q(x) = erfc(x / sqrt 2) / 2` is convex there, so the
/// iteration ascends to the root.
static QUANTILE: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let (half, root_two_pi) = (QUANTILES / 2, (2.0 * std::f64::consts::PI).sqrt());
    let (mut quantiles, mut x) = (vec![0.0; QUANTILES], 0.0);
    for i in (0..half).rev() {
        let tail = (i as f64 + 0.5) / QUANTILES as f64;
        loop {
            let step = (libm::erfc(x / std::f64::consts::SQRT_2) / 2.0 - tail) * root_two_pi * libm::exp(x * x / 2.0);
            x += step;
            if step < 1e-10 {
                break;
            }
        }
        quantiles[i] = x as f32;
        quantiles[QUANTILES - 1 - i] = -x as f32;
    }
    quantiles
});

/// The nearest number of four exponent and three mantissa bits; NaN is never made.
fn e4m3(x: f32) -> u8 {
    /// Magnitudes of the codes below that of NaN, ascending.
    static MAGNITUDES: LazyLock<Vec<f32>> = LazyLock::new(|| {
        (0..0x7f_u8)
            .map(|code| {
                let (exponent, mantissa) = (i32::from(code >> 3), f32::from(code & 7) / 8.0);
                if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) }
            })
            .collect()
    });
    let (size, sign) = (x.abs(), u8::from(x.is_sign_negative()) << 7);
    let above = MAGNITUDES.partition_point(|m| *m < size).min(0x7e);
    let below = above.saturating_sub(1);
    let nearest = if size - MAGNITUDES[below] < MAGNITUDES[above] - size { below } else { above };
    sign | nearest as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(threads: usize, count: u64, dtype: DType, normal: Normal) -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let numbers = Numbers { seed: 7, name: "a", dtype, normal };
        pool.install(|| numbers.write(&file, 8, count)).unwrap();
        let mut bytes = vec![0; (count * dtype.bits() / 8) as usize];
        file.read_exact_at(&mut bytes, 8).unwrap();
        bytes
    }

    const STANDARD: Normal = Normal { mean: 0.0, deviation: 1.0 };

    #[test]
    fn moments_are_those_of_the_normal_distribution() {
        let count = 5 * CHUNK + 3;
        let bytes = written(2, count, DType::F32, Normal { mean: 3.0, deviation: 0.5 });
        let numbers: Vec<f64> = bytes.as_chunks().0.iter().map(|b| (f64::from(f32::from_le_bytes(*b)) - 3.0) / 0.5).collect();
        let moment = |power| numbers.iter().map(|x| x.powi(power)).sum::<f64>() / count as f64;
        // Four standard errors each.
        for (power, expected, bound) in [(1, 0.0, 0.0035), (2, 1.0, 0.005), (3, 0.0, 0.0135), (4, 3.0, 0.035)] {
            assert!((moment(power) - expected).abs() < bound, "moment {power} is {}", moment(power));
        }
        // Neighbours know nothing of each other, nor do the same places of two chunks.
        for lag in [1, 2, 3, 4, CHUNK as usize] {
            let products = numbers.iter().zip(&numbers[lag..]).map(|(a, b)| a * b);
            let correlation = products.sum::<f64>() / (count as usize - lag) as f64;
            assert!(correlation.abs() < 0.004, "at a distance of {lag}: {correlation}");
        }
    }

    #[test]
    fn threads_do_not_matter() {
        let bytes = |threads| written(threads, 3 * CHUNK + 1, DType::Bf16, STANDARD);
        assert!(bytes(1) == bytes(3));
    }

    #[test]
    fn quantiles_cut_equal_shares() {
        let rank = |x: f32| QUANTILE.partition_point(|q| *q > x);
        // Of the standard normal distribution, 15.8655 % lie above 1, 2.2750 % above 2, 0.0032 % above 4.
        for (x, above) in [(0.0, 32768), (1.0, 10398), (2.0, 1491), (4.0, 2), (-1.0, 65536 - 10398)] {
            assert!(rank(x).abs_diff(above) <= 1, "{} quantiles are above {x}", rank(x));
        }
        assert!(QUANTILE.is_sorted_by(|a, b| a > b));
    }

    /// The oracle is the reader of such tensors.
    #[test]
    fn bytes_are_the_nearest_floats_of_eight_bits() {
        let numbers: Vec<f32> = {
            let tensor = q35_graph::Tensor::new(DType::F8E4M3, vec![256], (0..=255).collect::<Vec<u8>>().into(), 0).unwrap();
            let mut numbers = [0.0; 256];
            tensor.read(0, &mut numbers);
            numbers.into_iter().filter(|x| !x.is_nan()).collect()
        };
        let decoded = |code: u8| {
            let tensor = q35_graph::Tensor::new(DType::F8E4M3, vec![1], vec![code].into(), 0).unwrap();
            tensor.number(0) as f32
        };
        for x in (-500..500).map(|i| i as f32 * 0.917).chain((-64..64).map(|i| i as f32 / 777.0)) {
            let error = numbers.iter().map(|n| (n - x).abs()).fold(f32::INFINITY, f32::min);
            assert_eq!((decoded(e4m3(x)) - x).abs(), error, "{x}");
        }
    }
}
