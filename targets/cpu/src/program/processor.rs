//! Which feature level the processor has, asked by the object itself.
//!
//! A feature of x86 is a bit that `cpuid` shows; one with wide registers also needs the system to save them, which `xgetbv` shows
//! (Intel SDM volume 1, chapters 14 and 15.2). The one feature of 64-bit Arm is a field of an identification register, which Linux lets
//! programs read.

use crate::level::{Isa, Level};
use q35_mlir::builder::{Builder, Val};
use q35_mlir::types::{I1, I32, I64};

/// Where `cpuid` shows a feature.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    leaf: u32,
    subleaf: u32,
    /// 0 to 3: eax, ebx, ecx, edx.
    register: usize,
    bit: u32,
    /// Bits of the extended control register that the system sets if it saves the registers.
    saved: u32,
}

const NONE: u32 = 0;
/// SSE and AVX state.
const YMM: u32 = 0x6;
/// The same, masks, and the upper parts of 512-bit registers.
const ZMM: u32 = 0xe6;
/// Bit 27 of leaf 1's ecx: the system lets programs ask what it saves.
const OSXSAVE: Place = Place { leaf: 1, subleaf: 0, register: 2, bit: 27, saved: NONE };
const EXTENDED: u32 = 0x8000_0000;

/// Name as bundles write it, leaf, subleaf, register, bit, saved state.
const FEATURES: &[(&str, u32, u32, usize, u32, u32)] = &[
    ("sse3", 1, 0, 2, 0, NONE),
    ("ssse3", 1, 0, 2, 9, NONE),
    ("fma", 1, 0, 2, 12, YMM),
    ("sse41", 1, 0, 2, 19, NONE),
    ("sse42", 1, 0, 2, 20, NONE),
    ("popcnt", 1, 0, 2, 23, NONE),
    ("avx", 1, 0, 2, 28, YMM),
    ("f16c", 1, 0, 2, 29, YMM),
    ("bmi1", 7, 0, 1, 3, NONE),
    ("avx2", 7, 0, 1, 5, YMM),
    ("bmi2", 7, 0, 1, 8, NONE),
    ("avx512f", 7, 0, 1, 16, ZMM),
    ("avx512dq", 7, 0, 1, 17, ZMM),
    ("avx512cd", 7, 0, 1, 28, ZMM),
    ("avx512bw", 7, 0, 1, 30, ZMM),
    ("avx512vl", 7, 0, 1, 31, ZMM),
    ("avx512vbmi", 7, 0, 2, 1, ZMM),
    ("avx512vbmi2", 7, 0, 2, 6, ZMM),
    ("gfni", 7, 0, 2, 8, NONE),
    ("avx512vnni", 7, 0, 2, 11, ZMM),
    ("avx512fp16", 7, 0, 3, 23, ZMM),
    ("avxvnni", 7, 1, 0, 4, YMM),
    ("avx512bf16", 7, 1, 0, 5, ZMM),
    ("lzcnt", EXTENDED | 1, 0, 2, 5, NONE),
];

fn place(feature: &str) -> Place {
    let row = FEATURES.iter().find(|row| row.0 == feature);
    let &(_, leaf, subleaf, register, bit, saved) = row.unwrap_or_else(|| panic!("where is feature '{feature}' shown?"));
    Place { leaf, subleaf, register, bit, saved }
}

/// What the instruction shows.
fn cpuid<'k>(b: &'k Builder<'k>, leaf: u32, subleaf: u32) -> Vec<Val<'k>> {
    let args = [b.i32(leaf as i32), b.i32(subleaf as i32)];
    b.assembly("cpuid", "={ax},={bx},={cx},={dx},{ax},{cx}", &args, I32, 4)
}

/// The number of the best level, in the order of `levels`, that the processor has.
pub(super) fn best<'k>(b: &'k Builder<'k>, levels: &[Level]) -> Val<'k> {
    let mut found = b.i32(levels.len() as i32 - 1);
    for (number, level) in levels.iter().enumerate().rev() {
        let has = match level.isa() {
            Isa::DotProd => has_dot_products(b),
            _ => has_all(b, &level.requirements().requires.iter().map(|feature| place(feature)).collect::<Vec<_>>()),
        };
        found = has.select(b.i32(number as i32), found);
    }
    found
}

/// Whether the processor, an Arm, multiplies bytes: bits 44 to 47 of `ID_AA64ISAR0_EL1` (Arm Architecture Reference Manual, D24.2).
fn has_dot_products<'k>(b: &'k Builder<'k>) -> Val<'k> {
    const FIELD: i64 = 0xf << 44;
    let registers = b.assembly("mrs $0, ID_AA64ISAR0_EL1\n mrs $1, ID_AA64ISAR1_EL1", "=r,=r", &[], I64, 2);
    !(registers[0] & FIELD).eq(0)
}

/// Whether the processor has all of some features, and the system what they need.
fn has_all<'k>(b: &'k Builder<'k>, places: &[Place]) -> Val<'k> {
    if places.is_empty() {
        return b.i1(true);
    }
    let saved = places.iter().fold(NONE, |all, place| all | place.saved);
    let shown = places.iter().chain((saved != NONE).then_some(&OSXSAVE));
    let mut masks: Vec<((u32, u32), [u32; 4])> = Vec::new();
    for place in shown {
        let at = (place.leaf, place.subleaf);
        let known = masks.iter().position(|(leaf, _)| *leaf == at);
        let row = known.unwrap_or_else(|| {
            masks.push((at, [0; 4]));
            masks.len() - 1
        });
        masks[row].1[place.register] |= 1 << place.bit;
    }
    let mut all = b.i1(true);
    for ((leaf, subleaf), registers) in masks {
        // A leaf past the last one shows another's bits.
        let last = cpuid(b, leaf & EXTENDED, 0)[0];
        let there = b.if_else(
            !last.lt_u(i64::from(leaf)),
            || {
                let shown = cpuid(b, leaf, subleaf);
                let rows = shown.iter().zip(registers).filter(|(_, mask)| *mask != 0);
                rows.fold(b.i1(true), |all, (shown, mask)| all & (*shown & i64::from(mask)).eq(i64::from(mask)))
            },
            || b.i1(false),
        );
        all = all & there;
    }
    if saved == NONE {
        return all;
    }
    b.if_else(
        all,
        || {
            let state = b.assembly("xgetbv", "={ax},={dx},{cx}", &[b.i32(0)], I32, 2)[0];
            (state & i64::from(saved)).eq(i64::from(saved))
        },
        || b.constant(I1, false),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_mlir::builder::{FnAttrs, KernelModule};
    use q35_mlir::context::Context;
    use q35_mlir::llvm::{self, Machine};
    use q35_mlir::types::PTR;

    #[test]
    fn every_level_of_every_architecture_can_be_asked_for() {
        for (arch, machine) in [("x86_64", Machine::x86_64_linux()), ("aarch64", Machine::aarch64_linux())] {
            let context = Context::new();
            let mut module = KernelModule::new(&context);
            let levels: Vec<Level> = Level::of(arch).collect();
            module.function("best", &[PTR], &FnAttrs::default(), |b, args| args[0].store(best(b, &levels), 4));
            module.lower(|_, _| ());
            assert!(!llvm::emit(&module, &machine).object.is_empty());
        }
    }
}
