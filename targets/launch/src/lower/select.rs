//! Ops to launches: each op becomes the kernel with its static facts, and its arguments.
//!
//! What enters: the graph. What leaves: [`Launch`](super::Launch)es in the order of data flow, over values that have no place yet; the
//! tensors of the weights file that they read; the cache's layers. Equal kernels are one kernel: a kernel is known by its name, which
//! holds exactly its facts.

use super::selection::{Made, Selection, size, spec, vector_spec};
use super::{Arg, Form, Selected, Stored};
use crate::kernels::{Kernels, Operand, Use};
use crate::spec::{
    Any, Append, Attention, Columns, Combine, Embed, Experts, Hadamard, LatentAttention, LayerNorm, Linear, Operation,
    Pointwise, RmsNorm, Rope, Rotary, Route, Scores, Select, SortByExpert,
};
use q35_bundle::{CacheDtype, CacheLayer, CachePart, Input};
use q35_diag::Diagnostics;
use q35_dialects::q35::{self, Op};
use q35_dialects::{Packed, ParamName, Rows, Ty};
use q35_graph::{NodeId, Value};
use q35_target::{Request, Section, Target, cannot};

/// What a matrix is called that turns latent vectors into keys or values.
const EXPANSION: &str = "a matrix of latent attention";

/// What a launch is called that lists the routed rows by expert, the second part of `route`.
const SORT: &str = "sort";

/// What a launch is called that makes the result of attention of its parts.
const JOIN: &str = "join";

/// What a launch is called that packs activations.
const PACK: &str = "pack";

/// Chooses kernels for every op; all ops that have none are reported at once.
pub(super) fn select<T: Kernels>(
    target: &dyn Target,
    kernels: &T,
    request: &Request<'_>,
) -> q35_diag::Result<Selected<T::Kernel>> {
    let mut selection = Selection::new(request, kernels);
    let mut errors = Diagnostics::new();
    let Some(order) = request.graph.topological() else {
        return Err(cannot(target, "step", "the graph has a cycle").into());
    };
    for id in order {
        if let Err(reason) = selection.node(id) {
            errors.push(cannot(target, &request.graph.node(id).name, &reason));
        }
    }
    errors.into_result(selection.into_selected())
}

/// What an op asks for: a kernel with its arguments, or what is made already.
enum Asked<K: ?Sized> {
    Kernel(Any, Vec<Arg>),
    Made(Made<K>),
}

