//! Provenance: what a node is called when the compiler speaks about it.
//!
//! In order of what is there: the name of the local functions it was inlined from (`call/inner`), the module of the original program that the exporter
//! recorded for it, its own name; a node without a name gets its op, its position and its first output, so that it can still be found.

use super::proto::Node;

/// The name of `node`, the `index`th of its graph or function; `prefix` is that of the calls it is inlined from, each with its `/`.
pub(super) fn of_node(prefix: &str, node: &Node, index: usize) -> String {
    let module =
        node.metadata_props.iter().find(|e| e.key == "namespace").and_then(|e| module(std::str::from_utf8(&e.value).ok()?));
    let own = if node.name.is_empty() {
        let output = node.output.iter().find(|o| !o.is_empty()).map(|o| format!("({o})"));
        format!("{}_{index}{}", node.op_type, output.unwrap_or_default())
    } else {
        node.name.clone()
    };
    match module {
        Some(module) => format!("{prefix}{module}/{own}"),
        None => format!("{prefix}{own}"),
    }
}

/// What torch's exporter records where it knows no module.
const NO_MODULE: &str = "_empty_nn_module_stack_from_metadata_hook";

/// The innermost module of a `namespace` entry. Its form is `path: class/path.child: class/.../node: op`, outermost first.
fn module(namespace: &str) -> Option<&str> {
    let (scopes, _node) = namespace.rsplit_once('/')?;
    let innermost = scopes.rsplit_once('/').map_or(scopes, |(_, last)| last);
    let (path, _class) = innermost.split_once(": ")?;
    (!path.is_empty() && path != NO_MODULE).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::super::proto::Entry;
    use super::*;

    fn node(name: &str, namespace: &str) -> Node {
        let entry = Entry { key: "namespace".into(), value: namespace.to_owned().into() };
        Node {
            name: name.into(),
            op_type: "MatMul".into(),
            output: vec!["".into(), "y".into()],
            metadata_props: vec![entry],
            ..Node::default()
        }
    }

    #[test]
    fn the_innermost_module_is_named() {
        let namespace = ": app.Top/model: a.b.Llama/model.layers.0.q_proj: torch.nn.Linear/linear: aten.linear.default";
        assert_eq!(of_node("f/", &node("n1", namespace), 4), "f/model.layers.0.q_proj/n1");
        assert_eq!(of_node("", &node("n1", ": app.Top/linear: aten.linear.default"), 4), "n1");
        assert_eq!(of_node("", &node("", "linear"), 4), "MatMul_4(y)");
    }
}
