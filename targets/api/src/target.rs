//! What every target does.

use crate::Arrangement;
use q35_bundle::{CacheDtype, Device, MemoryPlan, Step, TensorSpec, WeightsLayout};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::q35::Op;
use q35_dialects::{Activations, Graph, Packed, ParamName, Ty};
use q35_format::Codec;
use q35_graph::{Observer, Pass};
use std::collections::BTreeMap;

/// What runs the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The device itself.
    Native,
    /// A model of the chip; nothing has run on silicon.
    ModelOfTheChip,
}

impl Label {
    /// Words for lists and reports.
    pub fn words(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::ModelOfTheChip => "a model of the chip, not run on silicon",
        }
    }
}

/// What a target can lower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Names of q35 ops.
    pub ops: Vec<&'static str>,
    /// Codecs of linear layers.
    pub codecs: Vec<Codec>,
    /// The codec of linear layers unless the user says otherwise.
    pub default_codec: Codec,
    /// What its linear layers multiply packed weights with.
    pub activations: Activations,
    /// Element types of the KV cache.
    pub kv_cache: Vec<CacheDtype>,
    /// Names of feature levels, best first.
    pub levels: Vec<&'static str>,
    /// The one that the machine which compiles would run, where it can be what runs the code.
    pub native: Option<&'static str>,
    /// Whether a program can be spread over a number of chips that the user names.
    pub several_chips: bool,
}

/// Which of a target's feature levels code is made for, by their places in [`Capabilities::levels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels(u64);

impl Levels {
    /// Every level.
    pub const ALL: Self = Self(u64::MAX);

    /// The levels at some places, each below 64.
    pub fn of(places: impl IntoIterator<Item = usize>) -> Self {
        Self(places.into_iter().fold(0, |all, place| all | 1 << place))
    }

    /// Those of a target's levels, listed as in its [`Capabilities`], that code is made for.
    pub fn among<T>(self, all: impl IntoIterator<Item = T>) -> impl Iterator<Item = T> {
        all.into_iter().enumerate().filter(move |(place, _)| self.0 >> place & 1 == 1).map(|(_, level)| level)
    }
}

/// The program to lower.
pub struct Request<'a> {
    /// The ops.
    pub graph: &'a Graph,
    /// Shape and storage of the parameters; no data.
    pub params: &'a BTreeMap<ParamName, Packed>,
    /// Prefix of every symbol: a C identifier, or empty.
    pub prefix: &'a str,
    /// Longest context in tokens. A launch-style target needs no more than this for its report; a target of fixed shapes sizes the cache by it.
    pub context: u64,
    /// Feature levels to make code for; a target without a choice of them makes what it has.
    pub levels: Levels,
    /// Chips to spread the program over, at least 1, where a target can; as many as it takes unless said.
    pub chips: Option<u32>,
}

impl<'a> Request<'a> {
    /// A program for every feature level, on as many chips as it takes.
    pub fn new(graph: &'a Graph, params: &'a BTreeMap<ParamName, Packed>, prefix: &'a str, context: u64) -> Self {
        Self { graph, params, prefix, context, levels: Levels::ALL, chips: None }
    }
}

/// Which bytes of a packed parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// The weights.
    Codes,
    /// A scale per row and group.
    Scales,
    /// An offset per row and group.
    Offsets,
}

/// A tensor of the weights file.
#[derive(Clone, Debug)]
pub struct WeightTensor {
    /// The parameter it comes from.
    pub param: ParamName,
    /// Which part of it.
    pub section: Section,
    /// How its canonical bytes are laid out.
    pub arrangement: Arrangement,
}

/// The tensors in the order of the weights file: by parameter; all of its codes, then its scales and offsets, as they come out of the
/// quantizer.
pub fn file_order(tensors: &BTreeMap<String, WeightTensor>) -> Vec<(&str, &WeightTensor)> {
    let mut ordered: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    ordered.sort_by(|(a, x), (b, y)| (&x.param, x.section, a).cmp(&(&y.param, y.section, b)));
    ordered
}

/// The weights file of some tensors, before a byte of it is written.
#[derive(Clone, Debug)]
pub struct WeightsFile {
    /// Where each tensor begins, in bytes, by name.
    pub offsets: BTreeMap<String, u64>,
    /// Header and length.
    pub layout: WeightsLayout,
}

