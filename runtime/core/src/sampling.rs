//! From logits to a token.
//!
//! Filters apply in this order, each to what the former left, with probabilities renormalised: temperature, top-k, top-p, min-p. Equal
//! logits are ordered by token id, so that a result never depends on how a sort treats ties. The same logits and the same seed
//! give the same token on every machine: the generator and the exponential are not the system's.

use std::cmp::Ordering;

/// How to choose among the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Divides the logits; 0 takes the largest.
    pub temperature: f64,
    /// Keeps the so many most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens until their probabilities sum to this; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens with at least this fraction of the largest probability; 0 keeps all.
    pub min_p: f64,
    /// Where the generator starts.
    pub seed: u64,
}

impl Default for Settings {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

/// Steele, Lea and Flood's SplitMix64 (OOPSLA 2014): a counter and a mixing function.
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Settings and the state of the generator.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: Settings,
    random: SplitMix64,
}

/// The larger logit first, the smaller id first among equals; what is not a number comes last.
fn order(logits: &[f32], a: u32, b: u32) -> Ordering {
    let value = |id: u32| Some(logits[id as usize]).filter(|l| !l.is_nan()).unwrap_or(f32::NEG_INFINITY);
    value(b).partial_cmp(&value(a)).unwrap_or(Ordering::Equal).then(a.cmp(&b))
}

/// The most probable token.
pub fn greedy(logits: &[f32]) -> u32 {
    (0..logits.len() as u32).min_by(|a, b| order(logits, *a, *b)).unwrap_or(0)
}

impl Sampler {
    /// A sampler at the start of its sequence.
    pub fn new(settings: Settings) -> Self {
        Self { settings, random: SplitMix64(settings.seed) }
    }

    /// Whether it takes the largest logit.
    pub fn is_greedy(&self) -> bool {
        self.settings.temperature <= 0.0
    }

    /// Chooses a token.
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.is_greedy() {
            return greedy(logits);
        }
        let candidates = candidates(logits, &self.settings);
        let total: f64 = candidates.iter().map(|(_, p)| p).sum();
        let mut left = self.random.unit() * total;
        for (id, p) in &candidates {
            left -= p;
            if left < 0.0 {
                return *id;
            }
        }
        candidates.last().map_or(0, |(id, _)| *id)
    }
}

/// What the filters leave, most probable first, with probabilities up to a common factor.
fn candidates(logits: &[f32], settings: &Settings) -> Vec<(u32, f64)> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let k = if settings.top_k == 0 { ids.len() } else { settings.top_k.min(ids.len()) };
    if k < ids.len() {
        ids.select_nth_unstable_by(k, |a, b| order(logits, *a, *b));
        ids.truncate(k);
    }
    ids.sort_unstable_by(|a, b| order(logits, *a, *b));
    let Some(&first) = ids.first() else { return vec![] };
    let largest = f64::from(logits[first as usize]);
    let weight = |id: u32| match f64::from(logits[id as usize]) {
        logit if logit == largest => 1.0,
        logit if logit < largest => libm::exp((logit - largest) / settings.temperature),
        _ => 0.0,
    };
    let mut kept: Vec<(u32, f64)> = ids.into_iter().map(|id| (id, weight(id))).collect();
    kept.truncate(nucleus(&kept, settings.top_p));
    kept.retain(|(id, p)| *id == first || *p >= settings.min_p);
    kept
}

/// How many of the most probable tokens sum to the fraction `top_p`; at least one.
fn nucleus(sorted: &[(u32, f64)], top_p: f64) -> usize {
    let all: f64 = sorted.iter().map(|(_, p)| p).sum();
    let mut sum = 0.0;
    let reached = sorted.iter().position(|(_, p)| {
        sum += p;
        sum >= top_p * all
    });
    if top_p >= 1.0 { sorted.len() } else { reached.map_or(sorted.len(), |n| n + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::LN_2;

    /// Probabilities 0.5, 0.25, 0.125, 0.125 by hand, in scrambled order.
    const LOGITS: [f32; 4] = [-3.0 * LN_2, -LN_2, -3.0 * LN_2, -2.0 * LN_2];

    fn kept(settings: Settings) -> Vec<u32> {
        candidates(&LOGITS, &settings).into_iter().map(|(id, _)| id).collect()
    }

    fn warm() -> Settings {
        Settings { temperature: 1.0, ..Settings::default() }
    }

    #[test]
    fn filters_keep_what_a_hand_computation_keeps() {
        assert_eq!(kept(warm()), [1, 3, 0, 2]);
        assert_eq!(kept(Settings { top_k: 3, ..warm() }), [1, 3, 0]);
        assert_eq!(kept(Settings { top_p: 0.6, ..warm() }), [1, 3]);
        assert_eq!(kept(Settings { top_p: 0.0, ..warm() }), [1]);
        assert_eq!(kept(Settings { min_p: 0.4, ..warm() }), [1, 3]);
        // Among the first two, 0.5 is two thirds: top-p sees what top-k left.
        assert_eq!(kept(Settings { top_k: 2, top_p: 0.66, ..warm() }), [1]);
        assert_eq!(kept(Settings { top_k: 2, top_p: 0.67, ..warm() }), [1, 3]);
        // At temperature 0.5 probabilities are squared: 0.25 becomes a quarter of the largest.
        assert_eq!(kept(Settings { temperature: 0.5, min_p: 0.2, ..warm() }), [1, 3]);
        assert_eq!(kept(Settings { temperature: 0.5, min_p: 0.3, ..warm() }), [1]);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let mut sampler = Sampler::new(Settings { seed: 1, ..warm() });
        let mut counts = [0u32; 4];
        (0..80_000).for_each(|_| counts[sampler.choose(&LOGITS) as usize] += 1);
        // Standard deviation of the first count: sqrt(80000 / 4) = 141.
        for (count, expected) in counts.into_iter().zip([10_000u32, 40_000, 10_000, 20_000]) {
            assert!(count.abs_diff(expected) < 700, "{counts:?}");
        }
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs for seed 1234567, as published with the algorithm's reference code.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(
            [random.next(), random.next(), random.next()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn ties_and_numbers_that_are_none() {
        assert_eq!(greedy(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(greedy(&[f32::NAN, f32::NEG_INFINITY, -5.0]), 2);
        assert_eq!(greedy(&[f32::NAN, f32::NAN]), 0);
        for seed in 0..20 {
            let mut sampler = Sampler::new(Settings { seed, ..warm() });
            assert_eq!(sampler.choose(&[f32::NAN, f32::NEG_INFINITY, -5.0]), 2);
            assert_eq!(sampler.choose(&[0.0, f32::INFINITY]), 1);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let tokens = |seed| {
            let mut sampler = Sampler::new(Settings { seed, ..warm() });
            (0..32).map(|_| sampler.choose(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(tokens(7), tokens(7));
        assert_ne!(tokens(7), tokens(8));
    }
}
