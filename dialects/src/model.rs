//! A model: a graph of q35 ops, its parameters, and what the user's own graph looked like from outside.

use crate::attr::ParamName;
use crate::q35::Op;
use crate::semantics::{Packed, ParamTable};
use crate::ty::Ty;
use q35_bundle::{Interface, ModelFacts};
use q35_format::{Codec, Group};
use q35_graph::{NodeId, Value, WeightView};
use std::collections::BTreeMap;

/// A graph of q35 ops. Every node has exactly one result.
pub type Graph = q35_graph::Graph<Op, Ty>;

/// Name of a model's one output.
pub const LOGITS: &str = "logits";

/// What a parameter is to the model; options such as `--codec` speak of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParamRole {
    /// The weight of a linear layer.
    Linear,
    /// A matrix that turns latent vectors into the keys or the values of all heads. Read by rows, and never rotated.
    Expansion,
    /// The linear layer that scores the experts of a layer.
    Router,
    /// The linear layer that makes the logits.
    Head,
    /// The table of token embeddings.
    Embedding,
    /// A vector: a norm's weight, a bias, frequencies, sinks. Stored as f32.
    Vector,
}

impl ParamRole {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Expansion => "expansion",
            Self::Router => "router",
            Self::Head => "head",
            Self::Embedding => "embedding",
            Self::Vector => "vector",
        }
    }
}

/// What the layers in an integer codec multiply their weights with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// Integers of 8 bits with a scale per token, found as the model runs.
    Int8,
    /// Floating point, as the layer before left it.
    Float,
}

impl Activations {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Float => "float",
        }
    }
}

impl std::str::FromStr for Activations {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Int8, Self::Float].into_iter().find(|a| a.name() == word).ok_or_else(|| format!("'{word}' is not int8 or float"))
    }
}

/// A change of a parameter's numbers between the model file and the codec. In a list they apply in order, in f32.
#[derive(Clone, Debug)]
pub enum Transform {
    /// Column `k` times element `k` of a vector: a norm's weight folded into the layer that follows.
    ScaleColumns(WeightView),
    /// Row `n` times element `n` of a vector.
    ScaleRows(WeightView),
    /// Every element times a number.
    Scale(f32),
    /// `W <- W R^T`, the rotation `R` of every row, so that `W' (R x) = W x`. For an embedding table and for a bias, whose rows
    /// are outputs, this rotates what comes out.
    RotateInput {
        /// Block of the rotation; divides the columns.
        block: u64,
        /// Seed of its signs.
        seed: u64,
    },
    /// `W <- R W`, the rotation `R` of every column, so that `W' x = R (W x)`.
    RotateOutput {
        /// Block of the rotation; divides the rows.
        block: u64,
        /// Seed of its signs.
        seed: u64,
    },
}

/// A parameter: where its numbers come from and how they will be stored.
#[derive(Clone, Debug)]
pub struct Param {
    /// The numbers in the model file; a vector is one row.
    pub source: WeightView,
    /// Changes on the way.
    pub transforms: Vec<Transform>,
    /// The codec asked for this layer, where it is another than that of all layers.
    pub asked: Option<Codec>,
    /// How it will be stored.
    pub codec: Codec,
    /// Which columns share a scale.
    pub group: Group,
    /// What it is to the model.
    pub role: ParamRole,
    /// Name of the tensor in the user's model.
    pub origin: String,
}

impl Param {
    /// A parameter that is stored as it is, in f32.
    pub fn new(source: WeightView, role: ParamRole, origin: impl Into<String>) -> Self {
        Self { source, transforms: Vec::new(), asked: None, codec: Codec::F32, group: Group::Row, role, origin: origin.into() }
    }

    /// Shape and storage.
    pub fn packed(&self) -> Packed {
        Packed { rows: self.source.rows(), cols: self.source.cols(), codec: self.codec, group: self.group }
    }
}

/// A model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The ops. Its one output is [`LOGITS`].
    pub graph: Graph,
    /// The parameters that the ops name.
    pub params: BTreeMap<ParamName, Param>,
    /// Size, name, context.
    pub facts: ModelFacts,
    /// The user's graph from outside.
    pub interface: Interface,
}

/// All of a model that a target needs: ops and the shapes of their parameters.
#[derive(Clone, Debug)]
pub struct Program {
    /// The ops. Its one output is [`LOGITS`].
    pub graph: Graph,
    /// Shape and storage of the parameters.
    pub params: BTreeMap<ParamName, Packed>,
}

impl Model {
    /// What targets get of it.
    pub fn program(&self) -> Program {
        let params = self.params.iter().map(|(name, param)| (name.clone(), param.packed())).collect();
        Program { graph: self.graph.clone(), params }
    }

    /// Adds an op whose result has the type that inference gives it.
    pub fn add(&mut self, name: impl Into<String>, op: impl Into<Op>, operands: &[Value]) -> Result<Value, String> {
        let op = op.into();
        let types: Vec<Ty> = operands.iter().map(|value| *self.graph.ty(*value)).collect();
        let result = op.infer(&types, &self.params)?;
        let operands: Vec<Option<Value>> = operands.iter().copied().map(Some).collect();
        Ok(Value { node: self.graph.add(name, op, &operands, vec![result]), result: 0 })
    }

    /// Infers the type of every node anew, in topological order, after a pass changed ops or parameters.
    pub fn reinfer(&mut self) -> Result<(), String> {
        let order = self.graph.topological().ok_or("the graph has a cycle")?;
        for id in order {
            let result = infer_node(&self.graph, id, &self.params)?;
            self.graph.node_mut(id).results = vec![result];
        }
        Ok(())
    }

    /// Removes parameters that no op names. Returns how many went.
    pub fn drop_unused_params(&mut self) -> usize {
        let used: std::collections::BTreeSet<ParamName> =
            self.graph.ids().flat_map(|id| self.graph.node(id).op.params()).collect();
        let before = self.params.len();
        self.params.retain(|name, _| used.contains(name));
        before - self.params.len()
    }

    /// The value that is the logits, if the graph has that output.
    pub fn logits(&self) -> Option<Value> {
        self.graph.outputs.iter().find(|(name, _)| name == LOGITS).map(|(_, value)| *value)
    }
}

/// The type that inference gives a node, from the types its operands have now.
pub(crate) fn infer_node(graph: &Graph, id: NodeId, params: &dyn ParamTable) -> Result<Ty, String> {
    let node = graph.node(id);
    let mut types = Vec::new();
    for (at, operand) in graph.operands(id).into_iter().enumerate() {
        let operand = operand.ok_or_else(|| format!("operand {at} is absent"))?;
        types.push(*graph.node(operand.node).results.get(operand.result as usize).ok_or("an operand has no type")?);
    }
    node.op.infer(&types, params)
}
