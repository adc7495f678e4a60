//! `--effort best`: a text through the model, layer by layer, and every linear layer rounded for what it gets to see.
//!
//! What enters: a model whose codecs are assigned, and token sequences. What leaves: the packed weights of its linear layers in pair codecs. All
//! sequences pass one op of the program before any passes the next, by the reference evaluation, in two models side by side: the float model and
//! the one rounded so far. In front of a linear layer the products of what it reads are summed, once for all layers that read one value, and so
//! are those with what the float model has more, there and in the residual stream that the layer writes to. Then its weight is rounded for the
//! float model's output ([`Observed`]), and from there on the rounded one computes. So each layer makes up for what the layers before it really
//! do, int8 activations included. An expert of a mixture is rounded for the tokens that the router of the rounded model sends it, and aims at its
//! own weights: the float model may send those tokens elsewhere.
//!
//! Memory: the values that later ops still read, for all sequences and both models; three matrices of sums per value read, and one expert's; the
//! float weights of one op; the packed weights.

use crate::limit::Limit;
use crate::passes;
use crate::values::PackedValues;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::data::{Data, ParamValue};
use q35_dialects::interp::{CacheLayer, Env, ParamValues, StepInput};
use q35_dialects::q35::Op;
use q35_dialects::values::transformed;
use q35_dialects::{Model, Param, ParamName, Ty};
use q35_format::Packed;
use q35_graph::{NodeId, Observer, Value};
use q35_quantize::{Drift, Hessian, Inputs, Observed, Quantized, quantize_compensated};
use q35_runtime::text::Text;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens of a sequence, where the context has room for them.
pub const LENGTH: usize = 256;

/// What to calibrate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// A UTF-8 text like the model's later work.
    pub text: PathBuf,
    /// Sequences at most, spread evenly over the text.
    pub sequences: usize,
}

/// Weights that are packed already, by parameter.
pub type Ready = BTreeMap<ParamName, (Quantized, Vec<u8>)>;

impl Calibration {
    /// For the manifest.
    pub fn recorded(&self) -> [(String, String); 2] {
        [("effort", "best".to_owned()), ("sequences", self.sequences.to_string())].map(|(name, value)| (name.to_owned(), value))
    }

    /// The sequences, in the model's tokens. `tokenizer` is the content of the model's, if it has one.
    ///
    /// # Errors
    /// [`Code::CalibrationText`] for a text that is empty, too short, not UTF-8, or has tokens that the model does not know; files that cannot be read.
    pub fn tokens(&self, tokenizer: Option<&[u8]>, vocab: u64, context: u64) -> Result<Vec<Vec<u32>>> {
        let bad = |what: String| Diagnostic::error(Code::CalibrationText, what).at("file", self.text.display());
        let tokenizer = tokenizer.ok_or_else(|| {
            Diagnostic::error(Code::NoTokenizer, "the model has no tokenizer, so no text can calibrate it")
                .help("put tokenizer.json beside the model, or compile with --effort fast")
        })?;
        let text = String::from_utf8(read(&self.text)?).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            bad(format!("the calibration text is no UTF-8 text: byte {at} begins no character"))
        })?;
        if text.trim().is_empty() {
            return Err(bad("the calibration text is empty".to_owned()).into());
        }
        let tokens = Text::new(tokenizer, vocab)?.encode(&text).map_err(|errors| {
            let mut own = Diagnostics::new();
            own.extend(errors.into_iter().map(|error| bad(error.what)));
            own
        })?;
        let length = (context as usize).min(LENGTH);
        cut(&tokens, length, self.sequences).ok_or_else(|| {
            bad(format!("the calibration text is too short: {} tokens, and one sequence takes {length}", tokens.len()))
                .help("give a text of some hundred thousand characters")
                .into()
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", path.display()).into()
    })
}

/// At most `count` whole sequences, spread evenly; `None` if there is not one.
fn cut(tokens: &[u32], length: usize, count: usize) -> Option<Vec<Vec<u32>>> {
    let whole: Vec<&[u32]> = tokens.chunks_exact(length).collect();
    let count = count.min(whole.len());
    (count > 0).then(|| (0..count).map(|n| whole[n * whole.len() / count].to_vec()).collect())
}

