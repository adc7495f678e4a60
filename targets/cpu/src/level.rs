//! Feature levels: what a kernel may use.
//!
//! Every kernel exists once per level, under its symbol and the level's suffix; the runtime picks the best level that the machine
//! has. A kernel is written once and asks its [`Level`] for the few things that differ.

use q35_bundle::Level as Requirements;
use q35_mlir::builder::FnAttrs;

/// A feature level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// 512-bit vectors with byte permutes and 8-bit dot products.
    Avx512,
    /// What every machine of the architecture has.
    Base,
}

/// A row of the table of levels.
struct Facts {
    name: &'static str,
    arch: &'static str,
    cpu: &'static str,
    requires: &'static [&'static str],
    vector_bits: u32,
}

const AVX512: &[&str] = &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512vnni"];

impl Level {
    /// Every level, best first.
    pub const ALL: [Level; 2] = [Level::Avx512, Level::Base];

    fn facts(self) -> Facts {
        match self {
            Level::Avx512 => Facts { name: "avx512", arch: "x86_64", cpu: "x86-64-v4", requires: AVX512, vector_bits: 512 },
            Level::Base => Facts { name: "base", arch: "", cpu: "", requires: &[], vector_bits: 0 },
        }
    }

    /// The levels of an architecture, best first.
    pub fn of(arch: &str) -> impl Iterator<Item = Level> {
        Self::ALL.into_iter().filter(move |level| ["", arch].contains(&level.facts().arch))
    }

    /// Its name, the suffix of its symbols after two underscores.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// What the runtime checks before it calls a kernel of this level.
    pub fn requirements(self) -> Requirements {
        Requirements {
            name: self.name().to_owned(),
            requires: self.facts().requires.iter().map(|&feature| feature.to_owned()).collect(),
        }
    }

    /// What LLVM may use in a kernel of this level.
    pub fn attributes(self) -> FnAttrs {
        let facts = self.facts();
        FnAttrs {
            cpu: facts.cpu.to_owned(),
            features: facts.requires.iter().map(|feature| format!("+{feature}")).collect(),
            vector_bits: facts.vector_bits,
            ..FnAttrs::default()
        }
    }

    /// Whether the machine that runs this program has it.
    pub fn is_here(self) -> bool {
        match self {
            Level::Base => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                use std::arch::is_x86_feature_detected as has;
                has!("avx512f")
                    && has!("avx512bw")
                    && has!("avx512dq")
                    && has!("avx512vl")
                    && has!("avx512vbmi")
                    && has!("avx512vnni")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512 => false,
        }
    }
}
