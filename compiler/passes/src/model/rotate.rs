//! `rotate`: rotates the input of every linear layer in a pair codec, and its weight against it.
//!
//! `W x = (W R^T)(R x)` with `R` the random-sign block Hadamard transform of the format crate; its block is the largest power of two
//! that divides the layer's inputs. Layers that read one value share one rotation. A weight that is also read as a table keeps its
//! basis, and a block below [`SMALLEST`] is left out: it would mix too few columns to matter.

use super::{ROTATION_SEED, WeightOptions};
use q35_dialects::attr::ParamName;
use q35_dialects::model::{Model, Transform};
use q35_dialects::q35::{Hadamard, Op};
use q35_format::rotate::block;
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The smallest block worth rotating.
pub(super) const SMALLEST: u64 = 8;

pub(super) fn run(model: &mut Model, options: &WeightOptions) {
    if !options.rotate {
        return;
    }
    let tables: BTreeSet<ParamName> = model
        .graph
        .ids()
        .filter_map(|id| match &model.graph.node(id).op {
            Op::Embed(embed) => Some(embed.table.clone()),
            _ => None,
        })
        .collect();
    let mut rotated: BTreeMap<Value, Value> = BTreeMap::new();
    let mut weights: BTreeSet<ParamName> = BTreeSet::new();
    for id in model.graph.ids().collect::<Vec<NodeId>>() {
        let Some(weight) = model.graph.node(id).op.layer_weight().cloned() else { continue };
        let param = &model.params[&weight];
        let block = block(param.source.cols() as usize) as u64;
        if param.codec.window().is_none() || block < SMALLEST || tables.contains(&weight) {
            continue;
        }
        let Some(x) = model.graph.operand(id, 0) else { continue };
        let turned = *rotated.entry(x).or_insert_with(|| {
            let name = model.graph.node(x.node).name.clone();
            let op = Hadamard { block, seed: ROTATION_SEED, inverse: false };
            model.add(name, op, &[x]).unwrap_or_else(|text| panic!("a layer's input can be rotated: {text}"))
        });
        model.graph.set_operand(id, 0, turned);
        if weights.insert(weight.clone())
            && let Some(param) = model.params.get_mut(&weight)
        {
            param.transforms.push(Transform::RotateInput { block, seed: ROTATION_SEED });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_function, count, model, options};
    use super::*;
    use q35_format::Codec;

    #[test]
    fn the_function_stays() {
        for tied in [false, true] {
            let before = model(tied);
            let mut m = before.clone();
            super::super::assign_codecs::run(&mut m, &options(Codec::W8));
            run(&mut m, &options(Codec::W8));
            // One each for the inputs of q/k/v, o, gate/up and down; the head is q8.
            assert_eq!(count(&m, "hadamard"), 4);
            assert_same_function(&before, &m);
        }
    }

    #[test]
    fn it_can_be_turned_off() {
        let mut m = model(false);
        super::super::assign_codecs::run(&mut m, &options(Codec::W8));
        run(&mut m, &WeightOptions { rotate: false, ..options(Codec::W8) });
        assert_eq!(count(&m, "hadamard"), 0);
    }
}
