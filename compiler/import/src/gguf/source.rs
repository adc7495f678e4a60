//! A GGUF file's tensors on their way into a graph.

use super::names::{Architecture, translate};
use super::reader::File;
use crate::checkpoint::config::Rope;
use crate::decoder::Weights;
use crate::onnx::proto::build::FLOAT;
use crate::onnx::proto::{self, DTYPES};
use crate::report::Report;
use q35_diag::{Code, Diagnostic};
use q35_graph::Tensor;
use std::collections::BTreeMap;

/// Numbers that frequencies are divided by: for all contexts, and for short and long ones.
const DIVISORS: &str = "rope_freqs.weight";
const FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// Lists of factors are short.
const LONGEST: u64 = 4096;

/// The tensors, and those that were handed out.
pub(super) struct Source<'r> {
    file: File,
    architecture: &'static Architecture,
    ready: BTreeMap<String, Tensor>,
    report: &'r mut Report,
}

impl Weights for Source<'_> {
    fn tensor(&mut self, name: &str, dims: &[u64]) -> proto::Tensor {
        let found = self.find(name, dims);
        let Some(tensor) = self.report.take(found) else { return proto::Tensor::default() };
        let number = DTYPES.iter().find(|row| row.2 == Some(tensor.dtype())).map_or(FLOAT, |row| row.0);
        let declared = proto::Tensor { name: name.to_owned(), data_type: number, ..proto::Tensor::default() };
        self.ready.insert(name.to_owned(), tensor);
        declared
    }

    /// The file has stacks as stacks.
    fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> proto::Tensor {
        self.tensor(name, &[&[parts.len() as u64], dims].concat())
    }
}

impl<'r> Source<'r> {
    pub(super) fn new(file: File, architecture: &'static Architecture, report: &'r mut Report) -> Self {
        Self { file, architecture, ready: BTreeMap::new(), report }
    }

    /// Whether the file has the tensor that checkpoints call so.
    pub(super) fn has(&self, name: &str) -> bool {
        self.file.tensors.contains_key(&translate(self.architecture, name))
    }

    /// Leaves out the tensors of blocks from this one on.
    pub(super) fn leave_out_from(&mut self, block: u64) {
        let block_of = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse::<u64>().ok();
        self.file.tensors.retain(|name, _| block_of(name).is_none_or(|of| of < block));
    }

    fn find(&mut self, name: &str, dims: &[u64]) -> Result<Tensor, Diagnostic> {
        let ours = translate(self.architecture, name);
        let error = |code, what: String| Err(Diagnostic::error(code, what).at("tensor", &ours));
        let Some(tensor) = self.file.tensors.remove(&ours) else {
            return error(Code::MissingTensor, "the file has no such tensor".into());
        };
        let tensor = tensor?;
        // A dimension of 1 may be left out.
        let apart = |dims: &[u64]| dims.iter().copied().filter(|d| *d != 1).collect::<Vec<_>>();
        if apart(tensor.dims()) != apart(dims) {
            let what = format!("the tensor is {:?}, but the file's values make it {dims:?}", tensor.dims());
            return error(Code::BadConfig, what);
        }
        Ok(tensor.reshaped(dims.to_vec()))
    }

    /// Takes a short list of numbers.
    fn list(&mut self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.file.tensors.remove(name)?;
        let tensor = self.report.take(tensor)?;
        let mut numbers = vec![0.0; tensor.count().min(LONGEST) as usize];
        tensor.read(0, &mut numbers);
        Some(numbers)
    }

    /// Puts the factors of short and long contexts into a configuration.
    pub(super) fn factors(&mut self, rope: &mut Rope) {
        let [short, long] = FACTORS.map(|name| self.list(name).map(|list| list.into_iter().map(f64::from).collect()));
        if short.is_some() || long.is_some() {
            (rope.short_factor, rope.long_factor) = (short, long);
            rope.rope_type = Some("longrope".to_owned());
        }
    }

    /// What frequencies are divided by.
    pub(super) fn divisors(&mut self) -> Option<Vec<f32>> {
        let divisors = self.list(DIVISORS)?;
        if divisors.iter().all(|by| *by > 0.0 && by.is_finite()) {
            return Some(divisors);
        }
        let what = "frequencies are divided by numbers that are not positive";
        self.report.push(Diagnostic::error(Code::BadTensor, what).at("tensor", DIVISORS));
        None
    }

    /// Reports that there are not as many divisors as frequencies.
    pub(super) fn wrong_divisors(&mut self, frequencies: usize, divisors: usize) {
        let what = format!("it has {divisors} numbers for {frequencies} frequencies");
        self.report.push(Diagnostic::error(Code::BadConfig, what).at("tensor", DIVISORS));
    }

    /// Reports the tensors that the graph had no use for, and gives those that it had.
    pub(super) fn finish(self) -> BTreeMap<String, Tensor> {
        for name in self.file.tensors.keys() {
            self.report.push(Diagnostic::error(Code::ExtraTensor, "the tensor has no place in the model").at("tensor", name));
        }
        self.ready
    }
}
