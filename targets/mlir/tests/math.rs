//! Elementary functions against Rust's and libm's double-precision ones, over wide ranges, at several lane counts and
//! with and without fused multiplication.

mod common;

use common::load;
use q35_mlir::builder::{FnAttrs, KernelModule, Val};
use q35_mlir::context::Context;
use q35_mlir::math;
use q35_mlir::types::{F32, F64, I16, I64, PTR, Ty};

/// Runs `f` on `x` (a multiple of 16 long) in every variant this machine can, and gives the results of all.
fn evaluate<X: Copy, Y: Copy + Default>(from: Ty, to: Ty, x: &[X], f: impl for<'k> Fn(Val<'k>) -> Val<'k>) -> Vec<Vec<Y>> {
    let context = Context::new();
    let module = KernelModule::new(&context);
    let mut variants = vec![("scalar", 1, FnAttrs::default()), ("four", 4, FnAttrs::default())];
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512dq") {
        variants.push(("wide", 16, FnAttrs { cpu: "x86-64-v4".into(), ..FnAttrs::default() }));
    }
    for (name, lanes, attrs) in &variants {
        module.function(name, &[PTR, PTR, I64], attrs, |b, args| {
            let [x, y, n] = *args else { unreachable!() };
            let (from, to) = (from.x(*lanes), to.x(*lanes));
            b.for_(0, n, i64::from(*lanes), |i| {
                let value = f(x.at(i * i64::from(from.elem.bits() / 8)).load(from, 1));
                y.at(i * i64::from(to.elem.bits() / 8)).store(value, 1);
            });
        });
    }
    let loaded = load(module);
    let run = |name: &str| {
        let mut y = vec![Y::default(); x.len()];
        loaded.call(name, x, &mut y);
        y
    };
    variants.iter().map(|(name, ..)| run(name)).collect()
}

/// Every `step`-th bit pattern of f32, NaNs and infinities among them.
fn floats(step: u32) -> Vec<f32> {
    let mut all: Vec<f32> = (0..=u32::MAX / step).map(|i| f32::from_bits(i * step)).collect();
    all.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, 1.0, -1.0]);
    all.resize(all.len().next_multiple_of(16), 0.5);
    all
}

