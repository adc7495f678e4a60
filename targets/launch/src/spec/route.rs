//! Choice of experts, the routed rows by expert, and the sum of what the experts gave.

use super::{Spec, bits, word};
use q35_bundle::Size;
use q35_dialects::Rows;
use q35_dialects::q35::{self, GroupScore, Scoring};

/// Chooses experts by logits; see the q35 op. Arguments: logits, the correction where there is one, the routing.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Experts to choose from.
    pub experts: u64,
    /// Experts per row.
    pub choices: u64,
    /// How logits become scores.
    pub scoring: Scoring,
    /// Whether something is added to the scores for choosing.
    pub correction: bool,
    /// Groups of experts, those that may be chosen from, and what a group is worth; absent where all may.
    pub groups: Option<Groups>,
    /// What weights are divided by; absent where they are not.
    pub normalize: Option<Divisor>,
    /// Factor of the weights.
    pub scale: f32,
    /// How far below a chosen logit others are near it, for a mixer.
    pub margin: f32,
}

/// The sum of a row's scores plus `eps`, but `floor` where that is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divisor {
    /// Added to the sum.
    pub eps: f32,
    /// The least divisor.
    pub floor: f32,
}

/// Choice among groups before the choice among experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Groups; divides the experts.
    pub count: u64,
    /// Groups that may be chosen from.
    pub top: u64,
    /// What a group is worth.
    pub worth: GroupScore,
}

impl Route {
    /// The choice that an op makes among `experts`.
    pub fn of(op: &q35::Route, experts: u64) -> Self {
        Self {
            experts,
            choices: op.choices.into(),
            scoring: op.scoring,
            correction: op.correction.is_some(),
            groups: (op.groups > 1).then_some(Groups { count: op.groups, top: op.top_groups, worth: op.group_score }),
            normalize: op.normalize.then_some(Divisor { eps: op.eps, floor: op.floor }),
            scale: op.scale,
            margin: op.margin,
        }
    }
}

impl Spec for Route {
    fn name(&self) -> String {
        let mut name = format!("route_{}_{}_of_{}", word(self.scoring), self.choices, self.experts);
        name += if self.correction { "_corrected" } else { "" };
        if let Some(Groups { count, top, worth }) = self.groups {
            name += &format!("_{top}_of_{count}_groups_by_{}", word(worth));
        }
        if let Some(Divisor { eps, floor }) = self.normalize {
            name += &format!("_normalized_{}", bits(eps));
            name += &if floor > 0.0 { format!("_from_{}", bits(floor)) } else { String::new() };
        }
        if self.scoring == Scoring::Mixer {
            name += &format!("_within_{}", bits(self.margin));
        }
        format!("{name}_{}", bits(self.scale))
    }

    fn args(&self) -> usize {
        2 + usize::from(self.correction)
    }
}

/// The routed rows of a step by expert, those of an expert in order: a counting sort, in one tile. Arguments: the routing, the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortByExpert {
    /// Experts to choose from.
    pub experts: u64,
    /// What is routed, once per choice.
    pub routed: Rows,
}

impl Spec for SortByExpert {
    fn name(&self) -> String {
        let (section, choices) = self.routed.section();
        let suffix = if section == q35_bundle::Rows::Logits { "_logits" } else { "" };
        format!("sort_{choices}_of_{}{suffix}", self.experts)
    }

    fn args(&self) -> usize {
        2
    }

    fn tiles(&self, _: Rows) -> Size {
        Size::constant(1)
    }
}

/// `y[m] = sum over the choices j, in order, of weight[m, j] * x[m * choices + j]`. Arguments: x, the routing, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combine {
    /// Columns.
    pub width: u64,
    /// Experts per row.
    pub choices: u64,
}

impl Spec for Combine {
    fn name(&self) -> String {
        format!("combine_{}_of_{}", self.choices, self.width)
    }

    fn args(&self) -> usize {
        3
    }
}
