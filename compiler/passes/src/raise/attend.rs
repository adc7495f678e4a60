//! From queries, keys and values, element by element, to `append` and `attention`.
//!
//! Keys and values are asked for at two kinds of entries: at a new token they give what is appended, at a past one they have to be the
//! cache itself. Scaling on either side, repeated heads and rotations are seen through; a graph without a cache gets one.

use super::rope::{NormAfter, Turned};
use super::{Layer, Raiser, Res};
use crate::sym::{Id, Node};
use q35_dialects::q35::{Append, Attention, RmsNorm, Rope};
use q35_graph::Value;
use q35_graph::source::SourceOp;

/// The element at (head of the query, row, column) of a stack of matrices; the row is a token or an entry.
pub(super) type Element<'a> = &'a dyn Fn(&mut Raiser, Id, Id, Id) -> Res<Id>;

/// An attention, element by element.
pub(super) struct Heads<'a> {
    pub query: Element<'a>,
    pub key: Element<'a>,
    pub value: Element<'a>,
    pub heads: u64,
    pub key_dim: u64,
    pub value_dim: u64,
    /// Whether the token sees `entry`.
    pub mask: Id,
    pub entry: Id,
    pub scale: f64,
    pub softcap: Option<f64>,
    /// A score of each head that has no entry, a function of the head `h`.
    pub sinks: Option<Id>,
}

/// What past entries show of the cache.
struct Past {
    input: Value,
    factor: f64,
}

