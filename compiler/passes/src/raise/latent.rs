//! Multi-head latent attention: keys and values of all heads are products of constant matrices with one latent vector per entry, beside a
//! rotated part of the keys that all heads share.
//!
//! A key is, at the columns that are rotated, independent of the head; at the others it is row `(head, column)` of a product with the latent
//! vector, and so is a value. Where the graph has a cache it keeps latent vectors and rotated parts, and multiplies all of them at every
//! step; where it has none, the model gets such a cache.

use super::activation::is_one;
use super::attend::Heads;
use super::mask::Mask;
use super::picked::rows_of;
use super::{HashMap, Layer, Raised, Raiser, Res};
use crate::sym::{Combine, Id, Node, Power};
use q35_dialects::q35::{Append, LatentAttention};
use q35_dialects::{Param, ParamName, ParamRole};
use q35_graph::source::SourceOp;
use q35_graph::{Value, WeightView};

/// Elements that are products of a latent vector with rows `(head, column)` of a weight.
struct Expansion {
    /// The element of the latent vector at `column`.
    latent: Id,
    column: Id,
    width: u64,
    factor: f64,
    weight: WeightView,
    origin: String,
}

/// Columns of a key: those that are rotated, and how many there are before them and behind them.
struct Parts {
    rotated: [u64; 2],
    plain: [u64; 2],
}

