//! Ops to launches: each op becomes the kernel with its static facts, and its arguments.
//!
//! What enters: the graph. What leaves: [`Launch`]es in the order of data flow, over values that have no place yet; the tensors of the
//! weights file that they read; the cache's layers. Equal kernels are one kernel: a kernel is known by its name, which holds exactly
//! its facts.

use super::weights::{Use, Weights};
use crate::isa::Isa;
use crate::kernels::{
    Append, Attention, Columns, Embed, Hadamard, Kernel, NormWeight, Operation, Pack, Pointwise, RmsNorm, Rope, Rotary, Select,
    Table,
};
use crate::linear::{Linear, stored};
use q35_bundle::{CacheLayer, CachePart, Input, Rows};
use q35_diag::Diagnostics;
use q35_dialects::q35::Op;
use q35_dialects::{Packed, ParamName, Ty};
use q35_format::{Codec, PackedSpec};
use q35_graph::{NodeId, Value};
use q35_target::{Request, Section, Target, WeightTensor, cannot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;

/// A value in memory: as activations are, or packed for matrix instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stored {
    pub(super) value: Value,
    pub(super) packed: bool,
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arg {
    /// Reads a value.
    Read(Stored),
    /// Writes a value.
    Write(Stored),
    /// A tensor of the weights file.
    Weight(String),
    /// One half of a cache layer.
    Cache(u32, CachePart),
    /// An array of the caller's.
    Input(Input),
}

/// A kernel and the most rows it is meant for.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) kernel: Rc<dyn Kernel>,
    pub(super) max_rows: Option<u64>,
}

/// One step before its values have places.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) node: String,
    pub(super) op: String,
    pub(super) rows: Rows,
    pub(super) choices: Vec<Choice>,
    /// What the choices compute, where they are kernels of linear layers.
    pub(super) linear: Option<Linear>,
    pub(super) args: Vec<Arg>,
}

/// A program as launches.
#[derive(Clone, Default)]
pub(super) struct Selected {
    pub(super) launches: Vec<Launch>,
    pub(super) weights: BTreeMap<String, WeightTensor>,
    pub(super) cache: BTreeMap<u32, CacheLayer>,
    /// Types of the values that launches write.
    pub(super) types: BTreeMap<Value, Ty>,
    logits: Option<Value>,
}

impl Selected {
    /// The logits.
    pub(super) fn output(&self) -> Option<Stored> {
        self.logits.map(|value| Stored { value, packed: false })
    }
}

/// Why a node of a mixture of experts has no kernel.
const ROUTED: &str = "there are no kernels for rows that are routed to experts";

/// The section that rows lie in, if they are not routed.
fn unrouted(rows: q35_dialects::Rows) -> Result<Rows, String> {
    match rows.section() {
        (section, 1) => Ok(section),
        _ => Err(ROUTED.to_owned()),
    }
}

/// The ops that [`select`] knows: all of the dialect but the rounding of activations, layer norms and those of a mixture of experts.
pub fn ops() -> Vec<&'static str> {
    let known = |name: &&str| !["quantize", "layer_norm", "route", "expert_linear", "combine"].contains(name);
    q35_dialects::q35::OPS.iter().map(|decl| decl.name).filter(known).collect()
}

/// Codecs that linear layers may have.
pub fn codecs() -> Vec<Codec> {
    let supported = |codec: &Codec| {
        let spec = PackedSpec::new(1, 1, *codec, q35_format::Group::Row);
        spec.is_ok_and(|spec| Linear::new(spec).unsupported().is_none())
    };
    Codec::all().filter(supported).collect()
}

/// Chooses kernels for every op; all ops that have none are reported at once.
pub(super) fn select(target: &dyn Target, isa: &'static dyn Isa, request: &Request<'_>) -> q35_diag::Result<Selected> {
    let linear_weights = request.graph.ids().filter_map(|id| match &request.graph.node(id).op {
        Op::Linear(linear) => Some(linear.weight.clone()),
        _ => None,
    });
    let mut selection = Selection {
        linear_weights: linear_weights.collect(),
        request,
        isa,
        selected: Selected::default(),
        weights: Weights::new(isa.matrix()),
        packed: BTreeSet::new(),
    };
    let mut errors = Diagnostics::new();
    let Some(order) = request.graph.topological() else {
        return Err(cannot(target, "step", "the graph has a cycle").into());
    };
    for id in order {
        if let Err(reason) = selection.node(id) {
            errors.push(cannot(target, &request.graph.node(id).name, &reason));
        }
    }
    let Selection { mut selected, weights, .. } = selection;
    selected.weights = weights.into_tensors();
    selected.logits = request.graph.outputs.first().map(|(_, value)| *value);
    errors.into_result(selected)
}

