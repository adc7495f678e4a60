//! Ops to launches: each op becomes the kernel with its static facts, and its arguments.
//!
//! What enters: the graph. What leaves: [`Launch`]es in the order of data flow, over values that have no place yet; the tensors of the
//! weights file that they read; the cache's layers. Equal kernels are one kernel: a kernel is known by its name, which holds exactly
//! its facts.

use super::memory;
use super::weights::{Use, Weights};
use crate::kernels::{
    Append, Attention, Columns, Combine, Embed, Groups, Hadamard, Kernel, LatentAttention, LayerNorm, NormWeight, Operation,
    Pointwise, Quantize, RmsNorm, Rope, Rotary, Route, Select, SortByExpert, Table,
};
use crate::linear::{Experts, Linear, LinearKernel, geometry};
use q35_bundle::{CacheLayer, CachePart, Input};
use q35_diag::Diagnostics;
use q35_dialects::q35::{self, Op};
use q35_dialects::{Packed, ParamName, Rows, Ty};
use q35_format::{Codec, PackedSpec};
use q35_graph::{NodeId, Value};
use q35_target::{Request, Section, Target, WeightTensor, cannot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// Reads a value.
    Read(Value),
    /// Writes a value.
    Write(Value),
    /// A tensor of the weights file.
    Weight(String),
    /// One half of a cache layer.
    Cache(u32, CachePart),
    /// An array of the caller's.
    Input(Input),
}

/// A kernel and the most rows it is meant for.
#[derive(Clone)]
pub(crate) struct Choice {
    pub(crate) kernel: Rc<dyn Kernel>,
    pub(crate) max_rows: Option<u64>,
}

/// One step before its values have places.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) node: String,
    pub(crate) op: String,
    pub(crate) rows: Rows,
    pub(crate) choices: Vec<Choice>,
    /// What the choices compute, where they are kernels of linear layers.
    pub(crate) linear: Option<Linear>,
    pub(crate) args: Vec<Arg>,
}

/// A program as launches.
#[derive(Clone, Default)]
pub(crate) struct Selected {
    pub(crate) launches: Vec<Launch>,
    pub(crate) weights: BTreeMap<String, WeightTensor>,
    pub(crate) cache: BTreeMap<u32, CacheLayer>,
    /// The logits.
    pub(crate) output: Option<Value>,
    /// Section and bytes per row of the values that launches write.
    pub(crate) sizes: BTreeMap<Value, (q35_bundle::Rows, u64)>,
}

/// The ops that [`select`] knows: all of the dialect.
pub(crate) fn ops() -> Vec<&'static str> {
    q35::OPS.iter().map(|decl| decl.name).collect()
}

/// Codecs that linear layers may have.
pub(crate) fn codecs() -> Vec<Codec> {
    let supported = |codec: &Codec| {
        let spec = PackedSpec::new(1, 1, *codec, q35_format::Group::Row);
        spec.is_ok_and(|spec| Linear::new(spec).unsupported().is_none())
    };
    Codec::all().filter(supported).collect()
}

