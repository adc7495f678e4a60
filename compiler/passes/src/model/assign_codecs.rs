//! `assign-codecs`: gives every parameter its codec and group by its role.
//!
//! | codec asked for | linear | head, embedding, expansion | routers, vectors |
//! | --- | --- | --- | --- |
//! | a float codec | that codec | that codec | f32 |
//! | an integer codec | that codec, in the groups asked for | q8, a scale per row | f32 |
//!
//! An expansion meets vectors in f32 inside attention, where nothing rotates them: it is stored as finely as an embedding.
//!
//! A router is small, and the nearest two of its scores decide which expert is read: it is never rounded.

use super::WeightOptions;
use q35_dialects::model::{Model, ParamRole};
use q35_format::{Codec, Group};

pub(super) fn run(model: &mut Model, options: &WeightOptions) {
    for param in model.params.values_mut() {
        (param.codec, param.group) = match (param.role, options.codec.has_scales()) {
            (ParamRole::Vector | ParamRole::Router, _) => (Codec::F32, Group::Row),
            (_, false) => (options.codec, Group::Row),
            (ParamRole::Linear, true) => (options.codec, options.group),
            (ParamRole::Head | ParamRole::Embedding | ParamRole::Expansion, true) => (Codec::Q8, Group::Row),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{model, options};
    use super::*;

    #[test]
    fn the_role_decides() {
        let mut m = model(false);
        run(&mut m, &options(Codec::W8));
        let of = |m: &Model, name: &str| m.params[&name.into()].codec;
        assert_eq!([of(&m, "q"), of(&m, "embed"), of(&m, "norm")], [Codec::W8, Codec::Q8, Codec::F32]);
        m.params.get_mut(&"down".into()).expect("there is such a layer").role = ParamRole::Expansion;
        run(&mut m, &options(Codec::W8));
        assert_eq!([of(&m, "q"), of(&m, "down")], [Codec::W8, Codec::Q8]);
        run(&mut m, &options(Codec::F16));
        assert_eq!([of(&m, "q"), of(&m, "embed"), of(&m, "norm")], [Codec::F16, Codec::F16, Codec::F32]);
    }
}
