//! A program while its kernels are chosen: types, parameters and arguments of its nodes.

use super::place;
use super::weights::Weights;
use super::{Arg, Form, Launch, Selected, Stored};
use crate::kernels::{Choice, Kernels, Use};
use crate::spec::{Linear, NormWeight, Table};
use q35_bundle::Input;
use q35_dialects::q35::Op;
use q35_dialects::{Packed, ParamName, Rows, Ty};
use q35_format::{Codec, PackedSpec};
use q35_graph::{NodeId, Value};
use q35_target::{Request, Section};
use std::collections::{BTreeMap, BTreeSet};

/// What has been chosen so far, and what it is chosen from.
pub(super) struct Selection<'a, T: Kernels> {
    pub(super) request: &'a Request<'a>,
    pub(super) kernels: &'a T,
    /// Parameters that a linear layer reads; an embedding that shares one reads it in the same arrangement.
    linear_weights: BTreeSet<ParamName>,
    pub(super) selected: Selected<T::Kernel>,
    weights: Weights,
    /// What has to follow the launch of the node that is being looked at.
    pub(super) join: Option<Made<T::Kernel>>,
}

/// A node's kernels and arguments.
pub(super) struct Made<K: ?Sized> {
    pub(super) choices: Vec<Choice<K>>,
    pub(super) linear: Option<Linear>,
    pub(super) args: Vec<Arg>,
}

impl<'a, T: Kernels> Selection<'a, T> {
    pub(super) fn new(request: &'a Request<'a>, kernels: &'a T) -> Self {
        let linear_weights = request.graph.ids().filter_map(|id| match &request.graph.node(id).op {
            Op::Linear(linear) => Some(linear.weight.clone()),
            _ => None,
        });
        let selected = Selected {
            launches: Vec::new(),
            weights: BTreeMap::new(),
            cache: BTreeMap::new(),
            output: request.graph.outputs.first().map(|(_, value)| Stored::from(*value)),
            sizes: BTreeMap::new(),
        };
        Self { request, kernels, linear_weights: linear_weights.collect(), selected, weights: Weights::default(), join: None }
    }

    pub(super) fn into_selected(self) -> Selected<T::Kernel> {
        Selected { weights: self.weights.into_tensors(), ..self.selected }
    }

    pub(super) fn launch(&mut self, id: NodeId, op: &str, rows: Rows, made: Made<T::Kernel>) {
        let Made { choices, linear, args } = made;
        let node = self.request.graph.node(id).name.clone();
        self.selected.launches.push(Launch { node, op: op.to_owned(), rows, choices, linear, args });
    }

    /// Whether a linear layer reads a parameter too.
    pub(super) fn is_linear_weight(&self, name: &ParamName) -> bool {
        self.linear_weights.contains(name)
    }

    /// Operands in order, vectors, result: how most kernels take their arguments.
    pub(super) fn args(&mut self, id: NodeId, params: &[&ParamName]) -> Result<Vec<Arg>, String> {
        let operands = self.request.graph.operands(id).len();
        let mut args: Vec<Arg> = (0..operands).map(|at| self.read(id, at)).collect::<Result<_, _>>()?;
        for name in params {
            args.push(self.vector(name)?);
        }
        args.push(self.write(id)?);
        Ok(args)
    }

    pub(super) fn read(&self, id: NodeId, at: usize) -> Result<Arg, String> {
        let value = self.operand(id, at)?;
        Ok(match self.request.graph.node(value.node).op {
            Op::Tokens(_) => Arg::Input(Input::Tokens),
            Op::Positions(_) => Arg::Input(Input::Positions),
            _ => Arg::Read(value.into()),
        })
    }

    pub(super) fn write(&mut self, id: NodeId) -> Result<Arg, String> {
        self.write_as(Value { node: id, result: 0 }, Form::Plain)
    }

