//! Kernels built, compiled, linked, loaded and compared with Rust.

mod common;

use common::{Loaded, load, load_in_parts, machine};
use q35_mlir::builder::{Builder, FnAttrs, KernelModule, Unroll, Val};
use q35_mlir::context::Context;
use q35_mlir::types::{BF16, Elem, F16, F32, F64, I8, I16, I32, I64, PTR, Ty};
use q35_mlir::{link, llvm};

const XYN: [Ty; 3] = [PTR, PTR, I64];

/// Defines `name(x, y, n)`, `y[i] = f(x[i])`, and runs it on `x`.
fn map<X: Copy, Y: Copy + Default>(from: Ty, to: Ty, x: &[X], f: impl for<'k> Fn(Val<'k>) -> Val<'k>) -> Vec<Y> {
    let context = Context::new();
    let module = KernelModule::new(&context);
    module.function("map", &XYN, &FnAttrs::default(), |b, args| {
        let [x, y, n] = *args else { unreachable!() };
        let (size_in, size_out) = (from.bytes(), to.bytes());
        b.for_(0, n, 1, |i| {
            let value = f(x.at(i * i64::from(size_in)).load(from, size_in));
            y.at(i * i64::from(size_out)).store(value, size_out);
        });
    });
    let loaded = load(module);
    let mut y = vec![Y::default(); x.len()];
    loaded.call("map", x, &mut y);
    y
}

#[test]
fn integer_arithmetic() {
    let x: Vec<i32> = vec![0, 1, -1, 7, -7, i32::MAX, i32::MIN, 123_456];
    let oracle = |f: fn(i32) -> i32| x.iter().map(|&v| f(v)).collect::<Vec<i32>>();
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| v * 3 + 1), oracle(|v| v.wrapping_mul(3).wrapping_add(1)));
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| v / 3 - v % 3), oracle(|v| v / 3 - v % 3));
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| v.div_u(3)), oracle(|v| (v as u32 / 3) as i32));
    assert_eq!(
        map::<_, i32>(I32, I32, &x, |v| v.shr_u(5) ^ v.shr_s(5) ^ (v << 2)),
        oracle(|v| ((v as u32 >> 5) as i32) ^ (v >> 5) ^ (v << 2))
    );
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| !v & 0xff), oracle(|v| !v & 0xff));
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| v.max(-3).min(9)), oracle(|v| v.clamp(-3, 9)));
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| v.lt(3).select(-v, v)), oracle(|v| if v < 3 { v.wrapping_neg() } else { v }));
    assert_eq!(map::<_, i32>(I32, I32, &x, |v| v.lt_u(8).to(I32)), oracle(|v| i32::from((v as u32) < 8)));
}

#[test]
fn conversions() {
    let x: Vec<i8> = vec![0, 1, -1, 127, -128];
    assert_eq!(map::<_, f32>(I8, F32, &x, |v| v.to(F32)), x.iter().map(|&v| f32::from(v)).collect::<Vec<_>>());
    assert_eq!(map::<_, i64>(I8, I64, &x, |v| v.to_u(I64)), x.iter().map(|&v| i64::from(v as u8)).collect::<Vec<_>>());
    let x: Vec<f64> = vec![0.0, 1.9, -1.9, 1e9];
    assert_eq!(map::<_, i32>(F64, I32, &x, |v| v.to(I32)), vec![0, 1, -1, 1_000_000_000]);
    assert_eq!(map::<_, f32>(F64, F32, &[0.1, 1e300], |v| v.to(F32)), vec![0.1f32, f32::INFINITY]);
    let x: Vec<f32> = vec![1.0, -0.0];
    assert_eq!(map::<_, i32>(F32, I32, &x, |v| v.bitcast(I32)), vec![0x3f80_0000, i32::MIN]);
    assert_eq!(map::<_, i16>(I16, I16, &[-5i16], |v| (v.to(I64) * 2).to(I16)), vec![-10]);
}

#[test]
fn float_comparisons_and_nan() {
    let x: Vec<f32> = vec![1.0, -1.0, f32::NAN, f32::INFINITY];
    let bits = |v: Vec<i32>| v;
    assert_eq!(bits(map(F32, I32, &x, |v| v.lt(0.5).to(I32))), vec![0, 1, 0, 0]);
    assert_eq!(bits(map(F32, I32, &x, |v| v.lt_u(0.5).to(I32))), vec![0, 1, 1, 0]);
    assert_eq!(bits(map(F32, I32, &x, |v| v.ne(v).to(I32))), vec![0, 0, 1, 0]);
    let clamped = map::<_, f32>(F32, F32, &x, |v| v.max(-0.5).min(0.5));
    assert_eq!((clamped[0], clamped[1], clamped[3]), (0.5, -0.5, 0.5));
    assert!(clamped[2].is_nan(), "NaN on the left survives max and min");
    assert_eq!(map::<_, f32>(F32, F32, &[-2.25f32, 9.0], |v| v.abs().sqrt().copysign(v)), vec![-1.5, 3.0]);
}

