//! What a code object says of its kernels: registers, memory, arguments.
//!
//! The figures stand in a note of the ELF file, as MessagePack (LLVM, "User Guide for AMDGPU Backend", code object V5 metadata); the
//! driver reads them to launch. Here they are read back, compared with what the host passes, and shown.

use crate::level::Level;
use object::{Object, ObjectSection};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The type of the note with metadata, and its owner.
const METADATA: u32 = 32;
const OWNER: &[u8] = b"AMDGPU";

/// The metadata of a code object.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Metadata {
    /// The target, `amdgcn-amd-amdhsa--gfx942`.
    #[serde(rename = "amdhsa.target")]
    pub target: String,
    /// Its kernels.
    #[serde(rename = "amdhsa.kernels")]
    pub kernels: Vec<Kernel>,
}

/// What a kernel needs.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Kernel {
    /// Its name.
    #[serde(rename = ".name")]
    pub name: String,
    /// The symbol of its descriptor.
    #[serde(rename = ".symbol")]
    pub symbol: String,
    /// Its arguments, in order.
    #[serde(rename = ".args", default)]
    pub args: Vec<Argument>,
    /// Bytes of all arguments.
    #[serde(rename = ".kernarg_segment_size")]
    pub argument_bytes: u32,
    /// Bytes that the threads of a group share.
    #[serde(rename = ".group_segment_fixed_size")]
    pub shared_bytes: u32,
    /// Bytes of memory of a thread's own: what was spilled, and arrays.
    #[serde(rename = ".private_segment_fixed_size")]
    pub private_bytes: u32,
    /// Lanes of a wave.
    #[serde(rename = ".wavefront_size")]
    pub wave: u32,
    /// Most threads of a group.
    #[serde(rename = ".max_flat_workgroup_size")]
    pub threads: u32,
    /// Scalar registers.
    #[serde(rename = ".sgpr_count")]
    pub scalars: u32,
    /// Vector registers, accumulation registers included.
    #[serde(rename = ".vgpr_count")]
    pub vectors: u32,
    /// Accumulation registers.
    #[serde(rename = ".agpr_count", default)]
    pub accumulators: u32,
    /// Scalar registers spilled.
    #[serde(rename = ".sgpr_spill_count", default)]
    pub scalar_spills: u32,
    /// Vector registers spilled.
    #[serde(rename = ".vgpr_spill_count", default)]
    pub vector_spills: u32,
}

/// An argument of a kernel.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Argument {
    /// Bytes from the start of all arguments.
    #[serde(rename = ".offset")]
    pub offset: u32,
    /// Its bytes.
    #[serde(rename = ".size")]
    pub size: u32,
    /// `global_buffer`, `by_value`, or a hidden one.
    #[serde(rename = ".value_kind")]
    pub kind: String,
}

impl Metadata {
    /// The metadata of a code object.
    ///
    /// # Errors
    /// In words, if the bytes are no code object.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(bytes).map_err(|error| error.to_string())?;
        let section = file.section_by_name(".note").ok_or("there is no note")?;
        let notes = section.data().map_err(|error| error.to_string())?;
        let content = find_note(notes).ok_or("there is no note with metadata")?;
        rmp_serde::from_slice(content).map_err(|error| format!("the metadata cannot be read: {error}"))
    }

    /// The kernels by name.
    pub fn by_name(&self) -> BTreeMap<&str, &Kernel> {
        self.kernels.iter().map(|kernel| (kernel.name.as_str(), kernel)).collect()
    }
}

/// The content of the metadata note among ELF notes: name size, content size and type as 32-bit words, then both, each filled up to 4 bytes.
fn find_note(mut notes: &[u8]) -> Option<&[u8]> {
    loop {
        let (header, rest) = notes.split_at_checked(12)?;
        let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let [name_size, size] = [word(0), word(4)].map(|bytes| bytes as usize);
        let (name, rest) = rest.split_at_checked(name_size.checked_next_multiple_of(4)?)?;
        let content = rest.get(..size)?;
        if word(8) == METADATA && name.strip_suffix(b"\0").is_some_and(|name| name.starts_with(OWNER)) {
            return Some(content);
        }
        notes = rest.get(size.checked_next_multiple_of(4)?..).unwrap_or(&[]);
    }
}