impl Raiser<'_> {
    /// Adds the attention to the model.
    pub(super) fn attend(&mut self, a: &Heads) -> Res<Value> {
        let mask = self.mask(a.mask, a.entry)?;
        let counts = [a.heads, a.key_dim, a.value_dim].map(|n| self.eval.sym.number(n as f64));
        let h = self.eval.sym.var("h", counts[0]);
        let d = self.eval.sym.var("d", counts[1]);
        let e = self.eval.sym.var("e", counts[2]);
        let (s, own) = (self.grid.s, self.grid.column(&mut self.eval.sym));
        let key = (a.key)(self, h, own, d)?;
        let value = (a.value)(self, h, own, e)?;
        let sharing = self.sharing(key, h, a.heads)?;
        if let Some(attended) = self.attend_latent(a, mask)? {
            return Ok(attended);
        }
        let key_past = self.past(a.key, h, d, &sharing)?;
        let value_past = self.past(a.value, h, e, &sharing)?;
        let past_factor = key_past.as_ref().map_or(1.0, |p| p.factor);
        let value_factor = value_past.as_ref().map_or(1.0, |p| p.factor);

        let mut query = self.unrotate(&|r, d| (a.query)(r, h, s, d), a.key_dim)?;
        let mut keys = self.unrotate(
            &|r, d| {
                let x = (a.key)(r, h, own, d)?;
                r.per_kv_head(&sharing, x, h)
            },
            a.key_dim,
        )?;
        // Columns that were reordered are so on both sides, and none of them is in a cache yet.
        if query.rotated_from != keys.rotated_from || keys.rotated_from.is_some_and(|start| start > 0) && key_past.is_some() {
            return self.fault("rotates other columns of queries than of keys");
        }
        let (q, q_factor) = self.flat_activation(query.before, h, query.column, a.heads, a.key_dim)?;
        let (k, k_factor) = self.flat_activation(keys.before, sharing.g, keys.column, sharing.kv_heads, a.key_dim)?;
        let (q, q_factor) = self.normed(q, q_factor, &mut query, a.key_dim)?;
        let (k, k_factor) = self.normed(k, k_factor, &mut keys, a.key_dim)?;
        let value_here = self.per_kv_head(&sharing, value, h)?;
        let (v, v_factor) = self.flat_activation(value_here, sharing.g, e, sharing.kv_heads, a.value_dim)?;

        // Factors: what the cache has to hold is fixed if the graph has one; all else moves into the scale of the scores.
        let (q_factor, k_factor) = (q_factor * query.factor, k_factor * keys.factor);
        let cached = key_past.is_some();
        let in_cache = if cached { k_factor / past_factor } else { 1.0 };
        let outside = if cached { past_factor } else { k_factor };
        let turned_scale = if keys.rotation.is_some() && !keys.passes { in_cache } else { 1.0 };
        let query_scale = if query.rotation.is_some() && !query.passes { turned_scale } else { 1.0 };
        let q = self.turned(q, &query, a.key_dim, query_scale)?;
        let k = self.turned(k, &keys, a.key_dim, turned_scale)?;
        let k = self.applied(k, in_cache / turned_scale)?;
        let v = self.applied(v, v_factor / value_factor)?;
        let scale = a.scale * q_factor / query_scale * outside;

        let sinks = match a.sinks {
            Some(element) => Some(self.vector(element, h, a.heads, "sinks")?),
            None => None,
        };
        let layer = self.layers.len() as u32;
        let cache = self.add(Append::plain(layer, sharing.kv_heads), &[k, v])?;
        let op =
            Attention { heads: a.heads, scale: scale as f32, window: mask.window, softcap: a.softcap.map(|c| c as f32), sinks };
        let attended = self.add(op, &[q, cache])?;
        let attended = self.applied(attended, value_factor)?;

        let key_new = self.per_kv_head(&sharing, key, h)?;
        let new = [self.eval.sym.scaled(key_new, 1.0 / outside), self.eval.sym.scaled(value_here, 1.0 / value_factor)];
        let past = match (key_past, value_past) {
            (Some(key), Some(value)) => Some([key.input, value.input]),
            (None, None) => None,
            _ => return self.fault("has a cache of keys or of values, but not of both"),
        };
        self.new_layer(Layer { past, new, head: sharing.g, columns: [d, e] })?;
        Ok(attended)
    }

    /// Raises an element at (head, column) as a matrix of all heads.
    pub(super) fn flat_activation(&mut self, element: Id, head: Id, column: Id, heads: u64, width: u64) -> Res<(Value, f64)> {
        let (expr, c) = self.flat(element, head, column, heads, width);
        let (expr, row) = self.settle(expr)?;
        if row != [self.grid.b, self.grid.s] {
            return self.fault("attends with what belongs to other tokens");
        }
        self.activation(expr, c, heads * width)
    }

    /// Applies the rotation that was seen.
    pub(super) fn turned(&mut self, value: Value, turned: &Turned, head_dim: u64, scale: f64) -> Res<Value> {
        let Some(rotation) = &turned.rotation else { return Ok(value) };
        let rotary = self.rotary(rotation, scale * rotation.ratio)?;
        self.on_behalf(&[turned.whole], |r| r.add(Rope { head_dim, style: rotation.style }, &[value, rotary]))
    }

    /// Applies the rotation and the norm behind it, if there is one; then neither is left. Also gives the factor that the value lacks now.
    pub(super) fn normed(&mut self, value: Value, factor: f64, turned: &mut Turned, head_dim: u64) -> Res<(Value, f64)> {
        let Some(NormAfter { weight, eps }) = turned.norm.take() else { return Ok((value, factor)) };
        let value = self.turned(value, turned, head_dim, 1.0)?;
        turned.rotation = None;
        // The norm of `factor x` is that of x with another eps, and the sign.
        let norm = RmsNorm { weight, eps: (f64::from(eps) / (factor * factor)) as f32, group: head_dim };
        let value = self.on_behalf(&[turned.whole], |r| r.add(norm, &[value]))?;
        Ok((value, factor.signum()))
    }

    /// The cache input behind keys or values at past entries.
    fn past(&mut self, element: Element, h: Id, column: Id, sharing: &super::heads::Sharing) -> Res<Option<Past>> {
        let Some(past) = self.grid.past else { return Ok(None) };
        let p = self.eval.sym.var("p", past);
        let element = element(self, h, p, column)?;
        let element = self.per_kv_head(sharing, element, h)?;
        let (factor, load) = self.eval.sym.coefficient(element);
        if let Node::Load(base, index) = self.eval.sym.node(load)
            && let Some(input) = self.eval.value_of(*base)
            && matches!(self.eval.graph.node(input.node).op, SourceOp::Input)
            && **index == [self.grid.b, sharing.g, p, column]
        {
            return Ok(Some(Past { input, factor }));
        }
        let text = self.eval.sym.show(element);
        self.fault(format!("reads earlier tokens from something that is no cache input: {text}"))
    }
}
