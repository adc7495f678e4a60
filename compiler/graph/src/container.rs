//! A directed acyclic graph of ops with named results, on petgraph.
//!
//! Invariants, checked by [`Graph::check`]:
//! 1. every edge enters a port below the number of its node's operands, and each such port has exactly one edge;
//! 2. every edge leaves a result that its node has;
//! 3. there is no cycle.

use petgraph::Direction;
use petgraph::stable_graph::{EdgeIndex, NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

/// Identity of a node; stays valid while other nodes are removed.
pub type NodeId = NodeIndex<u32>;

/// One result of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Who makes it.
    pub node: NodeId,
    /// Which of its results.
    pub result: u16,
}

/// An op with its provenance.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<O, T> {
    /// What it does.
    pub op: O,
    /// The name in the user's model that this node stems from.
    pub name: String,
    /// The type of each result.
    pub results: Vec<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    result: u16,
    operand: u16,
}

/// A graph of ops `O` whose values have types `T`.
///
/// Operands are positional; an optional operand that is absent has no edge at its position.
#[derive(Clone, Debug)]
pub struct Graph<O, T> {
    dag: StableDiGraph<Node<O, T>, Use, u32>,
    /// What the graph gives, by name.
    pub outputs: Vec<(String, Value)>,
}

impl<O, T> Default for Graph<O, T> {
    fn default() -> Self {
        Self { dag: StableDiGraph::default(), outputs: Vec::new() }
    }
}

impl<O, T> Graph<O, T> {
    /// No nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node. `operands[i]` becomes operand `i`; `None` leaves the position empty.
    pub fn add(&mut self, name: impl Into<String>, op: O, operands: &[Option<Value>], results: Vec<T>) -> NodeId {
        let id = self.dag.add_node(Node { op, name: name.into(), results });
        for (operand, value) in operands.iter().enumerate() {
            if let Some(value) = value {
                self.dag.add_edge(value.node, id, Use { result: value.result, operand: operand as u16 });
            }
        }
        id
    }

    /// The node behind an id.
    ///
    /// # Panics
    /// If the node was removed.
    pub fn node(&self, id: NodeId) -> &Node<O, T> {
        &self.dag[id]
    }

    /// The node behind an id, to change it.
    ///
    /// # Panics
    /// If the node was removed.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node<O, T> {
        &mut self.dag[id]
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &T {
        &self.dag[value.node].results[value.result as usize]
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ids in order of insertion.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dag.node_indices()
    }

    /// Operands by position, up to the last one present.
    pub fn operands(&self, id: NodeId) -> Vec<Option<Value>> {
        let mut operands = Vec::new();
        for edge in self.dag.edges_directed(id, Direction::Incoming) {
            let at = edge.weight().operand as usize;
            if operands.len() <= at {
                operands.resize(at + 1, None);
            }
            operands[at] = Some(Value { node: edge.source(), result: edge.weight().result });
        }
        operands
    }

    /// Operand `at`, if present.
    pub fn operand(&self, id: NodeId, at: usize) -> Option<Value> {
        self.dag
            .edges_directed(id, Direction::Incoming)
            .find(|e| e.weight().operand as usize == at)
            .map(|e| Value { node: e.source(), result: e.weight().result })
    }

    /// Who reads a value: node and operand position, in order of insertion.
    pub fn users(&self, value: Value) -> Vec<(NodeId, usize)> {
        let mut users: Vec<(NodeId, usize)> = self
            .dag
            .edges_directed(value.node, Direction::Outgoing)
            .filter(|e| e.weight().result == value.result)
            .map(|e| (e.target(), e.weight().operand as usize))
            .collect();
        users.sort_unstable();
        users
    }

    /// Makes `value` operand `at` of a node, in place of what was there.
    pub fn set_operand(&mut self, id: NodeId, at: usize, value: Value) {
        self.clear_operand(id, at);
        self.dag.add_edge(value.node, id, Use { result: value.result, operand: at as u16 });
    }

    /// Takes operand `at` away.
    pub fn clear_operand(&mut self, id: NodeId, at: usize) {
        let edge: Option<EdgeIndex<u32>> =
            self.dag.edges_directed(id, Direction::Incoming).find(|e| e.weight().operand as usize == at).map(|e| e.id());
        if let Some(edge) = edge {
            self.dag.remove_edge(edge);
        }
    }

