//! The tensors of the weights file: which parts of which parameters are read, in which arrangement, under which name.

use crate::isa::Matrix;
use crate::linear::geometry;
use q35_dialects::ParamName;
use q35_format::PackedSpec;
use q35_target::{Arrangement, Section, WeightTensor};
use std::collections::BTreeMap;

/// How kernels read a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Row by row, as it is.
    Rows,
    /// As the weight of a linear layer.
    Tiles,
}

impl Use {
    /// What tells two uses of one parameter apart.
    fn suffix(self) -> &'static str {
        match self {
            Use::Rows => ".rows",
            Use::Tiles => ".tiles",
        }
    }

    fn arrangement(self, spec: &PackedSpec, section: Section, matrix: Matrix) -> Arrangement {
        let scale_bytes = spec.groups() * spec.scale().bytes();
        match (self, section) {
            (Use::Rows, Section::Codes) => Arrangement::plain(spec.row_bytes()),
            (Use::Rows, _) => Arrangement::plain(scale_bytes),
            (Use::Tiles, Section::Codes) => geometry::codes(spec, matrix),
            (Use::Tiles, _) => geometry::scales(spec),
        }
    }
}

/// The tensors named so far.
pub(super) struct Weights {
    /// The matrix instruction that reads those of linear layers.
    matrix: Matrix,
    /// The first use of each parameter: its tensors have the plain name.
    first: BTreeMap<ParamName, Use>,
    tensors: BTreeMap<String, WeightTensor>,
}

impl Weights {
    pub(super) fn new(matrix: Matrix) -> Self {
        Self { matrix, first: BTreeMap::new(), tensors: BTreeMap::new() }
    }

    /// The name of the tensor with a part of a parameter in the arrangement of a use.
    pub(super) fn tensor(&mut self, param: &ParamName, spec: &PackedSpec, section: Section, used: Use) -> String {
        let first = *self.first.entry(param.clone()).or_insert(used);
        let part = match section {
            Section::Codes => "",
            Section::Scales => ".scales",
            Section::Offsets => ".offsets",
        };
        let name = format!("{param}{}{part}", if first == used { "" } else { used.suffix() });
        self.tensors.entry(name.clone()).or_insert_with(|| WeightTensor {
            param: param.clone(),
            section,
            arrangement: used.arrangement(spec, section, self.matrix),
        });
        name
    }

    pub(super) fn into_tensors(self) -> BTreeMap<String, WeightTensor> {
        self.tensors
    }
}
