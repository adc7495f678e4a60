//! Elements and shapes of source values, on demand and symbolically.
//!
//! What enters: a source graph, and the dimensions of its inputs. What leaves: for any value its shape, and for any value and index
//! the element there, as expressions of one [`Arena`]. Shapes computed by the graph itself (`Shape`, `Gather`, `Concat`, ... on integers)
//! need nothing special: the target of a reshape is read element by element like everything else.
//!
//! What each op means stands in [`table`], one row per op. Rows of compute ops (matrix products, softmax, attention) are opaque: their
//! elements are loads from the value itself. Whoever recognises such a value *cuts* it ([`Eval::cut`]): from then on its elements are
//! what the cut says.
//!
//! This module must not know what a decoder is.

pub(crate) mod choices;
mod creation;
pub(crate) mod dequantize;
pub(crate) mod elementwise;
mod indexing;
mod places;
mod product;
pub(crate) mod reduction;
mod rotary;
mod scatter;
mod shapes;
pub mod table;
mod views;

use crate::sym::{Arena, Base, BaseId, Id, Kind};
use q35_graph::source::{Call, SourceGraph, SourceOp};
use q35_graph::{Elements, NodeId, Value};
use std::collections::{BTreeMap, HashMap};

/// Why an element or a shape cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The node that has no meaning here.
    pub node: NodeId,
    /// What is wrong with it, as the end of a sentence that starts with its name.
    pub why: String,
}

/// An element, a shape, or why not.
pub type Res<T> = Result<T, Fault>;

/// Ranks and lists longer than this are nothing a decoder has.
const LONGEST_LIST: i64 = 64;

/// Chains of ops longer than this between two compute nodes are not followed, nor are formulas nested deeper.
const DEEPEST: u32 = 256;

struct Cut {
    index: Vec<Id>,
    element: Id,
}

/// Shapes and kinds of values, and the owner of the expressions in them.
#[derive(Default)]
pub struct Known {
    /// Owner of all expressions.
    pub sym: Arena,
    /// Dimensions, outermost first.
    pub shapes: BTreeMap<Value, Vec<Id>>,
    kinds: BTreeMap<Value, Kind>,
}

impl Known {
    /// The dimensions of a graph's inputs, made in `sym`.
    pub fn new(sym: Arena, shapes: BTreeMap<Value, Vec<Id>>) -> Self {
        Self { sym, shapes, kinds: BTreeMap::new() }
    }
}

/// Evaluates one source graph.
pub struct Eval<'g> {
    /// The graph.
    pub graph: &'g SourceGraph,
    /// Owner of all expressions.
    pub sym: Arena,
    shapes: BTreeMap<Value, Vec<Id>>,
    kinds: BTreeMap<Value, Kind>,
    elements: HashMap<(Value, Box<[Id]>), Id>,
    origins: HashMap<Id, NodeId>,
    cuts: BTreeMap<Value, Cut>,
    bases: BTreeMap<Value, BaseId>,
    values: BTreeMap<BaseId, Value>,
    /// Per dimension what a `NonZero` lists.
    places: BTreeMap<NodeId, Vec<BaseId>>,
    /// The choices that a `Concat` joins, if each is the next one of the same row.
    successions: BTreeMap<NodeId, Option<Vec<NodeId>>>,
    depth: u32,
    folds: u32,
}

impl<'g> Eval<'g> {
    /// An evaluator that has seen nothing yet; `inputs` are the dimensions of the graph's inputs, made in `sym`.
    pub fn new(graph: &'g SourceGraph, sym: Arena, inputs: BTreeMap<Value, Vec<Id>>) -> Self {
        Self {
            graph,
            sym,
            shapes: inputs,
            kinds: BTreeMap::new(),
            elements: HashMap::new(),
            origins: HashMap::new(),
            cuts: BTreeMap::new(),
            bases: BTreeMap::new(),
            values: BTreeMap::new(),
            places: BTreeMap::new(),
            successions: BTreeMap::new(),
            depth: 0,
            folds: 0,
        }
    }

    /// A fault at a node.
    pub fn fault<T>(&self, node: NodeId, why: impl Into<String>) -> Res<T> {
        Err(Fault { node, why: why.into() })
    }

