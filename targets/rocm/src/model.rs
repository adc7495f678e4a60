//! What bounds a kernel that streams weights: a model from its instructions and published peaks, not a measurement.
//!
//! What enters: the assembly of an architecture, and for each kernel how many bytes of weights belong to a matrix instruction. What leaves, for
//! one turn of its innermost loop with matrix instructions: how long a compute unit would take for each kind of work if it did nothing
//! else. Waves overlap, so the longest of them is the bound; what is before and after the loop is not counted, nor are misses, nor the
//! waves it takes to overlap everything.

use serde::Serialize;
use std::collections::BTreeMap;

/// A card and its published peaks.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Its architecture.
    pub level: &'static str,
    /// Bytes per second of its memory.
    pub bandwidth: f64,
    /// Cycles per second.
    pub clock: f64,
    /// Compute units.
    pub units: f64,
    /// Cycles that `v_mfma_f32_16x16x16_f16` occupies a SIMD unit: 8192 operations, over the published peak of f16 per unit and cycle.
    pub matrix_cycles: f64,
}

/// AMD's data sheets of the Instinct MI300X (163.4 TF of f32 vectors and 1307.4 TF of f16 matrices at 2.1 GHz, 304 units, 5.3 TB/s) and MI210
/// (181 TF of f16 matrices at 1.7 GHz, 104 units, 1.6 TB/s).
pub const CARDS: [Card; 2] = [
    Card { name: "MI300X", level: "gfx942", bandwidth: 5.3e12, clock: 2.1e9, units: 304.0, matrix_cycles: 16.0 },
    Card { name: "MI210", level: "gfx90a", bandwidth: 1.6e12, clock: 1.7e9, units: 104.0, matrix_cycles: 32.0 },
];

/// SIMD units of a compute unit, and cycles in which one of them issues a vector instruction of 64 lanes.
const SIMDS: f64 = 4.0;
const VECTOR_CYCLES: f64 = 4.0;
/// Bytes of local memory that a compute unit reads per cycle.
const LOCAL_BYTES: f64 = 128.0;
const LANES: f64 = 64.0;

/// Instructions by what executes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Matrix instructions.
    pub matrix: u32,
    /// Other vector instructions.
    pub vector: u32,
    /// Scalar instructions, waits and branches.
    pub scalar: u32,
    /// Loads from and stores to memory.
    pub memory: u32,
    /// Accesses of local memory.
    pub local: u32,
    /// Bytes of those per lane.
    pub local_bytes: u32,
}

/// Times of one turn of a loop in a compute unit, in cycles, and what follows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bound {
    /// The card.
    pub card: &'static str,
    /// What the loop consists of.
    pub counts: Counts,
    /// Bytes of weights per turn.
    pub bytes: f64,
    /// Cycles to bring them from memory.
    pub memory: f64,
    /// Cycles of the vector units.
    pub vector: f64,
    /// Cycles of the matrix units.
    pub matrix: f64,
    /// Cycles of local memory.
    pub local: f64,
    /// The longest of them.
    pub bound: &'static str,
    /// The fraction of the memory's bandwidth that is left for weights.
    pub fraction: f64,
}

impl Counts {
    fn add(&mut self, mnemonic: &str) {
        let counter = match mnemonic {
            m if m.starts_with("v_mfma") || m.starts_with("v_wmma") => &mut self.matrix,
            m if m.starts_with("v_") => &mut self.vector,
            m if m.starts_with("ds_") => {
                self.local_bytes += local_bytes(m);
                &mut self.local
            }
            m if ["global_", "buffer_", "flat_", "scratch_"].iter().any(|start| m.starts_with(start)) => &mut self.memory,
            m if m.starts_with("s_") => &mut self.scalar,
            _ => return,
        };
        *counter += 1;
    }
}

/// Bytes per lane of an access of local memory, by its name: `ds_read_b64`, `ds_read2_b32`, `ds_write_b128`, ...
fn local_bytes(mnemonic: &str) -> u32 {
    let twice = if mnemonic.contains("2_b") || mnemonic.contains("2st64_b") { 2 } else { 1 };
    let bits = mnemonic.rsplit_once("_b").and_then(|(_, bits)| bits.parse::<u32>().ok());
    // Narrow accesses, and exchanges among lanes, take a word's time.
    twice * bits.map_or(4, |bits| (bits / 8).max(4))
}

/// A kernel's instructions: mnemonic, and the label it may go to.
#[derive(Default)]
struct Listing<'a> {
    code: Vec<(&'a str, Option<&'a str>)>,
    labels: BTreeMap<&'a str, usize>,
}

impl Listing<'_> {
    /// The counts of the innermost loop with the most matrix instructions: the instructions between a label and a branch back to it.
    fn densest(&self) -> Option<Counts> {
        let back = |(end, (_, target)): (usize, &(&str, Option<&str>))| {
            let start = *self.labels.get((*target)?)?;
            (start <= end).then_some((start, end))
        };
        let count = |(start, end): (usize, usize)| {
            let mut counts = Counts::default();
            self.code[start..=end].iter().for_each(|(mnemonic, _)| counts.add(mnemonic));
            (start, end, counts)
        };
        let loops: Vec<_> = self.code.iter().enumerate().filter_map(back).map(count).collect();
        let multiplies = |(_, _, counts): &&(usize, usize, Counts)| counts.matrix > 0;
        let innermost = |a: &&(usize, usize, Counts)| {
            !loops.iter().filter(multiplies).any(|b| (b.0, b.1) != (a.0, a.1) && a.0 <= b.0 && b.1 <= a.1)
        };
        loops.iter().filter(multiplies).filter(innermost).map(|(_, _, counts)| *counts).max_by_key(|counts| counts.matrix)
    }
}

