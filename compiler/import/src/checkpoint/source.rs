//! A checkpoint's tensors on their way into a graph: stored as they are, quantized with scales beside them, or one by one where the graph wants a
//! stack.

use super::shards::Shards;
use crate::decoder::Weights;
use crate::encodings::mxfp4::Mxfp4;
use crate::encodings::scaled::Scaled;
use crate::onnx::proto::build::FLOAT;
use crate::onnx::proto::{self, DTYPES};
use crate::report::Report;
use q35_diag::{Code, Diagnostic};
use q35_graph::{DType, Stack, Tensor};
use std::collections::BTreeMap;

/// Names of the scales beside a tensor of 8-bit floats.
const SCALES: &[&str] = &["_scale_inv", "_scale"];

/// What blocks of 4-bit floats and their exponents are called.
const BLOCKS: [&str; 2] = ["_blocks", "_scales"];

/// Tensors that some checkpoints carry although they follow from the configuration, or serve only arithmetic in few bits.
const REDUNDANT: &[&str] = &["rotary_emb.inv_freq", ".input_scale", ".input_scale_ub", ".k_scale", ".v_scale"];

/// What may be left over.
pub(super) struct Leftovers {
    /// Whether the head's weight is the embedding's.
    pub(super) tied: bool,
    /// Layers of the decoder, and those after them that only guess further tokens ahead.
    pub(super) layers: u64,
    pub(super) further: u64,
}

/// The tensors, and those that were handed out.
pub(super) struct Source<'r> {
    shards: Shards,
    /// Rows and columns that share a scale, where scales are for tiles.
    tile: Option<[u64; 2]>,
    ready: BTreeMap<String, Tensor>,
    report: &'r mut Report,
}

impl Weights for Source<'_> {
    fn tensor(&mut self, name: &str, dims: &[u64]) -> proto::Tensor {
        let found = self.find(name, dims);
        self.hand_out(name, found)
    }

    fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> proto::Tensor {
        let all: Vec<Option<Tensor>> = parts
            .iter()
            .map(|part| {
                let found = self.find(part, dims);
                self.report.take(found).flatten()
            })
            .collect();
        let dims = [&[parts.len() as u64], dims].concat();
        let stack = all.into_iter().collect::<Option<Vec<_>>>().and_then(Stack::new);
        let stack = stack.and_then(|stack| Tensor::decoded(dims, stack));
        self.hand_out(name, Ok(stack))
    }
}

impl<'r> Source<'r> {
    pub(super) fn new(shards: Shards, tile: Option<[u64; 2]>, report: &'r mut Report) -> Self {
        Self { shards, tile, ready: BTreeMap::new(), report }
    }

    /// Keeps a tensor under its name, which is all that the graph gets.
    fn hand_out(&mut self, name: &str, found: Result<Option<Tensor>, Diagnostic>) -> proto::Tensor {
        let Some(tensor) = self.report.take(found).flatten() else { return proto::Tensor::default() };
        let number = DTYPES.iter().find(|row| row.2 == Some(tensor.dtype())).map_or(FLOAT, |row| row.0);
        let declared = proto::Tensor { name: name.to_owned(), data_type: number, ..proto::Tensor::default() };
        self.ready.insert(name.to_owned(), tensor);
        declared
    }

    /// `Ok(None)` where a file that could not be read may hold it.
    fn find(&mut self, name: &str, dims: &[u64]) -> Result<Option<Tensor>, Diagnostic> {
        let error = |code, what: String| Diagnostic::error(code, what).at("tensor", name);
        let [blocks, exponents] = BLOCKS.map(|suffix| format!("{name}{suffix}"));
        if !self.shards.has(name) && self.shards.has(&blocks) {
            let (Some(blocks), Some(exponents)) = (self.shards.take(&blocks)?, self.shards.take(&exponents)?) else {
                return Ok(None);
            };
            let stored = blocks.dims().to_vec();
            let numbers = Mxfp4::new(blocks, exponents, dims).and_then(|numbers| Tensor::decoded(dims.to_vec(), numbers));
            return numbers.map(Some).ok_or_else(|| {
                error(Code::BadConfig, format!("its blocks are {stored:?}, but the configuration makes it {dims:?}"))
            });
        }
        let Some(tensor) = self.shards.take(name)? else { return Ok(None) };
        if tensor.dims() != dims {
            let what = format!("the tensor is {:?}, but the configuration makes it {dims:?}", tensor.dims());
            return Err(error(Code::BadConfig, what));
        }
        match tensor.dtype() {
            DType::F32 | DType::F16 | DType::Bf16 => Ok(Some(tensor)),
            DType::F8E4M3 | DType::F8E5M2 => self.scaled(name, tensor),
            other => {
                let what = format!("its element type {} is not supported for a weight", other.name());
                Err(error(Code::UnsupportedForm, what))
            }
        }
    }

    /// 8-bit floats with the scales that lie beside them.
    fn scaled(&mut self, name: &str, quantized: Tensor) -> Result<Option<Tensor>, Diagnostic> {
        let error = |code, what: String| Diagnostic::error(code, what).at("tensor", name);
        let beside = SCALES.iter().map(|suffix| format!("{name}{suffix}")).find(|beside| self.shards.has(beside));
        let Some(beside) = beside else {
            return match self.shards.complete {
                true => Err(error(Code::MissingTensor, "it is quantized, but the checkpoint has no scales for it".into())),
                false => Ok(None),
            };
        };
        let Some(scales) = self.shards.take(&beside)? else { return Ok(None) };
        let (dims, of_scales) = (quantized.dims().to_vec(), scales.dims().to_vec());
        let numbers = Scaled::new(quantized, scales, self.tile).and_then(|numbers| Tensor::decoded(dims.clone(), numbers));
        numbers.map(Some).ok_or_else(|| {
            let tiles = self.tile.map_or(String::new(), |[rows, cols]| format!(" in tiles of {rows} by {cols}"));
            error(Code::BadConfig, format!("it is {dims:?}{tiles}, but its scales are {of_scales:?}"))
        })
    }

    /// Reports the tensors that the graph had no use for, since a model that is computed without some of its weights is another model, and gives
    /// those that it had.
    pub(super) fn finish(self, left: &Leftovers) -> BTreeMap<String, Tensor> {
        for name in self.shards.rest().filter(|_| self.shards.complete) {
            let redundant = REDUNDANT.iter().any(|suffix| name.ends_with(suffix))
                || left.tied && name == "lm_head.weight"
                || layer(name).is_some_and(|layer| (left.layers..left.layers + left.further).contains(&layer));
            if !redundant {
                self.report
                    .push(Diagnostic::error(Code::ExtraTensor, "the tensor has no place in the model").at("tensor", name));
            }
        }
        self.ready
    }
}

/// The number of the layer that a tensor belongs to.
fn layer(name: &str) -> Option<u64> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}
