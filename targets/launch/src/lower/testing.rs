//! The plainest target: kernels that are their specs.

use crate::kernels::{Choice, Kernels, Operand, Use};
use crate::spec::{Any, Chain, Linear, Pointwise, Spec};
use q35_format::{Codec, PackedSpec};
use q35_target::{Arrangement, Section};
use std::rc::Rc;

/// Takes pointwise kernels, linear layers, and chains of them.
pub(super) struct Plain {
    pub(super) longest_chain: usize,
}

impl Default for Plain {
    fn default() -> Self {
        Self { longest_chain: usize::MAX }
    }
}

impl Plain {
    /// What tells its arrangement for linear layers from rows as they are.
    pub(super) const TAIL: usize = 5;
}

struct OneLinear(Linear);

impl Spec for OneLinear {
    fn name(&self) -> String {
        self.0.symbol("")
    }

    fn args(&self) -> usize {
        self.0.args()
    }
}

struct Convert;

impl Spec for Convert {
    fn name(&self) -> String {
        "convert".to_owned()
    }

    fn args(&self) -> usize {
        2
    }
}

impl Kernels for Plain {
    type Kernel = dyn Spec;

    fn place(&self) -> &'static str {
        "on paper"
    }

    fn kernel(&self, spec: Any) -> Result<Rc<dyn Spec>, String> {
        match spec {
            Any::Pointwise(spec) => Ok(Rc::<Pointwise>::new(spec)),
            other => Err(format!("{other:?} is not known")),
        }
    }

    fn linear(&self, linear: &Linear) -> Result<Vec<Choice<dyn Spec>>, String> {
        let kernel: Rc<dyn Spec> = Rc::new(OneLinear(linear.clone()));
        Ok(vec![kernel.into()])
    }

    fn operand(&self) -> Operand {
        Operand::Packed
    }

    fn to_operand(&self, _: u64) -> Rc<dyn Spec> {
        Rc::new(Convert)
    }

    fn operand_stride(&self, width: usize) -> usize {
        width
    }

    fn chain(&self, parts: Vec<Rc<dyn Spec>>) -> Option<Rc<dyn Spec>> {
        (parts.len() <= self.longest_chain).then(|| Rc::new(Chain { parts }) as Rc<dyn Spec>)
    }

    fn reads_rows(&self, _: Codec) -> bool {
        false
    }

    fn arrangement(&self, spec: &PackedSpec, _: Section, used: Use) -> Arrangement {
        let tail_bytes = if used == Use::Rows { 0 } else { Self::TAIL };
        Arrangement { tail_bytes, ..Arrangement::plain(spec.row_bytes()) }
    }
}