#[test]
fn constants_are_exact() {
    let values = [0.1f32, f32::MIN_POSITIVE / 3.0, f32::MAX];
    for value in values {
        assert_eq!(map::<_, f32>(F32, F32, &[0f32], |v| v.builder().f32(value))[0].to_bits(), value.to_bits());
    }
    let halves = map::<_, u16>(F32, I16, &[0f32], |v| v.builder().constant(F16, 0.1).bitcast(I16));
    assert_eq!(halves[0], half::f16::from_f64(0.1).to_bits());
    let brains = map::<_, u16>(F32, I16, &[0f32], |v| v.builder().constant(BF16, 0.1).bitcast(I16));
    assert_eq!(brains[0], half::bf16::from_f64(0.1).to_bits());
    assert_eq!(map::<_, u8>(F32, I8, &[0f32], |v| v.builder().constant(I8, 200i64)), vec![200]);
}

#[test]
fn loops_carry_and_branches_yield() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    // y[i] = the length of the Collatz walk from x[i], cut at 200 steps.
    module.function("collatz", &XYN, &FnAttrs::default(), |b, args| {
        let [x, y, n] = *args else { unreachable!() };
        b.for_(0, n, 1, |i| {
            let start = x.at(i * 8).load(I64, 8);
            let (_, length) = b.for_iter(0, 200, 1, (start, b.i64(0)), |_, (value, length)| {
                b.if_else(
                    value.gt(1),
                    || {
                        let odd = (value & 1).eq(1);
                        (odd.select(value * 3 + 1, value / 2), length + 1)
                    },
                    || (value, length),
                )
            });
            b.if_(length.ne(0), || y.at(i * 8).store(length, 8));
        });
    });
    let x: Vec<i64> = (1..60).collect();
    let mut y = vec![-1i64; x.len()];
    load(module).call("collatz", &x, &mut y);
    let oracle = |mut value: i64| {
        let mut length = 0;
        while value > 1 && length < 200 {
            value = if value % 2 == 1 { 3 * value + 1 } else { value / 2 };
            length += 1;
        }
        if length == 0 { -1 } else { length }
    };
    assert_eq!(y, x.iter().map(|&v| oracle(v)).collect::<Vec<_>>());
}

/// Sums x[0..n] with `lanes` accumulators and a masked tail, into y[0].
fn define_sum<'c>(module: &KernelModule<'c>, name: &str, lanes: u32) {
    module.function(name, &XYN, &FnAttrs::default(), |b, args| {
        let [x, y, n] = *args else { unreachable!() };
        let ty = F32.x(lanes);
        let wide = n / i64::from(lanes) * i64::from(lanes);
        let sum = b.for_iter(0, wide, i64::from(lanes), b.constant(ty, 0.0), |i, sum| sum + x.at(i * 4).load(ty, 4));
        let tail = if lanes == 1 {
            sum
        } else {
            let mask = b.iota(I64.x(lanes)).lt(n - wide);
            sum + x.at(wide * 4).load_masked(ty, 4, mask, 0.0)
        };
        y.store(tail.sum(), 4);
    });
}

#[test]
fn vectors_masks_and_reductions() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    for lanes in [1, 4, 16] {
        define_sum(&module, &format!("sum{lanes}"), lanes);
    }
    let loaded = load(module);
    for n in [0usize, 1, 3, 4, 15, 16, 17, 100] {
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        for lanes in [1, 4, 16] {
            let mut y = vec![0f32; n.max(1)];
            // n is the length of y for `call`; only y[0] is written.
            let mut padded = x.clone();
            padded.resize(n.max(1), 0.0);
            loaded.call(&format!("sum{lanes}"), &padded, &mut y);
            assert_eq!(y[0], (n * n.saturating_sub(1) / 2) as f32, "{lanes} lanes, n = {n}");
        }
    }
}

