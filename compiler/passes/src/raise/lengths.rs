//! What depends on how long a text is: frequencies that a model chooses by it, as long-context scalings of rotations do, and factors that change
//! where a position passes a multiple of a length.
//!
//! A compiled model has one set of frequencies for all texts. A choice that is the same for every text within the context is made; one that is
//! not is made as for a text that fills the context, and the user is told. A position's own steps are only left out where the context has none.

use super::control::condition::{Limits, is_position};
use super::{BTreeSet, HashMap, Raiser, Res};
use crate::sym::{Combine, Dim, Func, Id, Node};
use q35_diag::{Code, Diagnostic};

impl Raiser<'_> {
    /// An expression with all its choices by the length of the text made.
    pub(super) fn for_context(&mut self, expr: Id) -> Res<Id> {
        let (mut conditions, mut steps) = (BTreeSet::new(), BTreeSet::new());
        self.eval.sym.visit(expr, |id, node| {
            match node {
                Node::Select(condition, ..) => {
                    conditions.insert(*condition);
                }
                Node::Apply(Func::Floor, _) => {
                    steps.insert(id);
                }
                _ => {}
            }
            true
        });
        conditions.retain(|condition| self.is_of_length(*condition));
        let mut made = HashMap::new();
        for condition in conditions {
            let limits = Limits::new(Some(&self.grid), self.context);
            let settled = limits.at(self.context, &mut self.eval, condition);
            let holds = match settled {
                Some(holds) => holds,
                None => {
                    let within = limits.settled_within(&mut self.eval, condition);
                    let Some(holds) = self.at_longest(condition) else { continue };
                    self.note_length(within);
                    holds
                }
            };
            made.insert(condition, self.eval.sym.truth(holds != 0.0));
        }
        for step in steps {
            let limits = Limits::new(Some(&self.grid), self.context);
            match limits.at(self.context, &mut self.eval, step) {
                Some(number) => made.insert(step, self.eval.sym.number(number)),
                None => match limits.settled_within(&mut self.eval, step) {
                    Some(within) => {
                        let what = "scales by a step of the position, of which the first ends after";
                        return self.fault(format!("{what} {within} tokens: use --context {within} or less"));
                    }
                    None => continue,
                },
            };
        }
        Ok(self.eval.sym.subst(expr, &made))
    }

    /// Whether a condition depends on the number of tokens, or on the largest position, and on nothing else.
    fn is_of_length(&self, condition: Id) -> bool {
        let (mut work, mut found) = (vec![condition], false);
        while let Some(id) = work.pop() {
            match self.eval.sym.node(id) {
                Node::Dim(Dim::Tokens | Dim::Past) => found = true,
                Node::Fold(Combine::Max, ..) if is_position(&self.grid, &self.eval, id) => found = true,
                Node::Number(_) | Node::Sum(..) | Node::NonNegative(_) | Node::Zero(_) | Node::Not(_) | Node::And(_) => {
                    work.extend(self.eval.sym.children(id));
                }
                _ => return false,
            }
        }
        found
    }

    /// The number that an expression is for a text that fills the context.
    fn at_longest(&mut self, expr: Id) -> Option<f64> {
        let (context, zero) = (self.eval.sym.number(self.context as f64), self.eval.sym.int(0));
        let mut map = HashMap::from([(self.grid.tokens, context)]);
        map.extend(self.grid.past.map(|past| (past, zero)));
        map.retain(|size, _| self.eval.sym.as_number(*size).is_none());
        let last = self.eval.sym.plus(context, -1.0);
        let mut positions = Vec::new();
        self.eval.sym.visit(expr, |id, node| {
            if matches!(node, Node::Fold(..)) {
                positions.push(id);
            }
            true
        });
        map.extend(positions.into_iter().map(|position| (position, last)));
        let expr = self.eval.sym.subst(expr, &map);
        self.eval.sym.as_number(expr)
    }

    fn note_length(&mut self, within: Option<u64>) {
        let what = format!(
            "frequencies of rotations depend on how long a text is; those for {} tokens are used for all",
            self.context
        );
        let mut warning = Diagnostic::warning(Code::LengthDependent, what);
        if let Some(within) = within {
            warning =
                warning.help(format!("use --context {within} for the frequencies that texts of up to {within} tokens have"));
        }
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}