/// Distance in ulps of the f32 format between `got` and the exact value.
fn ulps32(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got == rounded || (got.is_nan() && exact.is_nan()) {
        return 0.0;
    }
    if got.is_infinite() || rounded.is_infinite() || got.is_nan() || exact.is_nan() {
        return f64::INFINITY;
    }
    let exponent = (rounded.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127 - 23;
    (f64::from(got) - exact).abs() / 2f64.powi(exponent)
}

fn worst(x: &[f32], results: &[Vec<f32>], exact: impl Fn(f64) -> f64) -> f64 {
    results
        .iter()
        .flat_map(|result| result.iter().zip(x))
        .map(|(&got, &x)| ulps32(got, exact(f64::from(x))))
        .fold(0.0, f64::max)
}

#[test]
fn exp_in_single_precision() {
    let x = floats(1009);
    let error = worst(&x, &evaluate(F32, F32, &x, math::exp), f64::exp);
    assert!(error <= 2.0, "{error} ulp");
    assert!(error > 0.5, "no f32 routine of this kind is correctly rounded everywhere; is the oracle alive?");
}

#[test]
fn exp_in_double_precision() {
    let mut x: Vec<f64> = (0..400_000).map(|i| -746.0 + f64::from(i) * 0.003_639).collect();
    x.extend([0.0, -0.0, 1e-300, f64::INFINITY, f64::NEG_INFINITY, 709.78, 709.79, -745.2]);
    x.resize(x.len().next_multiple_of(16), 1.0);
    for result in evaluate::<f64, f64>(F64, F64, &x, math::exp) {
        for (&x, &got) in x.iter().zip(&result) {
            let exact = x.exp();
            let apart = (got.to_bits() as i64 - exact.to_bits() as i64).abs();
            assert!(apart <= 2, "exp({x}) = {got}, not {exact}");
        }
    }
}

#[test]
fn tanh_and_the_activations() {
    let x = floats(4093);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let check = |name: &str, error: f64, bound: f64| assert!(error <= bound, "{name}: {error} ulp");
    check("tanh", worst(&x, &evaluate(F32, F32, &x, math::tanh), f64::tanh), 4.0);
    check("sigmoid", worst(&x, &evaluate(F32, F32, &x, math::sigmoid), sigmoid), 4.0);
    let results = evaluate(F32, F32, &x, math::silu);
    for (got, x) in results.iter().flat_map(|result: &Vec<f32>| result.iter().zip(&x)) {
        let wide = f64::from(*x);
        let exact = wide * sigmoid(wide);
        if *x > -87.0 || x.is_nan() {
            check("silu", ulps32(*got, exact), 5.0);
        } else if x.is_finite() {
            assert!((f64::from(*got) - exact).abs() < 2e-43, "silu({x}) = {got:e}");
        }
    }
    let twice = |x: f64| 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    let tail = |x: &f32| x.is_nan() || x.abs() < 5.0;
    let x: Vec<f32> = x.into_iter().map(|x| if tail(&x) { x } else { 0.75 }).collect();
    let error = worst(&x, &evaluate(F32, F32, &x, math::gelu_tanh), |x| x * sigmoid(twice(x)));
    check("gelu_tanh", error, 40.0);
}

#[test]
fn gelu_by_its_stated_bound() {
    let mut x: Vec<f32> = (-12_000..=30_000).map(|i| i as f32 / 1000.0).collect();
    x.extend([1e-30, -1e-30, 0.0]);
    x.resize(x.len().next_multiple_of(16), 0.0);
    for result in evaluate::<f32, f32>(F32, F32, &x, math::gelu) {
        for (&x, &got) in x.iter().zip(&result) {
            let x = f64::from(x);
            let exact = x * 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let bound = exact.abs() * (1e-6 + x * x / 2f64.powi(24));
            assert!((f64::from(got) - exact).abs() <= bound.max(1e-44), "gelu({x}) = {got:e}, not {exact:e}");
        }
    }
}

#[test]
fn sine_and_cosine_of_large_angles() {
    // Angles as they occur (position times frequency) and the f32 numbers nearest to multiples of pi/2.
    let mut x: Vec<f32> = (0..300_000).map(|i| (i as f32 * 3.7) * (1.0 - 1e-5 * (i % 1000) as f32)).collect();
    x.extend((1..400_000u32).map(|k| (f64::from(k) * std::f64::consts::FRAC_PI_2) as f32));
    x.extend([1e6, 2.6e7, 1e-30, f32::MIN_POSITIVE / 8.0, 0.0]);
    let negative: Vec<f32> = x.iter().map(|x| -x).collect();
    x.extend(negative);
    x.resize(x.len().next_multiple_of(16), 1.0);
    let sine = worst(&x, &evaluate(F32, F32, &x, |x| math::sin_cos(x).0), f64::sin);
    let cosine = worst(&x, &evaluate(F32, F32, &x, |x| math::sin_cos(x).1), f64::cos);
    assert!(sine <= 0.6 && cosine <= 0.6, "sine {sine} ulp, cosine {cosine} ulp");
    let special = [f32::NAN, f32::INFINITY].repeat(8);
    for result in evaluate::<f32, f32>(F32, F32, &special, |x| math::sin_cos(x).0) {
        assert!(result.iter().all(|y| y.is_nan()));
    }
}

/// The numbers of single precision around every number of half precision and around the middle between two of them, and a sample of all.
#[test]
fn every_rounding_to_half_precision() {
    let around = |x: f32| [x.to_bits().wrapping_sub(1), x.to_bits(), x.to_bits() + 1].map(f32::from_bits);
    let mut x = floats(40_009);
    for bits in 0..0x7c00u16 {
        let (low, high) = (half::f16::from_bits(bits).to_f32(), half::f16::from_bits(bits + 1).to_f32());
        // Beyond the largest number is the first that is rounded to infinity.
        let middle = if high.is_finite() { (low + high) / 2.0 } else { 65520.0 };
        x.extend([around(low), around(middle), around(-low), around(-middle)].as_flattened());
    }
    x.resize(x.len().next_multiple_of(16), 0.5);
    for result in evaluate::<f32, u16>(F32, I16, &x, math::f32_to_f16_bits) {
        for (&x, &got) in x.iter().zip(&result) {
            let exact = half::f16::from_f32(x);
            let is_nan = x.is_nan() && half::f16::from_bits(got).is_nan();
            assert!(got == exact.to_bits() || is_nan, "{x:e} ({:#010x}): {got:#06x}, not {exact}", x.to_bits());
        }
    }
}

#[test]
fn every_half_precision_number() {
    let x: Vec<u16> = (0..=u16::MAX).collect();
    for result in evaluate::<u16, f32>(I16, F32, &x, math::f16_bits_to_f32) {
        for (&bits, &got) in x.iter().zip(&result) {
            let exact = half::f16::from_bits(bits).to_f32();
            assert!(got.to_bits() == exact.to_bits() || (got.is_nan() && exact.is_nan()), "{bits:#06x}: {got}");
        }
    }
}
