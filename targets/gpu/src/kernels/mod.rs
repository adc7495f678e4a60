//! The kernels that are not matrix products: one file, one kernel.
//!
//! What enters: a [spec](q35_launch::spec) with every static fact of a step. What leaves: a body for [`abi::define`](crate::abi::define).
//! Besides the conventions that come with the specs: a group of threads computes a tile, and all of them arrive at every barrier; control
//! that depends on the thread holds none.

mod append;
mod attention;
mod blocked;
mod chain;
mod choose;
mod columns;
mod embed;
mod experts;
mod hadamard;
mod layer_norm;
mod pack;
mod pointwise;
mod rms_norm;
mod rope;
mod route;

pub(crate) use attention::kernels as attention;
pub use choose::Choose;
pub use pack::Pack;

use crate::abi::Call;
use crate::isa::Isa;
use hadamard::LONGEST_BLOCK;
use q35_bundle::CacheDtype;
use q35_launch::Spec;
use q35_launch::layout::{entry, row_at};
use q35_launch::spec::{Any, Append, Attention};
use q35_mlir::builder::Val;
use q35_mlir::types::F32;
use std::rc::Rc;

/// Threads of a group that works on rows.
pub(crate) const ROW_THREADS: u32 = 256;

/// A kernel with all its static facts.
pub trait Kernel: Spec {
    /// Threads of a group: whole waves.
    fn threads(&self, _: &dyn Isa) -> u32 {
        ROW_THREADS
    }

    /// Bytes of memory that the threads of a group share, where they are many.
    fn shared_bytes(&self) -> u32 {
        0
    }

    /// Bytes of weights that belong to every matrix instruction, where the kernel is a stream of weights.
    fn stream_bytes(&self, _: &dyn Isa) -> Option<f64> {
        None
    }

    /// Builds the body.
    fn build(&self, call: &Call<'_>);
}

/// The kernel of a spec, or why there is none.
pub(crate) fn of(spec: Any) -> Result<Rc<dyn Kernel>, String> {
    Ok(match spec {
        Any::Append(Append { dtype, .. }) | Any::Attention(Attention { dtype, .. }) if dtype != CacheDtype::F32 => {
            return Err(format!("a KV cache in {dtype} has no kernel on GPUs, which keep it in f32"));
        }
        Any::Append(spec) => Rc::new(spec),
        Any::Attention(_) => unreachable!("there are several kernels of it"),
        Any::Columns(spec) => Rc::new(spec),
        Any::Combine(spec) => Rc::new(spec),
        Any::Embed(spec) => Rc::new(spec),
        Any::Hadamard(spec) if spec.block > LONGEST_BLOCK => {
            return Err(format!("rotations of {} columns have no kernel on GPUs, {LONGEST_BLOCK} are the most", spec.block));
        }
        Any::Hadamard(spec) => Rc::new(spec),
        Any::LayerNorm(spec) => Rc::new(spec),
        Any::Pointwise(spec) => Rc::new(spec),
        Any::RmsNorm(spec) => Rc::new(spec),
        Any::Rope(spec) => Rc::new(spec),
        Any::Rotary(spec) => Rc::new(spec),
        Any::Route(spec) => match route::unsupported(&spec) {
            Some(reason) => return Err(reason),
            None => Rc::new(spec),
        },
        Any::Select(spec) => Rc::new(spec),
        Any::SortByExpert(spec) => Rc::new(spec),
        Any::LatentAttention(_) => return Err("attention over latent vectors has no kernel on GPUs".to_owned()),
    })
}

/// Element `at` of a row of f32.
fn element<'k>(row: Val<'k>, at: Val<'k>) -> Val<'k> {
    row.at(at * 4).load(F32, 4)
}

/// Writes element `at` of a row of f32.
fn set<'k>(row: Val<'k>, at: Val<'k>, value: Val<'k>) {
    row.at(at * 4).store(value, 4);
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