struct Selection<'a> {
    request: &'a Request<'a>,
    /// Parameters that a linear layer reads; an embedding that shares one reads it in the same arrangement.
    linear_weights: BTreeSet<ParamName>,
    isa: &'static dyn Isa,
    selected: Selected,
    weights: Weights,
    /// Values that a launch has packed.
    packed: BTreeSet<Value>,
}

/// What computes a node.
enum Computed {
    One(Rc<dyn Kernel>),
    Linear(Linear),
}

/// A node's kernels and arguments.
type Made = (Computed, Vec<Arg>);

fn one(kernel: impl Kernel + 'static, args: Vec<Arg>) -> Made {
    (Computed::One(Rc::new(kernel)), args)
}

/// The kernels of a linear layer.
pub(super) fn linear_choices(linear: &Linear, isa: &'static dyn Isa) -> Vec<Choice> {
    let kernels = linear.kernels(isa).into_iter();
    kernels.map(|(kernel, max_rows)| Choice { kernel: Rc::new(kernel), max_rows }).collect()
}

impl Selection<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), String> {
        let node = self.request.graph.node(id);
        let Some((computed, args)) = self.made(id)? else { return Ok(()) };
        let (choices, linear) = match computed {
            Computed::One(kernel) => (vec![Choice { kernel, max_rows: None }], None),
            Computed::Linear(linear) => (linear_choices(&linear, self.isa), Some(linear)),
        };
        let rows = match self.result(id)? {
            Ty::Act { rows, .. } | Ty::Quant { rows, .. } | Ty::Ids { rows } => unrouted(rows)?,
            Ty::Rotary { .. } | Ty::Cache { .. } => Rows::Tokens,
            Ty::Routing { .. } => return Err(ROUTED.to_owned()),
        };
        self.selected.launches.push(Launch {
            node: node.name.clone(),
            op: node.op.name().to_owned(),
            rows,
            choices,
            linear,
            args,
        });
        Ok(())
    }

    /// Kernel and arguments of a node; `None` where the caller provides the value.
    fn made(&mut self, id: NodeId) -> Result<Option<Made>, String> {
        let pointwise = |this: &mut Self, operation| this.pointwise(id, operation).map(Some);
        let op = &self.request.graph.node(id).op;
        Ok(Some(match op {
            Op::Tokens(_) | Op::Positions(_) => return Ok(None),
            Op::Embed(op) => {
                let packed = self.packed(&op.table)?;
                let table = table(&packed)?;
                // Floats lie row after row for linear layers too.
                let as_weight = self.linear_weights.contains(&op.table) && matches!(table, Table::Q8(..));
                let used = if as_weight { Use::Tiles } else { Use::Rows };
                let mut args = vec![self.read(id, 0)?, self.weight(&op.table, Section::Codes, used)?];
                if matches!(table, Table::Q8(..)) {
                    args.push(self.weight(&op.table, Section::Scales, used)?);
                }
                args.push(self.write(id)?);
                one(Embed { width: packed.cols, table, as_weight }, args)
            }
            Op::RmsNorm(op) => {
                let width = self.width(id, 0)?;
                let (weight, params) = match &op.weight {
                    None => (NormWeight::None, vec![]),
                    Some(name) if self.packed(name)?.cols == op.group => (NormWeight::Shared, vec![name]),
                    Some(name) => (NormWeight::PerColumn, vec![name]),
                };
                let args = self.args(id, &params)?;
                one(RmsNorm { width, group: op.group, eps: op.eps, weight }, args)
            }
            Op::Hadamard(op) => {
                if op.block > Hadamard::MOST {
                    return Err(format!(
                        "rotations of {} columns have no kernel on GPUs, {} are the most",
                        op.block,
                        Hadamard::MOST
                    ));
                }
                let kernel = Hadamard { width: self.width(id, 0)?, block: op.block, seed: op.seed, inverse: op.inverse };
                one(kernel, self.args(id, &[])?)
            }
            Op::Quantize(_) => return Err("activations are not rounded to integers on GPUs".to_owned()),
            Op::Linear(op) => self.linear(id, &op.weight, op.bias.as_ref())?,
            Op::Rotary(op) => {
                let Ty::Rotary { half } = self.result(id)? else { return Err("its result is no rotary".into()) };
                one(Rotary { half, scale: op.scale }, self.args(id, &[&op.inv_freq])?)
            }
            Op::Rope(op) => {
                let Ty::Rotary { half } = self.operand_ty(id, 1)? else { return Err("its second operand is no rotary".into()) };
                let kernel = Rope { width: self.width(id, 0)?, head_dim: op.head_dim, half, style: op.style };
                one(kernel, self.args(id, &[])?)
            }
            Op::Append(op) => {
                let Ty::Cache { layer, kv_heads, key_dim, value_dim } = self.result(id)? else {
                    return Err("its result is no cache".into());
                };
                debug_assert_eq!((layer, kv_heads), (op.layer, op.kv_heads));
                self.selected.cache.insert(layer, CacheLayer { kv_heads, key_dim, value_dim, window: None });
                let mut args = vec![self.read(id, 0)?, self.read(id, 1)?, Arg::Input(Input::Slots), Arg::Input(Input::Index)];
                args.extend([CachePart::Key, CachePart::Value].map(|part| Arg::Cache(layer, part)));
                one(Append { kv_heads, key_dim, value_dim }, args)
            }
            Op::Attention(op) => {
                let Ty::Cache { layer, kv_heads, key_dim, value_dim } = self.operand_ty(id, 1)? else {
                    return Err("its second operand is no cache".into());
                };
                if let Some(cache) = self.selected.cache.get_mut(&layer) {
                    cache.window = op.window;
                }
                let mut args = vec![self.read(id, 0)?, Arg::Input(Input::Slots), Arg::Input(Input::Index)];
                args.extend([CachePart::Key, CachePart::Value].map(|part| Arg::Cache(layer, part)));
                if let Some(name) = &op.sinks {
                    args.push(self.vector(name)?);
                }
                args.push(self.write(id)?);
                let kernel = Attention {
                    heads: op.heads,
                    kv_heads,
                    key_dim,
                    value_dim,
                    scale: op.scale,
                    window: op.window,
                    softcap: op.softcap,
                    sinks: op.sinks.is_some(),
                };
                one(kernel, args)
            }
            Op::Glu(op) => {
                let (activation, limit) = (op.activation, op.limit);
                let operation = Operation::Glu { activation, limit, alpha: op.alpha, offset: op.offset };
                return pointwise(self, operation);
            }
            Op::Activate(op) => return pointwise(self, Operation::Activate(op.kind)),
            Op::Add(_) => return pointwise(self, Operation::Add),
            Op::Mul(_) => return pointwise(self, Operation::Mul),
            Op::Scale(op) => return pointwise(self, Operation::Scale(op.factor)),
            Op::Softcap(op) => return pointwise(self, Operation::Softcap(op.cap)),
            Op::Columns(op) => {
                let kernel = Columns { width: self.width(id, 0)?, start: op.start, len: op.len };
                one(kernel, self.args(id, &[])?)
            }
            Op::LatentAttention(_) => return Err("attention over latent vectors has no kernel on GPUs".to_owned()),
            Op::LayerNorm(_) => return Err("layer norms have no kernel on GPUs".to_owned()),
            Op::Route(_) | Op::ExpertLinear(_) | Op::Combine(_) => return Err(ROUTED.to_owned()),
            Op::Select(_) => {
                let args = vec![self.read(id, 0)?, Arg::Input(Input::LogitRows), self.write(id)?];
                one(Select { width: self.width(id, 0)? }, args)
            }
        }))
    }

    fn pointwise(&mut self, id: NodeId, operation: Operation) -> Result<Made, String> {
        let width = self.width(id, 0)?;
        let column = width != 1 && self.request.graph.operand(id, 1).is_some() && self.width(id, 1)? == 1;
        Ok(one(Pointwise { operation, width, column }, self.args(id, &[])?))
    }

    fn linear(&mut self, id: NodeId, weight: &ParamName, bias: Option<&ParamName>) -> Result<Made, String> {
        let Ty::Act { rows, .. } = self.result(id)? else { return Err("its result is no activation".into()) };
        let spec = spec(&self.packed(weight)?)?;
        let linear = Linear { rows: unrouted(rows)?, bias: bias.is_some(), ..Linear::new(spec) };
        if let Some(reason) = linear.unsupported() {
            return Err(reason);
        }
        let x = match linear.takes_packed() {
            true => self.pack(id)?,
            false => self.read(id, 0)?,
        };
        let mut args = vec![x, self.weight(weight, Section::Codes, Use::Tiles)?];
        if spec.codec().has_scales() {
            args.push(self.weight(weight, Section::Scales, Use::Tiles)?);
        }
        if let Some(bias) = bias {
            args.push(self.vector(bias)?);
        }
        args.push(self.write(id)?);
        Ok((Computed::Linear(linear), args))
    }

    /// The first operand of a node packed; the first who asks gets a launch for it.
    fn pack(&mut self, id: NodeId) -> Result<Arg, String> {
        let (from, Ty::Act { rows, width }) = (self.read(id, 0)?, self.operand_ty(id, 0)?) else {
            return Err("its operand is no activation".into());
        };
        let Arg::Read(Stored { value, .. }) = from else { return Err("its operand is an input".into()) };
        let packed = Stored { value, packed: true };
        if self.packed.insert(value) {
            let launch = Launch {
                node: self.request.graph.node(id).name.clone(),
                op: "pack".to_owned(),
                rows: unrouted(rows)?,
                choices: vec![Choice { kernel: Rc::new(Pack { width }), max_rows: None }],
                linear: None,
                args: vec![from, Arg::Write(packed)],
            };
            self.selected.launches.push(launch);
        }
        Ok(Arg::Read(packed))
    }

    /// Operands in order, vectors, result: how most kernels take their arguments.
    fn args(&mut self, id: NodeId, params: &[&ParamName]) -> Result<Vec<Arg>, String> {
        let operands = self.request.graph.operands(id).len();
        let mut args: Vec<Arg> = (0..operands).map(|at| self.read(id, at)).collect::<Result<_, _>>()?;
        for name in params {
            args.push(self.vector(name)?);
        }
        args.push(self.write(id)?);
        Ok(args)
    }

    fn read(&self, id: NodeId, at: usize) -> Result<Arg, String> {
        let value = self.request.graph.operand(id, at).ok_or_else(|| format!("operand {at} is absent"))?;
        Ok(match self.request.graph.node(value.node).op {
            Op::Tokens(_) => Arg::Input(Input::Tokens),
            Op::Positions(_) => Arg::Input(Input::Positions),
            _ => Arg::Read(Stored { value, packed: false }),
        })
    }

    fn write(&mut self, id: NodeId) -> Result<Arg, String> {
        let value = Value { node: id, result: 0 };
        self.selected.types.insert(value, self.result(id)?);
        Ok(Arg::Write(Stored { value, packed: false }))
    }

    fn vector(&mut self, name: &ParamName) -> Result<Arg, String> {
        vector_spec(&self.packed(name)?)?;
        self.weight(name, Section::Codes, Use::Rows)
    }

    fn weight(&mut self, name: &ParamName, section: Section, used: Use) -> Result<Arg, String> {
        let spec = spec(&self.packed(name)?)?;
        Ok(Arg::Weight(self.weights.tensor(name, &spec, section, used)))
    }

    fn packed(&self, name: &ParamName) -> Result<Packed, String> {
        self.request.params.get(name).copied().ok_or_else(|| format!("there is no parameter @{name}"))
    }

    fn result(&self, id: NodeId) -> Result<Ty, String> {
        self.request.graph.node(id).results.first().copied().ok_or_else(|| "it has no result".to_owned())
    }

    fn operand_ty(&self, id: NodeId, at: usize) -> Result<Ty, String> {
        let value = self.request.graph.operand(id, at).ok_or_else(|| format!("operand {at} is absent"))?;
        Ok(*self.request.graph.ty(value))
    }

    fn width(&self, id: NodeId, at: usize) -> Result<u64, String> {
        let ty = self.operand_ty(id, at)?;
        ty.matrix().map(|(_, width)| width).ok_or_else(|| format!("operand {at} is {ty}, no matrix"))
    }
}

