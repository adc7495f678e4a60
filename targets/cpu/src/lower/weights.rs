//! The tensors of the weights file: which parts of which parameters are read, in which arrangement, under which name.

use crate::linear::geometry;
use q35_dialects::ParamName;
use q35_format::PackedSpec;
use q35_target::{Arrangement, Section, WeightTensor};
use std::collections::BTreeMap;

/// How kernels read a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// Row by row, as it is.
    Rows,
    /// As the weight of a linear layer.
    Tiles,
    /// As the weights of so many experts, one below the other.
    Stacked(usize),
    /// So many vectors in one, a tile of outputs at a time.
    PaddedVectors(usize),
}

impl Use {
    /// What tells two uses of one parameter apart.
    fn suffix(self) -> &'static str {
        match self {
            Use::Rows => ".rows",
            Use::Tiles => ".tiles",
            Use::Stacked(_) => ".stacked",
            Use::PaddedVectors(_) => ".padded",
        }
    }

    fn arrangement(self, spec: &PackedSpec, section: Section) -> Arrangement {
        let scale_bytes = spec.groups() * spec.scale().bytes();
        match (self, section) {
            (Use::Rows, Section::Codes) => Arrangement::plain(spec.row_bytes()),
            (Use::Rows, _) => Arrangement::plain(scale_bytes),
            (Use::Tiles, Section::Codes) => geometry::codes(spec),
            (Use::Tiles, _) => geometry::scales(spec),
            (Use::Stacked(experts), Section::Codes) => geometry::stacked(geometry::codes(spec), spec.rows() / experts),
            (Use::Stacked(experts), _) => geometry::stacked(geometry::scales(spec), spec.rows() / experts),
            (Use::PaddedVectors(count), _) => geometry::vectors(spec.cols() / count, count),
        }
    }
}

/// The tensors named so far.
#[derive(Default)]
pub(crate) struct Weights {
    /// The first use of each parameter: its tensors have the plain name.
    first: BTreeMap<ParamName, Use>,
    tensors: BTreeMap<String, WeightTensor>,
}

impl Weights {
    /// The name of the tensor with a part of a parameter in the arrangement of a use.
    pub(crate) fn tensor(&mut self, param: &ParamName, spec: &PackedSpec, section: Section, used: Use) -> String {
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
            arrangement: used.arrangement(spec, section),
        });
        name
    }

    pub(crate) fn into_tensors(self) -> BTreeMap<String, WeightTensor> {
        self.tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_format::{Codec, Group};

    #[test]
    fn a_parameter_with_two_uses_is_two_tensors() {
        let spec = PackedSpec::new(20, 64, Codec::Q8, Group::Row).unwrap();
        let name = ParamName::from("table".to_owned());
        let mut weights = Weights::default();
        let tensors = [
            (Section::Codes, Use::Rows),
            (Section::Scales, Use::Rows),
            (Section::Codes, Use::Tiles),
            (Section::Codes, Use::Rows),
        ]
        .map(|(section, used)| weights.tensor(&name, &spec, section, used));
        assert_eq!(tensors, ["table", "table.scales", "table.tiles", "table"]);
        let tensors = weights.into_tensors();
        assert_eq!(tensors.len(), 3);
        assert_eq!(tensors["table"].arrangement.bytes(20), Some(20 * 64));
        assert_eq!(tensors["table.tiles"].arrangement.bytes(20), Some(32 * 64));
    }
}