impl Raiser<'_> {
    /// Adds the attention to the model if its keys and values are those of latent vectors.
    pub(super) fn attend_latent(&mut self, a: &Heads, mask: Mask) -> Res<Option<Value>> {
        let counts = [a.heads, a.key_dim, a.value_dim].map(|n| self.eval.sym.number(n as f64));
        let [h, d, e] = [("h", counts[0]), ("d", counts[1]), ("e", counts[2])].map(|(name, n)| self.eval.sym.var(name, n));
        let own = self.grid.column(&mut self.eval.sym);
        let key = (a.key)(self, h, own, d)?;
        let Some(parts) = self.key_parts(key, d, a.key_dim) else { return Ok(None) };
        let [first, end] = parts.plain;
        let plain_width = end - first;
        let count = self.eval.sym.number(plain_width as f64);
        let i = self.eval.sym.var("i", count);
        let at = self.eval.sym.plus(i, first as f64);
        let [start, stop] = parts.rotated;
        let first_rotated = self.eval.sym.int(start as i64);
        let shared = (a.key)(self, h, own, first_rotated)?;
        let plain = (a.key)(self, h, own, at)?;
        if a.sinks.is_some() || self.eval.sym.contains(shared, h) || !self.eval.sym.contains(plain, h) {
            return Ok(None);
        }
        let value = (a.value)(self, h, own, e)?;
        let (Some(keys), Some(values)) =
            (self.expansion(plain, [h, i], [a.heads, plain_width])?, self.expansion(value, [h, e], [a.heads, a.value_dim])?)
        else {
            return Ok(None);
        };
        let (latent, latent_factor) = self.latent_value(&keys)?;
        let of_values = self.latent_value(&values)?;
        if of_values.0 != latent {
            return self.fault("has keys and values of different latent vectors");
        }
        let rotated = |r: &mut Raiser, row: Id, column: Id| {
            let at = r.eval.sym.plus(column, start as f64);
            (a.key)(r, h, row, at)
        };
        let s = self.grid.s;
        let query = self.unrotate(&|r, d| (a.query)(r, h, s, d), a.key_dim)?;
        let turned = self.unrotate(&|r, d| rotated(r, own, d), stop - start)?;
        if query.norm.is_some() || turned.norm.is_some() {
            return self.fault("normalizes what it rotated beside a latent, which is not supported");
        }
        if query.rotated_from != Some(start) || turned.rotated_from != Some(0) {
            return self.fault("rotates other columns of queries than of keys");
        }
        let (q, q_factor) = self.flat_activation(query.before, h, query.column, a.heads, a.key_dim)?;
        let (part, part_row) = self.settle(turned.before)?;
        if part_row != [self.grid.b, self.grid.s] {
            return self.fault("attends with what belongs to other tokens");
        }
        let (part, part_factor) = self.activation(part, turned.column, stop - start)?;
        let past = self.latent_past(a, &keys, h, at, i, &rotated)?;

        // The latent vectors are kept as they are; what keys have besides moves into the scale of the scores, which the rotated part shares.
        let (key_factor, turned_factor) = (keys.factor * latent_factor, turned.factor * part_factor);
        let q = self.turned(q, &query, a.key_dim, 1.0)?;
        let (past_latent, past_part) = past.as_ref().map_or((1.0, 1.0), |p| (p.latent_factor, p.part_factor));
        let outside = if past.is_some() { past_latent } else { key_factor };
        let in_cache = if past.is_some() { turned_factor / past_part } else { turned_factor / key_factor };
        if past.is_some() && !is_one(past_part / past_latent) {
            return self.fault("scales its latent vectors and their rotated parts differently");
        }
        let part = self.turned(part, &turned, stop - start, in_cache)?;
        let cached = if past.is_some() { key_factor / past_latent } else { 1.0 };
        let c = self.applied(latent, cached)?;
        let value_scale = values.factor * of_values.1 / cached;

        let layer = self.layers.len() as u32;
        let cache = self.add(Append::plain(layer, 1), &[c, part])?;
        let [keys_name, values_name] = [&keys, &values].map(|x| self.expanding(x));
        let op = LatentAttention {
            keys: keys_name,
            values: values_name,
            heads: a.heads,
            scale: (a.scale * q_factor * query.factor * outside) as f32,
            window: mask.window,
            softcap: a.softcap.map(|c| c as f32),
        };
        let attended = self.add(op, &[q, cache])?;
        let attended = self.applied(attended, value_scale)?;

        let column = self.eval.sym.number((stop - start) as f64);
        let column = self.eval.sym.var("r", column);
        let part_new = rotated(self, own, column)?;
        let kept = past.as_ref().map_or(keys.latent, |p| self.eval.sym.scaled(keys.latent, keys.factor / p.latent_factor));
        let new = [kept, self.eval.sym.scaled(part_new, 1.0 / past_part)];
        let head = self.eval.sym.int(0);
        self.new_layer(Layer { past: past.map(|p| p.inputs), new, head, columns: [keys.column, column] })?;
        Ok(Some(attended))
    }

    /// The columns at which a key branches on being rotated: one stretch of two halves, and one other before or behind it.
    fn key_parts(&mut self, key: Id, d: Id, width: u64) -> Option<Parts> {
        let (breaks, parity) = self.breaks(key, d, width);
        let edges: Vec<u64> = [0].into_iter().chain(breaks).chain([width]).collect();
        let &[a, b, c, e] = &edges[..] else { return None };
        let found =
            [(c - b == e - c, [b, e], [a, b]), (b - a == c - b, [a, c], [c, e])].into_iter().find(|(_, rotated, _)| {
                let at = self.eval.sym.int(rotated[0] as i64);
                let element = self.moved(key, d, at);
                self.has_trig(element)
            })?;
        (found.0 && !parity).then_some(Parts { rotated: found.1, plain: found.2 })
    }

    /// Reads an element as row `(head, column)` of a product with a latent vector.
    fn expansion(&mut self, element: Id, at: [Id; 2], counts: [u64; 2]) -> Res<Option<Expansion>> {
        let (factor, rest) = self.eval.sym.coefficient(element);
        match self.eval.sym.node(rest).clone() {
            // A linear layer of new tokens.
            Node::Load(base, index) => {
                let Some(Raised::Linear(pending)) = self.raised.get(&base) else { return Ok(None) };
                if pending.routing().is_some() || index.len() != 3 {
                    return Ok(None);
                }
                let (input, (weight, origin)) = (pending.input(), pending.weight());
                let (weight, origin, width) = (weight.clone(), origin.to_owned(), weight.cols());
                let mut rows = Vec::with_capacity((counts[0] * counts[1]) as usize);
                for head in 0..counts[0] {
                    for column in 0..counts[1] {
                        let map = at.into_iter().zip([head, column]);
                        let map: Vec<(Id, Id)> = map.map(|(v, n)| (v, self.eval.sym.number(n as f64))).collect();
                        let row = self.eval.sym.subst(index[2], &map.into_iter().collect());
                        rows.extend(self.eval.sym.as_int(row).and_then(|row| u64::try_from(row).ok()));
                    }
                }
                let view = rows_of(&weight, &rows).filter(|view| view.rows() == counts[0] * counts[1]);
                let Some(weight) = view else { return Ok(None) };
                let columns = self.eval.sym.number(width as f64);
                let column = self.eval.sym.var("k", columns);
                let base = self.raise_base(Raised::Whole(input, width));
                let latent = self.eval.sym.load(base, &[index[0], index[1], column]);
                Ok(Some(Expansion { latent, column, width, factor, weight, origin }))
            }
            // A product spelled out, of entries old and new.
            Node::Fold(Combine::Sum, bound, body) => {
                let Some(extent) = self.eval.sym.bound_extent(bound) else { return Ok(None) };
                let Some(width) = self.eval.sym.as_int(extent).and_then(|n| u64::try_from(n).ok()) else { return Ok(None) };
                let column = self.eval.sym.var("k", extent);
                let body = self.eval.sym.subst(body, &HashMap::from([(bound, column)]));
                let (inner, body) = self.eval.sym.coefficient(body);
                let factors = self.eval.sym.factors(body);
                let (weight, latent): (Vec<_>, Vec<_>) =
                    factors.into_iter().partition(|(f, _)| at.iter().any(|v| self.eval.sym.contains(*f, *v)));
                let [(weight, Power::ONE)] = weight[..] else { return Ok(None) };
                let latent = self.eval.sym.powers(&latent);
                let found = self.stack_view(weight, [at[0], at[1], column], [counts[0], counts[1], width]);
                Ok(found.map(|(weight, origin)| Expansion { latent, column, width, factor: factor * inner, weight, origin }))
            }
            _ => Ok(None),
        }
    }

    /// The latent vectors of the step's tokens.
    fn latent_value(&mut self, of: &Expansion) -> Res<(Value, f64)> {
        let (latent, row) = self.settle(of.latent)?;
        if row != [self.grid.b, self.grid.s] {
            return self.fault("attends with what belongs to other tokens");
        }
        self.activation(latent, of.column, of.width)
    }

    /// The weight as a parameter.
    fn expanding(&mut self, of: &Expansion) -> ParamName {
        self.param(Param::new(of.weight.clone(), ParamRole::Expansion, of.origin.clone()))
    }

    /// The cache inputs behind keys at past entries.
    fn latent_past(
        &mut self,
        a: &Heads,
        new: &Expansion,
        h: Id,
        plain_at: Id,
        i: Id,
        rotated: &dyn Fn(&mut Raiser, Id, Id) -> Res<Id>,
    ) -> Res<Option<LatentPast>> {
        let Some(past) = self.grid.past else { return Ok(None) };
        let p = self.eval.sym.var("p", past);
        let plain = (a.key)(self, h, p, plain_at)?;
        let rows = new.weight.rows() / a.heads.max(1);
        let Some(old) = self.expansion(plain, [h, i], [a.heads, rows])? else { return self.strange_past(plain) };
        let (latent_factor, latent) = self.eval.sym.coefficient(old.latent);
        let zero = self.eval.sym.int(0);
        let parts = self.eval.sym.number((a.key_dim - rows) as f64);
        let column = self.eval.sym.var("r", parts);
        let part = rotated(self, p, column)?;
        let (part_factor, part) = self.eval.sym.coefficient(part);
        let index = |column| [self.grid.b, zero, p, column];
        match (self.cache_input(latent, index(old.column)), self.cache_input(part, index(column))) {
            (Some(latent), Some(part)) if old.weight.identity() == new.weight.identity() => {
                Ok(Some(LatentPast { inputs: [latent, part], latent_factor: latent_factor * old.factor, part_factor }))
            }
            _ => self.strange_past(plain),
        }
    }

    fn strange_past<T>(&self, element: Id) -> Res<T> {
        let text = self.eval.sym.show(element);
        self.fault(format!("reads earlier tokens from something that is no cache input: {text}"))
    }

    /// The cache input whose element this is.
    pub(super) fn cache_input(&self, load: Id, index: [Id; 4]) -> Option<Value> {
        let Node::Load(base, at) = self.eval.sym.node(load) else { return None };
        let input = self.eval.value_of(*base)?;
        let is_input = matches!(self.eval.graph.node(input.node).op, SourceOp::Input);
        (is_input && **at == index).then_some(input)
    }

    /// Whether a value's elements read the cache: what is computed from them is computed for all entries.
    pub(super) fn reads_cache(&self, expr: Id) -> bool {
        !self.eval.sym.visit(expr, |_, node| match node {
            Node::Load(base, index) => {
                let input = self.eval.value_of(*base).filter(|v| matches!(self.eval.graph.node(v.node).op, SourceOp::Input));
                input.is_none() || index.len() != 4
            }
            _ => true,
        })
    }
}

/// What past entries show of a cache of latent vectors.
struct LatentPast {
    inputs: [Value; 2],
    latent_factor: f64,
    part_factor: f64,
}
