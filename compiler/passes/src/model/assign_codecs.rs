//! `assign-codecs`: gives every parameter its codec and group by its role.
//!
//! | codec asked for | linear | head, embedding, expansion | routers, vectors |
//! | --- | --- | --- | --- |
//! | a float codec | that codec | that codec | f32 |
//! | an integer codec | that codec, in the groups asked for | q8, a scale per row | f32 |
//!
//! A linear layer may have been asked to be stored in a codec of its own ([`q35_dialects::Param::asked`]).
//!
//! An expansion meets vectors in f32 inside attention, where nothing rotates them: it is stored as finely as an embedding.
//!
//! Integers are summed in 32 bits, a group of columns at a time. A row of so many columns that its sum could overflow is split: it gets groups of 128 whatever was asked for.
//!
//! A router is small, and the nearest two of its scores decide which expert is read: it is never rounded.

use super::WeightOptions;
use q35_dialects::model::{Model, ParamRole};
use q35_format::{Codec, Group};

/// The most columns whose sum fits 32 bits whatever the integers are: activations reach 255 in the unsigned form that some instructions want, weights 127.
const LONGEST: u64 = ((1 << 31) - 1) / (255 * 127);

pub(super) fn run(model: &mut Model, options: &WeightOptions) {
    for param in model.params.values_mut() {
        (param.codec, param.group) = match (param.role, options.codec.has_scales()) {
            (ParamRole::Vector | ParamRole::Router, _) => (Codec::F32, Group::Row),
            (_, false) => (options.codec, Group::Row),
            (ParamRole::Linear, true) => {
                let codec = param.asked.unwrap_or(options.codec);
                (codec, if codec.has_scales() { options.group } else { Group::Row })
            }
            (ParamRole::Head | ParamRole::Embedding | ParamRole::Expansion, true) => (Codec::Q8, Group::Row),
        };
        if param.codec.has_scales() && param.group == Group::Row && param.source.cols() > LONGEST {
            param.group = Group::Columns(128);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{model, options};
    use super::*;
    use q35_graph::{Axis, Tensor, WeightView};

    #[test]
    fn the_role_decides() {
        let mut m = model(false);
        run(&mut m, &options(Codec::W8));
        let of = |m: &Model, name: &str| m.params[&name.into()].codec;
        assert_eq!([of(&m, "q"), of(&m, "embed"), of(&m, "norm")], [Codec::W8, Codec::Q8, Codec::F32]);
        m.params.get_mut(&"down".into()).expect("there is such a layer").role = ParamRole::Expansion;
        run(&mut m, &options(Codec::W8));
        assert_eq!([of(&m, "q"), of(&m, "down")], [Codec::W8, Codec::Q8]);
        m.params.get_mut(&"q".into()).expect("there is such a layer").asked = Some(Codec::Q8);
        run(&mut m, &options(Codec::W8));
        assert_eq!([of(&m, "q"), of(&m, "k")], [Codec::Q8, Codec::W8]);
        run(&mut m, &options(Codec::F16));
        assert_eq!([of(&m, "q"), of(&m, "embed"), of(&m, "norm")], [Codec::F16, Codec::F16, Codec::F32]);
    }

    /// 2^31 lies between 255 * 127 times 66311 and 66312.
    #[test]
    fn rows_whose_sum_could_overflow_are_split() {
        let group = |cols: u64, codec| {
            let mut m = model(false);
            let axes = [1, cols].map(|len| Axis { len, stride: if len == 1 { cols as i64 } else { 1 } });
            let source =
                WeightView::dense(Tensor::from_f32(vec![1, cols], &vec![1.0; cols as usize]), 0, axes[0], axes[1]).unwrap();
            m.params.get_mut(&"down".into()).expect("there is such a layer").source = source;
            run(&mut m, &options(codec));
            m.params[&"down".into()].group
        };
        assert_eq!([group(66311, Codec::Q8), group(66312, Codec::Q8)], [Group::Row, Group::Columns(128)]);
        assert_eq!([group(66312, Codec::W8), group(66312, Codec::F16)], [Group::Columns(128), Group::Row]);
    }
}