/// Chooses kernels for every op; all ops that have none are reported at once.
pub(crate) fn select(target: &dyn Target, request: &Request<'_>) -> q35_diag::Result<Selected> {
    let linear_weights = request.graph.ids().filter_map(|id| match &request.graph.node(id).op {
        Op::Linear(linear) => Some(linear.weight.clone()),
        _ => None,
    });
    let mut selection = Selection {
        linear_weights: linear_weights.collect(),
        request,
        selected: Selected::default(),
        weights: Weights::default(),
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
    selected.output = request.graph.outputs.first().map(|(_, value)| *value);
    errors.into_result(selected)
}

struct Selection<'a> {
    request: &'a Request<'a>,
    /// Parameters that a linear layer reads; an embedding that shares one reads it in the same arrangement.
    linear_weights: BTreeSet<ParamName>,
    selected: Selected,
    weights: Weights,
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

/// What a matrix is called that turns latent vectors into keys or values.
const EXPANSION: &str = "a matrix of latent attention";

/// What a launch is called that lists the routed rows by expert, the second part of `route`.
const SORT: &str = "sort";

/// A routing by expert, which comes with every routing.
fn sorted(routing: Value) -> Value {
    Value { result: 1, ..routing }
}

/// The kernels of a linear layer.
pub(crate) fn linear_choices(linear: &Linear) -> Vec<Choice> {
    let choice = |kernel: LinearKernel| Choice { max_rows: kernel.max_rows(), kernel: Rc::new(kernel) };
    linear.kernels().into_iter().map(choice).collect()
}

impl Selection<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), String> {
        let Some(made) = self.made(id)? else { return Ok(()) };
        let rows = match self.result(id)? {
            Ty::Act { rows, .. } | Ty::Quant { rows, .. } | Ty::Ids { rows } | Ty::Routing { rows, .. } => rows,
            Ty::Rotary { .. } | Ty::Cache { .. } => Rows::Tokens,
        };
        let name = self.request.graph.node(id).op.name();
        self.launch(id, name, rows, made);
        if let Ty::Routing { rows, experts, choices } = self.result(id)? {
            let made = self.sort(Value { node: id, result: 0 }, rows, experts, choices)?;
            self.launch(id, SORT, rows, made);
        }
        Ok(())
    }

    fn launch(&mut self, id: NodeId, op: &str, rows: Rows, (computed, args): Made) {
        let (choices, linear) = match computed {
            Computed::One(kernel) => (vec![Choice { kernel, max_rows: None }], None),
            Computed::Linear(linear) => (linear_choices(&linear), Some(linear)),
        };
        let node = self.request.graph.node(id).name.clone();
        self.selected.launches.push(Launch { node, op: op.to_owned(), rows, choices, linear, args });
    }

    /// Kernel and arguments of a node; `None` where the caller provides the value.
    fn made(&mut self, id: NodeId) -> Result<Option<Made>, String> {
        let pointwise = |this: &mut Self, operation| this.pointwise(id, operation).map(Some);
        let op = &self.request.graph.node(id).op;
        Ok(Some(match op {
            Op::Tokens(_) | Op::Positions(_) => return Ok(None),
            Op::Embed(op) => {
                let packed = self.packed(&op.table)?;
                let table = table(&packed, "an embedding table")?;
                let as_weight = self.linear_weights.contains(&op.table);
                let used = if as_weight { Use::Tiles } else { Use::Rows };
                let mut args = vec![self.read(id, 0)?];
                args.extend(self.table_args(&op.table, table, used)?);
                args.push(self.write(id)?);
                one(Embed { width: packed.cols, table, as_weight }, args)
            }
            Op::RmsNorm(op) => {
                let (width, weight) = (self.width(id, 0)?, self.norm_vector(op.weight.as_ref(), op.group)?);
                let params: Vec<&ParamName> = op.weight.iter().collect();
                one(RmsNorm { width, group: op.group, eps: op.eps, weight }, self.args(id, &params)?)
            }
            Op::LayerNorm(op) => {
                let [weight, bias] = [&op.weight, &op.bias].map(|name| self.norm_vector(name.as_ref(), op.group));
                let (width, weight, bias) = (self.width(id, 0)?, weight?, bias?);
                let params: Vec<&ParamName> = op.weight.iter().chain(&op.bias).collect();
                one(LayerNorm { width, group: op.group, eps: op.eps, weight, bias }, self.args(id, &params)?)
            }
            Op::Hadamard(op) => {
                let kernel = Hadamard { width: self.width(id, 0)?, block: op.block, seed: op.seed, inverse: op.inverse };
                one(kernel, self.args(id, &[])?)
            }
            Op::Quantize(_) => one(Quantize { width: self.width(id, 0)? }, self.args(id, &[])?),
            Op::Linear(op) => self.linear(id, &op.weight, op.bias.as_ref(), None)?,
            Op::Route(op) => self.route(id, op)?,
            Op::ExpertLinear(op) => {
                let Ty::Routing { rows, experts, .. } = self.operand_ty(id, 1)? else {
                    return Err("its second operand is no routing".into());
                };
                let shared = self.operand_ty(id, 0)?.matrix().is_some_and(|(of_x, _)| of_x == rows);
                self.linear(id, &op.weight, op.bias.as_ref(), Some(Experts { count: size(experts)?, shared }))?
            }
            Op::Combine(_) => {
                let Ty::Routing { choices, .. } = self.operand_ty(id, 1)? else {
                    return Err("its second operand is no routing".into());
                };
                one(Combine { width: self.width(id, 0)?, choices: choices.into() }, self.args(id, &[])?)
            }
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
            Op::LatentAttention(op) => self.latent_attention(id, op)?,
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

    fn latent_attention(&mut self, id: NodeId, op: &q35::LatentAttention) -> Result<Made, String> {
        let Ty::Cache { layer, key_dim: latent, value_dim: rotated, .. } = self.operand_ty(id, 1)? else {
            return Err("its second operand is no cache".into());
        };
        if let Some(cache) = self.selected.cache.get_mut(&layer) {
            cache.window = op.window;
        }
        let [keys, values] = [self.packed(&op.keys)?, self.packed(&op.values)?];
        let kernel = LatentAttention {
            heads: op.heads,
            latent,
            rotated,
            key_dim: keys.rows / op.heads,
            value_dim: values.rows / op.heads,
            keys: table(&keys, EXPANSION)?,
            values: table(&values, EXPANSION)?,
            scale: op.scale,
            window: op.window,
            softcap: op.softcap,
        };
        if let Some(reason) = kernel.unsupported() {
            return Err(reason);
        }
        let mut args = vec![self.read(id, 0)?, Arg::Input(Input::Slots), Arg::Input(Input::Index)];
        args.extend([CachePart::Key, CachePart::Value].map(|part| Arg::Cache(layer, part)));
        args.extend(self.table_args(&op.keys, kernel.keys, Use::Rows)?);
        args.extend(self.table_args(&op.values, kernel.values, Use::Rows)?);
        args.push(self.write(id)?);
        Ok(one(kernel, args))
    }

    /// The arguments that a table is.
    fn table_args(&mut self, name: &ParamName, table: Table, used: Use) -> Result<Vec<Arg>, String> {
        let mut args = vec![self.weight(name, Section::Codes, used)?];
        if matches!(table, Table::Q8(..)) {
            args.push(self.weight(name, Section::Scales, used)?);
        }
        Ok(args)
    }

    fn route(&mut self, id: NodeId, op: &q35::Route) -> Result<Made, String> {
        let kernel = Route {
            experts: self.width(id, 0)?,
            choices: op.choices.into(),
            scoring: op.scoring,
            correction: op.correction.is_some(),
            groups: (op.groups > 1).then_some(Groups { count: op.groups, top: op.top_groups, worth: op.group_score }),
            normalize: op.normalize.then_some(op.eps),
            scale: op.scale,
        };
        if let Some(reason) = kernel.unsupported() {
            return Err(reason);
        }
        let correction: Vec<&ParamName> = op.correction.iter().collect();
        Ok(one(kernel, self.args(id, &correction)?))
    }

    fn sort(&mut self, routing: Value, rows: Rows, experts: u64, choices: u32) -> Result<Made, String> {
        let routed = rows.routed(choices).ok_or_else(|| "its rows are routed already".to_owned())?;
        let bytes = geometry::sorted_bytes(choices as usize, size(experts)?);
        self.selected.sizes.insert(sorted(routing), (rows.section().0, bytes as u64));
        Ok(one(SortByExpert { experts, routed }, vec![Arg::Read(routing), Arg::Write(sorted(routing))]))
    }

    fn linear(
        &mut self,
        id: NodeId,
        weight: &ParamName,
        bias: Option<&ParamName>,
        experts: Option<Experts>,
    ) -> Result<Made, String> {
        let Ty::Act { rows, .. } = self.result(id)? else { return Err("its result is no activation".into()) };
        let packed = self.packed(weight)?;
        let count = experts.map_or(1, |experts| experts.count);
        let spec = spec(&Packed { rows: packed.rows / count as u64, ..packed })?;
        let linear = Linear { rows, bias: bias.is_some(), experts, ..Linear::new(spec) };
        if let Some(reason) = linear.unsupported() {
            return Err(reason);
        }
        let rounded = matches!(self.operand_ty(id, 0)?, Ty::Quant { .. });
        if rounded != spec.codec().has_scales() {
            let (has, takes) = if rounded { ("rounded", "f32") } else { ("f32", "rounded") };
            return Err(format!("a weight in codec {} takes {takes} activations, and these are {has}", spec.codec()));
        }
        let mut args = vec![self.read(id, 0)?];
        if experts.is_some() {
            let routing = self.request.graph.operand(id, 1).ok_or("its second operand is absent")?;
            args.extend([Arg::Read(routing), Arg::Read(sorted(routing))]);
        }
        let used = experts.map_or(Use::Tiles, |experts| Use::Stacked(experts.count));
        args.push(self.weight(weight, Section::Codes, used)?);
        if spec.codec().has_scales() {
            args.push(self.weight(weight, Section::Scales, used)?);
        }
        if let Some(bias) = bias {
            vector_spec(&self.packed(bias)?)?;
            args.push(self.weight(bias, Section::Codes, Use::PaddedVectors(count))?);
        }
        args.push(self.write(id)?);
        Ok((Computed::Linear(linear), args))
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
            _ => Arg::Read(value),
        })
    }

    fn write(&mut self, id: NodeId) -> Result<Arg, String> {
        let value = Value { node: id, result: 0 };
        let ty = self.result(id)?;
        self.selected.sizes.insert(value, memory::size(&ty).ok_or_else(|| format!("a value of type {ty} is no buffer"))?);
        Ok(Arg::Write(value))
    }

    fn vector(&mut self, name: &ParamName) -> Result<Arg, String> {
        vector_spec(&self.packed(name)?)?;
        self.weight(name, Section::Codes, Use::Rows)
    }

    fn weight(&mut self, name: &ParamName, section: Section, used: Use) -> Result<Arg, String> {
        let spec = spec(&self.packed(name)?)?;
        Ok(Arg::Weight(self.weights.tensor(name, &spec, section, used)))
    }

    /// How the columns of a norm read a vector.
    fn norm_vector(&self, name: Option<&ParamName>, group: u64) -> Result<NormWeight, String> {
        Ok(match name {
            None => NormWeight::None,
            Some(name) if self.packed(name)?.cols == group => NormWeight::Shared,
            Some(_) => NormWeight::PerColumn,
        })
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

fn size(n: u64) -> Result<usize, String> {
    usize::try_from(n).map_err(|_| "a parameter is too large".to_owned())
}

fn spec(packed: &Packed) -> Result<PackedSpec, String> {
    PackedSpec::new(size(packed.rows)?, size(packed.cols)?, packed.codec, packed.group).map_err(|error| error.to_string())
}

fn vector_spec(packed: &Packed) -> Result<(), String> {
    if (packed.rows, packed.codec) == (1, Codec::F32) {
        return Ok(());
    }
    Err(format!("a {}x{} {} parameter stands where a vector in f32 is needed", packed.rows, packed.cols, packed.codec))
}

/// How the rows of a parameter are read that `what` calls by its kind.
fn table(packed: &Packed, what: &str) -> Result<Table, String> {
    Ok(match packed.codec {
        Codec::F32 => Table::F32,
        Codec::F16 => Table::F16,
        Codec::Bf16 => Table::Bf16,
        Codec::Q8 => Table::Q8(packed.group, spec(packed)?.scale()),
        codec => return Err(format!("{what} in codec {codec} has no kernel on the CPU")),
    })
}

/// The launches, one per line: what `--dump-after` shows.
pub(crate) fn print(selected: &Selected) -> String {
    let mut text = String::new();
    let name = |value: &Value| match value.result {
        0 => format!("%{}", value.node.index()),
        further => format!("%{}:{further}", value.node.index()),
    };
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
