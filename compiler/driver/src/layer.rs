//! A linear layer without a model: `--emit=kernels --linear OUTPUTSxINPUTS`.
//!
//! A layer is a program of a model's kind with one difference: what its graph begins with is an activation, where a model's begins with
//! tokens. Everything behind it, the choice of kernels, the memory plan, the code, is what a target does for models.

use crate::cache::Cache;
use crate::limit::Limit;
use crate::settings::Settings;
use crate::weights::{self, Packing};
use crate::{passes, pipeline};
use q35_bundle::{BundleWriter, Interface, ModelFacts, PositionRule};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::model::{LOGITS, Param, ParamRole, Transform};
use q35_dialects::q35::{Hadamard, Linear, Op, Quantize, Tokens};
use q35_dialects::{Activations, Graph, Model, ParamName, Rows, Ty};
use q35_graph::{Axis, DType, Decode, Observer, Storage, Tensor, Value, WeightView};
use q35_passes::model::ROTATION_SEED;
use q35_target::Target;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The smallest block that is worth a rotation, as in models.
const SMALLEST_BLOCK: u64 = 8;
/// More rows or columns than any layer has.
const MOST: u64 = 1 << 24;

/// Outputs and inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the weight.
    pub outputs: u64,
    /// Its columns.
    pub inputs: u64,
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |word: &str| word.parse().ok().filter(|n| (1..=MOST).contains(n));
        let sides = text.split_once('x').and_then(|(rows, cols)| Some((number(rows)?, number(cols)?)));
        let (outputs, inputs) = sides.ok_or("a layer is OUTPUTSxINPUTS, such as 4096x14336")?;
        Ok(Self { outputs, inputs })
    }
}

/// What is made, and where.
pub struct Order<'a> {
    /// The layer.
    pub shape: Shape,
    /// A safetensors file with its weight, and its only matrix of that shape; without one no weights file is written.
    pub weights: Option<&'a Path>,
    /// Whom it is for.
    pub target: &'a dyn Target,
    /// Prefix of every symbol.
    pub prefix: &'a str,
    /// The folder to write.
    pub out: &'a Path,
    /// Where packed weights may be found.
    pub cache: Option<&'a Cache>,
}

/// Compiles a layer; gives the files that were written, by path in the folder.
pub fn compile(order: &Order<'_>, settings: &Settings, observer: &mut dyn Observer) -> Result<Vec<String>> {
    if !order.target.single_layers() {
        let what = format!("target '{}' has no single layers", order.target.name());
        return Err(Diagnostic::error(Code::TargetCannot, what)
            .at("option", "--linear")
            .help("use --target cpu, cuda or rocm")
            .into());
    }
    let limit = Limit(settings.max_memory);
    let model = model(order.shape, order.weights, settings)?;
    let program = model.program();
    let request = settings.request(&program, order.prefix, 1);
    let lowered = pipeline::lower(order.target, &request, observer)?;
    let mut folder = BundleWriter::create(order.out)?;
    let mut names = Vec::new();
    for (path, bytes) in &lowered.files {
        let name = path.replace("cpu/model.", "linear.");
        folder.add_file(&name, bytes.as_slice())?;
        names.push(name);
    }
    if order.weights.is_some() {
        limit.check_plan(weights::working_memory(&model))?;
        let packing = Packing { ready: None, cache: order.cache, limit };
        observer.before(&passes::QUANTIZE);
        let written = weights::write(&model, packing, &lowered.weights, &mut folder, observer)?;
        observer.after(&passes::QUANTIZE, &|| format!("{:#?}\n", written.records));
        names.push("weights.safetensors".to_owned());
    }
    folder.finish_files()?;
    limit.check()?;
    Ok(names)
}

