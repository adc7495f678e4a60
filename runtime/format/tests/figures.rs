//! The error figures of the format on its fixed Gaussian source, and the tables' identity.
#![allow(clippy::unwrap_used)] // a test may fail

use q35_format::encode::encode;
use q35_format::gauss::Gauss;
use q35_format::{Codec, Group, PackedSpec, table};
use sha2::{Digest, Sha256};

/// Mean squared error per weight on N(0,1) that the format's definition promises.
const PROMISED: [(Codec, f64); 8] = [
    (Codec::Split, 0.0251),
    (Codec::W7, 0.0152),
    (Codec::W8, 0.0130),
    (Codec::W9, 0.0117),
    (Codec::W10, 0.0109),
    (Codec::W11, 0.0104),
    (Codec::W12, 0.0102),
    (Codec::A11, 0.0115),
];

/// Half of the last printed digit.
const PRECISION: f64 = 0.00005;

fn source(count: usize) -> Vec<f32> {
    Gauss::new(0x5eed << 48).take(count).collect()
}

/// Sum of squared errors over sum of squares, in f64. The source's own sum of squares is not exactly its count; the
/// ratio takes that chance out of the figure.
fn relative_error(weights: &[f32], decoded: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = weights.iter().zip(decoded).map(|(w, d)| square(w - d)).sum();
    error / weights.iter().map(|w| square(*w)).sum::<f64>()
}

fn figure(codec: Codec, rows: usize, cols: usize) -> f64 {
    let weights = source(rows * cols);
    let spec = PackedSpec::new(rows, cols, codec, Group::Row).unwrap();
    relative_error(&weights, &encode(spec, &weights).unwrap().view().unwrap().all_weights())
}

/// `rows` rows of 8192: 8 million weights determine a figure to 2e-5. The trellis codes, which search longer and have a
/// margin, get fewer.
fn check(codec: Codec, rows: usize) {
    let figure = figure(codec, rows, 8192);
    let promised = PROMISED.iter().find(|(c, _)| *c == codec).unwrap().1;
    println!("{codec}: {figure:.5}, promised {promised}");
    assert!(figure < promised + PRECISION, "{codec}: {figure:.6} is above {promised}");
    let stated = codec.facts().mse;
    assert!((figure - stated).abs() < 1.5 * PRECISION, "{codec}: {figure:.6} is not {stated}");
}

#[test]
fn split_and_plane_codes_meet_their_figures() {
    check(Codec::Split, 1024);
    check(Codec::W7, 1024);
}

#[test]
fn trellis_codes_meet_their_figures() {
    check(Codec::W8, 256);
    check(Codec::W9, 256);
    check(Codec::W10, 128);
}

#[test]
fn wide_trellis_codes_meet_their_figures() {
    check(Codec::W11, 32);
    check(Codec::W12, 32);
}

#[test]
fn additive_codes_meet_their_figures() {
    check(Codec::A11, 64);
}

/// The closed form: a uniform quantizer's error on N(0,1) is a sum of Gaussian integrals over its cells.
#[test]
fn split_is_where_theory_puts_it() {
    let phi = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    // The upper tail by Simpson's rule.
    let tail = |x: f64| {
        let n = 4000;
        let h = (12.0 - x) / f64::from(n);
        let inner = |i: i32| if i % 2 == 1 { 4.0 } else { 2.0 } * phi(x + f64::from(i) * h);
        (phi(x) + phi(12.0) + (1..n).map(inner).sum::<f64>()) * h / 3.0
    };
    let uniform = |step: f64, levels: i32| {
        let cell = |i: i32| {
            let (low, high) = (f64::from(i) * step, if i == levels / 2 - 1 { 12.0 } else { f64::from(i + 1) * step });
            let y = (f64::from(i) + 0.5) * step;
            let (p, m) = (tail(low) - tail(high), phi(low) - phi(high));
            let square = low * phi(low) - high * phi(high) + p;
            square - 2.0 * y * m + y * y * p
        };
        2.0 * (0..levels / 2).map(cell).sum::<f64>()
    };
    let exact = |sigma: f64| (uniform(2.0 / sigma, 16) + uniform(4.0 / sigma, 8)) / 2.0;
    let sigma = f64::from(Codec::Split.facts().sigma);
    assert!(exact(sigma) < exact(sigma - 0.1) && exact(sigma) < exact(sigma + 0.1), "sigma is the best one");
    assert!((exact(sigma) - 0.02506).abs() < 1e-5);
    assert!((figure(Codec::Split, 1024, 8192) - exact(sigma)).abs() < 5e-5);
}

/// `cargo xtask tables --check` trains them again; this only notices that one has changed.
#[test]
fn tables_are_the_ones_that_were_trained() {
    let expected = include_str!("tables.sha256");
    let found: String = Codec::all()
        .filter(|codec| codec.window().is_some() && *codec != Codec::Split)
        .map(|codec| {
            let bytes: Vec<u8> = table::pairs(codec).as_flattened().iter().map(|x| *x as u8).collect();
            let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hash}  {codec}.bin\n")
        })
        .collect();
    assert_eq!(found, expected);
}
