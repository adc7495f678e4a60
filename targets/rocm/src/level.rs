//! Feature levels: one code object each.

use q35_gpu::Isa;
use q35_gpu::isa::{Cdna, Rdna};
use q35_mlir::llvm::Machine;

/// A row of the table of levels.
#[derive(Clone, Copy)]
pub struct Level {
    /// The architecture, as compilers and drivers call it.
    pub name: &'static str,
    /// Its instructions.
    pub isa: &'static dyn Isa,
    /// Vector registers of a lane in one SIMD unit, what a wave's share is a multiple of, and whether it is counted with the accumulation
    /// registers. These and the next two: LLVM's AMDGPU usage page and the instruction set manuals.
    pub registers: Registers,
    /// Waves that a SIMD unit holds at most.
    pub waves: u32,
    /// SIMD units that share local memory.
    pub simds: u32,
}

/// Vector registers of a SIMD unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// How many a lane can have over all waves.
    pub total: u32,
    /// What the number of a wave is rounded up to.
    pub granule: u32,
}

/// Every level, in the order in which a card is matched.
pub const LEVELS: [Level; 3] = [
    Level { name: "gfx942", isa: &Cdna, registers: Registers { total: 512, granule: 8 }, waves: 8, simds: 4 },
    Level { name: "gfx90a", isa: &Cdna, registers: Registers { total: 512, granule: 8 }, waves: 8, simds: 4 },
    // Work-groups run on a pair of compute units, four SIMD units together, but local memory is counted per unit of two here.
    Level { name: "gfx1100", isa: &Rdna, registers: Registers { total: 1536, granule: 24 }, waves: 16, simds: 2 },
];

impl Level {
    /// What LLVM makes code for.
    pub fn machine(&self) -> Machine {
        Machine::amdgcn(self.name)
    }

    /// Its file in the bundle.
    pub fn file(&self) -> String {
        format!("rocm/kernels-{}.hsaco", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_levels_read_weights_from_the_same_places() {
        let matrix = LEVELS[0].isa.matrix();
        assert!(LEVELS.iter().all(|level| level.isa.matrix() == matrix));
        assert!(LEVELS.iter().all(|level| level.isa.shared_bytes() == LEVELS[0].isa.shared_bytes()));
    }
}
