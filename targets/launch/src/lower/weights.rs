//! The tensors of the weights file: which parts of which parameters are read, in which arrangement, under which name.

use crate::kernels::{Kernels, Use};
use q35_dialects::ParamName;
use q35_format::PackedSpec;
use q35_target::{Section, WeightTensor};
use std::collections::BTreeMap;

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
}

/// The tensors named so far.
#[derive(Default)]
pub(super) struct Weights {
    /// The first use of each parameter: its tensors have the plain name.
    first: BTreeMap<ParamName, Use>,
    tensors: BTreeMap<String, WeightTensor>,
}

impl Weights {
    /// The name of the tensor with a part of a parameter in the arrangement of a use.
    pub(super) fn tensor(
        &mut self,
        kernels: &impl Kernels,
        param: &ParamName,
        spec: &PackedSpec,
        section: Section,
        used: Use,
    ) -> String {
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
            arrangement: kernels.arrangement(spec, section, used),
        });
        name
    }

    pub(super) fn into_tensors(self) -> BTreeMap<String, WeightTensor> {
        self.tensors
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::testing::Plain;
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
        .map(|(section, used)| weights.tensor(&Plain::default(), &name, &spec, section, used));
        assert_eq!(tensors, ["table", "table.scales", "table.tiles", "table"]);
        let tensors = weights.into_tensors();
        assert_eq!(tensors.len(), 3);
        assert_eq!(tensors["table"].arrangement.bytes(20), Some(20 * 64));
        assert_eq!(tensors["table.tiles"].arrangement.tail_bytes, Plain::TAIL);
    }
}
