//! Which head of the keys a head of the query reads.

use super::{Raiser, Res};
use crate::sym::{Id, Node};
use std::collections::{BTreeSet, HashMap};

/// Query heads `h` share key heads `g = h / group`.
pub(super) struct Sharing {
    /// Key heads.
    pub kv_heads: u64,
    /// The variable `g`.
    pub g: Id,
    quotient: Option<Id>,
}

impl Raiser<'_> {
    /// Finds the sharing from an element of the keys, a function of the query head `h`.
    pub(super) fn sharing(&mut self, element: Id, h: Id, heads: u64) -> Res<Sharing> {
        let mut groups = BTreeSet::new();
        self.eval.sym.visit(element, |id, node| {
            if let Node::Div(x, n) = node
                && *x == h
                && let Some(n) = self.eval.sym.as_int(*n)
            {
                groups.insert((n as u64, id));
            }
            true
        });
        let (group, quotient) = match groups.into_iter().collect::<Vec<_>>()[..] {
            [] if self.eval.sym.contains(element, h) || heads == 1 => (1, None),
            [] => (heads, None),
            [(group, quotient)] => (group, Some(quotient)),
            _ => return self.fault("has query heads that share key heads in no regular way"),
        };
        if group == 0 || !heads.is_multiple_of(group) {
            return self.fault("has query heads that share key heads unevenly");
        }
        let kv_heads = heads / group;
        let count = self.eval.sym.number(kv_heads as f64);
        let g = if group == 1 { h } else { self.eval.sym.var("g", count) };
        Ok(Sharing { kv_heads, g, quotient })
    }

    /// An element of keys or values as a function of the key head alone.
    pub(super) fn per_kv_head(&mut self, sharing: &Sharing, element: Id, h: Id) -> Res<Id> {
        let element = match sharing.quotient {
            Some(quotient) => self.eval.sym.subst(element, &HashMap::from([(quotient, sharing.g)])),
            None => element,
        };
        if sharing.g != h && self.eval.sym.contains(element, h) {
            return self.fault("reads keys and values of different heads");
        }
        Ok(element)
    }

    /// An element at (head, column) as a function of a flat column of `heads * width`; gives that column's variable too.
    pub(super) fn flat(&mut self, element: Id, head: Id, column: Id, heads: u64, width: u64) -> (Id, Id) {
        let (all, one) = (self.eval.sym.number((heads * width) as f64), self.eval.sym.number(width as f64));
        let c = self.eval.sym.var("c", all);
        let (h, d) = self.eval.sym.div_mod(c, one);
        // A variable of extent 1 is the number 0 already.
        let map: HashMap<Id, Id> =
            [(head, h), (column, d)].into_iter().filter(|(from, _)| self.eval.sym.as_number(*from).is_none()).collect();
        (self.eval.sym.subst(element, &map), c)
    }
}
