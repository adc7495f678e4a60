//! Measures linear kernels against a plain read of the same bytes in the same run.
//!
//! ```text
//! cargo run --release -p q35-target-cpu --example gemv -- [CODEC] [OUTPUTS] [INPUTS] [TOKENS] [GROUP] [ASSEMBLY] [BYTES] [EXPERTS] [CHOICES]
//! ```
//!
//! The weights are random codes, several copies of the matrix so that they do not stay in the cache. Prints billions of weights per
//! second (times rows), bytes of the weights that meet a row per second, the bandwidth of a plain read, and what compiling took. With experts,
//! every token goes to so many of them, by chance.

use q35_dialects::Rows;
use q35_format::{Codec, Group, PackedSpec};
use q35_launch::Spec;
use q35_launch::layout;
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::{link, llvm};
use q35_target_cpu::abi::{define, symbol};
use q35_target_cpu::kernels::Kernel;
use q35_target_cpu::level::Level;
use q35_target_cpu::linear::{Experts, Linear, Peak, geometry, kernels};
use std::error::Error;
use std::ffi::c_void;
use std::time::Instant;

type Function = unsafe extern "C" fn(*const *const c_void, *const i64, i64, i64);

/// Weights of all copies together, at least this many bytes.
const TOTAL_BYTES: usize = 256 << 20;

