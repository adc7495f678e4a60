//! The CPU's kernels, as lowering asks for them.

use crate::kernels::{self, Kernel, Quantize};
use crate::linear::{self, Linear, LinearKernel, geometry};
use q35_format::{Codec, PackedSpec};
use q35_launch::layout::{stacked, vectors};
use q35_launch::spec::{Any, Chain};
use q35_launch::{Choice, Kernels, Operand, Use};
use q35_target::{Arrangement, Section};
use std::rc::Rc;

/// All of them.
pub(super) struct CpuKernels;

impl Kernels for CpuKernels {
    type Kernel = dyn Kernel;

    fn place(&self) -> &'static str {
        "on the CPU"
    }

    fn kernel(&self, spec: Any) -> Result<Rc<dyn Kernel>, String> {
        kernels::of(spec)
    }

    fn linear(&self, linear: &Linear) -> Result<Vec<Choice<dyn Kernel>>, String> {
        let choice = |kernel: LinearKernel| Choice { max_rows: kernel.max_rows(), kernel: Rc::new(kernel) as Rc<dyn Kernel> };
        Ok(linear::kernels(linear)?.into_iter().map(choice).collect())
    }

    fn operand(&self) -> Operand {
        Operand::Rounded
    }

    fn to_operand(&self, width: u64) -> Rc<dyn Kernel> {
        Rc::new(Quantize { width })
    }

    fn operand_stride(&self, width: usize) -> usize {
        geometry::quant_stride(width)
    }

    fn chain(&self, parts: Vec<Rc<dyn Kernel>>) -> Option<Rc<dyn Kernel>> {
        Some(Rc::new(Chain { parts }))
    }

    fn reads_rows(&self, _: Codec) -> bool {
        false
    }

    fn arrangement(&self, spec: &PackedSpec, section: Section, used: Use) -> Arrangement {
        match (used, section) {
            (Use::Rows, Section::Codes) => Arrangement::plain(spec.row_bytes()),
            (Use::Rows, _) => Arrangement::plain(spec.groups() * spec.scale().bytes()),
            (Use::Tiles, Section::Codes) => geometry::codes(spec),
            (Use::Tiles, _) => geometry::scales(spec),
            (Use::Stacked(experts), Section::Codes) => stacked(geometry::codes(spec), spec.rows() / experts),
            (Use::Stacked(experts), _) => stacked(geometry::scales(spec), spec.rows() / experts),
            (Use::PaddedVectors(count), _) => vectors(spec.cols() / count, count),
        }
    }
}