impl<T: Kernels> Selection<'_, T> {
    fn node(&mut self, id: NodeId) -> Result<(), String> {
        let Some(asked) = self.asked(id)? else { return Ok(()) };
        let made = self.made(asked)?;
        let rows = match self.result(id)? {
            Ty::Act { rows, .. } | Ty::Quant { rows, .. } | Ty::Ids { rows } | Ty::Routing { rows, .. } => rows,
            Ty::Rotary { .. } | Ty::Cache { .. } => Rows::Tokens,
        };
        let name = self.request.graph.node(id).op.name();
        self.launch(id, name, rows, made);
        if let Some(join) = self.join.take() {
            self.launch(id, JOIN, rows, join);
        }
        if let Ty::Routing { rows, experts, choices } = self.result(id)? {
            let sort = self.sort(Value { node: id, result: 0 }, rows, experts, choices)?;
            let made = self.made(sort)?;
            self.launch(id, SORT, rows, made);
        }
        Ok(())
    }

    fn made(&self, asked: Asked<T::Kernel>) -> Result<Made<T::Kernel>, String> {
        Ok(match asked {
            Asked::Kernel(spec, args) => Made { choices: vec![self.kernels.kernel(spec)?.into()], linear: None, args },
            Asked::Made(made) => made,
        })
    }

    /// What a node asks for; nothing where the caller provides the value.
    fn asked(&mut self, id: NodeId) -> Result<Option<Asked<T::Kernel>>, String> {
        let pointwise = |this: &mut Self, operation| this.pointwise(id, operation);
        let op = &self.request.graph.node(id).op;
        let (spec, args) = match op {
            Op::Tokens(_) | Op::Positions(_) => return Ok(None),
            Op::Linear(op) => return self.linear(id, &op.weight, op.bias.as_ref(), None).map(Some),
            Op::ExpertLinear(op) => {
                let Ty::Routing { rows, experts, .. } = self.operand_ty(id, 1)? else {
                    return Err("its second operand is no routing".into());
                };
                let shared = self.operand_ty(id, 0)?.matrix().is_some_and(|(of_x, _)| of_x == rows);
                let experts = Experts { count: size(experts)?, shared };
                return self.linear(id, &op.weight, op.bias.as_ref(), Some(experts)).map(Some);
            }
            Op::Quantize(_) => return self.quantize(id).map(Some),
            Op::Embed(op) => self.embed(id, op)?,
            Op::RmsNorm(op) => {
                let (width, weight) = (self.width(id, 0)?, self.norm_vector(op.weight.as_ref(), op.group)?);
                let params: Vec<&ParamName> = op.weight.iter().collect();
                (Any::RmsNorm(RmsNorm { width, group: op.group, eps: op.eps, weight }), self.args(id, &params)?)
            }
            Op::LayerNorm(op) => {
                let [weight, bias] = [&op.weight, &op.bias].map(|name| self.norm_vector(name.as_ref(), op.group));
                let (width, weight, bias) = (self.width(id, 0)?, weight?, bias?);
                let params: Vec<&ParamName> = op.weight.iter().chain(&op.bias).collect();
                (Any::LayerNorm(LayerNorm { width, group: op.group, eps: op.eps, weight, bias }), self.args(id, &params)?)
            }
            Op::Hadamard(op) => {
                let spec = Hadamard { width: self.width(id, 0)?, block: op.block, seed: op.seed, inverse: op.inverse };
                (Any::Hadamard(spec), self.args(id, &[])?)
            }
            Op::Route(op) => self.route(id, op)?,
            Op::Combine(_) => {
                let Ty::Routing { choices, .. } = self.operand_ty(id, 1)? else {
                    return Err("its second operand is no routing".into());
                };
                (Any::Combine(Combine { width: self.width(id, 0)?, choices: choices.into() }), self.args(id, &[])?)
            }
            Op::Rotary(op) => {
                let Ty::Rotary { half } = self.result(id)? else { return Err("its result is no rotary".into()) };
                (Any::Rotary(Rotary { half, scale: op.scale }), self.args(id, &[&op.inv_freq])?)
            }
            Op::Rope(op) => {
                let Ty::Rotary { half } = self.operand_ty(id, 1)? else { return Err("its second operand is no rotary".into()) };
                let spec = Rope { width: self.width(id, 0)?, head_dim: op.head_dim, half, style: op.style };
                (Any::Rope(spec), self.args(id, &[])?)
            }
            Op::Append(op) => self.append(id, op)?,
            Op::Attention(op) => return self.attention(id, op).map(Some),
            Op::LatentAttention(op) => self.latent_attention(id, op)?,
            Op::Glu(op) => {
                let (activation, limit) = (op.activation, op.limit);
                pointwise(self, Operation::Glu { activation, limit, alpha: op.alpha, offset: op.offset })?
            }
            Op::Activate(op) => pointwise(self, Operation::Activate(op.kind))?,
            Op::Add(_) => pointwise(self, Operation::Add)?,
            Op::Mul(_) => pointwise(self, Operation::Mul)?,
            Op::Scale(op) => pointwise(self, Operation::Scale(op.factor))?,
            Op::Softcap(op) => pointwise(self, Operation::Softcap(op.cap))?,
            Op::Columns(op) => {
                let spec = Columns { width: self.width(id, 0)?, start: op.start, len: op.len };
                (Any::Columns(spec), self.args(id, &[])?)
            }
            Op::Select(_) => {
                let args = vec![self.read(id, 0)?, Arg::Input(Input::LogitRows), self.write(id)?];
                (Any::Select(Select { width: self.width(id, 0)? }), args)
            }
        };
        Ok(Some(Asked::Kernel(spec, args)))
    }

    fn embed(&mut self, id: NodeId, op: &q35::Embed) -> Result<(Any, Vec<Arg>), String> {
        let packed = self.packed(&op.table)?;
        let table = self.table(&packed, "an embedding table")?;
        let shared = self.is_linear_weight(&op.table);
        let as_weight = shared && !self.kernels.reads_rows(packed.codec);
        let mut args = vec![self.read(id, 0)?];
        args.extend(self.table_args(&op.table, table, if shared { Use::Tiles } else { Use::Rows })?);
        args.push(self.write(id)?);
        Ok((Any::Embed(Embed { width: packed.cols, table, as_weight }), args))
    }

    fn pointwise(&mut self, id: NodeId, operation: Operation) -> Result<(Any, Vec<Arg>), String> {
        let width = self.width(id, 0)?;
        let column = width != 1 && self.request.graph.operand(id, 1).is_some() && self.width(id, 1)? == 1;
        Ok((Any::Pointwise(Pointwise { operation, width, column }), self.args(id, &[])?))
    }

    fn append(&mut self, id: NodeId, op: &q35::Append) -> Result<(Any, Vec<Arg>), String> {
        let Ty::Cache { layer, kv_heads, key_dim, value_dim, dtype } = self.result(id)? else {
            return Err("its result is no cache".into());
        };
        debug_assert_eq!((layer, kv_heads, dtype), (op.layer, op.kv_heads, op.dtype));
        self.selected.cache.insert(layer, CacheLayer { kv_heads, key_dim, value_dim, window: None, dtype });
        let mut args = vec![self.read(id, 0)?, self.read(id, 1)?, Arg::Input(Input::Slots), Arg::Input(Input::Index)];
        args.extend(cache(layer));
        Ok((Any::Append(Append { kv_heads, key_dim, value_dim, dtype }), args))
    }

    /// The arguments of attention up to the cache's halves; heads, columns of a key and columns of a value in the cache, and its element type.
    fn attended(&mut self, id: NodeId, window: Option<u64>) -> Result<(Vec<Arg>, [u64; 3], CacheDtype), String> {
        let Ty::Cache { layer, kv_heads, key_dim, value_dim, dtype } = self.operand_ty(id, 1)? else {
            return Err("its second operand is no cache".into());
        };
        if let Some(cache) = self.selected.cache.get_mut(&layer) {
            cache.window = window;
        }
        let mut args = vec![self.read(id, 0)?, Arg::Input(Input::Slots), Arg::Input(Input::Index)];
        args.extend(cache(layer));
        Ok((args, [kv_heads, key_dim, value_dim], dtype))
    }

    fn attention(&mut self, id: NodeId, op: &q35::Attention) -> Result<Asked<T::Kernel>, String> {
        let (mut args, [kv_heads, key_dim, value_dim], dtype) = self.attended(id, op.window)?;
        if let Some(name) = &op.sinks {
            args.push(self.vector(name)?);
        }
        args.push(self.write(id)?);
        let scores = Scores { scale: op.scale, window: op.window, softcap: op.softcap };
        let spec = Attention { heads: op.heads, kv_heads, key_dim, value_dim, dtype, scores, sinks: op.sinks.is_some() };
        let Some(split) = self.kernels.split(&spec) else { return Ok(Asked::Kernel(Any::Attention(spec), args)) };
        let value = Value { node: id, result: 0 };
        let parts = Stored { value, form: Form::Parts };
        self.selected.sizes.insert(parts, (q35_bundle::Rows::Tokens, split.bytes));
        args.push(Arg::Write(parts));
        // The result has its place since the launch before: the join completes it there, and whoever reads it comes later.
        let mut of_join = vec![Arg::Read(parts)];
        if let Some(name) = &op.sinks {
            of_join.push(self.vector(name)?);
        }
        of_join.push(Arg::Read(value.into()));
        self.join = Some(Made { choices: vec![split.join.into()], linear: None, args: of_join });
        Ok(Asked::Made(Made { choices: split.choices, linear: None, args }))
    }

    fn latent_attention(&mut self, id: NodeId, op: &q35::LatentAttention) -> Result<(Any, Vec<Arg>), String> {
        let (mut args, [_, latent, rotated], dtype) = self.attended(id, op.window)?;
        let [keys, values] = [self.packed(&op.keys)?, self.packed(&op.values)?];
        let spec = LatentAttention {
            heads: op.heads,
            latent,
            rotated,
            dtype,
            key_dim: keys.rows / op.heads,
            value_dim: values.rows / op.heads,
            keys: self.table(&keys, EXPANSION)?,
            values: self.table(&values, EXPANSION)?,
            scores: Scores { scale: op.scale, window: op.window, softcap: op.softcap },
        };
        args.extend(self.table_args(&op.keys, spec.keys, Use::Rows)?);
        args.extend(self.table_args(&op.values, spec.values, Use::Rows)?);
        args.push(self.write(id)?);
        Ok((Any::LatentAttention(spec), args))
    }

    fn route(&mut self, id: NodeId, op: &q35::Route) -> Result<(Any, Vec<Arg>), String> {
        let spec = Route::of(op, self.width(id, 0)?);
        let correction: Vec<&ParamName> = op.correction.iter().collect();
        Ok((Any::Route(spec), self.args(id, &correction)?))
    }

    fn sort(&mut self, routing: Value, rows: Rows, experts: u64, choices: u32) -> Result<Asked<T::Kernel>, String> {
        let routed = rows.routed(choices).ok_or_else(|| "its rows are routed already".to_owned())?;
        let args = vec![Arg::Read(routing.into()), self.write_as(routing, Form::Sorted)?];
        Ok(Asked::Kernel(Any::SortByExpert(SortByExpert { experts, routed }), args))
    }

    fn quantize(&mut self, id: NodeId) -> Result<Asked<T::Kernel>, String> {
        if self.kernels.operand() != Operand::Rounded {
            return Err(format!("activations are not rounded to integers {}", self.kernels.place()));
        }
        let choices = vec![self.kernels.to_operand(self.width(id, 0)?).into()];
        Ok(Asked::Made(Made { choices, linear: None, args: self.args(id, &[])? }))
    }

    fn linear(
        &mut self,
        id: NodeId,
        weight: &ParamName,
        bias: Option<&ParamName>,
        experts: Option<Experts>,
    ) -> Result<Asked<T::Kernel>, String> {
        let Ty::Act { rows, .. } = self.result(id)? else { return Err("its result is no activation".into()) };
        let packed = self.packed(weight)?;
        let count = experts.map_or(1, |experts| experts.count);
        let spec = spec(&Packed { rows: packed.rows / count as u64, ..packed })?;
        let linear = Linear { rows, bias: bias.is_some(), experts, ..Linear::new(spec) };
        let choices = self.kernels.linear(&linear)?;
        let rounded = matches!(self.operand_ty(id, 0)?, Ty::Quant { .. });
        let takes_rounded = linear.takes_operand() && self.kernels.operand() == Operand::Rounded;
        if rounded != takes_rounded {
            let word = |rounded: bool| if rounded { "rounded" } else { "f32" };
            let (has, takes) = (word(rounded), word(takes_rounded));
            return Err(format!("a weight in codec {} takes {takes} activations, and these are {has}", spec.codec()));
        }
        let mut args = vec![if linear.takes_operand() && !rounded { self.pack(id)? } else { self.read(id, 0)? }];
        if experts.is_some() {
            let routing = self.operand(id, 1)?;
            args.extend([Arg::Read(routing.into()), Arg::Read(Stored { value: routing, form: Form::Sorted })]);
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
        Ok(Asked::Made(Made { choices, linear: Some(linear), args }))
    }

    /// The first operand of a node packed; the first who asks gets a launch for it.
    fn pack(&mut self, id: NodeId) -> Result<Arg, String> {
        let (value, ty) = (self.operand(id, 0)?, self.operand_ty(id, 0)?);
        let Ty::Act { rows, width } = ty else { return Err(format!("its operand is {ty}, no activation")) };
        let packed = Stored { value, form: Form::Packed };
        if !self.is_written(packed) {
            let args = vec![self.read(id, 0)?, self.write_as(value, Form::Packed)?];
            let made = Made { choices: vec![self.kernels.to_operand(width).into()], linear: None, args };
            self.launch(id, PACK, rows, made);
        }
        Ok(Arg::Read(packed))
    }
}

/// Both halves of a cache layer.
fn cache(layer: u32) -> [Arg; 2] {
    [CachePart::Key, CachePart::Value].map(|part| Arg::Cache(layer, part))
}
