//! Properties of encoding and decoding, over odd shapes and hostile numbers.
#![allow(clippy::unwrap_used)] // a test may fail

use proptest::prelude::*;
use q35_format::codec::Storage;
use q35_format::encode::{Encoder, encode};
use q35_format::gauss::Gauss;
use q35_format::trellis::{LANES, Lane, Scratch, Trellis};
use q35_format::{Codec, Group, PackedSpec, PackedView, ScaleType, decode, stream, table};

fn codecs() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::all().collect::<Vec<_>>())
}

fn specs() -> impl Strategy<Value = PackedSpec> {
    let groups = prop::sample::select(vec![Group::Row, Group::Columns(64), Group::Columns(128)]);
    let cols = prop_oneof![Just(1usize), 2..10usize, 60..70usize, 127..132usize, 250..270usize];
    (1..20usize, cols, codecs(), groups, any::<bool>(), any::<bool>()).prop_map(|(rows, cols, codec, group, f32, offsets)| {
        let group = if codec.has_scales() { group } else { Group::Row };
        let spec = PackedSpec::new(rows, cols, codec, group).unwrap();
        let spec = if f32 { spec.with_scale(ScaleType::F32).unwrap() } else { spec };
        if offsets && codec == Codec::Split { spec.with_offsets().unwrap() } else { spec }
    })
}

fn gauss(seed: u64, count: usize) -> Vec<f32> {
    Gauss::new(seed).take(count).map(|x| 0.02 * x).collect()
}

/// Squared error of a row against the zero row's.
fn relative(weights: &[f32], decoded: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = weights.iter().zip(decoded).map(|(w, d)| square(f64::from(*w) - f64::from(*d))).sum();
    error / weights.iter().map(|w| square(f64::from(*w))).sum::<f64>()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Sections have the promised sizes, pass their checks, and every row comes back with a small error.
    #[test]
    fn what_is_encoded_decodes_near_it(spec in specs(), seed in any::<u64>()) {
        let weights = gauss(seed, spec.rows() * spec.cols());
        let packed = encode(spec, &weights).unwrap();
        let decoded = packed.view().unwrap().all_weights();
        // A short row has few codes to choose from but a scale of its own; the bound is that of the coarsest codec.
        let bound = match spec.codec() {
            Codec::F32 => 0.0,
            Codec::F16 | Codec::Bf16 => 2e-5,
            Codec::Q8 => 2e-4,
            _ => 0.06,
        };
        prop_assert!(relative(&weights, &decoded) <= bound, "{spec:?}: {}", relative(&weights, &decoded));
    }

    /// A row's bytes do not depend on its neighbours, so blocks of rows may be encoded anywhere, by anyone.
    #[test]
    fn rows_are_independent(spec in specs(), seed in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let weights = gauss(seed, spec.rows() * spec.cols());
        let encoder = Encoder::new(spec);
        let whole = encoder.rows(&weights).unwrap();
        let cut = cut.index(spec.rows());
        let (head, tail) = weights.split_at(cut * spec.cols());
        let mut parts = (vec![], vec![], vec![]);
        for part in [head, tail].into_iter().filter(|part| !part.is_empty()) {
            let packed = encoder.rows(part).unwrap();
            parts.0.extend(packed.codes);
            parts.1.extend(packed.scales);
            parts.2.extend(packed.offsets);
        }
        prop_assert_eq!(parts, (whole.codes, whole.scales, whole.offsets));
    }

    /// Finite weights of any size, tiny, huge or mixed, give sections that pass their checks and decode to finite weights.
    #[test]
    fn extreme_weights_stay_finite(codec in codecs(), bits in prop::collection::vec(any::<u32>(), 1..150), group in any::<bool>()) {
        let weights: Vec<f32> = bits.into_iter().map(f32::from_bits).map(|w| if w.is_finite() { w } else { 0.0 }).collect();
        let group = if group && codec.has_scales() { Group::Columns(64) } else { Group::Row };
        for scale in [ScaleType::F16, ScaleType::F32] {
            let spec = PackedSpec::new(1, weights.len(), codec, group).unwrap().with_scale(scale).unwrap();
            let packed = encode(spec, &weights).unwrap();
            let decoded = packed.view().unwrap().all_weights();
            // bf16 rounds the largest f32 values to infinity.
            prop_assert!(codec == Codec::Bf16 || decoded.iter().all(|w| w.is_finite()), "{codec} {scale:?}");
        }
    }

    /// No sections of the right sizes make decoding fail: they are refused, or every weight is finite.
    #[test]
    fn any_bytes_are_refused_or_decode(spec in specs(), seed in any::<u64>()) {
        let mut state = seed;
        let mut bytes = |count: usize| -> Vec<u8> {
            (0..count).map(|_| { state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); (state >> 56) as u8 }).collect()
        };
        let (codes, scales, offsets) = (bytes(spec.codes_bytes()), bytes(spec.scales_bytes()), bytes(spec.offsets_bytes()));
        if let Ok(view) = PackedView::new(spec, &codes, &scales, &offsets) {
            prop_assert_eq!(view.all_weights().len(), spec.rows() * spec.cols());
        }
    }
}

#[test]
fn zero_rows_stay_zero() {
    for codec in Codec::all() {
        let spec = PackedSpec::new(2, 67, codec, Group::Row).unwrap();
        let packed = encode(spec, &[0.0; 134]).unwrap();
        assert!(packed.view().unwrap().all_weights().iter().all(|w| *w == 0.0), "{codec}");
    }
}