fn spec(packed: &Packed) -> Result<PackedSpec, String> {
    let size = |n: u64| usize::try_from(n).map_err(|_| "a parameter is too large".to_owned());
    PackedSpec::new(size(packed.rows)?, size(packed.cols)?, packed.codec, packed.group).map_err(|error| error.to_string())
}

fn vector_spec(packed: &Packed) -> Result<(), String> {
    if (packed.rows, packed.codec) == (1, Codec::F32) {
        return Ok(());
    }
    Err(format!("a {}x{} {} parameter stands where a vector in f32 is needed", packed.rows, packed.cols, packed.codec))
}

fn table(packed: &Packed) -> Result<Table, String> {
    Ok(match packed.codec {
        Codec::F32 | Codec::F16 | Codec::Bf16 => Table::Float(packed.codec.name(), stored(packed.codec)),
        Codec::Q8 => Table::Q8(packed.group, spec(packed)?.scale()),
        codec => return Err(format!("an embedding table in codec {codec} has no kernel on GPUs")),
    })
}

/// The launches, one per line: what `--dump-after` shows.
pub(super) fn print(selected: &Selected) -> String {
    let mut text = String::new();
    let name = |stored: &Stored| format!("%{}{}", stored.value.node.index(), if stored.packed { " packed" } else { "" });
    for launch in &selected.launches {
        let args: Vec<String> = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Read(value) => name(value),
                Arg::Write(value) => format!("-> {}", name(value)),
                Arg::Weight(tensor) => format!("@{tensor}"),
                Arg::Cache(layer, part) => format!("cache {layer} {part:?}").to_lowercase(),
                Arg::Input(input) => format!("{input:?}").to_lowercase(),
            })
            .collect();
        let choices: Vec<String> = launch
            .choices
            .iter()
            .map(|choice| match choice.max_rows {
                Some(most) => format!("{} to {most} rows", choice.kernel.name()),
                None => choice.kernel.name(),
            })
            .collect();
        let _ = writeln!(text, "{} ({}) '{}'", choices.join(" or "), args.join(", "), launch.node);
    }
    text
}
