//! The passes from a program to steps and kernels.
//!
//! | pass | idea |
//! | --- | --- |
//! | `launch-select` | a kernel and its arguments for every op; equal kernels once |
//! | `launch-join` | linear layers that read the same activations become one |
//! | `launch-chain` | neighbouring kernels that work row by row become one |
//! | `launch-choose` | the most probable token of every row of logits, for callers that ask for no more |
//! | `launch-place` | a place in the arena for every value, checked by playing the program |

mod chain;
mod choose;
mod join;
mod place;
mod print;
mod select;
mod selection;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod testing;
mod weights;

use crate::kernels::{Choice, Kernels};
use crate::spec::{Linear, Spec};
use q35_bundle::{CacheLayer, CachePart, Input, MemoryPlan, Step};
use q35_diag::Result;
use q35_dialects::Rows;
use q35_graph::{Observer, Pass, Stage, Value};
use q35_mlir::builder::KernelModule;
use q35_mlir::pipeline;
use q35_target::plan::Live;
use q35_target::{Figures, Request, Target, WeightTensor};
use std::collections::BTreeMap;
use std::rc::Rc;

const fn pass(name: &'static str, purpose: &'static str, from: Stage) -> Pass {
    Pass { name, purpose, from, to: Stage::Target }
}

const SELECT: Pass = pass("launch-select", "Choose a kernel for every op, equal kernels once", Stage::Q35);
const JOIN: Pass = pass("launch-join", "Join linear layers that read the same activations", Stage::Target);
const CHAIN: Pass = pass("launch-chain", "Join neighbouring kernels that work row by row", Stage::Target);
const CHOOSE: Pass = pass("launch-choose", "Take the most probable token of every row of logits", Stage::Target);
const PLACE: Pass = pass("launch-place", "Give every value a place in memory while it lives", Stage::Target);

/// The passes of [`lower`], in order.
pub fn passes() -> impl Iterator<Item = Pass> {
    [SELECT, JOIN, CHAIN, CHOOSE, PLACE].into_iter()
}

/// The passes of [`to_llvm`], in order.
pub fn kernel_passes() -> impl Iterator<Item = Pass> {
    pipeline::PASSES.iter().map(|row| pass(row.name, row.purpose, Stage::Target))
}

/// A lowered program, its code apart.
pub struct Program<K: ?Sized> {
    /// Memory.
    pub plan: MemoryPlan,
    /// The launches.
    pub steps: Vec<Step>,
    /// What of the working memory is in use during each of them.
    pub live: Vec<Live>,
    /// The kernels by name, without prefix.
    pub kernels: BTreeMap<String, Rc<K>>,
    /// Tensors of the weights file, by name.
    pub weights: BTreeMap<String, WeightTensor>,
    /// What the steps were made from, in their order.
    pub launches: Vec<Launch<K>>,
    /// Layers of the cache.
    pub cache: BTreeMap<u32, CacheLayer>,
    /// The logits.
    pub output: Option<Value>,
}

impl<K: ?Sized> Program<K> {
    /// The memory plan over time, for `report.json`.
    pub fn figures(&self) -> Figures {
        let during = |(step, live): (&Step, &Live)| {
            serde_json::json!({
                "node": step.node,
                "op": step.op,
                "bytes_per_token": live.bytes_per_token,
                "bytes_per_logit_row": live.bytes_per_logit_row,
            })
        };
        Figures::from([("memory", self.steps.iter().zip(&self.live).map(during).collect())])
    }
}

/// Reports every node that has no kernel.
pub fn check(target: &dyn Target, kernels: &impl Kernels, request: &Request<'_>) -> Result<()> {
    select::select(target, kernels, request).map(|_| ())
}

/// How many arguments every launch takes before launches are joined, in their order: with it a joined one can be taken apart.
pub fn argument_counts(target: &dyn Target, kernels: &impl Kernels, request: &Request<'_>) -> Result<Vec<usize>> {
    Ok(select::select(target, kernels, request)?.launches.iter().map(|launch| launch.args.len()).collect())
}