#[test]
fn shuffles_and_lanes() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    module.function("shuffle", &XYN, &FnAttrs::default(), |b, args| {
        let [x, y, _] = *args else { unreachable!() };
        let v = x.load(I32.x(4), 4);
        let w = b.lanes(Elem::I32, &[10i64, 11, 12, 13]);
        y.store(v.interleave(w), 4);
        y.at(8 * 4).store(v.slice(1, 2).concat(w.slice(0, 2)), 4);
        y.at(12 * 4).store(v.shuffle(w, &[7, 0, 3, 5]).with_lane(2, b.i32(99)), 4);
        y.at(16 * 4).store(v.lane(3), 4);
        y.at(17 * 4).store(v.lane_at(b.i32(2)), 4);
        y.at(18 * 4).store(v.reduce(|l, r| l * 10 + r), 4);
        y.at(19 * 4).store(v.max_lane(), 4);
    });
    let mut y = vec![0i32; 20];
    load(module).call("shuffle", &[1i32, 2, 3, 4], &mut y);
    assert_eq!(y, [1, 10, 2, 11, 3, 12, 4, 13, 2, 3, 10, 11, 13, 1, 99, 11, 4, 3, 154, 4]);
}

#[test]
fn many_sums_at_once() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    for lanes in [1, 2, 8] {
        module.function(&format!("sums{lanes}"), &XYN, &FnAttrs::default(), |_, args| {
            let [x, y, _] = *args else { unreachable!() };
            let ty = I32.x(lanes);
            let vectors: Vec<Val<'_>> = (0..lanes).map(|at| x.at(i64::from(at * lanes * 4)).load(ty, 4)).collect();
            y.store(Val::sums(&vectors), 4);
        });
    }
    let loaded = load(module);
    let x: Vec<i32> = (0..64).map(|i| i * i + 1).collect();
    for lanes in [1, 2, 8] {
        let mut y = vec![0i32; lanes];
        loaded.call(&format!("sums{lanes}"), &x, &mut y);
        let expected: Vec<i32> = x.chunks(lanes).take(lanes).map(|v| v.iter().sum()).collect();
        assert_eq!(y, expected);
    }
}

#[test]
fn tables_and_stack() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    for name in ["lookup", "again"] {
        module.function(name, &XYN, &FnAttrs::default(), |b, args| {
            let [x, y, n] = *args else { unreachable!() };
            let squares: Vec<u8> = (0..=255u32).map(|v| (v * v) as u8).collect();
            let table = b.table(&squares, 64);
            let slot = b.alloca(64, 64);
            b.for_(0, n, 1, |i| {
                slot.store(table.at(x.at(i).load(I8, 1).to_u(I64)).load(I8, 1), 64);
                y.at(i).store(slot.load(I8, 64), 1);
            });
        });
    }
    let loaded = load(module);
    let x: Vec<u8> = (0..=255).collect();
    let mut y = vec![0u8; 256];
    loaded.call("lookup", &x, &mut y);
    assert_eq!(y, x.iter().map(|&v| v.wrapping_mul(v)).collect::<Vec<_>>());
    assert_eq!(loaded.emitted.ir().matches("private unnamed_addr constant").count(), 1, "equal tables are stored once");
}

#[test]
fn the_same_source_gives_the_same_bytes() {
    let build = || {
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        define_sum(&module, "sum16", 16);
        module.lower(|_, _| ());
        let object = llvm::emit(&module, &machine()).object;
        let shared = link::shared_object(&object, "libsum.so").unwrap();
        (object, shared)
    };
    assert!(build() == build());
}

#[test]
fn feature_levels_live_in_one_module() {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    let body = |b: &Builder<'_>| b.name().to_string();
    for (name, cpu) in [("f__base", "x86-64-v2"), ("f__avx512", "x86-64-v4")] {
        let attrs = FnAttrs { cpu: cpu.into(), features: vec!["+sse4.2".into()], vector_bits: 512, ..FnAttrs::default() };
        module.function(name, &XYN, &attrs, |b, args| {
            assert_eq!(body(b), name);
            let [x, y, _] = *args else { unreachable!() };
            let v = x.load(F32.x(16), 4);
            y.store(v.mul_add(v, v), 4);
        });
    }
    let mut passes = Vec::new();
    module.lower(|pass, print| {
        assert!(print().contains("f__avx512"));
        passes.push(pass.name);
    });
    assert_eq!(passes.len(), q35_mlir::pipeline::PASSES.len());
    let emitted = llvm::emit(&module, &llvm::Machine::x86_64_linux());
    assert!(emitted.assembly().contains("zmm") && emitted.assembly().contains("xmm"));
    assert!(emitted.assembly().contains("vfmadd"), "the 512-bit level may fuse");
    assert!(emitted.assembly().contains("addps"), "the base level rounds twice");
}

