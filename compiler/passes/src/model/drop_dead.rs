//! `drop-dead`: removes nodes that the logits do not depend on, then parameters that no node names.
//!
//! A layer's `append` stays because `attention` reads its cache; nothing else has an effect.

use super::WeightOptions;
use q35_dialects::Model;

pub(super) fn run(model: &mut Model, _: &WeightOptions) {
    model.graph.drop_dead(|_| false);
    model.drop_unused_params();
}

#[cfg(test)]
mod tests {
    use super::super::testing::{model, options};
    use super::*;
    use q35_dialects::q35::Scale;
    use q35_format::Codec;

    #[test]
    fn what_nothing_reads_goes() {
        let mut m = model(false);
        let (nodes, params) = (m.graph.len(), m.params.len());
        let logits = m.logits().unwrap();
        m.add("unread", Scale { factor: 2.0 }, &[logits]).unwrap();
        m.params.insert("unnamed".into(), m.params[&"norm".into()].clone());
        run(&mut m, &options(Codec::W8));
        assert_eq!((m.graph.len(), m.params.len()), (nodes, params));
    }
}