impl Kernel {
    /// What differs from how the host calls a kernel: so many addresses, then as many numbers of 64 bits as there are sizes, in groups of so
    /// many threads.
    pub fn differs(&self, addresses: usize, sizes: usize, threads: u32, wave: u32) -> Option<String> {
        let expected = |at: usize| Argument {
            offset: 8 * at as u32,
            size: 8,
            kind: if at < addresses { "global_buffer" } else { "by_value" }.to_owned(),
        };
        let all: Vec<Argument> = (0..addresses + sizes).map(expected).collect();
        if self.args != all || self.argument_bytes as usize != 8 * all.len() {
            return Some(format!("arguments {:?} of {} bytes", self.args, self.argument_bytes));
        }
        if self.symbol != format!("{}.kd", self.name) {
            return Some(format!("the descriptor {}", self.symbol));
        }
        ((self.threads, self.wave) != (threads, wave)).then(|| format!("{} threads in waves of {}", self.threads, self.wave))
    }

    /// Waves of a group.
    pub fn waves(&self) -> u32 {
        self.threads.div_ceil(self.wave)
    }

    /// Waves that run at once in a SIMD unit, as registers and shared memory allow. On RDNA the count of vector registers is that of a wave of 32.
    pub fn occupancy(&self, level: &Level) -> u32 {
        let registers = self.vectors.max(1).next_multiple_of(level.registers.granule);
        let by_registers = (level.registers.total / registers).min(level.waves);
        // Whole groups, spread over the units that share memory.
        let of_registers = by_registers * level.simds / self.waves();
        let of_memory = level.isa.shared_bytes().checked_div(self.shared_bytes).unwrap_or(u32::MAX);
        let groups = of_registers.min(of_memory);
        groups.saturating_mul(self.waves()).div_ceil(level.simds).min(by_registers)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::level::LEVELS;

    fn kernel(vectors: u32, shared_bytes: u32, threads: u32) -> Kernel {
        Kernel {
            name: "k".into(),
            symbol: "k.kd".into(),
            args: vec![
                Argument { offset: 0, size: 8, kind: "global_buffer".into() },
                Argument { offset: 8, size: 8, kind: "by_value".into() },
            ],
            argument_bytes: 16,
            shared_bytes,
            private_bytes: 0,
            wave: 64,
            threads,
            scalars: 20,
            vectors,
            accumulators: 0,
            scalar_spills: 0,
            vector_spills: 0,
        }
    }

    #[test]
    fn what_the_host_does_not_pass_is_told() {
        let good = kernel(10, 0, 256);
        assert_eq!(good.differs(1, 1, 256, 64), None);
        assert!(good.differs(2, 1, 256, 64).unwrap().starts_with("arguments"));
        assert!(good.differs(2, 0, 256, 64).unwrap().starts_with("arguments"));
        assert!(good.differs(1, 1, 512, 64).unwrap().contains("256 threads"));
        assert!(good.differs(1, 1, 256, 32).unwrap().contains("waves of 64"));
        let hidden = Kernel { argument_bytes: 272, ..good.clone() };
        assert!(hidden.differs(1, 1, 256, 64).unwrap().contains("272"));
        assert!(Kernel { symbol: "j.kd".into(), ..good }.differs(1, 1, 256, 64).is_some());
    }

    #[test]
    fn registers_and_shared_memory_bound_the_waves() {
        let cdna = &LEVELS[0];
        assert_eq!(kernel(64, 0, 256).occupancy(cdna), 8);
        assert_eq!(kernel(65, 0, 256).occupancy(cdna), 7);
        assert_eq!(kernel(257, 0, 256).occupancy(cdna), 1);
        // Two groups of 8 waves in 64 KB, over four units.
        assert_eq!(kernel(32, 32 << 10, 512).occupancy(cdna), 4);
        assert_eq!(kernel(32, 33 << 10, 512).occupancy(cdna), 2);
    }

    #[test]
    fn damaged_notes_are_refused() {
        let note = |name: &[u8], content: &[u8], kind: u32| {
            let mut bytes = Vec::new();
            for word in [name.len() as u32, content.len() as u32, kind] {
                bytes.extend(word.to_le_bytes());
            }
            for part in [name, content] {
                bytes.extend(part);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            bytes
        };
        let both = [note(b"GNU\0", b"12345", 3), note(b"AMDGPU\0", b"abcde", METADATA)].concat();
        assert_eq!(find_note(&both), Some(&b"abcde"[..]));
        for end in 0..both.len() - 3 {
            assert_eq!(find_note(&both[..end]), None, "{end}");
        }
        let huge = [u32::MAX.to_le_bytes(), u32::MAX.to_le_bytes(), METADATA.to_le_bytes()].concat();
        assert_eq!(find_note(&huge), None);
        assert!(Metadata::read(b"no object").is_err());
    }
}
