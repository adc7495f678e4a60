//! Raising: a source graph becomes a model of q35 ops.
//!
//! What enters: a source graph of any exporter. What leaves: a [`Model`], or every node that could not be understood, as diagnostics.
//!
//! Control flow comes first: what folds for the context is put in place of its `If` and `Loop` nodes (`control`); where an input decides
//! between two ways, both are raised and have to be one model (`merged`).
//!
//! The nodes are walked in topological order. At *compute* nodes (products with a constant, lookups, additions of activations,
//! attention) the operands' elements are evaluated symbolically ([`crate::eval`]), an op of the model is made, and the node is *cut*: its
//! elements become loads from the new value, whose index is always (sequence, token, column), or (sequence, token, choice, column) for
//! rows that are routed to experts. Every other node means nothing by itself:
//! it contributes to the expressions in which norms (`norm`), rotations (`rope`), masks (`mask`), gates (`glu`) are recognised,
//! whatever nodes they were spelled with.
//!
//! The graph's outputs decide what is needed; since an output is recognised only if its whole expression is, nothing that logits or caches
//! depend on is dropped. Numbers of other kinds beside them (losses, a router's logits) are not part of the model.
//!
//! This module must not know exporters, weight values (except small tables of positions), or what becomes of a model.

mod activation;
mod attend;
mod attention;
mod combine;
mod control;
mod embed;
mod experts;
mod finish;
mod fused;
mod glu;
mod group_query;
mod groups;
mod heads;
mod inputs;
mod integers;
mod latent;
mod lengths;
mod linear;
mod mask;
mod merged;
mod mixer;
mod mixture;
mod norm;
mod norm_of_heads;
mod outputs;
mod params;
mod picked;
mod report;
mod residual;
mod rope;
mod rotary_table;
mod routing;
mod sinks;
mod sums;
mod unrolled;

pub use report::{Unsupported, unsupported};

use crate::eval::reduction::{SKIP_LAYER_BIAS, SKIP_RMS_BIAS};
use crate::eval::{Eval, Fault, Res};
use crate::sym::{Arena, Base, BaseId, Id, Kind, Node};
use inputs::Grid;
use linear::PendingLinear;
use q35_bundle::{Interface, ModelFacts, PositionRule};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::q35::{Op, Tokens};
use q35_dialects::{Model, ParamName, Rows, Ty};
use q35_graph::source::{SourceGraph, SourceOp};
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Context of a model that does not say how long it may get.
pub const DEFAULT_CONTEXT: u64 = 4096;

/// What the graph itself does not say.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name of the model.
    pub name: String,
    /// Longest context, as the model's configuration gives it.
    pub context: Option<u64>,
}

/// What a base of the symbolic arena is in the model.
enum Raised {
    /// A value of the model, with its width.
    Whole(Value, u64),
    /// A linear layer that is made for those columns that somebody reads.
    Linear(Box<PendingLinear>),
    /// Something that was not understood and is reported already.
    Poison,
}

/// Keys and values of one layer, for recognising the cache outputs.
struct Layer {
    /// Inputs with the keys and values of earlier tokens.
    past: Option<[Value; 2]>,
    /// New keys and values at (`b`, `s`, head `g`, column `d`).
    new: [Id; 2],
    /// The head variable in `new`.
    head: Id,
    /// The column variables in `new`.
    columns: [Id; 2],
}

/// The work in progress.
struct Raiser<'g> {
    eval: Eval<'g>,
    grid: Grid,
    model: Model,
    raised: BTreeMap<BaseId, Raised>,
    made: HashMap<(Id, u64), (Value, f64)>,
    vectors: HashMap<(Id, Id, u64), ParamName>,
    shared: BTreeMap<String, Value>,
    tables: Vec<(Vec<u32>, ParamName)>,
    /// Constants that are added to scores, each with its factor, and which entries they show.
    truths: BTreeMap<(BaseId, u64), BaseId>,
    layers: Vec<Layer>,
    routings: BTreeMap<NodeId, routing::Routing>,
    merged: HashMap<Vec<Value>, Value>,
    positions: Option<PositionRule>,
    /// Whether some attention leaves padding out, or some count does.
    masked: bool,
    warnings: Vec<Diagnostic>,
    context: u64,
    node: NodeId,
}

/// Raises a graph.
///
/// # Errors
/// Every node that could not be understood, in one list.
pub fn raise(graph: &SourceGraph, options: &Options) -> Result<Model> {
    raise_with_warnings(graph, options).map(|(model, _)| model)
}

