//! What rounding a few layers alone does to the model's output.
//!
//! For every group of layers there is a variant of the float model in which those layers are rounded to nearest. All variants go through the program side by side, from the op on at which they begin to
//! differ from the float model, so that weights are read once. At the end stand the logits of each, and their mean Kullback-Leibler divergence from the float model's.

use super::{FINE, Layers, bytes};
use crate::calibrate::streams::{Float, Sequence, unrounded};
use crate::calibrate::{operands, rounded};
use crate::passes;
use crate::values::PackedValues;
use q35_diag::Result;
use q35_dialects::data::ParamValue;
use q35_dialects::interp::ParamValues;
use q35_dialects::values::transformed;
use q35_dialects::{Model, ParamName};
use q35_graph::{NodeId, Observer};
use q35_runtime::divergence::kl;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Sequences that are looked at, and tokens of each: differences between layers are large, and all variants see the same tokens.
const SEQUENCES: usize = 4;
const TOKENS: usize = 64;

/// The value that layers read together, by layer, in order of execution.
fn readers(model: &Model) -> Vec<(NodeId, NodeId)> {
    let order = model.graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle"));
    let read = |id: NodeId| operands(model, &[id]).next().map(|input| (input, id));
    order.into_iter().filter(|id| rounded(model, *id).is_some()).filter_map(read).collect()
}

/// The groups of layers that are decided together, their divergences still 0.
pub(super) fn groups(model: &Model) -> Result<Vec<Layers>> {
    let mut found: Vec<(NodeId, Layers)> = Vec::new();
    let mut taken = BTreeSet::new();
    for (input, id) in readers(model) {
        let Some(name) = rounded(model, id).filter(|name| taken.insert(*name)) else { continue };
        let param = &model.params[name];
        let at = found.iter().position(|(of, _)| *of == input).unwrap_or_else(|| {
            let none = Layers { params: vec![], weights: 0, bytes: 0, fine_bytes: 0, divergence: 0.0, codec: param.codec };
            found.push((input, none));
            found.len() - 1
        });
        let layers = &mut found[at].1;
        layers.params.push(name.to_string());
        layers.weights += param.source.rows() * param.source.cols();
        layers.bytes += bytes(param, param.codec, param.group)?;
        layers.fine_bytes += bytes(param, FINE, param.group)?;
    }
    Ok(found.into_iter().map(|(_, layers)| layers).collect())
}

/// Fills in the divergences of groups.
///
/// # Errors
/// Bad weights.
pub(super) fn measure(model: &Model, sequences: &[Vec<u32>], layers: &mut [Layers], observer: &mut dyn Observer) -> Result<()> {
    observer.before(&passes::ALLOCATE);
    let order = model.graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle"));
    let mut uses: BTreeMap<NodeId, usize> = BTreeMap::new();
    operands(model, &order).for_each(|id| *uses.entry(id).or_default() += 1);
    let group = |name: &ParamName| layers.iter().position(|layers| layers.params.iter().any(|of| of == name.as_str()));
    let start = |tokens: &Vec<u32>| Sequence::new(&tokens[..tokens.len().min(TOKENS)]);
    let mut float: Vec<Sequence> = sequences.iter().take(SEQUENCES).map(start).collect();
    let mut variants: BTreeMap<usize, Vec<Sequence>> = BTreeMap::new();
    let packed = PackedValues::new(model);
    for (done, &id) in order.iter().enumerate() {
        let op = &model.graph.node(id).op;
        let read: Vec<NodeId> = operands(model, &[id]).collect();
        let of = |name: ParamName| {
            let numbers = transformed(&model.params[&name]);
            (name, Arc::new(ParamValue::Float(numbers)))
        };
        let params: Float = op.params().into_iter().map(of).collect();
        let own = rounded(model, id).and_then(|name| Some((group(name)?, name)));
        if let Some((at, _)) = own {
            variants.entry(at).or_insert_with(|| float.clone());
        }
        unrounded(&mut float, id, op, &read, &params)?;
        for (at, variant) in &mut variants {
            match own.filter(|(of, _)| of == at) {
                Some((_, name)) => {
                    let mut params = params.clone();
                    params.insert(name.clone(), Arc::new(ParamValue::Float(packed.value(name)?.matrix())));
                    packed.forget(name);
                    unrounded(variant, id, op, &read, &params)?;
                }
                None => unrounded(variant, id, op, &read, &params)?,
            }
        }
        for read in read {
            let left = uses.entry(read).or_default();
            *left -= 1;
            if *left == 0 {
                float.iter_mut().chain(variants.values_mut().flatten()).for_each(|sequence| sequence.forget(read));
            }
        }
        observer.progress(done as u64 + 1, order.len() as u64, "sensitivity");
    }
    let logits = model.graph.outputs.first().map(|(_, value)| value.node);
    let logits = logits.unwrap_or_else(|| unreachable!("a verified graph has logits"));
    for (at, variant) in variants {
        let pairs = float.iter().zip(&variant).map(|(float, variant)| {
            let [p, q] = [float, variant].map(|sequence| sequence.values[&logits].act());
            (0..p.rows()).map(|row| kl(p.row(row), q.row(row))).sum::<f64>() / p.rows().max(1) as f64
        });
        layers[at].divergence = pairs.sum::<f64>() / float.len().max(1) as f64;
    }
    observer.after(&passes::ALLOCATE, &|| format!("{layers:#?}\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{GroupChoice, Shape};
    use crate::pipeline;
    use crate::settings::Settings;
    use crate::targets;
    use q35_graph::Silent;
    use std::path::Path;

    /// What is decided together in a graph of the collection, without the names of the layer's number.
    fn groups_of(graph: &str) -> Vec<Vec<String>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(graph).join("model.onnx");
        let shape = Shape {
            codec: "w8".to_owned(),
            rotate: None,
            group: GroupChoice::Row,
            kv_cache_dtype: None,
            levels: vec![],
            chips: None,
            context: None,
            max_memory: None,
        };
        let capabilities = targets::find("cpu").unwrap().capabilities();
        let settings = Settings::new(&shape, "cpu", &capabilities).unwrap();
        let model = pipeline::prepare(&path, &settings, &mut Silent).unwrap().model;
        let groups = groups(&model).unwrap();
        let linear = model.params.values().filter(|param| param.codec == q35_format::Codec::W8);
        assert_eq!(groups.iter().map(|layers| layers.params.len()).sum::<usize>(), linear.count());
        groups.into_iter().map(|layers| layers.params).collect()
    }

    #[test]
    fn layers_that_read_one_value_are_decided_together() {
        let groups = groups_of("llama-mha--dynamo");
        let layer = |names: &[&str]| -> Vec<String> { names.iter().map(|name| format!("layers.0.{name}.weight")).collect() };
        let expected = [
            layer(&["attention.q", "attention.k", "attention.v"]),
            layer(&["attention.out"]),
            layer(&["mlp.gate", "mlp.up"]),
            layer(&["mlp.down"]),
        ];
        assert_eq!(groups[..4], expected);
    }

    /// One parameter holds all experts of a layer: they cannot be told apart. Its gate and its up read one value.
    #[test]
    fn experts_are_decided_together() {
        let groups = groups_of("qwen2moe--dynamo-batched-cache");
        let with =
            |name: &str| groups.iter().filter(|group| group.iter().any(|param| param.ends_with(name))).collect::<Vec<_>>();
        let (gate, up, down) = (with(".experts.gate.weight"), with(".experts.up.weight"), with(".experts.down.weight"));
        assert!(!gate.is_empty() && gate == up && gate.len() == down.len(), "{groups:?}");
    }
}