/// A sequence on its way.
struct Sequence {
    input: StepInput,
    caches: BTreeMap<u32, CacheLayer>,
    values: BTreeMap<NodeId, Data>,
}

impl Sequence {
    fn new(tokens: &[u32]) -> Self {
        Self { input: StepInput::sequence(tokens, 0), caches: BTreeMap::new(), values: BTreeMap::new() }
    }

    /// What an op reads, as numbers, `[tokens, cols]`.
    fn numbers(&self, at: NodeId) -> Cow<'_, [f32]> {
        match &self.values[&at] {
            Data::Quant(x) => x.data.iter().enumerate().map(|(i, q)| f32::from(*q) * x.scales[i / x.width]).collect(),
            x => Cow::Borrowed(&x.act().data),
        }
    }

    /// Of the rows that an op reads those that a routing sends to an expert, `[rows, cols]`.
    fn routed(&self, at: NodeId, routing: NodeId, expert: u64) -> Vec<f32> {
        let (numbers, routing) = (self.numbers(at), self.values[&routing].routing());
        let tokens = routing.chosen.len() / routing.choices;
        let (rows, cols) = match &self.values[&at] {
            Data::Quant(x) => (x.scales.len(), x.width),
            x => (x.act().rows(), x.act().width),
        };
        let row = |choice: usize| choice * rows / (tokens * routing.choices);
        let sent = routing.chosen.iter().enumerate().filter(|(_, to)| u64::from(**to) == expert);
        sent.flat_map(|(choice, _)| &numbers[row(choice) * cols..][..cols]).copied().collect()
    }

    fn forget(&mut self, id: NodeId) {
        if let Some(Data::Cache(cache)) = self.values.remove(&id) {
            self.caches.remove(&cache.layer);
        }
    }
}

/// The same sequences through two models.
struct Streams {
    /// Weights and activations as they are.
    float: Vec<Sequence>,
    /// Weights and activations rounded as far as they are by now.
    rounded: Vec<Sequence>,
}

impl Streams {
    fn new(sequences: &[Vec<u32>]) -> Self {
        let start = || sequences.iter().map(|tokens| Sequence::new(tokens)).collect();
        Self { float: start(), rounded: start() }
    }

    /// `X^T X` of what the rounded model reads.
    fn hessian(&self, at: NodeId, cols: usize) -> Hessian {
        let mut hessian = Hessian::new(cols);
        self.rounded.iter().for_each(|sequence| hessian.add(&sequence.numbers(at)));
        hessian
    }

    /// `X^T X` of what the rounded model sends to an expert.
    fn routed(&self, at: NodeId, routing: NodeId, expert: u64, cols: usize) -> Hessian {
        let mut hessian = Hessian::new(cols);
        self.rounded.iter().for_each(|sequence| hessian.add(&sequence.routed(at, routing, expert)));
        hessian
    }

    /// `X^T D`, `X` being what the rounded model reads at `at` and `D` what the float model has more at `of`.
    fn drift(&self, at: NodeId, cols: usize, of: NodeId, width: usize) -> Drift {
        let mut drift = Drift::new(cols, width);
        for (float, rounded) in self.float.iter().zip(&self.rounded) {
            drift.add(&rounded.numbers(at), &float.numbers(of), &rounded.numbers(of));
        }
        drift
    }

    /// Evaluates one op for every sequence.
    fn evaluate(&mut self, model: &Model, id: NodeId, packed: &PackedValues) -> Result<()> {
        let op = &model.graph.node(id).op;
        let operands: Vec<NodeId> = operands(model, &[id]).collect();
        // Packed before the sequences need them: packing runs on all cores itself.
        op.params().iter().try_for_each(|name| packed.value(name).map(|_| ()))?;
        each(&mut self.rounded, |Sequence { input, caches, values }| {
            let read: Vec<&Data> = operands.iter().map(|operand| &values[operand]).collect();
            let data = op.eval(&read, &mut Env { input, params: packed, caches })?;
            values.insert(id, data);
            Ok(())
        })?;
        let float: BTreeMap<_, _> =
            op.params().into_iter().map(|name| (name.clone(), unrounded(&model.params[&name]))).collect();
        each(&mut self.float, |Sequence { input, caches, values }| {
            let read: Vec<&Data> = operands.iter().map(|operand| &values[operand]).collect();
            let data = match op {
                Op::Quantize(_) => read[0].clone(),
                op => op.eval(&read, &mut Env { input, params: &float, caches })?,
            };
            values.insert(id, data);
            Ok(())
        })
    }