/// Seconds that this thread has been running: on a busy machine, what the kernel costs and not how long it waits.
fn busy() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// A routing by chance, the same by expert, and how many experts get a row.
fn route(tokens: usize, experts: usize, choices: usize) -> (Vec<i32>, Vec<i32>, usize) {
    if experts == 0 {
        return (vec![], vec![], 1);
    }
    let stride = layout::routing_stride(choices) / 4;
    let mut state = 7u64;
    let mut chosen = Vec::new();
    for _ in 0..tokens {
        let mut left: Vec<i32> = (0..experts as i32).collect();
        for _ in 0..choices {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            chosen.push(left.swap_remove((state >> 33) as usize % left.len()));
        }
    }
    let mut routing = vec![0; tokens * stride];
    routing.chunks_mut(stride).zip(chosen.chunks(choices)).for_each(|(row, of)| row[..choices].copy_from_slice(of));
    let mut sorted: Vec<i32> = (0..chosen.len() as i32).collect();
    sorted.sort_by_key(|row| chosen[*row as usize]);
    let counted = |below: i32| chosen.iter().filter(|expert| **expert < below).count() as i32;
    sorted.extend((0..=experts as i32).map(counted));
    let met = (0..experts as i32).filter(|expert| chosen.contains(expert)).count();
    (routing, sorted, met)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |at: usize, default: &str| args.get(at).cloned().unwrap_or_else(|| default.to_owned());
    let codec: Codec = arg(0, "w8").parse()?;
    let (rows, cols): (usize, usize) = (arg(1, "2048").parse()?, arg(2, "2048").parse()?);
    let tokens: usize = arg(3, "1").parse()?;
    let group: Group = arg(4, "row").parse()?;
    let (experts, choices): (usize, u32) = (arg(7, "0").parse()?, arg(8, "2").parse()?);
    let layer = Linear::new(PackedSpec::new(rows, cols, codec, group)?);
    let linear = match experts {
        0 => layer,
        count => Linear { rows: Rows::TokenChoices(choices), experts: Some(Experts { count, shared: true }), ..layer },
    };
    let kernels = kernels(&linear)?;

    let started = Instant::now();
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    let levels: Vec<Level> = Level::of(std::env::consts::ARCH).filter(|level| level.is_here()).collect();
    for &level in &levels {
        for kernel in &kernels {
            define(&module, &kernel.name(), level, |call| kernel.build(level, call));
        }
        define(&module, &Peak.name(), level, |call| Peak.build(level, call));
    }
    module.lower(|_, _| ());
    let machine = if cfg!(target_arch = "aarch64") { llvm::Machine::aarch64_linux() } else { llvm::Machine::x86_64_linux() };
    let emitted = llvm::emit(&module, &machine);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("kernels.so");
    std::fs::write(&path, link::shared_object(&emitted.object, "kernels.so").map_err(|error| error.to_string())?)?;
    println!("compiled in {:.2} s, {} bytes", started.elapsed().as_secs_f64(), emitted.object.len());
    if let Some(path) = args.get(5) {
        std::fs::write(path, emitted.assembly())?;
    }

    let stack = rows * experts.max(1);
    let bytes = |of: q35_target::Arrangement| layout::stacked(of, rows).bytes(stack).ok_or("too large");
    let code_bytes = bytes(geometry::codes(&linear.spec))?;
    let scale_bytes = if codec.has_scales() { bytes(geometry::scales(&linear.spec))? } else { 0 };
    let copy_bytes = code_bytes.next_multiple_of(64);
    let total = arg(6, "").parse().unwrap_or(TOTAL_BYTES);
    let copies = (total / copy_bytes).max(1);
    let mut state = 1u64;
    let words = (copies * copy_bytes).div_ceil(8);
    let weights: Vec<u64> = (0..words)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            if codec.has_scales() { state } else { 0 }
        })
        .collect();
    let scales = vec![0u8; scale_bytes];
    let x_stride = if codec.has_scales() { geometry::quant_stride(cols) } else { layout::act_stride(cols) };
    let x = vec![1u8; tokens * x_stride];
    let (section, each) = linear.rows.section();
    let routed = tokens * each as usize;
    let mut y = vec![0f32; routed * layout::act_stride(rows) / 4];
    let (routing, sorted, met) = route(tokens, experts, choices as usize);
    let met_bytes = code_bytes as f64 * met as f64 / experts.max(1) as f64;

    // SAFETY: the library is ours and has no initialisers.
    let library = unsafe { libloading::Library::new(&path) }?;
    for level in levels {
        // SAFETY: the kernels were just made with this signature.
        let kernel: libloading::Symbol<'_, Function> = unsafe { library.get(symbol(&Peak.name(), level).as_bytes()) }?;
        let (ones, mut sums) = (vec![1u8; Peak::BYTES], vec![0u8; Peak::BYTES]);
        let args: [*const c_void; 3] = [ones.as_ptr().cast(), ones.as_ptr().cast(), sums.as_mut_ptr().cast_const().cast()];
        let rounds = 1 << 22;
        let peak = (0..5).map(|_| {
            let started = busy();
            // SAFETY: every buffer is as large as the kernel says.
            unsafe { kernel(args.as_ptr(), [0; 4].as_ptr(), 0, rounds) };
            (rounds as usize * Peak::products(level)) as f64 / (busy() - started) / 1e9
        });
        println!("{:24} {:8} {:8.1} G products/s", "multiplier", level.name(), peak.fold(0.0, f64::max));
        for made in &kernels {
            // SAFETY: the kernels were just made with this signature.
            let kernel: libloading::Symbol<'_, Function> = unsafe { library.get(symbol(&made.name(), level).as_bytes()) }?;
            let mut dims = [0u64; 4];
            dims[section.dim() as usize] = tokens as u64;
            let tiles = made.tiles(linear.rows).eval(&dims).ok_or("too many tiles")? as i64;
            let mut best = f64::INFINITY;
            for _ in 0..if level == Level::BASE { 2 } else { 7 } {
                let started = busy();
                for copy in 0..copies {
                    let codes = weights.as_ptr().cast::<u8>().wrapping_add(copy * copy_bytes);
                    let mut args: Vec<*const c_void> = vec![x.as_ptr().cast()];
                    if experts > 0 {
                        args.extend([routing.as_ptr().cast(), sorted.as_ptr().cast()]);
                    }
                    args.push(codes.cast());
                    if codec.has_scales() {
                        args.push(scales.as_ptr().cast());
                    }
                    args.push(y.as_mut_ptr().cast_const().cast());
                    // SAFETY: every buffer is as large as the geometry says for these sizes.
                    unsafe { kernel(args.as_ptr(), dims.map(|dim| dim as i64).as_ptr(), 0, tiles) };
                    if level == Level::BASE && copy > copies / 16 {
                        break;
                    }
                }
                let ran = if level == Level::BASE { (copies / 16 + 2).min(copies) } else { copies };
                best = best.min((busy() - started) / ran as f64);
            }
            let giga = (rows * cols * routed) as f64 / best / 1e9;
            println!(
                "{:24} {:8} {giga:8.1} G weights/s {:6.1} GB/s",
                format!("{codec} {group} {:?}", made.variant),
                level.name(),
                met_bytes / best / 1e9
            );
        }
    }
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let started = busy();
        let mut sums = [0u64; 16];
        for part in weights.chunks_exact(16) {
            sums.iter_mut().zip(part).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
        }
        std::hint::black_box(sums);
        best = best.min(busy() - started);
    }
    println!("plain read {:42.1} GB/s", (weights.len() * 8) as f64 / best / 1e9);
    Ok(())
}
