//! Names of parameters, by what they do in the model: two exports of one model give equal names.

use q35_dialects::attr::{Attr, Attrs};
use q35_dialects::q35::Op;
use q35_dialects::{Model, ParamName};
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Renames every parameter.
pub fn assign(model: &mut Model) {
    let order = model.graph.topological().unwrap_or_default();
    let layers = layers(model, &order);
    let mut names: BTreeMap<ParamName, ParamName> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for &id in &order {
        let node = model.graph.node(id);
        let attrs = params_of(&node.op);
        if attrs.is_empty() {
            continue;
        }
        let stem = stem(model, id, &layers);
        for (attr, param) in attrs {
            if names.contains_key(&param) {
                continue;
            }
            let wanted = match attr.as_str() {
                "table" => "embed.weight".to_owned(),
                "inv_freq" => "rotary.inv_freq".to_owned(),
                _ => format!("{stem}.{attr}"),
            };
            let mut name = wanted.clone();
            for n in 2.. {
                if taken.insert(name.clone()) {
                    break;
                }
                name = format!("{wanted}.{n}");
            }
            names.insert(param, ParamName::new(name));
        }
    }
    for id in order {
        let node = model.graph.node_mut(id);
        let attrs: Attrs = node
            .op
            .attrs()
            .into_iter()
            .map(|(key, attr)| match attr {
                Attr::Param(name) => (key, Attr::Param(names.get(&name).cloned().unwrap_or(name))),
                other => (key, other),
            })
            .collect();
        if let Ok(op) = Op::from_attrs(node.op.name(), &attrs) {
            node.op = op;
        }
    }
    model.params =
        std::mem::take(&mut model.params).into_iter().filter_map(|(name, p)| Some((names.get(&name)?.clone(), p))).collect();
}

fn params_of(op: &Op) -> Vec<(String, ParamName)> {
    let attrs = op.attrs().into_iter();
    let mut found: Vec<(String, ParamName)> = attrs
        .filter_map(|(key, attr)| match attr {
            Attr::Param(name) => Some((key, name)),
            _ => None,
        })
        .collect();
    found.sort();
    found
}

/// How many attentions lie before each node.
fn layers(model: &Model, order: &[NodeId]) -> BTreeMap<NodeId, u64> {
    let mut layers: BTreeMap<NodeId, u64> = BTreeMap::new();
    for &id in order {
        let before = model.graph.operands(id).into_iter().flatten().map(|v| layers[&v.node]).max().unwrap_or(0);
        layers.insert(id, before + u64::from(model.graph.node(id).op.attends()));
    }
    layers
}

/// What the ops that read a node's result make of it, seen through ops that keep its meaning.
fn purpose(model: &Model, id: NodeId) -> Option<&'static str> {
    let mut purposes = BTreeSet::new();
    for (user, at) in model.graph.users(Value { node: id, result: 0 }) {
        let found = match (&model.graph.node(user).op, at) {
            (Op::Append(_), 0) => Some("attention.k"),
            (Op::Append(_), _) => Some("attention.v"),
            (Op::Attention(_) | Op::LatentAttention(_), _) => Some("attention.q"),
            (Op::Glu(_), 0) => Some("mlp.gate"),
            (Op::Glu(_), _) => Some("mlp.up"),
            (Op::Route(_), _) => Some("mlp.router"),
            (
                Op::Rope(_)
                | Op::RmsNorm(_)
                | Op::LayerNorm(_)
                | Op::Scale(_)
                | Op::Select(_)
                | Op::Columns(_)
                | Op::Activate(_),
                _,
            ) => purpose(model, user),
            _ => None,
        };
        purposes.extend(found);
    }
    purposes.into_iter().next()
}

/// The op that made a node's first operand, seen through a selection of rows.
fn source(model: &Model, id: NodeId) -> Option<NodeId> {
    let from = model.graph.operand(id, 0)?.node;
    match model.graph.node(from).op {
        Op::Select(_) | Op::Scale(_) => source(model, from),
        _ => Some(from),
    }
}

fn stem(model: &Model, id: NodeId, layers: &BTreeMap<NodeId, u64>) -> String {
    let op = &model.graph.node(id).op;
    let logits = model.logits().map(|v| v.node);
    let before = layers[&id];
    let place = |within: &str, layer: u64| format!("layers.{layer}.{within}");
    match op {
        Op::Linear(_) if Some(id) == logits => "head".to_owned(),
        Op::Linear(_) => match (purpose(model, id), source(model, id).map(|from| &model.graph.node(from).op)) {
            (Some(role), _) if role.starts_with("attention") => place(role, before),
            (Some(role), _) => place(role, before.saturating_sub(1)),
            (None, Some(op)) if op.attends() => place("attention.out", before.saturating_sub(1)),
            (None, Some(Op::Glu(_) | Op::Activate(_))) => place("mlp.down", before.saturating_sub(1)),
            _ => place("linear", before.saturating_sub(1)),
        },
        Op::RmsNorm(_) | Op::LayerNorm(_) => {
            let readers = model.graph.users(Value { node: id, result: 0 });
            let mut linears =
                readers.iter().filter(|(user, _)| matches!(model.graph.node(*user).op, Op::Linear(_))).map(|(user, _)| *user);
            match (linears.next(), purpose(model, id)) {
                (Some(reader), _) if Some(reader) == logits => "norm".to_owned(),
                (Some(reader), _) => match purpose(model, reader) {
                    Some(role) if role.starts_with("attention") => place("attention.norm", before),
                    _ => place("mlp.norm", before.saturating_sub(1)),
                },
                (None, Some(role)) => place(&format!("{role}_norm"), before),
                (None, None) => place("norm", before.saturating_sub(1)),
            }
        }
        Op::ExpertLinear(_) => {
            let part = match (purpose(model, id), source(model, id).map(|from| &model.graph.node(from).op)) {
                (Some("mlp.gate"), _) => "experts.gate",
                (Some("mlp.up"), _) => "experts.up",
                (_, Some(Op::Glu(_) | Op::Activate(_))) => "experts.down",
                _ => "experts.linear",
            };
            place(part, before.saturating_sub(1))
        }
        Op::Route(_) => place("mlp.router", before.saturating_sub(1)),
        op if op.attends() => place("attention", before.saturating_sub(1)),
        other => place(other.name(), before),
    }
}