    /// Makes every reader of `old`, and every output that was `old`, read `new`; a reader in `except` keeps `old`.
    pub fn replace_uses(&mut self, old: Value, new: Value, except: &[NodeId]) {
        for (user, at) in self.users(old) {
            if !except.contains(&user) {
                self.set_operand(user, at, new);
            }
        }
        for (_, value) in &mut self.outputs {
            if *value == old {
                *value = new;
            }
        }
    }

    /// Removes every node that no output depends on and `keep` does not hold. Returns how many went.
    pub fn drop_dead(&mut self, keep: impl Fn(&Node<O, T>) -> bool) -> usize {
        let mut live: std::collections::BTreeSet<NodeId> = self.ids().filter(|&id| keep(self.node(id))).collect();
        let mut work: Vec<NodeId> = live.iter().copied().chain(self.outputs.iter().map(|(_, v)| v.node)).collect();
        while let Some(id) = work.pop() {
            live.insert(id);
            work.extend(self.dag.neighbors_directed(id, Direction::Incoming).filter(|n| !live.contains(n)));
        }
        let before = self.len();
        self.dag.retain_nodes(|_, id| live.contains(&id));
        before - self.len()
    }

    /// Ids such that every node comes after its operands; ties by order of insertion. `None` if there is a cycle.
    pub fn topological(&self) -> Option<Vec<NodeId>> {
        use std::cmp::Reverse;
        use std::collections::{BTreeMap, BinaryHeap};
        let mut waiting: BTreeMap<NodeId, usize> =
            self.ids().map(|id| (id, self.dag.edges_directed(id, Direction::Incoming).count())).collect();
        let mut ready: BinaryHeap<Reverse<NodeId>> =
            waiting.iter().filter(|(_, n)| **n == 0).map(|(id, _)| Reverse(*id)).collect();
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for target in self.dag.neighbors_directed(id, Direction::Outgoing) {
                let left = waiting.get_mut(&target)?;
                *left -= 1;
                if *left == 0 {
                    ready.push(Reverse(target));
                }
            }
        }
        (order.len() == self.len()).then_some(order)
    }

    /// Checks the numbered invariants of this module; an error names the invariant and the node.
    pub fn check(&self) -> Result<(), String> {
        for id in self.ids() {
            let mut seen = Vec::new();
            for edge in self.dag.edges_directed(id, Direction::Incoming) {
                if seen.contains(&edge.weight().operand) {
                    return Err(format!(
                        "invariant 1: operand {} of '{}' has two sources",
                        edge.weight().operand,
                        self.node(id).name
                    ));
                }
                seen.push(edge.weight().operand);
                if edge.weight().result as usize >= self.node(edge.source()).results.len() {
                    return Err(format!(
                        "invariant 2: '{}' has no result {}",
                        self.node(edge.source()).name,
                        edge.weight().result
                    ));
                }
            }
        }
        self.topological().map(|_| ()).ok_or_else(|| "invariant 3: the graph has a cycle".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(node: NodeId) -> Value {
        Value { node, result: 0 }
    }

    #[test]
    fn operands_keep_their_positions() {
        let mut g: Graph<&str, ()> = Graph::new();
        let a = g.add("a", "in", &[], vec![()]);
        let b = g.add("b", "in", &[], vec![()]);
        let c = g.add("c", "op", &[Some(value(a)), None, Some(value(b))], vec![()]);
        assert_eq!(g.operands(c), vec![Some(value(a)), None, Some(value(b))]);
        g.replace_uses(value(a), value(b), &[]);
        assert_eq!(g.users(value(b)), vec![(c, 0), (c, 2)]);
        g.outputs.push(("y".into(), value(c)));
        assert_eq!(g.drop_dead(|_| false), 1);
        assert_eq!(g.topological(), Some(vec![b, c]));
        assert_eq!(g.check(), Ok(()));
    }

    #[test]
    fn a_cycle_is_found() {
        let mut g: Graph<&str, ()> = Graph::new();
        let a = g.add("a", "op", &[], vec![()]);
        let b = g.add("b", "op", &[Some(value(a))], vec![()]);
        g.set_operand(a, 0, value(b));
        assert!(g.check().unwrap_err().contains("invariant 3"));
    }
}
