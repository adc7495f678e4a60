//! `quantize-activations`: puts a `quantize` before every linear layer whose weight is stored as integers.
//!
//! For a machine that multiplies floating point with decoded weights there is nothing to do.
//!
//! Layers that read one value share one `quantize`: q/k/v round their input once, and so do gate and up.

use super::WeightOptions;
use q35_dialects::q35::Quantize;
use q35_dialects::ty::Ty;
use q35_dialects::{Activations, Model};
use q35_graph::Value;
use std::collections::BTreeMap;

pub(super) fn run(model: &mut Model, options: &WeightOptions) {
    if options.activations == Activations::Float {
        return;
    }
    let mut rounded: BTreeMap<Value, Value> = BTreeMap::new();
    for id in model.graph.ids().collect::<Vec<_>>() {
        let Some(weight) = model.graph.node(id).op.layer_weight() else { continue };
        if !model.params[weight].codec.has_scales() {
            continue;
        }
        let Some(x) = model.graph.operand(id, 0).filter(|x| matches!(model.graph.ty(*x), Ty::Act { .. })) else { continue };
        let quantized = *rounded.entry(x).or_insert_with(|| {
            let name = model.graph.node(x.node).name.clone();
            model.add(name, Quantize {}, &[x]).unwrap_or_else(|text| panic!("activations can be rounded: {text}"))
        });
        model.graph.set_operand(id, 0, quantized);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{count, experts, model, options};
    use super::*;
    use q35_format::Codec;

    #[test]
    fn readers_of_one_value_share_one_rounding() {
        let mut m = model(false);
        super::super::assign_codecs::run(&mut m, &options(Codec::W8));
        run(&mut m, &options(Codec::W8));
        // q, k, v share one; o, gate+up, down and the head have one each.
        assert_eq!(count(&m, "quantize"), 5);
        q35_dialects::verify::verify(&m).unwrap();
    }

    #[test]
    fn experts_round_their_input_and_routers_do_not() {
        let mut m = experts(false);
        super::super::assign_codecs::run(&mut m, &options(Codec::W8));
        run(&mut m, &options(Codec::W8));
        // q, k, v share one; o, gate+up, down and the head have one each.
        assert_eq!(count(&m, "quantize"), 5);
        assert_eq!(m.params[&"router".into()].codec, Codec::F32);
        q35_dialects::verify::verify(&m).unwrap();
    }

    #[test]
    fn a_machine_of_floats_rounds_nothing() {
        let mut m = model(false);
        super::super::assign_codecs::run(&mut m, &options(Codec::W8));
        run(&mut m, &WeightOptions { activations: Activations::Float, ..options(Codec::W8) });
        assert_eq!(count(&m, "quantize"), 0);
    }

    #[test]
    fn float_layers_keep_their_input() {
        let mut m = model(false);
        super::super::assign_codecs::run(&mut m, &options(Codec::F16));
        run(&mut m, &options(Codec::F16));
        assert_eq!(count(&m, "quantize"), 0);
    }
}
