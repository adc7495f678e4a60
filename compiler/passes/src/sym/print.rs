//! Expressions as text, for diagnostics of the compiler itself and for reading tests.

use super::{Arena, Base, Combine, Dim, Id, Node, Power};
use std::fmt::Write;

/// Texts end after about this many bytes: shared parts are written as often as they are used.
const LONGEST: usize = 300;

impl Arena {
    /// One line, cut off where it gets long.
    pub fn show(&self, id: Id) -> String {
        let mut text = String::new();
        self.write(&mut text, id);
        if text.len() > LONGEST {
            text.push_str(" ...");
        }
        text
    }

    fn write(&self, out: &mut String, id: Id) {
        if out.len() > LONGEST {
            return;
        }
        // Writing to a string cannot fail.
        let _ = match self.node(id) {
            Node::Number(x) => write!(out, "{}", x.0),
            Node::Dim(Dim::Batch) => out.write_str("B"),
            Node::Dim(Dim::Tokens) => out.write_str("S"),
            Node::Dim(Dim::Past) => out.write_str("P"),
            Node::Dim(Dim::Other(name)) => write!(out, "'{name}'"),
            Node::Var(var) => out.write_str(&self.vars[var.0 as usize].0),
            Node::Bound(level, _) => write!(out, "#{level}"),
            Node::Load(base, index) => {
                let (Base::Constant(name, _) | Base::Opaque(name, _)) = self.base(*base);
                self.list(out, name, index, ", ", ["[", "]"])
            }
            Node::Sum(terms, constant) => {
                out.push('(');
                for (at, (term, c)) in terms.iter().enumerate() {
                    let _ = match (at, c.0) {
                        (0, 1.0) => Ok(()),
                        (0, c) => write!(out, "{c}*"),
                        (_, 1.0) => out.write_str(" + "),
                        (_, c) => write!(out, " + {c}*"),
                    };
                    self.write(out, *term);
                }
                if constant.0 == 0.0 { out.write_str(")") } else { write!(out, " + {})", constant.0) }
            }
            Node::Product(factors) => {
                for (at, (factor, power)) in factors.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { "*" });
                    self.write(out, *factor);
                    if *power != Power::ONE {
                        let _ = write!(out, "^{power}");
                    }
                }
                Ok(())
            }
            Node::Apply(func, x) => self.list(out, &format!("{func:?}").to_lowercase(), &[*x], "", ["(", ")"]),
            Node::Div(a, b) => self.list(out, "div", &[*a, *b], ", ", ["(", ")"]),
            Node::Mod(a, b) => self.list(out, "mod", &[*a, *b], ", ", ["(", ")"]),
            Node::Max(a, b) => self.list(out, "max", &[*a, *b], ", ", ["(", ")"]),
            Node::NonNegative(x) => self.list(out, "", &[*x], "", ["[", " >= 0]"]),
            Node::Zero(x) => self.list(out, "", &[*x], "", ["[", " = 0]"]),
            Node::Not(x) => self.list(out, "not ", &[*x], "", ["", ""]),
            Node::And(parts) => self.list(out, "", parts, " and ", ["(", ")"]),
            Node::Select(c, a, b) => self.list(out, "select", &[*c, *a, *b], ", ", ["(", ")"]),
            Node::Fold(Combine::Sum, bound, body) => self.list(out, "sum", &[*bound, *body], ", ", ["(", ")"]),
            Node::Fold(Combine::Max, bound, body) => self.list(out, "largest", &[*bound, *body], ", ", ["(", ")"]),
        };
    }

    fn list(&self, out: &mut String, name: &str, items: &[Id], separator: &str, [open, close]: [&str; 2]) -> std::fmt::Result {
        write!(out, "{name}{open}")?;
        for (at, item) in items.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { separator });
            self.write(out, *item);
        }
        out.write_str(close)
    }
}
