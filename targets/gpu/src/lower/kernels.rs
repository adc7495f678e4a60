//! The kernels for a GPU, as lowering asks for them.

use crate::isa::Isa;
use crate::kernels::{self, Choose, Kernel, Pack};
use crate::linear::{self, LinearKernel, geometry};
use q35_bundle::CacheDtype;
use q35_format::{Codec, PackedSpec};
use q35_launch::layout::{stacked, vectors};
use q35_launch::spec::{Any, Attention, Chain, Linear};
use q35_launch::{Choice, Kernels, Operand, Split, Use};
use q35_target::{Arrangement, Section};
use std::rc::Rc;

/// Shared memory that is left to the sums of groups.
const FOR_SUMS: u32 = 1 << 10;

/// All of them.
pub(super) struct GpuKernels {
    pub(super) isa: &'static dyn Isa,
}

impl Kernels for GpuKernels {
    type Kernel = dyn Kernel;

    fn place(&self) -> &'static str {
        "on GPUs"
    }

    fn kernel(&self, spec: Any) -> Result<Rc<dyn Kernel>, String> {
        kernels::of(spec)
    }

    fn split(&self, spec: &Attention) -> Option<Split<dyn Kernel>> {
        (spec.dtype == CacheDtype::F32).then(|| kernels::attention(spec))
    }

    fn linear(&self, linear: &Linear) -> Result<Vec<Choice<dyn Kernel>>, String> {
        let choice = |(kernel, max_rows): (LinearKernel, _)| Choice { kernel: Rc::new(kernel) as Rc<dyn Kernel>, max_rows };
        Ok(linear::kernels(linear, self.isa)?.into_iter().map(choice).collect())
    }

    fn operand(&self) -> Operand {
        Operand::Packed
    }

    fn to_operand(&self, width: u64) -> Rc<dyn Kernel> {
        Rc::new(Pack { width })
    }

    fn operand_stride(&self, width: usize) -> usize {
        geometry::packed_stride(width)
    }

    fn choose(&self, width: u64) -> Option<Rc<dyn Kernel>> {
        Some(Rc::new(Choose { width }))
    }

    /// As many as fit shared memory.
    fn chain(&self, parts: Vec<Rc<dyn Kernel>>) -> Option<Rc<dyn Kernel>> {
        let shared: u32 = parts.iter().map(|part| part.shared_bytes()).sum();
        (shared + FOR_SUMS <= self.isa.shared_bytes()).then(|| Rc::new(Chain { parts }) as Rc<dyn Kernel>)
    }

    fn reads_rows(&self, codec: Codec) -> bool {
        !codec.has_scales()
    }

    fn arrangement(&self, spec: &PackedSpec, section: Section, used: Use) -> Arrangement {
        match (used, section) {
            (Use::Tiles, Section::Codes) => geometry::codes(spec, self.isa.matrix()),
            (Use::Tiles, _) => geometry::scales(spec),
            (Use::Stacked(experts), Section::Codes) => stacked(geometry::codes(spec, self.isa.matrix()), spec.rows() / experts),
            (Use::Stacked(experts), _) => stacked(geometry::scales(spec), spec.rows() / experts),
            (Use::PaddedVectors(count), _) => vectors(spec.cols() / count, count),
            (Use::Rows, Section::Codes) => Arrangement::plain(spec.row_bytes()),
            (Use::Rows, _) => Arrangement::plain(spec.groups() * spec.scale().bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Nvidia;
    use q35_launch::spec::Hadamard;

    #[test]
    fn a_chain_fits_shared_memory() {
        let chained = |blocks: &[u64]| {
            let rotation = |&block: &u64| Rc::new(Hadamard { width: 8192, block, seed: 1, inverse: false }) as Rc<dyn Kernel>;
            GpuKernels { isa: &Nvidia }.chain(blocks.iter().map(rotation).collect()).is_some()
        };
        assert!(chained(&[2048, 4096, 2048]) && chained(&[8192, 2048]));
        assert!(!chained(&[8192, 2048, 8192]));
    }
}
