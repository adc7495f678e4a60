//! Feature levels: what a kernel may use.
//!
//! Every kernel exists once per level, under its symbol and the level's suffix; the runtime picks the best level that the machine
//! has. A kernel is written once and asks its [`Level`] for the few things that differ.
//!
//! A level has a *plain* form too: the same kernels, with the [instructions](crate::instructions) that a machine may lack replaced by
//! their definitions. It runs on any machine, so that the logic of every level is tested on every machine.

use q35_bundle::Level as Requirements;
use q35_mlir::builder::FnAttrs;
use std::fmt;

/// What kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// x86-64: 512-bit vectors with byte permutes and 8-bit dot products.
    Avx512,
    /// x86-64: 256-bit vectors with 8-bit dot products.
    AvxVnni,
    /// x86-64: 256-bit vectors.
    Avx2,
    /// 64-bit Arm: 128-bit vectors with 8-bit dot products.
    DotProd,
    /// What every machine of an architecture has.
    Base,
}

/// A feature level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level {
    isa: Isa,
    plain: bool,
}

/// A row of the table of levels.
struct Facts {
    isa: Isa,
    /// Its name, and that of its plain form.
    names: [&'static str; 2],
    arch: &'static str,
    requires: &'static [&'static str],
    /// Bytes of a vector.
    bytes: u32,
}

const AVX512: &[&str] = &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni"];
const AVX_VNNI: &[&str] = &["avx2", "fma", "f16c", "avxvnni"];
const AVX2: &[&str] = &["avx2", "fma", "f16c"];

/// Every level, best first of its architecture, in the order of [`Isa`]'s variants.
#[rustfmt::skip]
const LEVELS: [Facts; 5] = [
    Facts { isa: Isa::Avx512,  names: ["avx512", "avx512_plain"],  arch: "x86_64",  requires: AVX512,        bytes: 64 },
    Facts { isa: Isa::AvxVnni, names: ["avxvnni", "avxvnni_plain"], arch: "x86_64",  requires: AVX_VNNI,      bytes: 32 },
    Facts { isa: Isa::Avx2,    names: ["avx2", "avx2_plain"],    arch: "x86_64",  requires: AVX2,          bytes: 32 },
    Facts { isa: Isa::DotProd, names: ["dotprod", "dotprod_plain"], arch: "aarch64", requires: &["dotprod"],  bytes: 16 },
    Facts { isa: Isa::Base,    names: ["base", "base_plain"],    arch: "",        requires: &[],           bytes: 16 },
];

impl Level {
    /// What every machine of an architecture has.
    pub const BASE: Level = Level { isa: Isa::Base, plain: false };

    fn facts(self) -> &'static Facts {
        &LEVELS[self.isa as usize]
    }

    /// Every level of every architecture.
    pub fn all() -> impl Iterator<Item = Level> {
        LEVELS.iter().map(|facts| Level { isa: facts.isa, plain: false })
    }

    /// The levels of an architecture, best first.
    pub fn of(arch: &str) -> impl Iterator<Item = Level> {
        Self::all().filter(move |level| ["", arch].contains(&level.facts().arch))
    }

    /// The architecture that it is of, unless it is of every one.
    pub fn arch(self) -> Option<&'static str> {
        Some(self.facts().arch).filter(|arch| !arch.is_empty())
    }

    /// What its kernels are written for.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// The same kernels in plain IR.
    pub fn plain(self) -> Level {
        Level { plain: true, ..self }
    }

    /// Whether kernels must be plain IR.
    pub(crate) fn is_plain(self) -> bool {
        self.plain
    }

    /// Its name, the suffix of its symbols after two underscores.
    pub fn name(self) -> &'static str {
        self.facts().names[usize::from(self.plain)]
    }

    /// Bytes of a vector.
    pub(crate) fn bytes(self) -> u32 {
        self.facts().bytes
    }

    /// Whether it converts half precision in hardware.
    pub(crate) fn has_half(self) -> bool {
        !self.plain && self.isa != Isa::Base
    }

    /// What the runtime checks before it calls a kernel of this level.
    pub fn requirements(self) -> Requirements {
        Requirements { name: self.name().to_owned(), requires: self.requires().map(str::to_owned).collect() }
    }

    fn requires(self) -> impl Iterator<Item = &'static str> {
        self.facts().requires.iter().copied().filter(move |_| !self.plain)
    }

    /// What LLVM may use in a kernel of this level.
    pub fn attributes(self) -> FnAttrs {
        // LLVM reads half a vector at a time where a processor of the base level would be slow, which those with wide vectors are not.
        let whole =
            (self.requires().next().is_some() && self.facts().arch == "x86_64").then(|| "-slow-unaligned-mem-32".to_owned());
        FnAttrs {
            features: self.requires().map(|feature| format!("+{feature}")).chain(whole).collect(),
            vector_bits: if self.plain || self.isa == Isa::Base { 0 } else { 8 * self.bytes() },
            ..FnAttrs::default()
        }
    }

    /// Whether the machine that runs this program has it.
    pub fn is_here(self) -> bool {
        let here = ["", std::env::consts::ARCH].contains(&self.facts().arch);
        self.plain || here && self.requires().all(present)
    }
}

/// Whether this machine has a feature that a level requires.
#[cfg(target_arch = "x86_64")]
fn present(feature: &str) -> bool {
    macro_rules! any { ($($name:tt)*) => { match feature { $($name => is_x86_feature_detected!($name),)* _ => false } } }
    any!("avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vbmi" "avx512vnni")
}

/// Whether this machine has a feature that a level requires.
#[cfg(target_arch = "aarch64")]
fn present(feature: &str) -> bool {
    feature == "dotprod" && std::arch::is_aarch64_feature_detected!("dotprod")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn present(_: &str) -> bool {
    false
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_variants() {
        assert!(LEVELS.iter().enumerate().all(|(at, facts)| facts.isa as usize == at));
        let names = |arch| Level::of(arch).map(Level::name).collect::<Vec<_>>();
        assert_eq!(names("x86_64"), ["avx512", "avxvnni", "avx2", "base"]);
        assert_eq!(names("aarch64"), ["dotprod", "base"]);
    }
}