    fn forget(&mut self, id: NodeId) {
        self.float.iter_mut().chain(&mut self.rounded).for_each(|sequence| sequence.forget(id));
    }
}

fn each(sequences: &mut [Sequence], work: impl Fn(&mut Sequence) -> Result<()> + Send + Sync) -> Result<()> {
    let results: Vec<Result<()>> = sequences.par_iter_mut().map(work).collect();
    results.into_iter().collect()
}

fn unrounded(param: &Param) -> Arc<ParamValue> {
    Arc::new(ParamValue::Float(transformed(param)))
}

/// The linear layer's weight, or that of a layer of experts, where it is to be rounded.
fn rounded(model: &Model, id: NodeId) -> Option<&ParamName> {
    let weight = match &model.graph.node(id).op {
        Op::Linear(op) => &op.weight,
        Op::ExpertLinear(op) => &op.weight,
        _ => return None,
    };
    model.params[weight].codec.window().map(|_| weight)
}

/// What the output of a layer that ends a branch is added to, by layer, where that is known by the time `order` comes to the layer.
fn residuals(model: &Model, order: &[NodeId]) -> BTreeMap<NodeId, NodeId> {
    let place: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let sums = model.graph.ids().filter(|id| matches!(model.graph.node(*id).op, Op::Add(_)));
    let pairs = sums.filter_map(|id| <[NodeId; 2]>::try_from(operands(model, &[id]).collect::<Vec<_>>()).ok());
    let fits = |layer: &NodeId, to: &NodeId| {
        let earlier = place.get(to).zip(place.get(layer)).is_some_and(|(to, layer)| to < layer);
        // A value of one column may be added to a wider one.
        earlier && rounded(model, *layer).is_some() && model.graph.node(*layer).results == model.graph.node(*to).results
    };
    pairs.flat_map(|[a, b]| [(a, b), (b, a)]).filter(|(layer, to)| fits(layer, to)).collect()
}

/// Rounds all linear layers in pair codecs.
///
/// # Errors
/// Bad weights, inputs that are not finite, a memory limit that cannot be kept.
pub fn run(model: &Model, sequences: &[Vec<u32>], limit: Limit, observer: &mut dyn Observer) -> Result<Ready> {
    observer.before(&passes::CALIBRATE);
    let order = needed(model);
    let residuals = residuals(model, &order);
    let mut uses: BTreeMap<NodeId, usize> = BTreeMap::new();
    operands(model, &order).chain(residuals.values().copied()).for_each(|id| *uses.entry(id).or_default() += 1);
    let size = |name: &ParamName| model.params[name].source.rows() * model.params[name].source.cols();
    let total = order.iter().filter_map(|id| rounded(model, *id)).collect::<BTreeSet<_>>().into_iter().map(size).sum();
    let mut done = 0;
    let values = PackedValues::new(model);
    let mut streams = Streams::new(sequences);
    let mut seen: BTreeMap<NodeId, (Hessian, Drift)> = BTreeMap::new();
    let mut ready = Ready::new();
    for &id in &order {
        let read: Vec<NodeId> = operands(model, &[id]).collect();
        if let Some(name) = rounded(model, id).filter(|name| !ready.contains_key(*name)) {
            let param = &model.params[name];
            let [rows, cols] = [param.source.rows(), param.source.cols()].map(|n| n as usize);
            let (hessian, input) = seen
                .entry(read[0])
                .or_insert_with(|| (streams.hessian(read[0], cols), streams.drift(read[0], cols, read[0], cols)));
            let residual = residuals.get(&id).map(|of| streams.drift(read[0], cols, *of, rows));
            let of = |expert| streams.routed(read[0], read[1], expert, cols);
            let mut codes = Vec::new();
            let mut sink = |rows: &[u8]| {
                codes.extend_from_slice(rows);
                limit.check()
            };
            let mut progress = |count| {
                done += count;
                observer.progress(done, total, "calibration");
            };
            let inputs = match read.get(1).map(|routing| *model.graph.ty(Value { node: *routing, result: 0 })) {
                Some(Ty::Routing { experts, .. }) => Inputs::Experts { count: experts, all: hessian, of: &of },
                _ => Inputs::Layer(Observed { hessian, input: Some(input), residual: residual.as_ref() }),
            };
            let quantized = quantize_compensated(param, &inputs, &mut sink, &mut progress)?;
            let Quantized { spec, scales, offsets, .. } = quantized.clone();
            let packed = Packed { spec, codes, scales, offsets };
            let view = packed.view().unwrap_or_else(|error| panic!("what the quantizer packs is well formed: {error}"));
            values.insert(name, ParamValue::decode(&view));
            ready.insert(name.clone(), (quantized, packed.codes));
        }
        streams.evaluate(model, id, &values)?;
        for read in read.into_iter().chain(residuals.get(&id).copied()) {
            let left = uses.entry(read).or_default();
            *left -= 1;
            if *left == 0 {
                seen.remove(&read);
                streams.forget(read);
            }
        }
        limit.check()?;
    }
    let records: BTreeMap<_, _> = ready.iter().map(|(name, (quantized, _))| (name, &quantized.record)).collect();
    observer.after(&passes::CALIBRATE, &|| format!("{records:#?}\n"));
    Ok(ready)
}

