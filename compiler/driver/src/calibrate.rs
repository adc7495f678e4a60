//! `--effort best`: a text through the model, layer by layer, and every linear layer rounded for what it gets to see.
//!
//! What enters: a model whose codecs are assigned, and token sequences. What leaves: the packed weights of its linear layers in pair codecs. All
//! sequences pass one op of the program before any passes the next, by the reference evaluation; in front of a linear layer the
//! products of what it reads are summed, once for all layers that read one value, its weight is rounded, and from there on the
//! rounded one computes. So each layer makes up for what the layers before it really do, int8 activations included. An expert of a mixture
//! is rounded for the tokens that the router sends it.
//!
//! Memory: the values that later ops still read, for all sequences; one `H` per value read, and one expert's; the packed weights.

use crate::limit::Limit;
use crate::passes;
use crate::values::PackedValues;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::data::{Data, ParamValue};
use q35_dialects::interp::{CacheLayer, Env, ParamValues, StepInput};
use q35_dialects::q35::Op;
use q35_dialects::{Model, ParamName, Ty};
use q35_format::Packed;
use q35_graph::{NodeId, Observer, Value};
use q35_quantize::{Hessian, Inputs, Quantized, quantize_compensated};
use q35_runtime::text::Text;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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

    /// The sequences, in the model's tokens. `tokenizer` is the model's, if it has one.
    ///
    /// # Errors
    /// [`Code::CalibrationText`] for a text that is empty, too short, not UTF-8, or has tokens that the model does not know; files that cannot be read.
    pub fn tokens(&self, tokenizer: Option<&Path>, vocab: u64, context: u64) -> Result<Vec<Vec<u32>>> {
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
        let tokens = Text::new(&read(tokenizer)?, vocab)?.encode(&text).map_err(|errors| {
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
    fn numbers(&self, at: NodeId) -> Vec<f32> {
        match &self.values[&at] {
            Data::Quant(x) => x.data.iter().enumerate().map(|(i, q)| f32::from(*q) * x.scales[i / x.width]).collect(),
            x => x.act().data.clone(),
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

/// The linear layer's weight, or that of a layer of experts, where it is to be rounded.
fn rounded(model: &Model, id: NodeId) -> Option<&ParamName> {
    let weight = match &model.graph.node(id).op {
        Op::Linear(op) => &op.weight,
        Op::ExpertLinear(op) => &op.weight,
        _ => return None,
    };
    model.params[weight].codec.window().map(|_| weight)
}

/// Rounds all linear layers in pair codecs.
///
/// # Errors
/// Bad weights, inputs that are not finite, a memory limit that cannot be kept.
pub fn run(model: &Model, sequences: &[Vec<u32>], limit: Limit, observer: &mut dyn Observer) -> Result<Ready> {
    observer.before(&passes::CALIBRATE);
    let order = needed(model);
    let mut uses: BTreeMap<NodeId, usize> = BTreeMap::new();
    operands(model, &order).for_each(|id| *uses.entry(id).or_default() += 1);
    let size = |name: &ParamName| model.params[name].source.rows() * model.params[name].source.cols();
    let total = order.iter().filter_map(|id| rounded(model, *id)).collect::<BTreeSet<_>>().into_iter().map(size).sum();
    let mut done = 0;
    let values = PackedValues::new(model);
    let mut sequences: Vec<Sequence> = sequences.iter().map(|tokens| Sequence::new(tokens)).collect();
    let mut seen: BTreeMap<NodeId, Hessian> = BTreeMap::new();
    let mut ready = Ready::new();
    for &id in &order {
        let read: Vec<NodeId> = operands(model, &[id]).collect();
        if let Some(name) = rounded(model, id).filter(|name| !ready.contains_key(*name)) {
            let param = &model.params[name];
            let hessian = seen.entry(read[0]).or_insert_with(|| {
                let mut hessian = Hessian::new(param.source.cols() as usize);
                sequences.iter().for_each(|sequence| hessian.add(&sequence.numbers(read[0])));
                hessian
            });
            let mut codes = Vec::new();
            let mut sink = |rows: &[u8]| {
                codes.extend_from_slice(rows);
                limit.check()
            };
            let mut progress = |count| {
                done += count;
                observer.progress(done, total, "calibration");
            };
            let of = |expert| {
                let mut own = Hessian::new(hessian.cols());
                sequences.iter().for_each(|sequence| own.add(&sequence.routed(read[0], read[1], expert)));
                own
            };
            let inputs = match read.get(1).map(|routing| *model.graph.ty(Value { node: *routing, result: 0 })) {
                Some(Ty::Routing { experts, .. }) => Inputs::Experts { count: experts, all: hessian, of: &of },
                _ => Inputs::Layer(hessian),
            };
            let quantized = quantize_compensated(param, &inputs, &mut sink, &mut progress)?;
            let Quantized { spec, scales, offsets, .. } = quantized.clone();
            let packed = Packed { spec, codes, scales, offsets };
            let view = packed.view().unwrap_or_else(|error| panic!("what the quantizer packs is well formed: {error}"));
            values.insert(name, ParamValue::decode(&view));
            ready.insert(name.clone(), (quantized, packed.codes));
        }
        evaluate(model, id, &values, &mut sequences)?;
        for read in read {
            let left = uses.entry(read).or_default();
            *left -= 1;
            if *left == 0 {
                seen.remove(&read);
                sequences.iter_mut().for_each(|sequence| sequence.forget(read));
            }
        }
        limit.check()?;
    }
    let records: BTreeMap<_, _> = ready.iter().map(|(name, (quantized, _))| (name, &quantized.record)).collect();
    observer.after(&passes::CALIBRATE, &|| format!("{records:#?}\n"));
    Ok(ready)
}

/// Evaluates one op for every sequence.
fn evaluate(model: &Model, id: NodeId, values: &PackedValues, sequences: &mut [Sequence]) -> Result<()> {
    let op = &model.graph.node(id).op;
    // Packed before the sequences need them: packing runs on all cores itself.
    op.params().iter().try_for_each(|name| values.value(name).map(|_| ()))?;
    let operands: Vec<NodeId> = operands(model, &[id]).collect();
    let results: Vec<Result<()>> = sequences
        .par_iter_mut()
        .map(|Sequence { input, caches, values: known }| {
            let read: Vec<&Data> = operands.iter().map(|operand| &known[operand]).collect();
            let data = op.eval(&read, &mut Env { input, params: values, caches })?;
            known.insert(id, data);
            Ok(())
        })
        .collect();
    results.into_iter().collect()
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
        let tokenizer = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/tiny-llama/tokenizer.json"));
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