/// Raises a graph; also says where the model is not in all respects what the graph is.
///
/// # Errors
/// As [`raise`].
pub fn raise_with_warnings(graph: &SourceGraph, options: &Options) -> Result<(Model, Vec<Diagnostic>)> {
    match merged::switch(graph) {
        Some(switch) => merged::raise_both(graph, switch, options),
        None => raise_one(graph, options),
    }
}

/// Raises a graph whose conditions are settled by what it is compiled for.
fn raise_one(graph: &SourceGraph, options: &Options) -> Result<(Model, Vec<Diagnostic>)> {
    let context = options.context.unwrap_or(DEFAULT_CONTEXT);
    let control::Settled { graph, open } = control::settle(graph, &live(graph), context);
    let graph = &*graph;
    let live = live(graph);
    let unknown = report::Unknown::of(graph, &live, open);
    let mut sym = Arena::default();
    let (grid, dims) = match inputs::classify(graph, &live, &mut sym) {
        // What cannot be settled may be what hides the inputs' readers.
        Err(_) if unknown.has_open() => return Err(unknown.diagnostics()),
        classified => classified?,
    };
    let facts = ModelFacts { name: options.name.clone(), vocab: 0, hidden: 0, layers: 0, context: 0, parameters: 0 };
    let interface = Interface { inputs: Vec::new(), outputs: Vec::new(), positions: PositionRule::Column };
    let mut raiser = Raiser {
        eval: Eval::new(graph, sym, dims),
        grid,
        model: Model { graph: q35_dialects::Graph::new(), params: BTreeMap::new(), facts, interface },
        raised: BTreeMap::new(),
        made: HashMap::new(),
        vectors: HashMap::new(),
        shared: BTreeMap::new(),
        tables: Vec::new(),
        truths: BTreeMap::new(),
        layers: Vec::new(),
        routings: BTreeMap::new(),
        merged: HashMap::new(),
        positions: None,
        masked: false,
        warnings: Vec::new(),
        context,
        node: NodeId::new(0),
    };
    let mut faults = Vec::new();
    for node in graph.topological().unwrap_or_default() {
        if live.contains(&node) && matches!(graph.node(node).op, SourceOp::Call(_)) {
            raiser.node = node;
            if let Err(fault) = raiser.visit(node) {
                raiser.replace(node);
                faults.push(fault);
            }
        }
    }
    // What is wrong with outputs behind an unknown op follows from it.
    if let (Err(more), true) = (raiser.outputs(), unknown.is_empty()) {
        faults.extend(more);
    }
    report::faults(graph, &unknown, faults)?;
    let warnings = std::mem::take(&mut raiser.warnings);
    Ok((raiser.finish()?, warnings))
}

/// The nodes that wanted outputs depend on.
fn live(graph: &SourceGraph) -> BTreeSet<NodeId> {
    let mut live = BTreeSet::new();
    let mut work: Vec<NodeId> = outputs::wanted(graph).into_iter().map(|(_, value)| value.node).collect();
    while let Some(node) = work.pop() {
        if live.insert(node) {
            work.extend(graph.operands(node).into_iter().flatten().map(|value| value.node));
        }
    }
    live
}