    /// The argument that writes a value in a form.
    pub(super) fn write_as(&mut self, value: Value, form: Form) -> Result<Arg, String> {
        let ty = self.request.graph.ty(value);
        let size = place::size(self.kernels, ty, form).ok_or_else(|| format!("a value of type {ty} is no buffer"))?;
        let stored = Stored { value, form };
        self.selected.sizes.insert(stored, size);
        Ok(Arg::Write(stored))
    }

    /// Whether a launch writes a value in a form.
    pub(super) fn is_written(&self, stored: Stored) -> bool {
        self.selected.sizes.contains_key(&stored)
    }

    pub(super) fn vector(&mut self, name: &ParamName) -> Result<Arg, String> {
        vector_spec(&self.packed(name)?)?;
        self.weight(name, Section::Codes, Use::Rows)
    }

    pub(super) fn weight(&mut self, name: &ParamName, section: Section, used: Use) -> Result<Arg, String> {
        let spec = spec(&self.packed(name)?)?;
        Ok(Arg::Weight(self.weights.tensor(self.kernels, name, &spec, section, used)))
    }

    /// The arguments that a table is.
    pub(super) fn table_args(&mut self, name: &ParamName, table: Table, used: Use) -> Result<Vec<Arg>, String> {
        let mut args = vec![self.weight(name, Section::Codes, used)?];
        if matches!(table, Table::Q8(..)) {
            args.push(self.weight(name, Section::Scales, used)?);
        }
        Ok(args)
    }

    /// How the rows of a parameter are read that `what` calls by its kind.
    pub(super) fn table(&self, packed: &Packed, what: &str) -> Result<Table, String> {
        Ok(match packed.codec {
            Codec::F32 => Table::F32,
            Codec::F16 => Table::F16,
            Codec::Bf16 => Table::Bf16,
            Codec::Q8 => Table::Q8(packed.group, spec(packed)?.scale()),
            codec => return Err(format!("{what} in codec {codec} has no kernel {}", self.kernels.place())),
        })
    }

    /// How the columns of a norm read a vector.
    pub(super) fn norm_vector(&self, name: Option<&ParamName>, group: u64) -> Result<NormWeight, String> {
        Ok(match name {
            None => NormWeight::None,
            Some(name) if self.packed(name)?.cols == group => NormWeight::Shared,
            Some(_) => NormWeight::PerColumn,
        })
    }

    pub(super) fn packed(&self, name: &ParamName) -> Result<Packed, String> {
        self.request.params.get(name).copied().ok_or_else(|| format!("there is no parameter @{name}"))
    }

    pub(super) fn result(&self, id: NodeId) -> Result<Ty, String> {
        self.request.graph.node(id).results.first().copied().ok_or_else(|| "it has no result".to_owned())
    }

    pub(super) fn operand(&self, id: NodeId, at: usize) -> Result<Value, String> {
        self.request.graph.operand(id, at).ok_or_else(|| format!("operand {at} is absent"))
    }

    pub(super) fn operand_ty(&self, id: NodeId, at: usize) -> Result<Ty, String> {
        Ok(*self.request.graph.ty(self.operand(id, at)?))
    }

    pub(super) fn width(&self, id: NodeId, at: usize) -> Result<u64, String> {
        let ty = self.operand_ty(id, at)?;
        ty.matrix().map(|(_, width)| width).ok_or_else(|| format!("operand {at} is {ty}, no matrix"))
    }
}

pub(super) fn size(n: u64) -> Result<usize, String> {
    usize::try_from(n).map_err(|_| "a parameter is too large".to_owned())
}

pub(super) fn spec(packed: &Packed) -> Result<PackedSpec, String> {
    PackedSpec::new(size(packed.rows)?, size(packed.cols)?, packed.codec, packed.group).map_err(|error| error.to_string())
}

pub(super) fn vector_spec(packed: &Packed) -> Result<(), String> {
    if (packed.rows, packed.codec) == (1, Codec::F32) {
        return Ok(());
    }
    Err(format!("a {}x{} {} parameter stands where a vector in f32 is needed", packed.rows, packed.cols, packed.codec))
}
