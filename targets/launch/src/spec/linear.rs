//! Linear layers: `y[m, n] = sum over k of x[m, k] W[n, k], plus bias[n]`, plain or of experts.

use q35_bundle::Rows as Section;
use q35_dialects::Rows;
use q35_format::{Group, PackedSpec, ScaleType};

/// Static facts of a linear layer, or of several that share `x`; layers with equal facts share their kernels. Which kernels those are, and
/// for how many rows each, is the target's choice. Arguments of all of them: x; for experts the routing and the routing by expert; then for
/// each weight its codes, its scales and offsets where the codec has them, its bias where there is one, and y.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// Shape `[outputs, inputs]` and storage of the (first) weight, or of each expert's.
    pub spec: PackedSpec,
    /// Outputs of further weights that differ from the first in nothing else.
    pub beside: Vec<usize>,
    /// What the rows of `y` are.
    pub rows: Rows,
    /// Whether there is a bias.
    pub bias: bool,
    /// The experts, if the weights are theirs. The rows of `y` are routed then.
    pub experts: Option<Experts>,
}

/// The experts whose weights lie one below the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Experts {
    /// How many.
    pub count: usize,
    /// Whether a row of `x` is the input of all the experts it goes to; else each routed row has its own.
    pub shared: bool,
}

impl Linear {
    /// A layer with one weight, for tokens, without bias.
    pub fn new(spec: PackedSpec) -> Self {
        Self { spec, beside: Vec::new(), rows: Rows::Tokens, bias: false, experts: None }
    }

    /// Outputs of each weight.
    pub fn outputs(&self) -> impl Iterator<Item = usize> + '_ {
        std::iter::once(self.spec.rows()).chain(self.beside.iter().copied())
    }

    /// Tiles of `rows` outputs, of all weights.
    pub fn tiles(&self, rows: usize) -> u64 {
        self.outputs().map(|outputs| outputs.div_ceil(rows) as u64).sum()
    }

    /// Arguments that come before those of the weights.
    pub fn inputs(&self) -> usize {
        if self.experts.is_some() { 3 } else { 1 }
    }

    /// All arguments.
    pub fn args(&self) -> usize {
        let per_scale = usize::from(self.spec.codec().has_scales()) + usize::from(self.spec.asymmetric());
        self.inputs() + self.outputs().count() * (2 + per_scale + usize::from(self.bias))
    }

    /// Whether `x` is in the form in which the target's kernels multiply it, as opposed to f32.
    pub fn takes_operand(&self) -> bool {
        self.spec.codec().has_scales()
    }

    /// This layer and another that reads the same `x`, as one, where they differ in outputs only.
    pub fn with(&self, other: &Linear) -> Option<Linear> {
        let storage = |l: &Linear| (l.spec.cols(), l.spec.codec(), l.spec.group(), l.spec.scale(), l.spec.asymmetric());
        let facts = |l: &Linear| (storage(l), l.rows, l.bias, l.experts);
        (facts(self) == facts(other))
            .then(|| Linear { beside: self.beside.iter().copied().chain(other.outputs()).collect(), ..self.clone() })
    }

    /// Symbol of the kernel that the target calls `variant`: a suffix.
    pub fn symbol(&self, variant: &str) -> String {
        let spec = &self.spec;
        let (section, each) = self.rows.section();
        let mut name = format!("linear_{}", spec.codec());
        if spec.codec().has_scales() {
            name += &match spec.group() {
                Group::Row => "_row".to_owned(),
                Group::Columns(columns) => format!("_g{columns}"),
            };
            name += match spec.scale() {
                ScaleType::F16 => "",
                ScaleType::F32 => "_s32",
            };
            name += if spec.asymmetric() { "_offsets" } else { "" };
        }
        let outputs: Vec<String> = self.outputs().map(|n| n.to_string()).collect();
        name += &format!("_{}x{}", outputs.join("_"), spec.cols());
        name += &match self.experts {
            Some(Experts { count, shared }) => format!("_{each}_of_{count}{}", if shared { "_shared" } else { "" }),
            None if each > 1 => format!("_times_{each}"),
            None => String::new(),
        };
        for (holds, suffix) in [(self.bias, "_bias"), (section == Section::Logits, "_logits"), (true, variant)] {
            name += if holds { suffix } else { "" };
        }
        name
    }
}