impl WeightsFile {
    /// The file that holds `tensors` of parameters of these shapes; `None` if that is absurdly large.
    ///
    /// # Panics
    /// If a tensor is of a parameter that is not there: a mistake of the target.
    pub fn of(tensors: &BTreeMap<String, WeightTensor>, params: &BTreeMap<ParamName, Packed>) -> Option<Self> {
        let ordered = file_order(tensors);
        let spec = |(name, tensor): &(&str, &WeightTensor)| {
            let rows = usize::try_from(params[&tensor.param].rows).ok()?;
            Some(TensorSpec::bytes(*name, tensor.arrangement.bytes(rows)? as u64))
        };
        let layout = WeightsLayout::of(&ordered.iter().map(spec).collect::<Option<Vec<_>>>()?)?;
        let names = ordered.iter().map(|(name, _)| (*name).to_owned());
        Some(Self { offsets: names.zip(layout.offsets.iter().copied()).collect(), layout })
    }
}

/// A lowered program.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What runs it.
    pub device: Device,
    /// Memory.
    pub plan: MemoryPlan,
    /// The program.
    pub steps: Vec<Step>,
    /// Files of the bundle, by relative path.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Tensors of the weights file, by name.
    pub weights: BTreeMap<String, WeightTensor>,
    /// What `report.json` says beside what all targets have.
    pub figures: Figures,
}

/// Parts of `report.json` that only some targets have, by name: `memory`, the bytes in use while each launch runs; `schedule`, of a chip
/// with one; `placement`, of a wafer.
pub type Figures = BTreeMap<&'static str, serde_json::Value>;

/// A target.
pub trait Target {
    /// The word the command line uses.
    fn name(&self) -> &'static str;

    /// One line.
    fn description(&self) -> &'static str;

    /// What runs the code.
    fn label(&self) -> Label;

    /// What it can lower.
    fn capabilities(&self) -> Capabilities;

    /// Whether it lowers programs whose input is an activation where a model's is tokens: single layers.
    fn single_layers(&self) -> bool {
        false
    }

    /// Its passes, in order; the first reads the q35 stage, the last leaves the stage of code.
    fn passes(&self) -> Vec<Pass>;

    /// Reports every node that has no lowering, by its name in the user's model ([`Code::TargetCannot`]).
    fn check(&self, request: &Request<'_>) -> Result<()>;

    /// The same, and what the program would take of the device, as names and values for people: nothing unless a target can tell.
    fn outlook(&self, request: &Request<'_>) -> Result<Vec<(&'static str, String)>> {
        self.check(request).map(|()| Vec::new())
    }

    /// Lowers a program that passed the dialect's verifier. Every pass is shown to `observer`.
    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered>;
}

/// The diagnostic that a node has no lowering.
pub fn cannot(target: &dyn Target, node: &str, reason: &str) -> Diagnostic {
    Diagnostic::error(Code::TargetCannot, format!("target '{}' cannot run this: {reason}", target.name())).at("node", node)
}

/// What the input of a single layer is; `None` in a model, whose inputs are tokens.
pub fn layer_input(graph: &Graph) -> Option<Ty> {
    let tokens = graph.ids().find(|id| matches!(graph.node(*id).op, Op::Tokens(_)))?;
    graph.node(tokens).results.first().copied().filter(|ty| matches!(ty, Ty::Act { .. }))
}

/// Checks that a prefix can begin a C identifier.
pub fn check_prefix(prefix: &str) -> Result<()> {
    let starts = prefix.chars().next().is_none_or(|c| c.is_ascii_alphabetic() || c == '_');
    if starts && prefix.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Ok(());
    }
    Err(Diagnostics::from(
        Diagnostic::error(Code::BadOption, format!("the symbol prefix '{prefix}' is no C identifier"))
            .help("use letters, digits and underscores, and no digit first"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_identifiers() {
        for good in ["", "q35_", "_x9"] {
            assert_eq!(check_prefix(good), Ok(()));
        }
        for bad in ["9a", "a-b", "a b", "é", "a\n"] {
            let errors = check_prefix(bad).unwrap_err();
            assert!(errors.to_string().starts_with("error[Q35-0303]: the symbol prefix"), "{errors}");
        }
    }
}