/// The layer as a model.
fn model(shape: Shape, weights: Option<&Path>, settings: &Settings) -> Result<Model> {
    let Shape { outputs, inputs } = shape;
    let options = settings.weights;
    let tensor = match weights {
        Some(path) => read(path, shape)?,
        None => {
            Tensor::decoded(vec![outputs, inputs], Nothing(outputs * inputs)).unwrap_or_else(|| unreachable!("it is small"))
        }
    };
    let rows = Axis { len: outputs, stride: inputs as i64 };
    let view = WeightView::dense(tensor, 0, rows, Axis { len: inputs, stride: 1 });
    let view = view.unwrap_or_else(|| unreachable!("the tensor has this shape"));
    let mut param = Param::new(view, ParamRole::Linear, "weight");
    (param.codec, param.group) = (options.codec, options.group);
    let block = q35_format::rotate::block(inputs as usize) as u64;
    let rotated = options.rotate && options.codec.window().is_some() && block >= SMALLEST_BLOCK;
    if rotated {
        param.transforms.push(Transform::RotateInput { block, seed: ROTATION_SEED });
    }

    let name = ParamName::from("weight".to_owned());
    let facts = ModelFacts {
        name: "linear".into(),
        vocab: outputs,
        hidden: inputs,
        layers: 1,
        context: 1,
        parameters: outputs * inputs,
    };
    let interface = Interface { inputs: vec![], outputs: vec![], positions: PositionRule::Column };
    let mut model = Model { graph: Graph::new(), params: [(name.clone(), param)].into(), facts, interface };
    let input = Ty::Act { rows: Rows::Tokens, width: inputs };
    let mut x = Value { node: model.graph.add("x", Op::from(Tokens {}), &[], vec![input]), result: 0 };
    let mut then = |op: Op| x = model.add("linear", op, &[x]).unwrap_or_else(|text| unreachable!("a layer is sound: {text}"));
    if rotated {
        then(Op::from(Hadamard { block, seed: ROTATION_SEED, inverse: false }));
    }
    if options.activations == Activations::Int8 && options.codec.has_scales() {
        then(Op::from(Quantize {}));
    }
    then(Op::from(Linear { weight: name, bias: None }));
    model.graph.outputs.push((LOGITS.to_owned(), x));
    Ok(model)
}

/// A weight of which only the shape matters.
#[derive(Debug)]
struct Nothing(u64);

impl Decode for Nothing {
    fn count(&self) -> u64 {
        self.0
    }

    fn read(&self, _: u64, out: &mut [f32]) {
        out.fill(0.0);
    }

    fn stored(&self) -> (DType, bool) {
        (DType::F32, false)
    }

    fn release(&self, _: Range<u64>) {}
}

/// The matrix of this shape in a safetensors file.
fn read(path: &Path, shape: Shape) -> Result<Tensor> {
    let cannot = |code, what: String| Diagnostic::error(code, what).at("file", path.display());
    let storage = Storage::map(path).map_err(|e| cannot(Code::CannotRead, format!("the file cannot be read: {e}")))?;
    let (header, metadata) = safetensors::SafeTensors::read_metadata(storage.bytes())
        .map_err(|e| cannot(Code::NotAModel, format!("this is not a safetensors file: {e}")))?;
    let wanted = [shape.outputs as usize, shape.inputs as usize];
    let fitting: Vec<_> = metadata.tensors().into_iter().filter(|(_, info)| info.shape == wanted).collect();
    let [(name, info)] = &fitting[..] else {
        let what = format!("the file has {} tensors of shape {} x {}, not one", fitting.len(), wanted[0], wanted[1]);
        return Err(cannot(Code::BadTensor, what).into());
    };
    let dtype = match info.dtype {
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::F16 => DType::F16,
        safetensors::Dtype::BF16 => DType::Bf16,
        other => {
            let what = format!("a weight of type {other:?} cannot be packed");
            return Err(cannot(Code::BadTensor, what).at("tensor", name).help("store it as F32, F16 or BF16").into());
        }
    };
    let offset = (header + 8 + info.data_offsets.0) as u64;
    let dims = vec![shape.outputs, shape.inputs];
    Tensor::new(dtype, dims, storage, offset)
        .map_err(|e| cannot(Code::BadTensor, format!("the tensor is unsound: {e:?}")).into())
}

/// The folder of a layer, unless the user names one.
pub fn folder(shape: Shape, codec: &str) -> PathBuf {
    PathBuf::from(format!("linear-{}x{}-{codec}", shape.outputs, shape.inputs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_two_numbers() {
        assert_eq!("4096x14336".parse(), Ok(Shape { outputs: 4096, inputs: 14336 }));
        for bad in ["4096", "4096x", "x3", "0x3", "3x-1", "3x99999999999", "3x4x5"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
