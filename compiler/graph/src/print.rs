//! The text form of a graph: one line per node, in topological order, the same text for the same graph.
//!
//! ```text
//! %0 = input : i64[batch,sequence] @ input_ids
//! %1 = const {[0, -1]} : i64[2] @ val_3
//! %2, %3 = Split(%0, %1, _) {axis=1} : i64[batch,?], ? @ node_split
//! return logits=%3
//! ```
//!
//! Values are numbered in the order they are made; `_` is an optional operand that is absent; behind `@` stands the node's name in the user's model. An
//! attribute that is a graph is printed between braces, indented.

use crate::source::{Attr, Dim, SourceOp, SourceType};
use crate::{Graph, Tensor, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

/// List elements that are printed before the rest is only counted.
const LIST: usize = 16;

/// How an op looks in a printed graph.
pub trait PrintOp {
    /// What stands before the operands.
    fn mnemonic(&self) -> Cow<'_, str>;

    /// What stands behind them: `key=value` and the like, in an order that depends on nothing but the op.
    fn attributes(&self) -> Vec<String>;
}

impl<O: PrintOp, T: Display> Display for Graph<O, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut numbers: BTreeMap<Value, usize> = BTreeMap::new();
        let number =
            |numbers: &BTreeMap<Value, usize>, value: Value| numbers.get(&value).map_or("%?".to_owned(), |n| format!("%{n}"));
        for id in self.topological().unwrap_or_else(|| self.ids().collect()) {
            let node = self.node(id);
            let results: Vec<Value> = (0..node.results.len()).map(|r| Value { node: id, result: r as u16 }).collect();
            for &value in &results {
                numbers.insert(value, numbers.len());
            }
            if !results.is_empty() {
                write!(f, "{} = ", join(results.iter().map(|&v| number(&numbers, v))))?;
            }
            f.write_str(&node.op.mnemonic())?;
            let operands = self.operands(id);
            if !operands.is_empty() {
                write!(f, "({})", join(operands.iter().map(|o| o.map_or("_".to_owned(), |v| number(&numbers, v)))))?;
            }
            let attributes = node.op.attributes();
            if !attributes.is_empty() {
                write!(f, " {{{}}}", join(attributes))?;
            }
            writeln!(f, " : {} @ {}", join(&node.results), node.name.replace(char::is_control, "?"))?;
        }
        writeln!(f, "return {}", join(self.outputs.iter().map(|(name, value)| format!("{name}={}", number(&numbers, *value)))))
    }
}

impl PrintOp for SourceOp {
    fn mnemonic(&self) -> Cow<'_, str> {
        match self {
            Self::Input => "input".into(),
            Self::Const(_) => "const".into(),
            Self::Call(call) if call.domain.is_empty() => call.op.as_str().into(),
            Self::Call(call) => format!("{}.{}", call.domain, call.op).into(),
        }
    }

    fn attributes(&self) -> Vec<String> {
        match self {
            Self::Input => Vec::new(),
            Self::Const(tensor) => elements(tensor).into_iter().collect(),
            Self::Call(call) => call.attrs.iter().map(|(name, attr)| format!("{name}={attr}")).collect(),
        }
    }
}

impl Display for Attr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v:?}"),
            Self::Str(v) => write!(f, "{v:?}"),
            Self::Ints(v) => f.write_str(&list(v.len(), |i| v[i].to_string())),
            Self::Floats(v) => f.write_str(&list(v.len(), |i| format!("{:?}", v[i]))),
            Self::Strs(v) => f.write_str(&list(v.len(), |i| format!("{:?}", v[i]))),
            Self::Tensor(tensor) => {
                let dims = join(tensor.dims());
                write!(f, "{}[{dims}]{}", tensor.dtype().name(), elements(tensor).unwrap_or_default())
            }
            Self::Graph(body) => write!(f, "{{\n  {}\n}}", body.graph.to_string().trim_end().replace('\n', "\n  ")),
        }
    }
}