    /// What was found out about shapes and kinds, to go on with when the graph has grown.
    pub fn into_known(self) -> Known {
        Known { sym: self.sym, shapes: self.shapes, kinds: self.kinds }
    }

    /// An evaluator of `graph` that knows already what another found out about values that still are as they were.
    pub fn resume(graph: &'g SourceGraph, known: Known) -> Self {
        Self { kinds: known.kinds, ..Self::new(graph, known.sym, known.shapes) }
    }

    /// The call at a node.
    pub fn call(&self, node: NodeId) -> Res<&'g Call> {
        match &self.graph.node(node).op {
            SourceOp::Call(call) => Ok(call),
            _ => self.fault(node, "is no call"),
        }
    }

    /// An operand that has to be there.
    pub fn operand(&self, node: NodeId, at: usize) -> Res<Value> {
        match self.graph.operand(node, at) {
            Some(value) => Ok(value),
            None => self.fault(node, format!("lacks operand {at}")),
        }
    }

    /// What a value holds.
    pub fn kind(&mut self, value: Value) -> Res<Kind> {
        if let Some(kind) = self.kinds.get(&value) {
            return Ok(*kind);
        }
        let node = self.graph.node(value.node);
        let kind = match &node.op {
            SourceOp::Const(tensor) => Kind::of(tensor.dtype()),
            SourceOp::Input => node.results[value.result as usize].dtype.map_or(Kind::Real, Kind::of),
            SourceOp::Call(_) => self.nested(value.node, |eval| table::kind(eval, value))?,
        };
        self.kinds.insert(value, kind);
        Ok(kind)
    }

    /// The dimensions of a value, outermost first.
    pub fn shape(&mut self, value: Value) -> Res<Vec<Id>> {
        if let Some(shape) = self.shapes.get(&value) {
            return Ok(shape.clone());
        }
        let shapes: Vec<Vec<Id>> = match &self.graph.node(value.node).op {
            SourceOp::Const(tensor) => {
                vec![tensor.dims().iter().map(|d| self.sym.number(*d as f64)).collect()]
            }
            SourceOp::Input => return self.fault(value.node, "is an input of unknown shape"),
            SourceOp::Call(_) => self.nested(value.node, |eval| table::shape(eval, value.node))?,
        };
        for (result, shape) in shapes.into_iter().enumerate() {
            self.shapes.insert(Value { node: value.node, result: result as u16 }, shape);
        }
        match self.shapes.get(&value) {
            Some(shape) => Ok(shape.clone()),
            None => self.fault(value.node, format!("has no result {}", value.result)),
        }
    }

    /// The element of a value at an index.
    pub fn element(&mut self, value: Value, index: &[Id]) -> Res<Id> {
        let key = (value, Box::from(index));
        if let Some(&id) = self.elements.get(&key) {
            return Ok(id);
        }
        let rank = match self.cuts.get(&value) {
            Some(cut) => cut.index.len(),
            None => self.shape(value)?.len(),
        };
        if rank != index.len() {
            return self.fault(value.node, format!("has {rank} dimensions where {} are meant", index.len()));
        }
        let element = if let Some(cut) = self.cuts.get(&value) {
            // A variable of extent 1 is the number 0 already.
            let pairs = cut.index.iter().copied().zip(index.iter().copied());
            let map: HashMap<Id, Id> = pairs.filter(|(var, _)| self.sym.as_number(*var).is_none()).collect();
            let element = cut.element;
            self.sym.subst(element, &map)
        } else {
            match &self.graph.node(value.node).op {
                SourceOp::Const(_) | SourceOp::Input => self.opaque(value, index)?,
                SourceOp::Call(_) => self.nested(value.node, |eval| table::element(eval, value, index))?,
            }
        };
        if self.sym.depth(element) > DEEPEST {
            return self.fault(value.node, "ends a computation that is too long to follow");
        }
        self.elements.insert(key, element);
        self.origins.entry(element).or_insert(value.node);
        Ok(element)
    }

    /// The node that an expression was first the result of.
    pub fn origin(&self, expr: Id) -> Option<NodeId> {
        self.origins.get(&expr).copied()
    }

    /// The element of a value as a load from the value itself.
    pub fn opaque(&mut self, value: Value, index: &[Id]) -> Res<Id> {
        let base = self.base_of(value)?;
        Ok(self.sym.load(base, index))
    }

    /// An element of numbers that no value of the graph holds.
    pub fn constant(&mut self, (name, elements): (String, Elements), index: &[Id]) -> Id {
        let base = self.sym.add_base(Base::Constant(name, elements));
        self.sym.load(base, index)
    }

    fn base_of(&mut self, value: Value) -> Res<BaseId> {
        if let Some(&base) = self.bases.get(&value) {
            return Ok(base);
        }
        let node = self.graph.node(value.node);
        let name = match &node.results[value.result as usize].name {
            name if name.is_empty() => node.name.clone(),
            name => name.clone(),
        };
        let base = match &node.op {
            SourceOp::Const(tensor) => Base::Constant(name, tensor.clone().into()),
            SourceOp::Call(call) if call.op == "DequantizeLinear" => {
                let (name, elements) = dequantize::constant(self, value.node)?;
                Base::Constant(name, elements)
            }
            _ => Base::Opaque(name, self.kind(value)?),
        };
        let base = self.sym.add_base(base);
        self.bases.insert(value, base);
        self.values.insert(base, value);
        Ok(base)
    }

    /// The source value that a base stands for.
    pub fn value_of(&self, base: BaseId) -> Option<Value> {
        self.values.get(&base).copied()
    }

    /// Index variables for a value, one per dimension, named by `prefix` and position.
    pub fn index_vars(&mut self, value: Value, prefix: &str) -> Res<Vec<Id>> {
        let shape = self.shape(value)?;
        Ok(shape.iter().enumerate().map(|(i, d)| self.sym.var(&format!("{prefix}{i}"), *d)).collect())
    }

    /// From now on, the elements of `value` are `element`, an expression of the variables in `index`.
    pub fn cut(&mut self, value: Value, index: Vec<Id>, element: Id) {
        self.cuts.insert(value, Cut { index, element });
    }

    /// From now on, the dimensions of `value` are these: whoever recognised it knows them better than the ops that it was spelled with.
    pub fn resize(&mut self, value: Value, dims: Vec<Id>) {
        self.shapes.insert(value, dims);
    }

    /// The elements of a list of integers, of known length.
    pub fn list(&mut self, value: Value) -> Res<Vec<Id>> {
        let shape = self.shape(value)?;
        match shape.as_slice() {
            [] => Ok(vec![self.element(value, &[])?]),
            [length] => {
                let Some(length @ 0..=LONGEST_LIST) = self.sym.as_int(*length) else {
                    return self.fault(value.node, "has no fixed short length where a list is needed");
                };
                (0..length)
                    .map(|i| {
                        let i = self.sym.int(i);
                        self.element(value, &[i])
                    })
                    .collect()
            }
            _ => self.fault(value.node, "is no list"),
        }
    }

    /// Integers given as an attribute or, in newer opsets, as an operand; `None` if neither is there.
    pub fn integers(&mut self, node: NodeId, attr: &str, operand: usize) -> Res<Option<Vec<i64>>> {
        if let Some(list) = self.call(node)?.ints(attr) {
            return Ok(Some(list.to_vec()));
        }
        let Some(value) = self.graph.operand(node, operand) else { return Ok(None) };
        let list = self.list(value)?;
        match list.iter().map(|id| self.sym.as_int(*id)).collect::<Option<Vec<i64>>>() {
            Some(list) => Ok(Some(list)),
            None => self.fault(node, format!("has an operand {operand} that depends on the run")),
        }
    }

    /// An axis counted from the front.
    pub fn axis(&self, node: NodeId, axis: i64, rank: usize) -> Res<usize> {
        let from_front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(from_front) {
            Ok(axis) if axis < rank => Ok(axis),
            _ => self.fault(node, format!("names axis {axis} of {rank}")),
        }
    }

    fn nested<T>(&mut self, node: NodeId, work: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        if self.depth == DEEPEST {
            return self.fault(node, "ends a chain of ops that is too long to follow");
        }
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }
}
