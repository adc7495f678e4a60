//! Expressions as text, for diagnostics of the compiler itself and for reading tests.

use super::{Arena, Base, Combine, Dim, Id, Node, Power};

impl Arena {
    /// One line.
    pub fn show(&self, id: Id) -> String {
        let list = |ids: &[Id], sep: &str| ids.iter().map(|i| self.show(*i)).collect::<Vec<_>>().join(sep);
        match self.node(id) {
            Node::Number(x) => x.0.to_string(),
            Node::Dim(dim) => match dim {
                Dim::Batch => "B".into(),
                Dim::Tokens => "S".into(),
                Dim::Past => "P".into(),
                Dim::Other(name) => format!("'{name}'"),
            },
            Node::Var(var) => self.vars[var.0 as usize].0.clone(),
            Node::Bound(level, _) => format!("#{level}"),
            Node::Load(base, index) => match self.base(*base) {
                Base::Constant(name, _) | Base::Opaque(name, _) => format!("{name}[{}]", list(index, ",")),
            },
            Node::Sum(terms, constant) => {
                let mut text: Vec<String> = terms
                    .iter()
                    .map(|(t, c)| if c.0 == 1.0 { self.show(*t) } else { format!("{}*{}", c.0, self.show(*t)) })
                    .collect();
                if constant.0 != 0.0 {
                    text.push(constant.0.to_string());
                }
                format!("({})", text.join(" + "))
            }
            Node::Product(factors) => factors
                .iter()
                .map(|(f, p)| if *p == Power::ONE { self.show(*f) } else { format!("{}^{p}", self.show(*f)) })
                .collect::<Vec<_>>()
                .join("*"),
            Node::Apply(func, x) => format!("{}({})", format!("{func:?}").to_lowercase(), self.show(*x)),
            Node::Div(a, b) => format!("div({}, {})", self.show(*a), self.show(*b)),
            Node::Mod(a, b) => format!("mod({}, {})", self.show(*a), self.show(*b)),
            Node::Max(a, b) => format!("max({}, {})", self.show(*a), self.show(*b)),
            Node::NonNegative(x) => format!("[{} >= 0]", self.show(*x)),
            Node::Zero(x) => format!("[{} = 0]", self.show(*x)),
            Node::Not(x) => format!("not {}", self.show(*x)),
            Node::And(parts) => format!("({})", list(parts, " and ")),
            Node::Select(c, a, b) => format!("({} ? {} : {})", self.show(*c), self.show(*a), self.show(*b)),
            Node::Fold(combine, extent, body) => {
                let word = match combine {
                    Combine::Sum => "sum",
                    Combine::Max => "max",
                };
                format!("{word}<{}>({})", self.show(*extent), self.show(*body))
            }
        }
    }
}