/// Lowers a program that passed the dialect's verifier. Every pass is shown to `observer`.
pub fn lower<T: Kernels>(
    target: &dyn Target,
    kernels: &T,
    request: &Request<'_>,
    observer: &mut dyn Observer,
) -> Result<Program<T::Kernel>> {
    observer.before(&SELECT);
    let mut selected = select::select(target, kernels, request)?;
    observer.after(&SELECT, &|| print::launches(&selected));

    observer.before(&JOIN);
    selected.launches = join::join(selected.launches, kernels);
    observer.after(&JOIN, &|| print::launches(&selected));

    observer.before(&CHAIN);
    selected.launches = chain::chain(selected.launches, kernels);
    observer.after(&CHAIN, &|| print::launches(&selected));

    observer.before(&CHOOSE);
    choose::choose(&mut selected, request, kernels);
    observer.after(&CHOOSE, &|| print::launches(&selected));

    observer.before(&PLACE);
    let (plan, steps, live) = place::place(&selected);
    observer.after(&PLACE, &|| print::steps(&steps));

    let Selected { launches, weights, cache, output, .. } = selected;
    let choices = launches.iter().flat_map(|launch| &launch.choices);
    let kernels = choices.map(|choice| (choice.kernel.name(), choice.kernel.clone())).collect();
    Ok(Program { plan, steps, live, kernels, weights, launches, cache, output: output.map(|stored| stored.value) })
}

/// Lowers a module of kernels to the llvm dialect. Every pass is shown to `observer`.
pub fn to_llvm(module: &mut KernelModule<'_>, observer: &mut dyn Observer) {
    let mut rows = kernel_passes().peekable();
    rows.peek().inspect(|first| observer.before(first));
    module.lower(|_, print| {
        rows.next().inspect(|row| observer.after(row, print));
        rows.peek().inspect(|next| observer.before(next));
    });
}

/// What of a value lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The value itself.
    Plain,
    /// Activations in the form in which the target multiplies them.
    Packed,
    /// A routing by expert.
    Sorted,
    /// The columns of the largest logits.
    Chosen,
    /// What the result of attention is made of.
    Parts,
}

/// A value in one of its forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// The value.
    pub value: Value,
    /// The form.
    pub form: Form,
}

impl From<Value> for Stored {
    fn from(value: Value) -> Self {
        Self { value, form: Form::Plain }
    }
}

/// One argument of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
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

/// One step before its values have places.
pub struct Launch<K: ?Sized> {
    /// A node of the user's model that it computes.
    pub node: String,
    /// The op, or the ops that were joined.
    pub op: String,
    /// Its rows.
    pub rows: Rows,
    /// Its kernels, in the order in which the step lists them.
    pub choices: Vec<Choice<K>>,
    /// What the choices compute, where they are kernels of linear layers.
    linear: Option<Linear>,
    /// Arguments, in order.
    pub args: Vec<Arg>,
}

/// A program as launches.
struct Selected<K: ?Sized> {
    launches: Vec<Launch<K>>,
    weights: BTreeMap<String, WeightTensor>,
    cache: BTreeMap<u32, CacheLayer>,
    /// The logits.
    output: Option<Stored>,
    /// Section and bytes per row of the values that launches write.
    sizes: BTreeMap<Stored, (q35_bundle::Rows, u64)>,
}

impl<K: ?Sized> Selected<K> {
    /// The chosen tokens, where a launch chooses them.
    fn chosen(&self) -> Option<Stored> {
        let chosen = Stored { form: Form::Chosen, ..self.output? };
        self.sizes.contains_key(&chosen).then_some(chosen)
    }

    /// What a caller reads: the logits, and the chosen tokens.
    fn results(&self) -> impl Iterator<Item = Stored> {
        self.output.into_iter().chain(self.chosen())
    }
}
