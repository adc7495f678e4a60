//! Experts in sorted groups: rows are ordered by their expert, every expert multiplies the stretch that is its own, and the stretches are
//! joined again.
//!
//! Row `r` of the joined product is row `r` of what was sorted times the weight of the `r`-th smallest expert id. That holds if
//!
//! 1. stretch `e` starts at the number of ids below `e` and ends at the number of ids up to `e`, where the ids are a router's choices,
//! 2. the ids were sorted upwards, all of them, and
//! 3. row `j` of stretch `e` is row `start(e) + j` of one and the same matrix.
//!
//! The numbers of ids are sums over experts of sums over rows of a comparison; that it compares for equality is tried for every id.

use super::linear::PendingLinear;
use super::{BaseId, HashMap, Raised, Raiser, Res};
use crate::sym::{Combine, Id, Node};
use q35_graph::{NodeId, Value, WeightView};

/// One operand of the joining.
struct Stretch {
    /// Index of a row in it, and how many there are.
    row: Id,
    extent: Id,
    /// The layer, its factor, and where its rows are.
    base: BaseId,
    factor: f64,
    at: Vec<Id>,
}

/// A sorting, upwards.
struct Order {
    /// Place of the row that comes `row`-th.
    place: Id,
    row: Id,
    /// Rows.
    count: Id,
}