impl Display for SourceType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.map_or("?", |d| d.name()))?;
        match &self.dims {
            Some(dims) => write!(f, "[{}]", dims.iter().map(Dim::to_string).collect::<Vec<_>>().join(",")),
            None => Ok(()),
        }
    }
}

impl Display for Dim {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Named(name) => f.write_str(name),
            Self::Unknown => f.write_char('?'),
        }
    }
}

/// The elements of a small tensor; nothing of a larger one is read.
fn elements(tensor: &Tensor) -> Option<String> {
    let count = usize::try_from(tensor.count()).ok().filter(|n| *n <= LIST)?;
    let float = tensor.dtype().is_float();
    Some(list(count, |i| {
        if float { format!("{:?}", tensor.number(i as u64) as f32) } else { tensor.integer(i as u64).to_string() }
    }))
}

fn list(len: usize, element: impl Fn(usize) -> String) -> String {
    let more = if len > LIST { format!(", {} more", len - LIST) } else { String::new() };
    format!("[{}{more}]", join((0..len.min(LIST)).map(element)))
}

fn join(parts: impl IntoIterator<Item = impl Display>) -> String {
    parts.into_iter().map(|p| p.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Body, Call, SourceGraph};
    use crate::{DType, NodeId};

    fn value(node: NodeId, result: u16) -> Option<Value> {
        Some(Value { node, result })
    }

    fn call(domain: &str, op: &str, attrs: &[(&str, Attr)]) -> SourceOp {
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        SourceOp::Call(Call { domain: domain.into(), op: op.into(), version: 20, attrs })
    }

    #[test]
    fn the_text_is_pinned() {
        let ty = |dims: &[Dim]| SourceType { name: "x".into(), dtype: Some(DType::F32), dims: Some(dims.to_vec()) };
        let mut body = SourceGraph::new();
        let x = body.add("x", SourceOp::Input, &[], vec![SourceType::default()]);
        body.outputs.push(("y".into(), Value { node: x, result: 0 }));
        let mut g = SourceGraph::new();
        let x = g.add("x", SourceOp::Input, &[], vec![ty(&[Dim::Named("a + b".into()), Dim::Fixed(4), Dim::Unknown])]);
        let small = g.add("sizes", SourceOp::Const(Tensor::from_i64(vec![2], &[1, -1])), &[], vec![ty(&[Dim::Fixed(2)])]);
        let large = g.add("w", SourceOp::Const(Tensor::from_f32(vec![20], &[0.5; 20])), &[], vec![ty(&[Dim::Fixed(20)])]);
        let attrs = [
            ("axis", Attr::Int(-1)),
            ("body", Attr::Graph(Box::new(Body { graph: body, captured: 0 }))),
            ("k", Attr::Ints((0..20).collect())),
        ];
        let split = call("ai.custom", "Split", &attrs);
        let split = g.add("node \"1\"", split, &[value(x, 0), None, value(small, 0)], vec![SourceType::default(), ty(&[])]);
        let tensor = Attr::Tensor(Tensor::from_f32(vec![], &[1e-5]));
        let last = g.add(
            "n2",
            call("", "Foo", &[("eps", Attr::Float(0.1)), ("s", Attr::Str("a\n".into())), ("t", tensor)]),
            &[value(split, 1), value(large, 0)],
            vec![ty(&[])],
        );
        g.outputs.push(("out".into(), Value { node: last, result: 0 }));
        let expected = "\
%0 = input : f32[a + b,4,?] @ x
%1 = const {[1, -1]} : f32[2] @ sizes
%2 = const : f32[20] @ w
%3, %4 = ai.custom.Split(%0, _, %1) {axis=-1, body={
  %0 = input : ? @ x
  return y=%0
}, k=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 4 more]} : ?, f32[] @ node \"1\"
%5 = Foo(%4, %2) {eps=0.1, s=\"a\\n\", t=f32[][1e-5]} : f32[] @ n2
return out=%5
";
        assert_eq!(g.to_string(), expected);
    }
}