/// The counts of every kernel's innermost loop with the most matrix instructions, by kernel.
pub fn loops(assembly: &str) -> BTreeMap<String, Counts> {
    let mut kernels: BTreeMap<&str, Listing<'_>> = BTreeMap::new();
    let mut kernel = "";
    for line in assembly.lines() {
        let code = line.split(';').next().unwrap_or_default().trim();
        if let Some(label) = code.strip_suffix(':') {
            if label.starts_with('.') {
                let listing = kernels.entry(kernel).or_default();
                listing.labels.insert(label, listing.code.len());
            } else {
                kernel = label;
            }
        } else if !code.is_empty() && !code.starts_with('.') {
            let (mnemonic, operands) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
            let target = mnemonic.contains("branch").then(|| operands.trim());
            kernels.entry(kernel).or_default().code.push((mnemonic, target));
        }
    }
    kernels.iter().filter_map(|(name, listing)| Some(((*name).to_owned(), listing.densest()?))).collect()
}

impl Card {
    /// What bounds a loop in which `bytes` bytes of weights belong to every matrix instruction.
    pub fn bound(&self, counts: Counts, bytes: f64) -> Bound {
        let bytes = bytes * f64::from(counts.matrix);
        let per_cycle = self.bandwidth / (self.units * self.clock);
        let times = [
            ("memory", bytes / per_cycle),
            ("vector", f64::from(counts.vector) * VECTOR_CYCLES / SIMDS),
            ("matrix", f64::from(counts.matrix) * self.matrix_cycles / SIMDS),
            ("local", f64::from(counts.local_bytes) * LANES / LOCAL_BYTES),
        ];
        let (bound, longest) = times.into_iter().fold(times[0], |most, time| if time.1 > most.1 { time } else { most });
        let [memory, vector, matrix, local] = times.map(|(_, time)| time);
        Bound { card: self.name, counts, bytes, memory, vector, matrix, local, bound, fraction: memory / longest }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use q35_format::{Codec, Group, PackedSpec};
    use q35_gpu::abi::define;
    use q35_gpu::isa::Cdna;
    use q35_gpu::kernels::Kernel;
    use q35_gpu::linear::{Variant, kernels};
    use q35_launch::Spec;
    use q35_launch::spec::Linear;
    use q35_mlir::builder::KernelModule;
    use q35_mlir::context::Context;
    use q35_mlir::llvm::{Machine, emit};

    #[test]
    fn loops_are_told_apart() {
        let text = "
k:
	v_mov_b32_e32 v0, 0
.LBB0_1:
	ds_read_b32 v1, v2
.LBB0_2:
	global_load_dwordx4 v[0:3], v4, s[0:1]
	ds_read2_b32 v[0:1], v2
	v_mfma_f32_16x16x16_f16 a[0:3], v[0:1], v[2:3], a[0:3]
	s_cbranch_scc1 .LBB0_3
	v_add_u32_e32 v0, v0, v1
.LBB0_3:
	s_cbranch_vccnz .LBB0_2
	s_cbranch_scc0 .LBB0_1
	s_endpgm
.Lfunc_end0:
";
        let found = loops(text);
        let expected = Counts { matrix: 1, vector: 1, scalar: 2, memory: 1, local: 1, local_bytes: 8 };
        assert_eq!(found, BTreeMap::from([("k".to_owned(), expected)]));
        let bound = CARDS[0].bound(expected, 112.0);
        assert!((bound.memory - 112.0 * 304.0 * 2.1e9 / 5.3e12).abs() < 1e-9);
        assert_eq!((bound.vector, bound.matrix, bound.local, bound.bound), (1.0, 4.0, 4.0, "memory"));
        assert_eq!([local_bytes("ds_read_b128"), local_bytes("ds_bpermute_b32"), local_bytes("ds_read_u8")], [16, 4, 4]);
    }

    /// The layers of models of 8 and 70 thousand million parameters: projections, gate and up, down.
    const SHAPES: [(usize, usize); 6] =
        [(6144, 4096), (28672, 4096), (4096, 14336), (10240, 8192), (57344, 8192), (8192, 28672)];

    #[test]
    fn decoding_is_bound_by_memory_for_windows_of_up_to_8_bits() {
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        let mut streams = BTreeMap::new();
        for (outputs, inputs) in SHAPES {
            for codec in [Codec::Split, Codec::W7, Codec::W8] {
                let spec = PackedSpec::new(outputs, inputs, codec, Group::Row).unwrap();
                let all = kernels(&Linear::new(spec), &Cdna).unwrap();
                let (kernel, _) = all.into_iter().find(|(kernel, _)| kernel.variant == Variant::Few).unwrap();
                define(&module, &kernel.name(), &Cdna, &kernel);
                streams.insert(kernel.name(), kernel.stream_bytes(&Cdna).unwrap());
            }
        }
        module.lower(|_, _| ());
        let assembly = emit(&module, &Machine::amdgcn("gfx942")).assembly();
        let loops = loops(&assembly);
        assert_eq!(loops.len(), streams.len());
        for (name, bytes) in streams {
            let bound = CARDS[0].bound(loops[&name], bytes);
            assert_eq!(bound.bound, "memory", "{name}: {bound:?}");
        }
    }
}