impl Raiser<'_> {
    /// A `Concat` of stretches that experts multiplied; any other is a view.
    pub(super) fn grouped_product(&mut self, node: NodeId) -> Res<()> {
        let output = Value { node, result: 0 };
        let operands: Vec<Value> = self.eval.graph.operands(node).into_iter().flatten().collect();
        if operands.len() < 2 || self.eval.call(node)?.int("axis", 0) != 0 {
            return Ok(());
        }
        let Some(&columns) = self.eval.shape(output)?.get(1).filter(|_| operands.len() > 1) else { return Ok(()) };
        let n = self.eval.sym.var("n", columns);
        let mut stretches = Vec::with_capacity(operands.len());
        for operand in operands {
            match self.stretch(operand, n)? {
                Some(stretch) => stretches.push(stretch),
                None => return Ok(()),
            }
        }
        let Some(order) = self.order_behind(&stretches[1]) else { return Ok(()) };
        let (ids, experts) = self.sorted_ids(&order)?;
        if experts != stretches.len() as u64 {
            return self.fault(format!("joins what {} of {experts} experts gave", stretches.len()));
        }
        self.are_stretches(&order, ids, &stretches)?;

        // All layers are of one input, and their weights are one stack.
        let first = &stretches[0];
        let mut weights = Vec::with_capacity(stretches.len());
        let Some(Raised::Linear(pending)) = self.raised.get(&first.base) else { return self.consequence() };
        let (input, origin) = (pending.input(), pending.weight().1.to_owned());
        for stretch in &stretches {
            let Some(Raised::Linear(pending)) = self.raised.get(&stretch.base) else { return self.consequence() };
            if pending.input() != input || pending.routing().is_some() || stretch.factor != first.factor {
                return self.fault("has experts that compute different things");
            }
            weights.push(pending.weight().0.clone());
        }
        let stacked = WeightView::joined(weights).and_then(|view| view.split(experts));
        let Some(weight) = stacked else { return self.fault("has experts of different sizes") };
        let Some((topk, place)) = self.chosen(ids) else { return self.consequence() };
        let routing = self.routing(topk)?;
        let Some((&choice, rows)) = place.split_last() else { return self.consequence() };
        let row = self.routed_row(topk, rows)?;
        let at = self.eval.sym.subst_all(&first.at, &HashMap::from([(first.row, order.row)]));
        let right = match at[..] {
            [b, s, _] => self.is_same_row([b, s], row),
            [b, s, c, _] => self.is_same_row([b, s], row) && c == choice,
            _ => false,
        };
        if !right {
            return self.fault("multiplies with experts of other tokens");
        }
        let pending = PendingLinear::new(input, weight, origin, node, Some(routing.value));
        let factor = first.factor;
        let base = self.raise_base(Raised::Linear(Box::new(pending)));
        let load = self.eval.sym.load(base, &[row[0], row[1], choice, n]);
        let result = self.eval.sym.scaled(load, factor);
        self.eval.cut(output, vec![order.row, n], result);
        self.eval.resize(output, vec![order.count, columns]);
        Ok(())
    }

    /// Rows of a linear layer that is not routed, at a row variable of their own.
    fn stretch(&mut self, operand: Value, n: Id) -> Res<Option<Stretch>> {
        let &[extent, _] = &self.eval.shape(operand)?[..] else { return Ok(None) };
        if self.eval.sym.as_number(extent).is_some() {
            return Ok(None);
        }
        let row = self.eval.sym.var("stretched", extent);
        let element = self.eval.element(operand, &[row, n])?;
        let (factor, load) = self.eval.sym.coefficient(element);
        let Node::Load(base, at) = self.eval.sym.node(load).clone() else { return Ok(None) };
        let linear = matches!(self.raised.get(&base), Some(Raised::Linear(_))) && at.last() == Some(&n);
        Ok(linear.then(|| Stretch { row, extent, base, factor, at: at.to_vec() }))
    }

    /// The sorting that a stretch is part of.
    fn order_behind(&mut self, stretch: &Stretch) -> Option<Order> {
        let mut found = None;
        for &at in &stretch.at {
            self.eval.sym.visit(at, |id, node| {
                if let Node::Load(_, index) = node
                    && index.len() == 1
                    && self.chosen(id).is_some()
                {
                    found = Some(id);
                }
                found.is_none()
            });
        }
        let (node, _) = self.chosen(found?)?;
        let count = *self.eval.shape(Value { node, result: 1 }).ok()?.first()?;
        let row = self.eval.sym.var("sorted", count);
        let place = self.eval.opaque(Value { node, result: 1 }, &[row]).ok()?;
        let call = self.eval.call(node).ok()?;
        let operand = self.eval.operand(node, 0).ok()?;
        let upwards = call.int("largest", 1) == 0 && call.int("sorted", 1) == 1;
        (upwards && self.eval.shape(operand).ok()? == [count]).then_some(Order { place, row, count })
    }

    /// The id that comes `row`-th, a router's choice, and how many experts there are.
    fn sorted_ids(&mut self, order: &Order) -> Res<(Id, u64)> {
        let Some((sorting, _)) = self.chosen(order.place) else { return self.consequence() };
        let operand = self.eval.operand(sorting, 0)?;
        let id = self.eval.element(operand, &[order.place])?;
        let Some((topk, _)) = self.chosen(id) else { return self.fault("sorts rows by what is no choice of experts") };
        let scores = self.eval.operand(topk, 0)?;
        match self.eval.shape(scores)?.last().and_then(|n| self.eval.sym.as_int(*n)) {
            Some(experts @ 1..) => Ok((id, experts as u64)),
            _ => self.fault("chooses among an unknown number of experts"),
        }
    }

    /// Whether the stretches cover what was sorted, each the rows of its expert.
    fn are_stretches(&mut self, order: &Order, ids: Id, stretches: &[Stretch]) -> Res<()> {
        const STRANGE: &str = "joins stretches that are not those of its experts";
        let zero = self.eval.sym.int(0);
        // Up to where the last reaches says how the exporter counts.
        let mut starts = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            match self.start_of(order, stretch) {
                Some(start) => starts.push(start),
                None => return self.fault(STRANGE),
            }
        }
        let (Some(last), Some(&from)) = (stretches.last(), starts.last()) else { return self.consequence() };
        let Node::Max(a, b) = *self.eval.sym.node(last.extent) else { return self.fault(STRANGE) };
        let length = if a == zero { b } else { a };
        let all = self.eval.sym.add(from, length);
        let count = self.eval.sym.number(stretches.len() as f64);
        let Some((e, of_expert)) = self.counts_each(order, ids, all, count) else { return self.fault(STRANGE) };
        let mut end = zero;
        for (i, (stretch, start)) in stretches.iter().zip(&starts).enumerate() {
            let upto = self.eval.sym.number((i + 1) as f64);
            let next = self.eval.sym.fold(Combine::Sum, e, upto, of_expert);
            let length = self.eval.sym.sub(next, end);
            let extent = self.eval.sym.max(length, zero);
            let own = self.eval.sym.add(*start, stretch.row);
            let first = &stretches[0];
            let wanted = self.eval.sym.subst_all(&first.at, &HashMap::from([(first.row, own)]));
            if *start != end || extent != stretch.extent || wanted != stretch.at {
                return self.fault(STRANGE);
            }
            end = next;
        }
        Ok(())
    }

    /// Where in the order a stretch's first row is.
    fn start_of(&mut self, order: &Order, stretch: &Stretch) -> Option<Id> {
        let Node::Load(sorted, _) = *self.eval.sym.node(order.place) else { return None };
        let mut starts = Vec::new();
        for &at in &stretch.at {
            self.eval.sym.visit(at, |_, node| {
                if let Node::Load(base, index) = node
                    && *base == sorted
                    && self.eval.sym.contains(index[0], stretch.row)
                {
                    starts.push(index[0]);
                }
                true
            });
        }
        let start = self.eval.sym.sub(*starts.first()?, stretch.row);
        (starts.iter().all(|s| *s == starts[0]) && !self.eval.sym.contains(start, stretch.row)).then_some(start)
    }

    /// The number of rows whose id is `e`, as the exporter counts them, and the variable `e`, from the sum over all.
    fn counts_each(&mut self, order: &Order, ids: Id, all: Id, experts: Id) -> Option<(Id, Id)> {
        let Node::Fold(Combine::Sum, bound, each) = *self.eval.sym.node(all) else { return None };
        if self.eval.sym.bound_extent(bound) != Some(experts) {
            return None;
        }
        let e = self.eval.sym.var("expert", experts);
        let each = self.eval.sym.subst(each, &HashMap::from([(bound, e)]));
        let Node::Fold(Combine::Sum, row, one) = *self.eval.sym.node(each) else { return None };
        if self.eval.sym.bound_extent(row) != Some(order.count) {
            return None;
        }
        let id = self.eval.sym.subst(ids, &HashMap::from([(order.row, row)]));
        for number in 0..self.eval.sym.as_int(experts)? {
            let number = self.eval.sym.int(number);
            let found = self.eval.sym.subst(one, &HashMap::from([(id, number)]));
            let equal = self.eval.sym.equal(number, e);
            if found != self.eval.sym.indicator(equal) {
                return None;
            }
        }
        Some((e, each))
    }
}
