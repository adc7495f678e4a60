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
//! Memory: the values that later ops still read, for all sequences and both models; the sums of one value read, their factors and solutions; the float weights of one op. What
//! has been rounded is on disk ([`work`]).
//!
//! | module | idea |
//! | --- | --- |
//! | [`streams`] | the sequences on their way through both models |
//! | [`layer`] | linear layers of many sequences at once |
//! | [`memory`] | what all of this takes, before it is done |
//! | [`work`] | the folder of what has been rounded |

mod layer;
mod memory;
pub(crate) mod streams;
mod work;

pub use work::Work;

use crate::limit::Limit;
use crate::passes;
use crate::values::PackedValues;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::data::ParamValue;
use q35_dialects::q35::Op;
use q35_dialects::values::transformed;
use q35_dialects::{Model, ParamName, Ty};
use q35_format::Packed;
use q35_graph::{NodeId, Observer, Value};
use q35_quantize::{Drift, Hessian, Inputs, Observed, Quantized, quantize_compensated, spec};
use q35_runtime::text::Text;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use streams::{Float, Streams};

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

/// Weights that are packed already.
pub struct Ready {
    rounded: BTreeMap<ParamName, Quantized>,
    work: Work,
}

impl Ready {
    /// What became of a parameter, if it is one of these.
    pub fn get(&self, name: &ParamName) -> Option<&Quantized> {
        self.rounded.get(name)
    }

    /// Its codes.
    ///
    /// # Errors
    /// [`Code::CannotRead`] if somebody took them away.
    pub fn codes(&self, name: &ParamName) -> Result<Vec<u8>> {
        self.work.codes(name)
    }

    /// Takes the work folder away.
    pub fn remove(self) {
        self.work.remove();
    }
}

impl Calibration {
    /// For the manifest; `compensated` says whether weights are rounded by the text.
    pub fn recorded(&self, compensated: bool) -> [(String, String); 2] {
        let effort = if compensated { "best" } else { "fast" };
        [("effort", effort.to_owned()), ("sequences", self.sequences.to_string())].map(|(name, value)| (name.to_owned(), value))
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

/// The linear layer's weight, or that of a layer of experts, where it is to be rounded.
pub(crate) fn rounded(model: &Model, id: NodeId) -> Option<&ParamName> {
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

/// Rounds all linear layers in pair codecs, but for those that `work` has from before.
///
/// # Errors
/// Bad weights, inputs that are not finite, a memory limit that cannot be kept.
pub fn run(model: &Model, sequences: &[Vec<u32>], work: Work, limit: Limit, observer: &mut dyn Observer) -> Result<Ready> {
    observer.before(&passes::CALIBRATE);
    let order = needed(model);
    let residuals = residuals(model, &order);
    memory::check(model, &order, sequences, limit)?;
    let mut uses: BTreeMap<NodeId, usize> = BTreeMap::new();
    operands(model, &order).chain(residuals.values().copied()).for_each(|id| *uses.entry(id).or_default() += 1);
    let mut readers: BTreeMap<ParamName, usize> = BTreeMap::new();
    order
        .iter()
        .flat_map(|id| model.graph.node(*id).op.params())
        .for_each(|name| *readers.entry(name.clone()).or_default() += 1);
    let size = |name: &ParamName| model.params[name].source.rows() * model.params[name].source.cols();
    let total = order.iter().filter_map(|id| rounded(model, *id)).collect::<BTreeSet<_>>().into_iter().map(size).sum();
    let mut done = 0;
    let values = PackedValues::new(model);
    let mut streams = Streams::new(sequences);
    let mut seen: BTreeMap<NodeId, (Hessian, Drift)> = BTreeMap::new();
    let mut ready = Ready { rounded: BTreeMap::new(), work };
    for &id in &order {
        let read: Vec<NodeId> = operands(model, &[id]).collect();
        let params = model.graph.node(id).op.params();
        let mut float = Float::new();
        for name in &params {
            let numbers = transformed(&model.params[name]);
            ready.work.follow(name, &numbers.data);
            float.insert(name.clone(), Arc::new(ParamValue::Float(numbers)));
        }
        if let Some(name) = rounded(model, id).filter(|name| ready.get(name).is_none()) {
            let param = &model.params[name];
            let mut progress = |count| {
                done += count;
                observer.progress(done, total, "calibration");
            };
            let (quantized, packed) = match ready.work.find(name, spec(param)?) {
                Some(known) => {
                    progress(size(name));
                    known
                }
                None => {
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
                    let inputs = match read.get(1).map(|routing| *model.graph.ty(Value { node: *routing, result: 0 })) {
                        Some(Ty::Routing { experts, .. }) => Inputs::Experts { count: experts, all: hessian, of: &of },
                        _ => Inputs::Layer(Observed { hessian, input: Some(input), residual: residual.as_ref() }),
                    };
                    let quantized = quantize_compensated(param, &inputs, &mut sink, &mut progress)?;
                    let Quantized { spec, scales, offsets, .. } = quantized.clone();
                    let packed = Packed { spec, codes, scales, offsets };
                    ready.work.keep(name, &quantized.record, &packed)?;
                    (quantized, packed)
                }
            };
            let view = packed.view().unwrap_or_else(|error| panic!("what the quantizer packs is well formed: {error}"));
            values.insert(name, ParamValue::decode(&view));
            ready.rounded.insert(name.clone(), quantized);
        }
        streams.evaluate(model, id, &values, &float)?;
        for name in params {
            let left = readers.entry(name.clone()).or_default();
            *left -= 1;
            if *left == 0 {
                values.forget(&name);
            }
        }
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
    let records: BTreeMap<_, _> = ready.rounded.iter().map(|(name, quantized)| (name, &quantized.record)).collect();
    observer.after(&passes::CALIBRATE, &|| format!("{records:#?}\n"));
    Ok(ready)
}

pub(crate) fn operands<'m>(model: &'m Model, ids: &'m [NodeId]) -> impl Iterator<Item = NodeId> + 'm {
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