#[test]
fn wrong_numbers_of_weights_are_refused() {
    let spec = PackedSpec::new(2, 3, Codec::W8, Group::Row).unwrap();
    for count in [0, 2, 3, 5, 9] {
        assert!(encode(spec, &vec![1.0; count]).is_err(), "{count}");
    }
}

/// Integers that some stream of containers means are found again exactly, lane by lane, through the bytes of a row.
#[test]
fn what_a_stream_can_mean_is_found_again() {
    for codec in Codec::all().filter(|codec| codec.window().is_some()) {
        let pairs = table::pairs(codec);
        let floats: Vec<[f32; 2]> = pairs.iter().map(|pair| pair.map(f32::from)).collect();
        let overlap = pairs.len().ilog2() - 7;
        for cols in [1usize, 2, 7, 300, 301] {
            let count = cols.div_ceil(2);
            let drawn = |lane: usize, j: usize| if j < count { (lane * 7919 + j * j * 31 + j * 17) % 128 } else { 0 };
            let integer = |lane, k: usize| pairs[drawn(lane, k / 2) | (drawn(lane, k / 2 + 1) % (1 << overlap)) << 7][k % 2];
            let x: Vec<Lane<f32>> = (0..cols).map(|k| std::array::from_fn(|lane| f32::from(integer(lane, k)))).collect();
            let mut containers = Vec::new();
            Trellis::new(&floats).search(&x, &mut containers, &mut Scratch::default());
            for lane in 0..LANES {
                let mut row = vec![0; stream::row_bytes(cols).unwrap()];
                stream::write(containers.iter().map(|containers| containers[lane]), &mut row);
                let mut found = vec![0; cols];
                decode::pair_row(codec, &row, &mut found);
                let expected: Vec<i8> = (0..cols).map(|k| integer(lane, k)).collect();
                assert_eq!(found, expected, "{codec} {cols} lane {lane}");
            }
        }
    }
}

/// The search against all sequences of containers of a short row, with its tie rules left out: costs are compared.
#[test]
fn the_search_is_optimal() {
    for (codec, columns) in [(Codec::W7, 3), (Codec::W8, 4), (Codec::W9, 5), (Codec::W10, 4), (Codec::W12, 3), (Codec::A11, 4)]
    {
        let pairs: Vec<[f32; 2]> = table::pairs(codec).iter().map(|pair| pair.map(f32::from)).collect();
        let trellis = Trellis::new(&pairs);
        let mut source = Gauss::new(3);
        let x: Vec<Lane<f32>> = (0..columns).map(|_| std::array::from_fn(|_| 40.0 * source.next().unwrap())).collect();
        let mut found = Vec::new();
        trellis.search(&x, &mut found, &mut Scratch::default());
        let cost = |lane: usize, containers: &[usize]| -> f64 {
            let mask = pairs.len() - 1;
            (0..columns)
                .map(|k| {
                    let (j, next) = (k / 2, containers.get(k / 2 + 1).unwrap_or(&0));
                    let pair = pairs[(next << 7 | containers[j]) & mask];
                    f64::from(x[k][lane] - pair[k % 2]).powi(2)
                })
                .sum()
        };
        for lane in 0..LANES.min(4) {
            let count = found.len();
            let best = (0..1usize << (7 * count))
                .map(|code| cost(lane, &(0..count).map(|j| code >> (7 * j) & 127).collect::<Vec<_>>()))
                .fold(f64::INFINITY, f64::min);
            let ours = cost(lane, &found.iter().map(|containers| usize::from(containers[lane])).collect::<Vec<_>>());
            assert!(ours <= best * (1.0 + 1e-5) + 1e-3, "{codec} lane {lane}: {ours} against {best}");
        }
    }
}

/// Every group has its own scale: a row whose groups differ by powers of ten is as good as a Gaussian one.
#[test]
fn groups_have_their_own_scales() {
    for codec in Codec::all().filter(|codec| matches!(codec.facts().storage, Storage::Pairs { .. } | Storage::Int8)) {
        let mut weights = gauss(11, 64 * 5);
        for (group, weights) in weights.chunks_mut(64).enumerate() {
            weights.iter_mut().for_each(|w| *w *= 10f32.powi(group as i32 - 3));
        }
        let spec = PackedSpec::new(1, weights.len(), codec, Group::Columns(64)).unwrap().with_scale(ScaleType::F32).unwrap();
        let decoded = encode(spec, &weights).unwrap().view().unwrap().all_weights();
        for (weights, decoded) in weights.chunks(64).zip(decoded.chunks(64)) {
            assert!(relative(weights, decoded) < 0.03, "{codec}: {}", relative(weights, decoded));
        }
    }
}

/// With offsets the error is that of centred weights, wherever their mean is.
#[test]
fn offsets_follow_the_mean() {
    let centred = gauss(5, 1024);
    for mean in [-1.0, 0.0, 0.05, 3.0] {
        let weights: Vec<f32> = centred.iter().map(|w| w + mean).collect();
        let spec = PackedSpec::new(1, 1024, Codec::Split, Group::Columns(64)).unwrap().with_scale(ScaleType::F32).unwrap();
        let decoded = encode(spec.with_offsets().unwrap(), &weights).unwrap().view().unwrap().all_weights();
        let decoded: Vec<f32> = decoded.iter().map(|w| w - mean).collect();
        let error = relative(&centred, &decoded);
        assert!(error < 0.025, "{mean}: {error}");
    }
}
