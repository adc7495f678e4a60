//! The kernels that are not matrix products: one file, one kernel.
//!
//! What enters: a [spec](q35_launch::spec) with every static fact of a step. What leaves: a body for [`abi::define`](crate::abi::define),
//! the same source for every feature level. Besides the conventions that come with the specs:
//!
//! 1. The result does not depend on how tiles are split among calls.
//! 2. Rotations, norms, rotary embedding and what is pointwise may be given the same buffer as operand and result.

mod append;
mod attention;
mod cached;
mod chain;
mod columns;
mod combine;
mod embed;
mod hadamard;
mod latent_attention;
mod layer_norm;
mod pointwise;
mod quantize;
mod rms_norm;
mod rope;
mod rotary;
mod route;
mod scores;
mod select;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod testing;

pub use quantize::Quantize;

use q35_launch::Spec;
use q35_launch::layout::{entry, row_at};
use q35_launch::spec::Any;
use std::rc::Rc;

use crate::abi::Call;
use crate::level::Level;

/// A kernel with all its static facts.
pub trait Kernel: Spec {
    /// Builds the body.
    fn build(&self, level: Level, call: &Call<'_>);
}

/// f32 lanes that a level computes at once.
fn lanes(level: Level) -> u32 {
    level.bytes() / 4
}

/// The kernel of a spec, or why there is none.
pub(crate) fn of(spec: Any) -> Result<Rc<dyn Kernel>, String> {
    let unsupported = match &spec {
        Any::LatentAttention(spec) => latent_attention::unsupported(spec),
        Any::Route(spec) => route::unsupported(spec),
        _ => None,
    };
    if let Some(reason) = unsupported {
        return Err(reason);
    }
    Ok(match spec {
        Any::Append(spec) => Rc::new(spec),
        Any::Attention(spec) => Rc::new(spec),
        Any::Columns(spec) => Rc::new(spec),
        Any::Combine(spec) => Rc::new(spec),
        Any::Embed(spec) => Rc::new(spec),
        Any::Hadamard(spec) => Rc::new(spec),
        Any::LatentAttention(spec) => Rc::new(spec),
        Any::LayerNorm(spec) => Rc::new(spec),
        Any::Pointwise(spec) => Rc::new(spec),
        Any::RmsNorm(spec) => Rc::new(spec),
        Any::Rope(spec) => Rc::new(spec),
        Any::Rotary(spec) => Rc::new(spec),
        Any::Route(spec) => Rc::new(spec),
        Any::Select(spec) => Rc::new(spec),
        Any::SortByExpert(spec) => Rc::new(spec),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::testing::{Arg, numbers, rows, run};
    use super::*;
    use crate::abi::define;
    use q35_bundle::CacheDtype;
    use q35_dialects::Rows;
    use q35_dialects::q35::{Activation, GroupScore, RopeStyle, Scoring};
    use q35_format::{Group, ScaleType};
    use q35_launch::spec::LayerNorm;
    use q35_launch::spec::{
        Append, Attention, Combine, Divisor, Embed, Groups, Hadamard, LatentAttention, NormWeight, Operation, Pointwise,
        RmsNorm, Rope, Rotary, Route, Scores, SortByExpert, Table,
    };
    use q35_mlir::builder::KernelModule;
    use q35_mlir::context::Context;
    use q35_mlir::{link, llvm};
    use std::cell::RefCell;

    #[test]
    fn in_place_is_the_same() {
        let (width, tokens) = (48, 3);
        let rope = |style| Rope { width: 48, head_dim: 24, half: 9, style };
        let glu = Operation::Glu { activation: Activation::Silu, limit: None, alpha: 1.0, offset: 0.0 };
        let plain = NormWeight::None;
        let kernels: [(&dyn Kernel, Option<usize>); 7] = [
            (&Hadamard { width: 48, block: 16, seed: 3, inverse: false }, None),
            (&RmsNorm { width: 48, group: 12, eps: 1e-5, weight: plain }, None),
            (&LayerNorm { width: 48, group: 12, eps: 1e-5, weight: plain, bias: plain }, None),
            (&Pointwise { operation: Operation::Softcap(2.0), width: 48, column: false }, None),
            (&Pointwise { operation: glu, width: 48, column: false }, Some(48)),
            (&rope(RopeStyle::Halves), Some(18)),
            (&rope(RopeStyle::Interleaved), Some(18)),
        ];
        for (kernel, second) in kernels {
            let inputs = || {
                let second = second.map(|width| Arg::rows(&numbers(tokens * width, 1.0), width));
                [Arg::rows(&numbers(tokens * width, 2.0), width)].into_iter().chain(second).collect::<Vec<_>>()
            };
            let results = |result: Arg| {
                let seen = RefCell::new(Vec::new());
                let args: Vec<Arg> = inputs().into_iter().chain([result]).collect();
                run(kernel, args, [3, 0, 0, 0], 3, |_, args| seen.borrow_mut().push(rows(args.last().unwrap(), width)));
                seen.into_inner()
            };
            assert_eq!(results(Arg::zeros(tokens, width)), results(Arg::Same(0)), "{}", kernel.name());
        }
    }

    #[test]
    fn every_kernel_compiles_for_another_architecture() {
        let scores = Scores { scale: 0.3, window: Some(9), softcap: Some(3.0) };
        let kernels: [&dyn Kernel; 13] = [
            &Append { kv_heads: 2, key_dim: 12, value_dim: 8, dtype: CacheDtype::F16 },
            &Attention { heads: 4, kv_heads: 2, key_dim: 12, value_dim: 8, dtype: CacheDtype::F16, scores, sinks: true },
            &Embed { width: 70, table: Table::Q8(Group::Columns(64), ScaleType::F16), as_weight: true },
            &Embed { width: 70, table: Table::Bf16, as_weight: false },
            &Hadamard { width: 96, block: 32, seed: 1, inverse: true },
            &LatentAttention {
                heads: 4,
                latent: 70,
                rotated: 6,
                dtype: CacheDtype::F16,
                key_dim: 12,
                value_dim: 8,
                keys: Table::Q8(Group::Columns(64), ScaleType::F16),
                values: Table::F32,
                scores,
            },
            &Pointwise { operation: Operation::Activate(Activation::Gelu), width: 33, column: false },
            &Quantize { width: 130 },
            &Rope { width: 48, head_dim: 24, half: 9, style: RopeStyle::Interleaved },
            &Rotary { half: 9, scale: 1.0 },
            &Route {
                experts: 24,
                choices: 3,
                scoring: Scoring::Softmax,
                correction: true,
                groups: Some(Groups { count: 4, top: 2, worth: GroupScore::Two }),
                normalize: Some(Divisor::default()),
                scale: 1.0,
                margin: 0.0,
            },
            &SortByExpert { experts: 24, routed: Rows::TokenChoices(3) },
            &Combine { width: 33, choices: 3 },
        ];
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        for kernel in kernels {
            define(&module, &kernel.name(), Level::BASE, |call| kernel.build(Level::BASE, call));
        }
        module.lower(|_, _| ());
        let object = llvm::emit(&module, &llvm::Machine::aarch64_linux()).object;
        assert_eq!(link::undefined_symbols(&object), Vec::<String>::new());
    }
}
