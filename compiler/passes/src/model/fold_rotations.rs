//! `fold-rotations`: merges rotations into neighbouring weights and norms, so that they cost nothing when the model runs.
//!
//! Two places let a rotation move into the weights that surround it:
//!
//! 1. **The residual stream.** `rms_norm` without a weight commutes with any rotation of the whole row: `norm(R x) = R norm(x)`. If
//!    everything that writes to the stream (`embed`, linear layers, through `add`, `scale` and `select`) writes `R x`, then what the
//!    rotated readers see needs no `hadamard`: the norm's weight moves into the columns of the layers behind it,
//!    `W diag(w) R^T`. What experts write is summed first, and the sum rotated: one rotation in place of one per expert. A reader whose weight is also the embedding table cannot take the norm's weight in; its norm turns the
//!    stream back (`R^T`) before, and rotates again behind.
//! 2. **Attention.** Its output is linear in the values, head by head. A rotation of each head's columns therefore moves from the input
//!    of the output projection into the rows of the value projection; its block shrinks to what divides a head.
//!
//! What is left, as before a down projection, stays in the graph.

use super::ROTATION_SEED;
use super::WeightOptions;
use super::rotate::SMALLEST;
use q35_dialects::attr::ParamName;
use q35_dialects::model::{Model, Transform};
use q35_dialects::q35::{Hadamard, Op};
use q35_dialects::ty::Ty;
use q35_format::rotate::block;
use q35_graph::{NodeId, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn run(model: &mut Model, options: &WeightOptions) {
    let uses = Uses::of(model);
    for id in model.graph.ids().collect::<Vec<_>>() {
        if let Some(stream) = Stream::around(model, &uses, id) {
            stream.fold(model, &uses);
        }
    }
    for id in model.graph.ids().collect::<Vec<_>>() {
        if let Some(values) = Values::before(model, &uses, id) {
            values.fold(model);
        }
    }
    super::drop_dead::run(model, options);
}

fn result(node: NodeId) -> Value {
    Value { node, result: 0 }
}

/// The forward rotation at a node, if it is one.
fn rotation(model: &Model, id: NodeId) -> Option<u64> {
    match model.graph.node(id).op {
        Op::Hadamard(Hadamard { block, seed: ROTATION_SEED, inverse: false }) => Some(block),
        _ => None,
    }
}

/// The weight of a linear layer, or of one of experts.
fn weight(model: &Model, id: NodeId) -> Option<ParamName> {
    model.graph.node(id).op.layer_weight().cloned()
}

/// How many nodes name each parameter. Folding takes the weights of norms away and adds rotations, which have none, so what is counted before
/// stays right for linear layers and tables.
struct Uses(BTreeMap<ParamName, usize>);

impl Uses {
    fn of(model: &Model) -> Self {
        let mut counts = BTreeMap::new();
        for name in model.graph.ids().flat_map(|id| model.graph.node(id).op.params()) {
            *counts.entry(name).or_default() += 1;
        }
        Self(counts)
    }

    /// Whether one node alone names a parameter.
    fn once(&self, name: &ParamName) -> bool {
        self.0.get(name) == Some(&1)
    }

    /// Whether a linear layer's parameters belong to it alone.
    fn own(&self, model: &Model, linear: NodeId) -> bool {
        model.graph.node(linear).op.params().iter().all(|name| self.once(name))
    }
}

fn push(model: &mut Model, name: &ParamName, transform: Transform) {
    if let Some(param) = model.params.get_mut(name) {
        param.transforms.push(transform);
    }
}

/// Makes a linear layer write `R y` in place of `y`.
fn rotate_output(model: &mut Model, linear: NodeId, block: u64) {
    let Op::Linear(op) = model.graph.node(linear).op.clone() else { return };
    push(model, &op.weight, Transform::RotateOutput { block, seed: ROTATION_SEED });
    if let Some(bias) = op.bias {
        push(model, &bias, Transform::RotateInput { block, seed: ROTATION_SEED });
    }
}

/// A residual stream: values that are sums of one another, with all that write and read them.
struct Stream {
    block: u64,
    values: BTreeSet<Value>,
    linears: BTreeSet<NodeId>,
    sums: BTreeSet<NodeId>,
    tables: BTreeSet<ParamName>,
    norms: BTreeSet<NodeId>,
}

impl Stream {
    /// The stream that a rotation behind a norm reads, if all of it can be rotated.
    fn around(model: &Model, uses: &Uses, hadamard: NodeId) -> Option<Self> {
        let block = rotation(model, hadamard)?;
        let norm = model.graph.operand(hadamard, 0)?.node;
        let mut stream = Self {
            block,
            values: BTreeSet::new(),
            linears: BTreeSet::new(),
            sums: BTreeSet::new(),
            tables: BTreeSet::new(),
            norms: BTreeSet::new(),
        };
        stream.norms.insert(stream.reader(model, norm)?);
        let mut work = vec![model.graph.operand(norm, 0)?];
        while let Some(value) = work.pop() {
            if stream.values.insert(value) {
                stream.writer(model, uses, value, &mut work)?;
                for (user, _) in model.graph.users(value) {
                    match &model.graph.node(user).op {
                        Op::Add(_) | Op::Scale(_) | Op::Select(_) => work.push(result(user)),
                        Op::RmsNorm(_) => {
                            stream.norms.insert(stream.reader(model, user)?);
                        }
                        _ => return None,
                    }
                }
            }
        }
        Some(stream)
    }

    /// Follows whoever makes a value of the stream.
    fn writer(&mut self, model: &Model, uses: &Uses, value: Value, work: &mut Vec<Value>) -> Option<()> {
        let (_, width) = model.graph.ty(value).matrix()?;
        match &model.graph.node(value.node).op {
            Op::Embed(embed) => {
                self.tables.insert(embed.table.clone());
            }
            Op::Linear(_) if uses.own(model, value.node) => {
                self.linears.insert(value.node);
            }
            Op::Combine(_) => {
                self.sums.insert(value.node);
            }
            Op::Add(_) | Op::Scale(_) | Op::Select(_) => {
                for operand in model.graph.operands(value.node).into_iter().flatten() {
                    if model.graph.ty(operand).matrix()?.1 != width {
                        return None;
                    }
                    work.push(operand);
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Checks a norm that reads the stream: the whole row at once, and linear layers behind it, rotated as the stream will be.
    fn reader(&self, model: &Model, norm: NodeId) -> Option<NodeId> {
        let Op::RmsNorm(op) = &model.graph.node(norm).op else { return None };
        let (_, width) = model.graph.ty(result(norm)).matrix()?;
        let plain = op.weight.as_ref().is_none_or(|name| model.params[name].transforms.is_empty());
        if op.group != width || !plain || !width.is_multiple_of(self.block) {
            return None;
        }
        let behind = model.graph.users(result(norm));
        let fits = |(user, _): &(NodeId, usize)| match rotation(model, *user) {
            Some(block) => {
                block == self.block && model.graph.users(result(*user)).iter().all(|(user, _)| weight(model, *user).is_some())
            }
            None => weight(model, *user).is_some(),
        };
        behind.iter().all(fits).then_some(norm)
    }

    fn fold(self, model: &mut Model, uses: &Uses) {
        let rotate = Transform::RotateInput { block: self.block, seed: ROTATION_SEED };
        for table in &self.tables {
            push(model, table, rotate.clone());
        }
        for linear in &self.linears {
            rotate_output(model, *linear, self.block);
        }
        for sum in &self.sums {
            let y = result(*sum);
            let name = model.graph.node(*sum).name.clone();
            let op = Hadamard { block: self.block, seed: ROTATION_SEED, inverse: false };
            let turned = model.add(name, op, &[y]).unwrap_or_else(|text| panic!("a sum's row can be rotated: {text}"));
            model.graph.replace_uses(y, turned, &[turned.node]);
        }
        for norm in &self.norms {
            self.fold_norm(model, uses, *norm);
        }
    }

    /// Makes what follows a norm expect that it reads the rotated stream.
    fn fold_norm(&self, model: &mut Model, uses: &Uses, norm: NodeId) {
        let y = result(norm);
        let direct: Vec<NodeId> =
            model.graph.users(y).into_iter().map(|(id, _)| id).filter(|id| rotation(model, *id).is_none()).collect();
        let rotated: Vec<NodeId> =
            model.graph.users(y).into_iter().map(|(id, _)| id).filter(|id| rotation(model, *id).is_some()).collect();
        let behind: Vec<NodeId> = rotated
            .iter()
            .flat_map(|id| model.graph.users(result(*id)))
            .map(|(id, _)| id)
            .chain(direct.iter().copied())
            .collect();
        let names: BTreeSet<ParamName> = behind.iter().filter_map(|id| weight(model, *id)).collect();
        if names.iter().all(|name| uses.once(name)) {
            let Op::RmsNorm(op) = &mut model.graph.node_mut(norm).op else { return };
            let norm_weight = op.weight.take().map(|name| model.params[&name].source.clone());
            for id in &direct {
                if let Some(name) = weight(model, *id) {
                    push(model, &name, Transform::RotateInput { block: self.block, seed: ROTATION_SEED });
                }
            }
            for name in &names {
                if let (Some(param), Some(scale)) = (model.params.get_mut(name), &norm_weight) {
                    // Before the rotation of the input, which the layer has by now.
                    let at = param.transforms.iter().position(|t| matches!(t, Transform::RotateInput { .. })).unwrap_or(0);
                    param.transforms.insert(at, Transform::ScaleColumns(scale.clone()));
                }
            }
            for id in rotated {
                model.graph.replace_uses(result(id), y, &[]);
            }
        } else {
            let insert = |model: &mut Model, x: Value, inverse: bool| {
                let name = model.graph.node(norm).name.clone();
                let op = Hadamard { block: self.block, seed: ROTATION_SEED, inverse };
                model.add(name, op, &[x]).unwrap_or_else(|text| panic!("a norm's row can be rotated: {text}"))
            };
            if let Some(x) = model.graph.operand(norm, 0) {
                let back = insert(model, x, true);
                model.graph.set_operand(norm, 0, back);
            }
            let tables: Vec<NodeId> =
                direct.into_iter().filter(|id| weight(model, *id).is_some_and(|name| self.tables.contains(&name))).collect();
            if !tables.is_empty() {
                let turned = insert(model, y, false);
                for id in tables {
                    model.graph.set_operand(id, 0, turned);
                }
            }
        }
    }
}

/// A value projection whose heads can be rotated in place of the attention's output.
struct Values {
    hadamard: NodeId,
    attention: Value,
    projection: NodeId,
    readers: BTreeSet<ParamName>,
    block: u64,
}

impl Values {
    fn before(model: &Model, uses: &Uses, hadamard: NodeId) -> Option<Self> {
        rotation(model, hadamard)?;
        let attention = model.graph.operand(hadamard, 0)?;
        let Op::Attention(_) = &model.graph.node(attention.node).op else { return None };
        let cache = model.graph.operand(attention.node, 1)?;
        let Ty::Cache { value_dim, .. } = *model.graph.ty(cache) else { return None };
        let block = block(value_dim as usize) as u64;
        let values = model.graph.operand(cache.node, 1)?;
        let projected =
            weight(model, values.node).is_some() && uses.own(model, values.node) && model.graph.users(values).len() == 1;
        let one_reader = model.graph.users(cache).len() == 1 && model.graph.users(attention).len() == 1;
        if block < SMALLEST || !projected || !one_reader {
            return None;
        }
        let readers =
            model.graph.users(result(hadamard)).iter().map(|(id, _)| weight(model, *id)).collect::<Option<BTreeSet<_>>>()?;
        readers.iter().all(|name| uses.once(name)).then_some(Self {
            hadamard,
            attention,
            projection: values.node,
            readers,
            block,
        })
    }

    fn fold(self, model: &mut Model) {
        rotate_output(model, self.projection, self.block);
        for name in &self.readers {
            for transform in model.params.get_mut(name).into_iter().flat_map(|param| &mut param.transforms) {
                if let Transform::RotateInput { block, .. } = transform {
                    *block = self.block;
                }
            }
        }
        model.graph.replace_uses(result(self.hadamard), self.attention, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_same_function, count, experts, model, options};
    use super::*;
    use q35_format::Codec;

    fn folded(before: Model) -> (Model, Model) {
        let mut m = before.clone();
        let options = options(Codec::W8);
        super::super::assign_codecs::run(&mut m, &options);
        super::super::rotate::run(&mut m, &options);
        run(&mut m, &options);
        q35_dialects::verify::verify(&m).unwrap_or_else(|text| panic!("{text}"));
        (before, m)
    }

    #[test]
    fn an_untied_model_keeps_one_rotation_a_layer() {
        let (before, after) = folded(model(false));
        // The input of the down projection.
        assert_eq!(count(&after, "hadamard"), 1);
        assert_same_function(&before, &after);
    }

    #[test]
    fn a_tied_head_turns_the_stream_back_and_forth() {
        let (before, after) = folded(model(true));
        assert_eq!(count(&after, "hadamard"), 3);
        assert_same_function(&before, &after);
    }

    #[test]
    fn the_sum_of_experts_is_rotated_once() {
        // That, and the input of the experts' down projection; with a tied head the norm turns back and forth too.
        for (tied, rotations) in [(false, 2), (true, 4)] {
            let (before, after) = folded(experts(tied));
            assert_eq!(count(&after, "hadamard"), rotations);
            assert_same_function(&before, &after);
        }
    }

    #[test]
    fn a_stream_with_another_reader_stays() {
        let mut m = model(false);
        // Someone looks at the embedding without a norm.
        let embedded = m.graph.ids().find(|id| m.graph.node(*id).op.name() == "embed").map(result).unwrap();
        let seen = m.add("seen", q35_dialects::q35::Softcap { cap: 9.0 }, &[embedded]).unwrap();
        let users = m.graph.users(embedded);
        let (add, at) = *users.iter().find(|(id, _)| m.graph.node(*id).op.name() == "add").unwrap();
        m.graph.set_operand(add, at, seen);
        let before = m.clone();
        let options = options(Codec::W8);
        super::super::assign_codecs::run(&mut m, &options);
        super::super::rotate::run(&mut m, &options);
        run(&mut m, &options);
        // q/k/v, gate/up and down keep theirs; the attention's output is folded.
        assert_eq!(count(&m, "hadamard"), 3);
        assert_same_function(&before, &m);
    }
}
