//! The last touches: rows that need no logits are dropped early, parameters get their names, facts are counted.

use super::Raiser;
use q35_bundle::PositionRule;
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::q35::{Op, Select};
use q35_dialects::{Model, ParamRole};
use q35_graph::{NodeId, Value, WeightView};
use std::collections::{BTreeMap, BTreeSet};

impl Raiser<'_> {
    /// Completes the model.
    ///
    /// # Panics
    /// If the model breaks an invariant: that is a bug of the raising.
    pub(super) fn finish(mut self) -> Result<Model> {
        self.is_decoder()?;
        self.model.interface.positions = self.positions.unwrap_or(PositionRule::Column);
        let mut model = self.model;
        tie_head(&mut model);
        select_logit_rows(&mut model);
        // Ops of single experts that were merged, and of parts that turned out to be parts of something larger.
        model.graph.drop_dead(|_| false);
        every_layer_counts(&model, self.layers.len() as u32)?;
        model.drop_unused_params();
        mark_head(&mut model);
        mark_routers(&mut model);
        crate::names::assign(&mut model);
        let facts = &mut model.facts;
        facts.vocab = model.graph.outputs.first().map_or(0, |(_, v)| model.graph.ty(*v).matrix().map_or(0, |(_, w)| w));
        facts.hidden = model
            .graph
            .ids()
            .find_map(|id| match &model.graph.node(id).op {
                Op::Embed(_) => model.graph.node(id).results[0].matrix().map(|(_, w)| w),
                _ => None,
            })
            .unwrap_or(0);
        facts.layers = self.layers.len() as u64;
        facts.context = self.context;
        facts.parameters = model.params.values().map(|p| p.source.rows() * p.source.cols()).sum();
        if let Err(text) = q35_dialects::verify::verify(&model) {
            panic!("raising broke the model:\n{text}");
        }
        Ok(model)
    }
}

/// What is kept in the cache is read on the way to the logits.
fn every_layer_counts(model: &Model, layers: u32) -> Result<()> {
    let read: BTreeSet<u32> = model
        .graph
        .ids()
        .filter_map(|id| if let Op::Append(append) = &model.graph.node(id).op { Some(append.layer) } else { None })
        .collect();
    let idle: Vec<String> = (0..layers).filter(|layer| !read.contains(layer)).map(|layer| layer.to_string()).collect();
    if idle.is_empty() {
        return Ok(());
    }
    let what = format!("the logits do not depend on layers of the cache: {} of {layers}, counted from 0", idle.join(", "));
    Err(Diagnostic::error(Code::UnsupportedForm, what).into())
}

/// Rows of a table that are compared at a time.
const ROWS_AT_ONCE: u64 = 256;

/// A head that was stored once more, but is the embedding's table number by number, is that table. A few rows tell most others apart; rows of
/// zeros, such as files of holes have, say nothing.
fn tie_head(model: &mut Model) {
    let Some(logits) = head(model) else { return };
    let Op::Linear(linear) = &model.graph.node(logits).op else { return };
    let head = linear.weight.clone();
    let table = model.graph.ids().find_map(|id| match &model.graph.node(id).op {
        Op::Embed(embed) => Some(embed.table.clone()),
        _ => None,
    });
    let Some(table) = table.filter(|table| *table != head) else { return };
    let (Some(a), Some(b)) = (model.params.get(&head), model.params.get(&table)) else { return };
    let (a, b) = (&a.source, &b.source);
    let (rows, cols) = (a.rows(), a.cols());
    if rows == 0 || (rows, cols) != (b.rows(), b.cols()) {
        return;
    }
    let read = |view: &WeightView, from: u64, count: u64| {
        let mut numbers = vec![0.0f32; (count * cols) as usize];
        view.read_rows(from..from + count, &mut numbers);
        numbers
    };
    let same = |from: u64, count: u64| {
        let equal = read(a, from, count) == read(b, from, count);
        [a, b].into_iter().for_each(WeightView::release);
        equal
    };
    let samples = [0, rows / 2, rows - 1];
    let speaks = samples.into_iter().any(|row| read(a, row, 1).iter().any(|number| *number != 0.0));
    let mut blocks = (0..rows).step_by(ROWS_AT_ONCE as usize);
    let equal =
        speaks && samples.into_iter().all(|row| same(row, 1)) && blocks.all(|row| same(row, ROWS_AT_ONCE.min(rows - row)));
    if equal && let Op::Linear(linear) = &mut model.graph.node_mut(logits).op {
        linear.weight = table;
    }
}

/// The linear layer that makes the logits, behind what only scales and bounds them.
fn head(model: &Model) -> Option<NodeId> {
    let mut value = model.logits()?;
    while matches!(model.graph.node(value.node).op, Op::Scale(_) | Op::Softcap(_)) {
        value = model.graph.operand(value.node, 0)?;
    }
    Some(value.node)
}

/// After the last attention everything works row by row, so only rows whose logits are wanted go on.
fn select_logit_rows(model: &mut Model) {
    let mut all: BTreeSet<NodeId> = BTreeSet::new();
    let of_cache = |op: &Op| matches!(op, Op::Append(_)) || op.attends();
    let mut work: Vec<NodeId> = model.graph.ids().filter(|id| of_cache(&model.graph.node(*id).op)).collect();
    while let Some(id) = work.pop() {
        if all.insert(id) {
            work.extend(model.graph.operands(id).into_iter().flatten().map(|v| v.node));
        }
    }
    let mut selected: BTreeMap<Value, Value> = BTreeMap::new();
    let mut narrowed = |model: &mut Model, value: Value| -> Value {
        *selected.entry(value).or_insert_with(|| {
            let name = model.graph.node(value.node).name.clone();
            match model.add(name, Select {}, &[value]) {
                Ok(selected) => selected,
                Err(text) => panic!("selecting rows of activations: {text}"),
            }
        })
    };
    let later: Vec<NodeId> = model.graph.ids().filter(|id| !all.contains(id)).collect();
    for id in later {
        for (at, value) in model.graph.operands(id).into_iter().enumerate() {
            if let Some(value) = value.filter(|v| all.contains(&v.node)) {
                let narrow = narrowed(model, value);
                model.graph.set_operand(id, at, narrow);
            }
        }
    }
    let outputs: Vec<(usize, Value)> = model.graph.outputs.iter().map(|(_, v)| *v).enumerate().collect();
    for (at, value) in outputs {
        if all.contains(&value.node) {
            model.graph.outputs[at].1 = narrowed(model, value);
        }
    }
    if let Err(text) = model.reinfer() {
        panic!("selecting rows of activations: {text}");
    }
}

/// The matrix that makes the logits has a role of its own, even when it is the embedding too.
fn mark_head(model: &mut Model) {
    let Some(node) = head(model) else { return };
    if let Op::Linear(linear) = &model.graph.node(node).op
        && let Some(param) = model.params.get_mut(&linear.weight)
    {
        param.role = ParamRole::Head;
    }
}

/// So has a matrix that scores experts.
fn mark_routers(model: &mut Model) {
    for id in model.graph.ids().collect::<Vec<_>>() {
        let (Op::Route(_), Some(logits)) = (&model.graph.node(id).op, model.graph.operand(id, 0)) else { continue };
        if let Op::Linear(linear) = &model.graph.node(logits.node).op
            && let Some(param) = model.params.get_mut(&linear.weight)
        {
            param.role = ParamRole::Router;
        }
    }
}