impl Raiser<'_> {
    /// Infers a node's shapes and cuts it if it computes.
    fn visit(&mut self, node: NodeId) -> Res<()> {
        let output = Value { node, result: 0 };
        self.eval.shape(output)?;
        self.eval.kind(output)?;
        let call = self.eval.call(node)?;
        match (call.domain.as_str(), call.op.as_str()) {
            ("", "Gather") => self.embed(node),
            ("", "MatMul") if self.is_constant(node, 1) => self.matmul(node),
            ("", "MatMul") => match self.gathered_product(node)? {
                true => Ok(()),
                false => self.probabilities_times_values(node),
            },
            ("", "MatMulInteger") => self.integer_product(node),
            ("", "Gemm") => self.gemm(node),
            ("", "Concat") => self.grouped_product(node),
            ("", "Add") => self.residual(node),
            ("", "Attention") => self.attention_op(node),
            ("com.microsoft", "FusedMatMul") if self.is_constant(node, 1) => self.fused_matmul(node),
            ("com.microsoft", "MultiHeadAttention") => self.multi_head(node),
            ("com.microsoft", "MatMulIntegerToFloat") => self.scaled_integer_product(node),
            ("com.microsoft", "DynamicQuantizeMatMul") => self.rounding_product(node),
            ("com.microsoft", "MatMulNBits") => self.block_matmul(node),
            ("com.microsoft", "GatherBlockQuantized") => self.block_embed(node),
            ("com.microsoft", "SkipSimplifiedLayerNormalization") => self.skip_residual(node, SKIP_RMS_BIAS),
            ("com.microsoft", "SkipLayerNormalization") => self.skip_residual(node, SKIP_LAYER_BIAS),
            ("com.microsoft", "GroupQueryAttention") => self.group_query(node),
            ("com.microsoft", "MoE" | "QMoE") => self.mixture(node),
            _ => Ok(()),
        }
    }

    /// A fault at the node being visited.
    fn fault<T>(&self, why: impl Into<String>) -> Res<T> {
        self.eval.fault(self.node, why)
    }

    /// What a fault says that follows from one already reported.
    fn consequence<T>(&self) -> Res<T> {
        self.fault("")
    }

    /// Whether an operand is made of constants only.
    fn is_constant(&self, node: NodeId, operand: usize) -> bool {
        let graph = self.eval.graph;
        let mut work: Vec<NodeId> = graph.operand(node, operand).map(|v| v.node).into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(node) = work.pop() {
            if seen.insert(node) {
                match &graph.node(node).op {
                    SourceOp::Const(_) => {}
                    SourceOp::Input => return false,
                    SourceOp::Call(call) => {
                        // The second operand of this one gives a type, and no number.
                        let count = if call.op == "CastLike" { 1 } else { usize::MAX };
                        work.extend(graph.operands(node).into_iter().take(count).flatten().map(|v| v.node));
                    }
                }
            }
        }
        !seen.is_empty()
    }

    /// Does some work in the name of the node that an expression is the result of, if there is one.
    fn on_behalf<T>(&mut self, exprs: &[Id], work: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        let origin = exprs.iter().find_map(|expr| self.eval.origin(*expr)).unwrap_or(self.node);
        let here = std::mem::replace(&mut self.node, origin);
        let result = work(self);
        self.node = here;
        result
    }

    /// Notes a layer of the cache.
    fn new_layer(&mut self, layer: Layer) -> Res<()> {
        let taken = |value: &Value| self.layers.iter().filter_map(|l| l.past).flatten().any(|other| other == *value);
        if layer.past.iter().flatten().any(taken) {
            return self.fault("shares its cache with another layer");
        }
        self.layers.push(layer);
        Ok(())
    }

    /// The name that a node's ops get in the model.
    fn name(&self) -> String {
        self.eval.graph.node(self.node).name.clone()
    }

    /// Adds an op to the model.
    fn add(&mut self, op: impl Into<Op>, operands: &[Value]) -> Res<Value> {
        let name = self.name();
        self.model.add(name, op, operands).or_else(|why| self.fault(format!("does not fit together: {why}")))
    }

    /// The value of an op that is the same for the whole step, made at first use.
    fn once(&mut self, key: &str, op: impl Into<Op>, operands: &[Value]) -> Res<Value> {
        if let Some(&value) = self.shared.get(key) {
            return Ok(value);
        }
        let value = self.add(op, operands)?;
        self.shared.insert(key.to_owned(), value);
        Ok(value)
    }

    /// Makes the source value's elements loads from something raised, at (sequence, token, column).
    fn cut(&mut self, source: Value, index: Vec<Id>, raised: Raised, at: [Id; 3], factor: f64) {
        let base = self.raise_base(raised);
        let load = self.eval.sym.load(base, &at);
        let element = self.eval.sym.scaled(load, factor);
        self.eval.cut(source, index, element);
    }

    /// A base for something raised.
    fn raise_base(&mut self, raised: Raised) -> BaseId {
        let name = format!("%{}", self.raised.len());
        let base = self.eval.sym.add_base(Base::Opaque(name, Kind::Real));
        self.raised.insert(base, raised);
        base
    }

    /// Gives a node that was not understood results that stand for anything, so that the nodes after it are still looked at.
    fn replace(&mut self, node: NodeId) {
        for result in 0..self.eval.graph.node(node).results.len() as u16 {
            let value = Value { node, result };
            let (b, s) = (self.grid.b, self.grid.s);
            match self.row_index(value, "n") {
                Ok(Some((index, width))) if index.len() == 3 && index[..2] == [b, s] => {
                    let ty = Ty::Act { rows: Rows::Tokens, width };
                    let stand_in = self.model.graph.add("", Tokens {}.into(), &[], vec![ty]);
                    self.cut(
                        value,
                        index.clone(),
                        Raised::Whole(Value { node: stand_in, result: 0 }, width),
                        [b, s, index[2]],
                        1.0,
                    );
                }
                Ok(Some((index, _))) => {
                    let base = self.raise_base(Raised::Poison);
                    let load = self.eval.sym.load(base, &index);
                    self.eval.cut(value, index, load);
                }
                _ => {}
            }
        }
    }

    /// Whether an expression depends on something reported already.
    fn is_poisoned(&self, expr: Id) -> bool {
        !self.eval.sym.visit(expr, |_, node| match node {
            Node::Load(base, _) => !matches!(self.raised.get(base), Some(Raised::Poison)),
            _ => true,
        })
    }

    /// Whether an expression depends on anything but constants.
    fn is_varying(&self, expr: Id) -> bool {
        !self.eval.sym.visit(expr, |_, node| match node {
            Node::Load(base, _) => matches!(self.eval.sym.base(*base), Base::Constant(..)),
            _ => true,
        })
    }

    /// Index variables of a value whose last dimension is columns: the grid's own variables where a leading dimension is the
    /// batch or the tokens. The last is `column`, and the result says how many columns there are.
    fn row_index(&mut self, value: Value, column: &str) -> Res<Option<(Vec<Id>, u64)>> {
        let shape = self.eval.shape(value)?;
        let Some((&last, leading)) = shape.split_last() else { return Ok(None) };
        let Some(width) = self.eval.sym.as_int(last).filter(|w| *w > 0) else { return Ok(None) };
        let (mut batch, mut tokens) = (Some(self.grid.batch), Some(self.grid.tokens));
        let mut index = Vec::with_capacity(shape.len());
        for (i, &dim) in leading.iter().enumerate() {
            index.push(if batch == Some(dim) {
                batch = None;
                self.grid.b
            } else if tokens == Some(dim) {
                tokens = None;
                self.grid.s
            } else {
                self.eval.sym.var(&format!("row{i}"), dim)
            });
        }
        index.push(self.eval.sym.var(column, last));
        Ok(Some((index, width as u64)))
    }

    /// Rewrites an expression to the grid's own row (`b`, `s`); also gives the row that its raised loads had.
    fn settle(&mut self, expr: Id) -> Res<(Id, [Id; 2])> {
        match self.settle_routed(expr)? {
            (settled, row, None) => Ok((settled, row)),
            _ => self.fault("reads what experts gave before it is summed"),
        }
    }

    /// The same for rows that may be routed: they get the row's own choice too, and the result has the choice that was there.
    fn settle_routed(&mut self, expr: Id) -> Res<(Id, [Id; 2], Option<Id>)> {
        if self.is_poisoned(expr) {
            return self.consequence();
        }
        let (mut rows, mut choices) = (BTreeSet::new(), BTreeMap::new());
        self.eval.sym.visit(expr, |_, node| {
            if let Node::Load(base, index) = node
                && self.raised.contains_key(base)
                && let [b, s, rest @ ..] = &index[..]
            {
                rows.insert([*b, *s]);
                // A choice that is summed over belongs to its sum.
                if let [choice, _] = rest
                    && !matches!(self.eval.sym.node(*choice), Node::Bound(..))
                {
                    choices.insert(*choice, *base);
                }
            }
            true
        });
        let row = match rows.into_iter().collect::<Vec<_>>()[..] {
            [row] => row,
            [] => return self.fault("depends on no activation"),
            _ => return self.fault("mixes different tokens outside an attention"),
        };
        let mut moves = vec![(row[0], self.grid.b), (row[1], self.grid.s)];
        // Rows counted through all sequences are not only read through their quotient and remainder.
        if let Node::Div(flat, d) = *self.eval.sym.node(row[0])
            && d == self.grid.tokens
            && let remainder = self.eval.sym.div_mod(flat, d).1
            && self.is_same_row(row, [row[0], remainder])
        {
            let first = self.eval.sym.mul(self.grid.b, d);
            moves.push((flat, self.eval.sym.add(first, self.grid.s)));
        }
        let choice = match choices.into_iter().collect::<Vec<_>>()[..] {
            [] => None,
            [(choice, base)] => {
                moves.push((choice, self.own_choice(base)));
                Some(choice)
            }
            _ => return self.fault("mixes what different experts gave"),
        };
        let map: HashMap<Id, Id> = moves.into_iter().filter(|(at, own)| at != own).collect();
        // A size of 1 makes a coordinate the number 0; any other fixed coordinate is a particular token.
        if map.keys().any(|at| self.eval.sym.as_number(*at).is_some()) {
            return self.fault("reads one particular token");
        }
        let settled = if map.is_empty() { expr } else { self.eval.sym.subst(expr, &map) };
        Ok((settled, row, choice))
    }
}

/// Error for a graph that is no decoder.
fn not_a_language_model(why: &str) -> Diagnostic {
    Diagnostic::error(Code::NotALanguageModel, format!("this graph is not a decoder that maps tokens to logits: {why}"))
        .help("export the model for text generation, with token ids as input and logits as output")
}

/// The fault is a consequence of another.
fn is_consequence(fault: &Fault) -> bool {
    fault.why.is_empty()
}