fn operands<'m>(model: &'m Model, ids: &'m [NodeId]) -> impl Iterator<Item = NodeId> + 'm {
    ids.iter().flat_map(|id| model.graph.operands(*id)).flatten().map(|value| value.node)
}

/// The ops that lead to a layer to be rounded, in order of execution.
fn needed(model: &Model) -> Vec<NodeId> {
    let mut order = model.graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle"));
    let mut wanted = BTreeSet::new();
    for id in order.iter().rev() {
        if rounded(model, *id).is_some() || wanted.contains(id) {
            wanted.insert(*id);
            wanted.extend(operands(model, &[*id]));
        }
    }
    order.retain(|id| wanted.contains(id));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_whole_and_spread_evenly() {
        let tokens: Vec<u32> = (0..35).collect();
        assert_eq!(cut(&tokens, 10, 2), Some(vec![(0..10).collect(), (10..20).collect::<Vec<u32>>()]));
        assert_eq!(cut(&tokens, 5, 3).map(|all| all.iter().map(|s| s[0]).collect()), Some(vec![0, 10, 20]));
        assert_eq!(cut(&tokens, 10, 99).map(|all| all.len()), Some(3));
        assert_eq!(cut(&tokens, 36, 1), None);
    }

    fn refused(text: &[u8], vocab: u64) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        std::fs::write(&path, text).unwrap();
        let tokenizer = include_bytes!("../../../../examples/tiny-llama/tokenizer.json");
        let calibration = Calibration { text: path.clone(), sequences: 8 };
        let errors = calibration.tokens(Some(tokenizer), vocab, 1024).unwrap_err().to_string();
        errors.replace(&path.display().to_string(), "TEXT")
    }

    #[test]
    fn texts_that_cannot_be_used_are_told() {
        let at = "\n  at file 'TEXT'";
        assert_eq!(refused(b"", 4096), format!("error[Q35-0304]: the calibration text is empty{at}"));
        assert_eq!(refused(b" \n", 4096), format!("error[Q35-0304]: the calibration text is empty{at}"));
        let what = "error[Q35-0304]: the calibration text is no UTF-8 text: byte 2 begins no character";
        assert_eq!(refused(b"ab\xff", 4096), format!("{what}{at}"));
        let text = refused(b"a few words", 4096);
        assert!(text.starts_with("error[Q35-0304]: the calibration text is too short: "), "{text}");
        assert!(text.contains(", and one sequence takes 256\n  at file 'TEXT'\n  help: "), "{text}");
        let text = refused(b"a few words", 3);
        assert!(text.starts_with("error[Q35-0304]: the tokenizer gives token ") && text.contains("vocabulary of 3"), "{text}");
    }
}
