//! What a condition or a count always is, for every number of tokens that fits the context.

use super::super::inputs::Grid;
use crate::eval::{Eval, Fault};
use crate::sym::{Arena, Base, Combine, Dim, Id, Node};
use q35_diag::{Code, Diagnostic};
use q35_graph::Value;
use std::collections::{BTreeSet, HashMap};

/// What a run keeps to: cached and new tokens of a sequence are no more than the context, and so their positions are below it.
pub(in crate::raise) struct Limits<'g> {
    grid: Option<&'g Grid>,
    context: u64,
}

/// Why a number is not always the same.
pub(super) enum Open {
    /// It is no single number, or no number that can be followed.
    Unclear(String),
    /// It depends on the run.
    Depends {
        /// What it depends on.
        on: BTreeSet<String>,
        /// The longest context for which it does not.
        context: Option<u64>,
    },
}

impl<'g> Limits<'g> {
    pub(in crate::raise) fn new(grid: Option<&'g Grid>, context: u64) -> Self {
        Self { grid, context }
    }

    /// The number that a value of one element always is.
    pub(super) fn number(&self, eval: &mut Eval, value: Value) -> Result<f64, Open> {
        let element = element(eval, value)?;
        if let Some(number) = self.at(self.context, eval, element) {
            return Ok(number);
        }
        Err(Open::Depends { on: dependencies(&eval.sym, element), context: self.settled_within(eval, element) })
    }

    /// The longest context for which an expression is always the same number, if that is longer than one token, which is of no use.
    pub(in crate::raise) fn settled_within(&self, eval: &mut Eval, expr: Id) -> Option<u64> {
        // What holds for a context holds for every shorter one.
        let (mut good, mut open) = (1, self.context);
        while open - good > 1 {
            let middle = good + (open - good) / 2;
            match self.at(middle, eval, expr) {
                Some(_) => good = middle,
                None => open = middle,
            }
        }
        Some(good).filter(|good| *good > 1)
    }

    /// The number that an expression always is if runs keep to a context.
    pub(in crate::raise) fn at(&self, context: u64, eval: &mut Eval, expr: Id) -> Option<f64> {
        if let (Some(grid), None) = (self.grid, eval.sym.as_number(expr)) {
            let bounded = bounds(grid, context, eval, expr);
            let expr = eval.sym.subst(expr, &bounded);
            return eval.sym.as_number(expr);
        }
        eval.sym.as_number(expr)
    }
}

/// What stands for numbers of tokens and for positions in a context: `P` cached tokens are a variable below `C`, new ones are `C - P` without
/// what is left over, a position is a variable below `C`, given or counted.
fn bounds(grid: &Grid, context: u64, eval: &mut Eval, expr: Id) -> HashMap<Id, Id> {
    let mut map = HashMap::new();
    let all = eval.sym.number(context as f64);
    let past = match grid.past {
        Some(past) if eval.sym.as_number(past).is_none() => {
            // Where the number of new tokens is fixed, so many less may be cached.
            let fixed = eval.sym.as_number(grid.tokens).unwrap_or(1.0);
            let extent = eval.sym.plus(all, 1.0 - fixed);
            if eval.sym.as_number(extent).is_some_and(|extent| extent >= 1.0) {
                let var = eval.sym.var("cached", extent);
                map.insert(past, var);
                var
            } else {
                past
            }
        }
        Some(past) => past,
        None => eval.sym.int(0),
    };
    let room = eval.sym.sub(all, past);
    if eval.sym.as_number(grid.tokens).is_none() && eval.sym.as_number(room).is_none_or(|room| room >= 1.0) {
        let unused = eval.sym.var("unused", room);
        let tokens = eval.sym.sub(room, unused);
        map.insert(grid.tokens, tokens);
    }
    if eval.sym.as_number(grid.s).is_none() {
        let own = eval.sym.var("own", all);
        map.insert(grid.s, eval.sym.sub(own, past));
    }
    let mut positions = Vec::new();
    collect_positions(grid, eval, expr, &mut positions);
    for (at, position) in positions.into_iter().enumerate() {
        let var = eval.sym.var(&format!("position{at}"), all);
        map.insert(position, var);
    }
    map
}

/// Given positions, and the largest of several, in an expression. Those under a sum are not single ones.
fn collect_positions(grid: &Grid, eval: &Eval, expr: Id, found: &mut Vec<Id>) {
    if is_position(grid, eval, expr) {
        if !found.contains(&expr) {
            found.push(expr);
        }
    } else if !matches!(eval.sym.node(expr), Node::Fold(..)) {
        for child in eval.sym.children(expr) {
            collect_positions(grid, eval, child, found);
        }
    }
}

pub(in crate::raise) fn is_position(grid: &Grid, eval: &Eval, expr: Id) -> bool {
    match eval.sym.node(expr) {
        Node::Load(base, _) => grid.positions.is_some() && eval.value_of(*base) == grid.positions,
        Node::Fold(Combine::Max, _, body) => is_position(grid, eval, *body),
        _ => false,
    }
}

/// The one element of a value.
fn element(eval: &mut Eval, value: Value) -> Result<Id, Open> {
    let unclear = |fault: Fault, eval: &Eval| {
        Open::Unclear(format!("cannot be followed, because '{}' {}", eval.graph.node(fault.node).name, fault.why))
    };
    let shape = match eval.shape(value) {
        Ok(shape) => shape,
        Err(fault) => return Err(unclear(fault, eval)),
    };
    if shape.iter().any(|dim| eval.sym.as_number(*dim) != Some(1.0)) {
        return Err(Open::Unclear("has more than one element".to_owned()));
    }
    let zeros = vec![eval.sym.int(0); shape.len()];
    eval.element(value, &zeros).map_err(|fault| unclear(fault, eval))
}

/// What an expression depends on, in words.
fn dependencies(sym: &Arena, expr: Id) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    sym.visit(expr, |_, node| {
        found.extend(match node {
            Node::Dim(Dim::Batch) => Some("the number of sequences".to_owned()),
            Node::Dim(Dim::Tokens) => Some("the number of new tokens".to_owned()),
            Node::Dim(Dim::Past) => Some("the number of cached tokens".to_owned()),
            Node::Dim(Dim::Other(name)) if !name.starts_with('?') => Some(format!("the size '{name}'")),
            Node::Dim(Dim::Other(_)) => Some("a size without a name".to_owned()),
            Node::Load(base, _) => match sym.base(*base) {
                Base::Opaque(name, _) => Some(format!("'{name}'")),
                Base::Constant(..) => None,
            },
            _ => None,
        });
        true
    });
    found
}

impl Open {
    /// The diagnostic of a node whose `role` this is.
    pub(super) fn diagnostic(self, op: &str, role: &str) -> Diagnostic {
        let error = |what: String| Diagnostic::error(Code::UnsupportedForm, what);
        match self {
            Self::Unclear(why) => error(format!("{op} cannot be settled when the model is compiled: its {role} {why}")),
            Self::Depends { on, context } => {
                let on: Vec<String> = on.into_iter().collect();
                let on = if on.is_empty() { "the run".to_owned() } else { on.join(" and ") };
                let what = format!("{op} cannot be settled when the model is compiled: its {role} depends on {on}");
                match context {
                    Some(context) => error(what).help(format!("use --context {context} or less, for which it is settled")),
                    None => error(what),
                }
            }
        }
    }
}
