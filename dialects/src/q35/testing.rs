//! Short ways to infer and evaluate one op.

use super::Op;
use crate::attr::ParamName;
use crate::data::{Data, Matrix, ParamValue};
use crate::interp::{CacheLayer, Env, StepInput};
use crate::semantics::Packed;
use crate::ty::{Rows, Ty};
use q35_format::{Codec, Group};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Activations with one row per token.
pub(crate) fn act(width: usize, data: &[f32]) -> Data {
    Data::Act(Matrix::new(width, data.to_vec()))
}

/// The type of activations with one row per token.
pub(crate) fn tokens(width: u64) -> Ty {
    Ty::Act { rows: Rows::Tokens, width }
}

/// What inference says, with float parameters of the given shapes.
pub(crate) fn infer(op: impl Into<Op>, operands: &[Ty], params: &[(&str, u64, u64)]) -> Result<Ty, String> {
    let packed = |&(name, rows, cols): &(&str, u64, u64)| {
        (ParamName::from(name), Packed { rows, cols, codec: Codec::F32, group: Group::Row })
    };
    op.into().infer(operands, &params.iter().map(packed).collect::<BTreeMap<_, _>>())
}

/// One op on its own: inputs, parameters, caches.
#[derive(Default)]
pub(crate) struct Bench {
    pub(crate) input: StepInput,
    pub(crate) params: BTreeMap<ParamName, Arc<ParamValue>>,
    pub(crate) caches: BTreeMap<u32, CacheLayer>,
}

impl Bench {
    pub(crate) fn with_params(params: &[(&str, usize, &[f32])]) -> Self {
        let mut bench = Self::default();
        for (name, cols, values) in params {
            bench.param(name, ParamValue::Float(Matrix::new(*cols, values.to_vec())));
        }
        bench
    }

    pub(crate) fn param(&mut self, name: &str, value: ParamValue) {
        self.params.insert(name.into(), Arc::new(value));
    }

    pub(crate) fn try_eval(&mut self, op: impl Into<Op>, operands: &[&Data]) -> q35_diag::Result<Data> {
        let mut env = Env { input: &self.input, params: &self.params, caches: &mut self.caches };
        op.into().eval(operands, &mut env)
    }

    pub(crate) fn eval(&mut self, op: impl Into<Op>, operands: &[&Data]) -> Data {
        self.try_eval(op, operands).unwrap()
    }
}

/// The elements of activations.
pub(crate) fn numbers(data: &Data) -> &[f32] {
    &data.act().data
}

/// Asserts that each pair differs by at most `tolerance` relative to the larger of 1 and the expected value.
pub(crate) fn near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
        assert!(difference <= tolerance, "element {at}: {found}, expected {expected}");
    }
}
