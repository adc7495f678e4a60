//! Feature levels: one PTX file each.

use q35_bundle::CudaLevel;
use q35_mlir::llvm::Machine;

/// A row of the table of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// The architecture, as compilers call it.
    pub name: &'static str,
    /// Compute capability, major and minor.
    capability: (u32, u32),
    /// Whether code for it runs on that capability alone, rather than on later ones too.
    exact: bool,
    /// The first PTX version that knows the architecture, times ten.
    ptx: u32,
    /// The CUDA version whose drivers know that PTX version: 1000 times the major version plus 10 times the minor.
    driver: u32,
}

/// Every level, best first. PTX versions and the CUDA versions they came with are those of the PTX manual's release notes.
pub const LEVELS: [Level; 3] = [
    Level { name: "sm_90a", capability: (9, 0), exact: true, ptx: 80, driver: 12_000 },
    Level { name: "sm_89", capability: (8, 9), exact: false, ptx: 78, driver: 11_080 },
    Level { name: "sm_80", capability: (8, 0), exact: false, ptx: 70, driver: 11_000 },
];

impl Level {
    /// What LLVM makes code for.
    pub fn machine(&self) -> Machine {
        Machine::nvptx(self.name, self.ptx)
    }

    /// Its file in the bundle.
    pub fn file(&self) -> String {
        format!("cuda/kernels-{}.ptx", self.name)
    }

    /// What the runtime checks before it loads the file.
    pub fn requirements(&self) -> CudaLevel {
        let (major, minor) = self.capability;
        CudaLevel { name: self.name.to_owned(), file: self.file(), major, minor, exact: self.exact, driver: self.driver }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_architectures_come_first_and_need_later_drivers() {
        assert!(LEVELS.windows(2).all(|w| w[0].capability > w[1].capability && w[0].driver > w[1].driver));
        assert_eq!(LEVELS.map(|level| level.file())[0], "cuda/kernels-sm_90a.ptx");
        assert!(LEVELS.last().is_some_and(|level| !level.exact), "the last one serves every later card");
    }
}