#[test]
fn a_loop_that_is_not_to_be_unrolled_is_not() {
    let square_roots = |unroll| {
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        module.function("roots", &XYN, &FnAttrs::default(), |b, args| {
            let [x, y, _] = *args else { unreachable!() };
            b.loop_([0, 8, 1].map(|bound| b.i64(bound)), unroll, (), |at, ()| {
                y.at(at * 4).store(x.at(at * 4).load(F32, 4).sqrt(), 4);
            });
        });
        module.lower(|_, _| ());
        llvm::emit(&module, &machine()).ir().matches("call float @llvm.sqrt").count()
    };
    assert_eq!(square_roots(Unroll::Never), 1);
    assert!(square_roots(Unroll::AsLlvmLikes) > 1);
}

#[test]
fn code_for_other_machines() {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    define_sum(&module, "sum4", 4);
    module.lower(|_, _| ());
    for machine in [llvm::Machine::x86_64_linux(), llvm::Machine::aarch64_linux()] {
        let emitted = llvm::emit(&module, &machine);
        assert!(link::undefined_symbols(&emitted.object).is_empty());
        assert!(emitted.ir().contains(&machine.triple));
    }
}

#[test]
#[should_panic(expected = "kernel wrong: a value of type i32 where f32 is needed")]
fn type_errors_name_the_kernel() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    module.function("wrong", &XYN, &FnAttrs::default(), |b, _| {
        let _ = b.f32(1.0) + b.i32(1);
    });
}

#[test]
#[should_panic(expected = "kernels refer to [\"powf\"]")]
fn undefined_symbols_do_not_pass() {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    module.function("calls", &XYN, &FnAttrs::default(), |b, args| {
        let x = args[0].load(F32, 4);
        args[1].store(b.intrinsic("llvm.pow.f32", &[x, x], F32), 4);
    });
    module.lower(|_, _| ());
    let _ = link::shared_object(&llvm::emit(&module, &machine()).object, "x.so");
}

/// A constant and functions that call each other, directly and by their addresses.
fn define_calls(module: &KernelModule<'_>) {
    module.routine("square", &[I64], I64, false, |_, args| args[0] * args[0]);
    module.procedure("store_square", &[PTR, I64], true, |b, args| {
        args[0].store(b.call_for("square", &[args[1]], I64), 8);
    });
    module.constant("exported", &[7, 0, 0, 0], 4);
    // y[0] = 9, y[1] = 16 by an address, y[2] = 1 where the address is null, y[3] exchanged for 1, y[4] what it was, y[5] = 25.
    module.function("calls", &XYN, &FnAttrs::default(), |b, args| {
        let [_, y, _] = *args else { unreachable!() };
        b.call("store_square", &[y, b.i64(3)]);
        b.call_at(b.function_address("store_square"), &[y.at(8), b.i64(4)]);
        y.at(16).store(b.null().is_null().to_u(I64) + y.is_null().to_u(I64), 8);
        y.at(24).store(b.i64(6), 8);
        y.at(32).release(y.at(24).exchange(b.i64(1)), 8);
        y.at(40).store(b.call_for("square", &[b.i64(5)], I64), 8);
    });
}

fn check_calls(loaded: &Loaded) {
    let mut y = [0i64; 6];
    loaded.call("calls", &[0i64; 6], &mut y);
    assert_eq!(y, [9, 16, 1, 1, 6, 25]);
    // SAFETY: the constant is four bytes.
    let exported = unsafe { **loaded.library.get::<*const i32>(b"exported\0").expect("it is exported") };
    assert_eq!(exported, 7);
    // SAFETY: it is only looked for.
    assert!(unsafe { loaded.library.get::<*const ()>(b"square\0") }.is_err());
}

#[test]
fn functions_call_each_other_and_through_addresses() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    define_calls(&module);
    check_calls(&load(module));
}

#[test]
fn parts_call_each_other() {
    for second in [&["calls"][..], &["store_square"], &["calls", "exported"], &[]] {
        let context = Context::new();
        let module = KernelModule::new(&context);
        define_calls(&module);
        check_calls(&load_in_parts(module, second));
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_processor_can_be_asked() {
    let context = Context::new();
    let module = KernelModule::new(&context);
    module.function("vendor", &XYN, &FnAttrs::default(), |b, args| {
        let [_, y, _] = *args else { unreachable!() };
        let shown = b.assembly("cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}", &[b.i32(0), b.i32(0)], I32, 4);
        shown.iter().enumerate().for_each(|(at, word)| y.at(4 * at as i64).store(*word, 4));
    });
    let mut y = [0i32; 4];
    load(module).call("vendor", &[0i32], &mut y);
    let expected = std::arch::x86_64::__cpuid(0);
    assert_eq!(y.map(i32::cast_unsigned), [expected.eax, expected.ebx, expected.ecx, expected.edx]);
}
